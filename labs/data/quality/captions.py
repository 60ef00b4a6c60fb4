"""What is wrong with a caption, from its words alone."""

from collections.abc import Callable, Collection

from labs.formats import text_signs

SIGNS: dict[str, Callable[[str], object]] = {
    "refusal": text_signs.refusal,
    **text_signs.JUNK,
    "boilerplate": text_signs.boilerplate,
}
LEAST_WORDS, LEAST_WIDTH = 2, 6


def caption_problems(text: str, scripts: Collection[str] | None = None) -> list[str]:
    """The names of what is wrong with a caption, in English or Chinese; empty where nothing is.

    - "empty"; "too_short": fewer than 2 words or 6 columns (DataComp's basic filter: more than one
      word, more than five characters; a Han character is a word and two columns);
    - "file_name", "address", "markup", "placeholder" ("untitled", 暂无描述), "mojibake" (Ã©, 锟斤拷);
    - "boilerplate": what a web page says around every picture ("click to enlarge", 版权所有);
    - "repetition": a word four times in a row, or a phrase three times;
    - "refusal": written by a model that saw no picture;
    - "other_script": `scripts` is given, and less than half of the letters are in one of them
      ("latin", "han", "kana", "hangul", "cyrillic", "arabic", …).

    Made for captions: "3" answers a question well and captions nothing. The rules err; look at what
    they drop before you drop it. DataComp: arXiv:2304.14108. Chapter 2.
    """
    if not text.strip():
        return ["empty"]
    problems = ["too_short"] if is_short(text) else []
    problems += [name for name, sign in SIGNS.items() if sign(text)]
    if scripts is not None:
        found = text_signs.scripts(text)
        wanted = sum(count for script, count in found.items() if script in scripts)
        if 2 * wanted < sum(found.values()):
            problems.append("other_script")
    return problems


def is_short(text: str) -> bool:
    """Fewer than 2 words or 6 columns; a Han character is a word and two columns wide."""
    width = sum(1 if letter < "\u2e80" else 2 for letter in text.strip())
    return len(text_signs.words(text)) < LEAST_WORDS or width < LEAST_WIDTH
