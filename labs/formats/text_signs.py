"""Signs of a text that nobody should train on: a refusal, a file name, an address, markup, a loop.

Shared by the data doctor and by `labs.data.quality`, so that both say the same of a caption. English
and Chinese. Each function looks at one text and returns what it found, in the text's own words, or
None. Standard library only, Python 3.9 or newer; all are fast enough for a gigabyte of answers: a
plain search for a few letters comes first, and a pattern is tried only where one of them is there.
"""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=))
from __future__ import annotations

import re
import unicodedata

# Where a refusal may be, one of these is. (Lower case; ’ is searched for as '.)
_REFUSAL_KEYS = (
    "as an ai", "as a language", "as a large", "as an artificial", "language model", "an ai",
    "sorry", "i apologi", "i'm afraid", "i am afraid", "unfortunately", "i cannot", "i can't", "i can not", "unable to", "not able to",
    "have the ability", "not capable", "provide", "upload", "attach", "please share", "resend",
    "knowledge cutoff", "my last ", "my programming", "my guidelines",
)  # fmt: skip
_REFUSAL_KEYS_ZH = (
    "作为", "我是", "我只是", "抱歉", "对不起", "遗憾", "无法", "不能", "没法", "没有", "看不到", "未", "请",
)  # fmt: skip

_PICTURE = r"(?:images?|pictures?|photos?|photographs?|screenshots?|attachments?|files?|links?|visuals?|visual content)"
_CANNOT = (
    r"(?:can ?not|can't|could not|couldn't|am unable to|'m unable to|am not able to|'m not able to"
    r"|unable to|not able to|don't have the ability to|do not have the ability to|am not capable of)"
)
_REFUSAL = re.compile(
    r"\bas an? (?:ai\b|artificial intelligence|(?:\w+[- ]){0,2}language model)"
    r"|\bi(?:'m| am) (?:just |only |merely )?an? (?:ai\b|artificial intelligence|(?:\w+[- ]){0,2}language model)"
    # "I'm sorry, but I can't …"; without a "can't" it may be a person who is sorry in a story.
    rf"|\b(?:sorry|i apologi[sz]e|i'm afraid|i am afraid|unfortunately)\b[^.!?\n]{{0,40}}?\b(?:i|we)\b ?{_CANNOT}"
    r" (?!see any\b|tell|determine|make out|identify|say\b|read\b|find\b)"
    # "I cannot see any ring" is an answer; "I cannot see the image" is not.
    rf"|\bi ?{_CANNOT} (?:directly )?(?:see|view|access|open|load|display|process|perceive|analy[sz]e|interpret|viewing|seeing)"
    rf" (?:(?:any|the|your|this|that|these|those|an?|actual|provided|attached|uploaded|external|directly|or|and|interpret|view|see|analy[sz]e|visual) ?){{0,4}}{_PICTURE}\b(?! (?:clearly|well))"
    rf"|\bi ?{_CANNOT} (?:assist|help|comply|fulfil|engage|continue with)\b(?: you)?(?: with)?"
    rf"|\bi ?{_CANNOT} (?:provide|give|offer|generate|create) (?:you )?(?:with )?(?:that|this|any|such|assistance|help|a description|descriptions|information about (?:the|this) {_PICTURE})"
    rf"|\b(?:no|without an?|without the|don't see an?|don't see any|do not see an?|do not see any|haven't|didn't|did not) (?:\w+ ){{0,2}}?{_PICTURE} ?(?:was |were |has been |have been |is |are |been )?(?:provided|uploaded|attached|shared)\b(?:(?= (?:with|to|in|here|yet|for me|an?\b|any\b))|\s*[.,;!]|$)"
    rf"|\b(?:please|could you|can you) (?:provide|upload|attach|share|resend|send)(?: me)?(?: with)? (?:an?|the|your|that|more) (?:\w+ )?{_PICTURE}\b(?! with| to)"
    r"|\b(?:my knowledge cutoff|my last (?:knowledge )?update|against my (?:programming|guidelines))"
    r"|作为(?:一个|一名|一款|一位|个)?(?:AI|ai|人工智能|.{0,4}?语言模型|.{0,4}?大模型|智能助手)"
    r"|我(?:只|仅仅?)?是(?:一个|一名|一款|个)?(?:AI|ai|人工智能|.{0,4}?语言模型|.{0,4}?大模型)"
    r"|(?:抱歉|对不起|很遗憾)[^。！？\n]{0,12}?(?:我|本)?(?:目前|暂时|现在)?(?:无法|不能|没法|没有办法|看不到)(?!确定|判断|看清|辨认)"
    r"|我(?:目前|暂时|现在)?(?:无法|不能|没法|没有办法|看不到)(?:直接|真正)?(?:查看|看到|看见|访问|打开|处理|分析|显示|加载|识别)?(?:到|您|你|的|提供|上传|发送|这张|该|任何|所|这个|这些){0,5}(?:图片|图像|照片|图|链接|文件|附件)(?!中|里|上|的)"
    r"|我?(?:无法|不能)(?:为您|为你|给您|给你)?(?:协助|帮助您|帮助你|满足|回答您|回答你|提供(?:帮助|协助|描述|相关|此类|这类|该))"
    r"|(?:没有|并未|未|没)(?:看到|收到|提供|上传|附上|附带)(?:到|您|你|的|提供|上传|任何|所|有|相关){0,4}(?:图片|图像|照片|附件)"
    r"|请(?:您|你)?(?:先|重新)?(?:提供|上传|发送|附上|分享)(?:一张|一下|这张|该|您的|你的|相关的?|更多的?|具体的?){0,2}(?:图片|图像|照片|附件)"
)  # fmt: skip


