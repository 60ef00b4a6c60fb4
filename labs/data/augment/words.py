"""Words that a change of the picture can make false, in English and Chinese."""

import re

from labs.data.augment.refused import Refused

# Mirrored, turned or cut letters can no longer be read. (十字, a cross, is no writing.)
WRITING = re.compile(
    r"\b(?:text|letters?|lettering|digits?|written|writes?|writing|handwrit\w+|printed|spell(?:s|ed|ing)?|inscri\w+"
    r"|label(?:s|ed|led)?|logos?|headlines?|captioned|subtitles?|licen[cs]e plate|number plate|ocr|alphabet"
    r"|says|saying|reads|read the|what number\b(?! of)|the number \d+|numbers? (?:on|shown|displayed|is))\b"
    r"|\b(?:does|do|did)\b[^.?!]{0,60}\bsay\b"
    r"|文字|数字|字样|字母|汉字|字符|字体|题字|写着|写了|写的|写有|读出|车牌|招牌|标语|商标|号码|印着|印有",
    re.IGNORECASE,
)
TURNING = re.compile(
    r"\b(?:counter-?|anti-?)?clockwise\b|顺时针|逆时针|\bspirals?\b|\bhelix\b|螺旋", re.IGNORECASE
)
CLOCK = re.compile(
    r"\bclocks?\b|\bo['’]?clock\b|\bwhat time\b|\bwatch face\b|时钟|钟表|几点|点钟|手表",
    re.IGNORECASE,
)
COMPASS = re.compile(
    r"\b(?:north|south)?-?(?:east|west)(?:ern|wards?)?\b|\b(?:north|south)(?:ern|wards?)?\b|\bstarboard\b"
    r"|[东西南北][侧边面方]|[向朝往][东西南北]|东北|东南|西北|西南",
    re.IGNORECASE,
)
# Where in the frame, or which way.
PLACES = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|above|below|beneath|under|underneath|over|up|down|upwards?|downwards?"
    r"|upside|upright|cent(?:re|er|red|ered|ral)|middle|corners?|edges?|sides?|vertical(?:ly)?|horizontal(?:ly)?"
    r"|foreground|background|high|low|standing|lying|hanging|falling|leaning|tilted|position|where|which way|direction)\b"
    r"|左|右|上|下|中央|中间|中心|中部|角落|边缘|旁边|前景|背景|竖|横|直立|站|躺|倒|哪里|哪边|位置|方向",
    re.IGNORECASE,
)
SIZES = re.compile(
    r"\b(?:small|smaller|smallest|large|larger|largest|big|bigger|biggest|little|tiny|huge|giant|enormous|close-?up"
    r"|size|fills|whole|entire|far away|distant|distance|near|nearer|closer|closest|zoom\w*)\b|[大小巨]|远|近|特写|整个",
    re.IGNORECASE,
)
COLOURS = re.compile(
    r"\bcolou?r(?:s|ed|ful)?\b|\b(?:red|green|blue|yellow|purple|violet|orange|pink|brown|black|white|gr[ae]y|cyan"
    r"|magenta|turquoise|teal|beige|tan|maroon|crimson|scarlet|navy|olive|lime|gold(?:en)?|silver|indigo|lavender"
    r"|ivory|khaki|bronze|copper|blond(?:e)?|reddish|greenish|bluish|yellowish|pale|vivid|monochrome|sepia|hue)\b"
    r"|颜色|[红绿蓝黄紫橙橘黑白灰粉棕褐青金银彩]",
    re.IGNORECASE,
)
LIGHT = re.compile(
    r"\b(?:dark(?:er|ness)?|bright(?:er|ly|ness)?|light(?:ing|s|er)?|dim|lit|sunny|sunlight|shadows?|shade|night|day(?:time|light)?"
    r"|dusk|dawn|evening|morning|overexposed|underexposed|black|white|gr[ae]y|glow\w*|contrast)\b"
    r"|[亮暗黑白灰光影夜]|阳光|白天|清晨|傍晚",
    re.IGNORECASE,
)


def refuse_if(pattern: re.Pattern, texts: list[str], reason: str, why: str) -> None:
    """Raises Refused where one of the texts holds a word of the pattern."""
    for text in texts:
        match = pattern.search(text)
        if match:
            raise Refused(reason, f"{why}: {match.group()!r} in {text[:80]!r}")
