"""Reading what a model said: a choice, yes or no, a number, a box, a word, a text.

Each reader takes an answer as text and returns a `Reading`: the value, or the reason why there is
none (`labs.evaluation.reading.STATUSES`). None guesses, none raises for any text, and what is not
read is counted by its status beside every score, never silently taken for a wrong answer.

What is done with an answer that is not what was asked for:

| the answer | what is read |
|---|---|
| in another script | A value where its meaning is certain: 是 to an English question, full-width Ｂ and ３, 乙 for the second choice, a Greek or Cyrillic letter that can mean one choice only. Else "script" where a third of its letters are neither Latin nor Chinese. |
| an endless generation | What it says, if that is one thing; else the reader's status, which becomes "endless" in `labs.suites.contract.row_of`, where it is known that the model did not stop. Of more than 4,000 characters the two ends are read. A <think> that is not closed is no answer: "none". |
| empty, or nothing but white space and special tokens | "empty" |
| a choice letter in the middle of prose | The letter where the sentence lets it be one ("so it must be B"); the A of "A dog is on the left" is an article. Without a letter, the option whose words are named. |
| two letters, yes and no, two numbers, two boxes | "several", unless the text denies one ("not A but B"), concludes ("2 and 3, so 5"), or a marker announces the last ("Answer: C"). |
| a letter and another option's words | "several" |
| a refusal ("I cannot see the image", 无法回答) | "refused", unless another sentence answers. |
| a thought before the answer | What follows the marker: </think>, <answer>, \\boxed{}, "Final Answer:", 答案是. |
| a hedge ("maybe", 可能) | Yes and no: "none", unless yes or no is said too. Elsewhere what it names. |

The benchmarks' own programs read otherwise, each in its way: `rules_yes_no` and `rules_choice` have
them, so that the same answers can be scored both ways. Chapter 7.
"""

from labs.evaluation.answers.boxes import read_box
from labs.evaluation.answers.choices import read_choice
from labs.evaluation.answers.markers import after_marker
from labs.evaluation.answers.numbers import read_number
from labs.evaluation.answers.refusals import is_refusal
from labs.evaluation.answers.rules_choice import (
    llava_choice_rule,
    lmms_eval_choice_rule,
    lmms_eval_static_choice_rule,
    vlmevalkit_choice_rule,
)
from labs.evaluation.answers.rules_yes_no import (
    lmms_eval_mme_rule,
    lmms_eval_pope_rule,
    mme_rule,
    pope_rule,
    vlmevalkit_yes_no_rule,
)
from labs.evaluation.answers.texts import read_text
from labs.evaluation.answers.words import read_one_of
from labs.evaluation.answers.yes_no import read_yes_no

__all__ = [
    "after_marker",
    "is_refusal",
    "llava_choice_rule",
    "lmms_eval_choice_rule",
    "lmms_eval_mme_rule",
    "lmms_eval_pope_rule",
    "lmms_eval_static_choice_rule",
    "mme_rule",
    "pope_rule",
    "read_box",
    "read_choice",
    "read_number",
    "read_one_of",
    "read_text",
    "read_yes_no",
    "vlmevalkit_choice_rule",
    "vlmevalkit_yes_no_rule",
]