def refusal(text: str) -> str | None:
    """The words in which a text refuses, asks for a picture it does not see, or speaks of being a
    language model: "as an AI language model", 抱歉，我无法. None where it does not.

    An honest "I cannot see any ring" or 看不清 is an answer, not a refusal.
    """
    lowered = text.lower()
    ascii_only = lowered.isascii()
    if not ascii_only:
        lowered = lowered.replace("’", "'")
    if not any(key in lowered for key in _REFUSAL_KEYS):
        if ascii_only or not any(key in lowered for key in _REFUSAL_KEYS_ZH):
            return None
    match = _REFUSAL.search(lowered)
    return match.group().strip() if match else None


_SUFFIX = r"(?:jpe?g|png|gif|bmp|webp|tiff?|heic|heif|svg|avif|psd|raw|cr2|nef|pdf|docx?|txt|zip|mp4|mov|avi|mkv)"
_FILE_NAME = re.compile(
    rf"(?:file:/*)?[\w\-.,()\[\]@+%~ /\\:]{{0,200}}\.{_SUFFIX}"
    # What cameras, telephones and screenshots call their files; the suffix is often cut off.
    r"|(?:img|image|dsc[nf]?|dscf|pict?|photo|pxl|mvimg|wp|sam|dji|gopr|cimg|kimg|imag|vid|scan|snapshot|mmexport|fb_img|wx_camera)[_\- ]?\d{3,}[\w\-~() ]{0,40}"
    r"|(?:screen ?shot|screenshot|whatsapp image|photo|image|scan)[_ \-]?(?:at |from )?\d{4}[-_.]?\d{2}[-_.]?\d{2}[\w\-.: ]{0,40}"
    r"|(?:微信图片|截屏|屏幕截图|截图|照片|图片)[_\- ]?\d{3,}[\w\-]*"
    r"|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
    r"|(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{16,64}",
    re.IGNORECASE,
)


def file_name(text: str) -> str | None:
    """The text where it is nothing but the name of a file: "DSC_0412.JPG", 微信图片_20230412."""
    text = text.strip().strip("\"'`“”")
    return text if len(text) <= 255 and _FILE_NAME.fullmatch(text) else None


_ADDRESS = re.compile(
    r"(?:https?|ftp)://[^\s<>\"'，。；）]+|\bwww\.[\w\-]+\.[^\s<>\"'，。；）]+"
    r"|\b[\w.+\-]+@[\w\-]+\.[\w.\-]*\w"
    r"|\b(?:[\w\-]+\.)+(?:com|net|org|io|cn|co\.uk|de|fr|jp|ru|info|shop)(?:/[^\s，。；）]*|\b)",
    re.IGNORECASE | re.ASCII,
)


