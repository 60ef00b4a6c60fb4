"""How the benchmarks' own programs read yes and no.

Written from reading the programs; where they and `read_yes_no` part is what a score depends on. None
of them reads Chinese, and none reports how much it could not read.
"""

import re

from labs.evaluation.reading import Reading

_YES, _NO, _OTHER = Reading(True), Reading(False), Reading(None, "none")


def pope_rule(text: str) -> Reading:
    """POPE: no where the first sentence has the word No, no or not; anything else is yes.

    The sentence ends at the first full stop, commas are dropped, words are what single spaces part.
    So an empty answer, a refusal ("I cannot tell"), "NO" and "No!" are all yes; LLaVA's eval_pope.py
    does the same. Never unparsed.

    RUCAIBox/POPE, evaluate.py. Chapter 7.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return _NO if {"No", "no", "not"} & set(words) else _YES


def mme_rule(text: str) -> Reading:
    """MME: yes or no where the first four characters hold it, in any case; else "other", never right.

    "Not sure" and "I know" are not told apart from words: the first is no, and "Know" would be too;
    "The answer is yes" is other.

    BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation, tools/eval_tool.zip,
    calculation.py. Chapter 7.
    """
    head = text.lower()[:4]
    return _YES if "yes" in head else _NO if "no" in head else _OTHER


def lmms_eval_mme_rule(text: str) -> Reading:
    """lmms-eval's MME: as `mme_rule`, after surrounding white space and full stops are dropped; a
    lone y or n counts too.

    EvolvingLMMs-Lab/lmms-eval, tasks/mme/utils.py. Chapter 7.
    """
    plain = text.lower().strip().replace(".", "")
    if plain in ("y", "n"):
        return _YES if plain == "y" else _NO
    return _OTHER if len(plain) == 1 else mme_rule(plain)


def lmms_eval_pope_rule(text: str) -> Reading:
    """lmms-eval's POPE: the answer is right only where it is exactly "yes" or "no", in any case.

    "Yes." is never right. (Its yes ratio counts the labels, not the answers, so it is always that
    of the questions.)

    EvolvingLMMs-Lab/lmms-eval, tasks/pope/utils.py. Chapter 7.
    """
    return {"yes": _YES, "no": _NO}.get(text.lower().strip(), _OTHER)


# In the order in which they are dealt with.
_PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)
_DIGITS_COMMA = re.compile(r"\d,\d")
_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_STOPS_DROPPED = 32  # the program passes re.UNICODE, which is 32, where the count belongs


def vlmevalkit_yes_no_rule(text: str) -> Reading:
    """VLMEvalKit (POPE, MME, HallusionBench …): yes where the words hold yes and not no, or no and
    not yes; else "Unknown", which a language model is asked about or, without one, is wrong.

    Punctuation is dropped or made a space as in the VQA metric, but colons, stars and quotes stay:
    "Yes: a ring" and "**Yes**" are unknown. "There is no ring" is no, "Yes, there is no other" is
    unknown.

    open-compass/VLMEvalKit, vlmeval/dataset/utils/yorn.py and vlmeval/smp/misc.py. Chapter 7.
    """
    lowered = plain = text.lower()
    joins = _DIGITS_COMMA.search(lowered) is not None
    for mark in _PUNCTUATION:
        drop = joins or mark + " " in lowered or " " + mark in lowered
        plain = plain.replace(mark, "" if drop else " ")
    words = set(_STOP.sub("", plain, count=_STOPS_DROPPED).split())
    if ("yes" in words) == ("no" in words):
        return _OTHER
    return _YES if "yes" in words else _NO
