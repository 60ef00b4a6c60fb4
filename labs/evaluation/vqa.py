"""VQA accuracy: an answer is as right as the people who gave it are many."""

import re
from collections.abc import Sequence

from labs.errors import InputError
from labs.evaluation.checks import check_items

ARTICLES = {"a", "an", "the"}
NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(number)
    for number, word in enumerate("one two three four five six seven eight nine ten".split(), 1)
}
# Marks that are taken out. The colon, the apostrophe and all marks of other scripts stay.
MARKS = ';/[]"{}()=+\\_-><@`,?!'
# Written without one of its apostrophes, each of these is put right. The list is the official one's,
# which is why "lets" and "its" stay what they are.
_WHOLE = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
    might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
    you've
""".split()
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word
    for word in _WHOLE
    for i, letter in enumerate(word)
    if letter == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"  # the official list has this one the wrong way round
_ENOUGH = 3  # people who agree with an answer that is then fully right


def vqa_accuracy(predictions: Sequence[str], references: Sequence[Sequence]) -> float:
    """Mean of `vqa_score` over questions, in [0, 1] (the official script gives percent).

    `predictions` [N], `references` [N][people], ten a question in VQAv2. Raises InputError for no
    questions, lists that do not pair up, and what `vqa_score` cannot score. Chapter 7.
    """
    check_items("vqa_accuracy", predictions, references)
    scores = []
    for index, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        try:
            scores.append(vqa_score(prediction, answers))
        except InputError as error:
            raise InputError(f"Question {index}: {error.what}", error.do) from None
    return sum(scores) / len(scores)


def vqa_score(prediction: str, references: Sequence) -> float:
    """The official VQA score of one answer.

        1/R · sum_r min(#(people other than r who gave this answer) / 3, 1)

    Each person is left out once, so that machines are held to what people reach among themselves.
    With ten people an answer that 0, 1, 2, 3, 4 of them gave scores 0, 0.3, 0.6, 0.9, 1.

    Answers are compared as `normalise_vqa` leaves them, with one quirk of the official script that
    is kept: where all people wrote the very same text, nothing is normalised on either side, and
    "Yes" or "yes." is wrong where all wrote "yes". People are told apart by their place in the list.

    `references`: what each person said, at least four (with fewer no answer scores 1). Raises
    InputError for fewer, for a bare text, or for an answer that is no text.

    Antol et al. 2015, arXiv:1505.00468, section 5; Goyal et al. 2017, arXiv:1612.00837 (VQAv2);
    GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, at commit a013f00. Chapter 7.
    """
    if isinstance(references, str) or len(references) < _ENOUGH + 1:
        raise InputError(
            f"The people's answers are {references!r}.",
            f"Pass a list with the answers of at least {_ENOUGH + 1} people; VQAv2 has ten.",
        )
    for answer in (prediction, *references):
        if not isinstance(answer, str):
            raise InputError(f"An answer is {answer!r}, no text.", "Pass texts; none said is ''.")
    said, people = _plain(prediction), [_plain(answer) for answer in references]
    if len(set(people)) > 1:
        said, people = normalise_vqa(said), [normalise_vqa(answer) for answer in people]
    count, agree = len(people), people.count(said)
    # Those who gave this answer see one fewer who did than the rest see.
    for_them, for_rest = min((agree - 1) / _ENOUGH, 1), min(agree / _ENOUGH, 1)
    return (agree * for_them + (count - agree) * for_rest) / count


def normalise_vqa(answer: str) -> str:
    """An answer as the official script compares it.

    In this order: marks become a space, or nothing where one of their kind stands beside a space or
    the answer has a comma between digits ("1,000"); full stops go unless a digit follows; lower case;
    zero to ten and "none" become digits; a, an and the go; contractions get their apostrophe back.
    English only: no other language's articles, numbers or marks are known to it ("是。" is not "是").
    Beware "none": it counts as 0.
    """
    answer = _plain(answer)
    together = re.search(r"\d,\d", answer) is not None
    text = answer
    for mark in MARKS:
        apart = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if together or apart else " ")
    # The official call hands a flag to the place of the count: 32 full stops go, and no more.
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