def address(text: str, share: float = 0.5) -> str | None:
    """A web or mail address that makes up at least `share` of the text's characters."""
    if "." not in text or ("://" not in text and "@" not in text and len(text) > 2000):
        return None
    found = [match.group() for match in _ADDRESS.finditer(text)]
    length = len(text.strip())
    return found[0] if found and sum(map(len, found)) >= share * length else None


_MARKUP = re.compile(
    r"</?(?:a|abbr|article|b|body|br|button|center|code|div|em|figure|figcaption|font|form|h[1-6]|head|hr|html"
    r"|i|iframe|img|input|li|link|meta|nav|ol|option|p|pre|script|section|small|span|strong|style|sub|sup|table"
    r"|tbody|td|th|thead|title|tr|u|ul|video)(?:\s[^<>]*=[^<>]*)?\s*/?>"
    r"|<!--|<!doctype|<!\[cdata\["
    r"|&(?:amp|nbsp|lt|gt|quot|apos|copy|reg|ndash|mdash|hellip|ldquo|rdquo|lsquo|rsquo|eacute|middot|#\d{2,6}|#x[0-9a-f]{2,6});"
    # [b] and [i] alone may be an index in code.
    r"|\[/(?:b|i|u|s)\]|\[/?(?:img|url|quote|color|size|center|caption)(?:[ =][^\]]*)?\]"
    r"|\{\{[^{}]*\}\}|\{%[^{}]*%\}|\[\[(?:file|image|category):",
    re.IGNORECASE,
)


def markup(text: str) -> str | None:
    """A piece of HTML, BBCode, wiki or template markup in the text. Text about code holds it rightly."""
    if "<" not in text and "&" not in text and "[" not in text and "{" not in text:
        return None
    match = _MARKUP.search(text)
    return match.group() if match else None


_LOOP_TEXT = 600  # characters at either end that are searched word by word


def repetition(text: str) -> str | None:
    """The words that are said over and over, in a row: one word four times, or a phrase of up to
    twelve words (characters, in Chinese) three times.

    Of a long text both ends are searched: a model that falls into a loop stays in it to the end.
    """
    ends = [text] if len(text) <= 2 * _LOOP_TEXT else [text[:_LOOP_TEXT], text[-_LOOP_TEXT:]]
    for end in ends:
        found = _loop(_WORD.findall(end.lower()))
        if found:
            return found
    return _long_loop(text)


_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# A word, or one Han character: what counts as a word where none are written apart.
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+(?:['’\-][^\W{_HAN}]+)*")


def _loop(words: list[str]) -> str | None:
    for period in range(1, min(12, len(words) // 3) + 1):
        needed = 3 * period if period == 1 else 2 * period  # equal to the word one period before
        run = 0
        for here, before in zip(words[period:], words):
            run = run + 1 if here == before else 0
            if run >= needed:
                at = words.index(here) if period == 1 else None
                unit = [here] if at is not None else _unit(words, period, needed)
                if _is_said(unit):
                    return " ".join(unit)
                break
    return None


def _unit(words: list[str], period: int, needed: int) -> list[str]:
    run = 0
    for i in range(period, len(words)):
        run = run + 1 if words[i] == words[i - period] else 0
        if run >= needed:
            start = i - run + 1 - period
            return words[start : start + period]
    return []


def _is_said(unit: list[str]) -> bool:
    """Digits in a row are a table or a number; one Han character in a row may be a laugh."""
    letters = "".join(unit)
    if not any(c.isalpha() for c in letters):
        return False
    return len(unit) > 1 or len(letters) > 1 or not letters.isascii()


def _long_loop(text: str) -> str | None:
    """A sentence or paragraph that the text ends on three times over."""
    text = text.rstrip()
    tail = text[-24:]
    if len(text) < 90 or len(tail) < 24:
        return None
    before = text.rfind(tail, 0, len(text) - 1)
    if before < 0:
        return None
    period = len(text) - 24 - before
    if period < 24 or text[-2 * period :] != text[-3 * period : -period]:
        return None
    return text[-period:].strip()


_PLACEHOLDER = re.compile(
    r"(?:n/?a|none|null|nil|nan|undefined|unknown|untitled(?:[ _-]?\d+)?|no (?:caption|description|title|alt|text)(?: available| provided)?"
    r"|(?:image|photo|picture|img|figure|pic|thumbnail|logo|icon|banner|placeholder|default|caption|description|title|alt ?text)(?:[ _-]?\d+)?"
    r"|(?:an? |the )?(?:image|photo|picture)(?: of)?|todo|tbd|test|lorem ipsum.*|\[?(?:image|caption)\]?|-+|\.+|\?+"
    r"|无标题|无|暂无(?:描述|标题|图片)?|没有(?:描述|标题)|图片?|照片|图像|图片?描述|标题|未命名|未知|空)[.。!！]?",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile(
    r"\b(?:click (?:here|to (?:enlarge|view|zoom|see|expand))|image result for|stock (?:photo|image|illustration|vector|footage)s?\b"
    r"|royalty[- ]free|all rights reserved|photo (?:credit|courtesy)|image (?:credit|courtesy|source)|getty images|shutterstock|istock(?:photo)?|alamy|depositphotos|dreamstime"
    r"|add to (?:cart|basket|wishlist)|free shipping|buy now|shop now|on sale now|out of stock|sign up|log ?in to|subscribe (?:to|now)"
    r"|cookie policy|privacy policy|terms of (?:use|service)|loading\.\.\.|image not (?:available|found)|photo not available|404 not found|page not found"
    r"|read more|share (?:on|this)|follow us|view (?:larger|full[- ]size)|download (?:this|free))"
    r"|点击(?:查看|放大|图片|进入|购买|下载|这里)|版权所有|未经(?:授权|许可)|转载请|禁止转载|图片来源|来源[:：]|包邮|立即购买|加入购物车|扫码|关注(?:我们|公众号)|登录后|图片(?:加载|不存在|已失效)|正在加载",
    re.IGNORECASE,
)


def placeholder(text: str) -> str | None:
    """The text where it only stands in for a caption: "untitled", "image 3", 暂无描述."""
    text = text.strip()
    return text if len(text) <= 80 and _PLACEHOLDER.fullmatch(text) else None


def boilerplate(text: str) -> str | None:
    """What a web page says around every picture: "click to enlarge", "royalty-free", 点击查看."""
    match = _BOILERPLATE.search(text)
    return match.group() if match else None


# UTF-8 read as Latin-1 or Windows-1252 (é as Ã©, ’ as â€™, 你 as ä½), and GBK's famous leavings.
_MOJIBAKE = re.compile(
    "\ufffd|Ã[\u0080-\u00bf]|Â[\u00a0-\u00bf]|â€[\u0090-\u009f\u0153\u0161\u2122\u0152“”˜™¦¢]|[äåæçèé][\u0080-\u00bf½¼¸º»¥]{1,2}[\u0080-\u00bf¼½]|锟斤拷|锟斤|烫烫烫|屯屯屯"
)


def mojibake(text: str) -> str | None:
    """Letters left over from reading bytes in the wrong encoding: "cafÃ©", 锟斤拷."""
    if text.isascii():
        return None
    match = _MOJIBAKE.search(text)
    return match.group() if match else None


def scripts(text: str) -> dict[str, int]:
    """How many letters of each script: "latin", "han", "kana", "hangul", "cyrillic", "arabic", …"""
    counts: dict[str, int] = {}
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return {"latin": letters} if letters else {}
    for letter in text:
        if letter.isalpha():
            name = unicodedata.name(letter, "unknown").split()[0].lower()
            name = {"cjk": "han", "hiragana": "kana", "katakana": "kana", "fullwidth": "latin"}.get(
                name, name
            )
            counts[name] = counts.get(name, 0) + 1
    return counts


def words(text: str) -> list[str]:
    """The words of a text, in lower case; each Han character is one."""
    return _WORD.findall(text.lower())


JUNK = {
    "file_name": file_name,
    "address": address,
    "markup": markup,
    "repetition": repetition,
    "placeholder": placeholder,
    "mojibake": mojibake,
}


def junk(text: str) -> tuple[str, str] | None:
    """(name, what was found) of the first sign that a caption says nothing of its picture, or None.

    Of captions and descriptions, that is: "none" and "unknown" are answers to a question, and code in
    an answer holds markup rightly.
    """
    for name, sign in JUNK.items():
        found = sign(text)
        if found:
            return name, found
    return None
