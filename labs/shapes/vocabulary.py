"""Every word of the offline world, in English and Chinese, with the synonyms the oracle accepts."""

KINDS = ("circle", "square", "triangle", "ring", "cross", "star")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "large")
CELLS = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

# Kinds that usually appear together. This is the world's "table and chair": where one is shown,
# the other is probably there too, and a model that stops looking will say so when it is not.
PARTNER = {
    "circle": "square",
    "square": "circle",
    "triangle": "cross",
    "cross": "triangle",
    "ring": "star",
    "star": "ring",
}

# Saturated, well apart in RGB: at 48 pixels a hue must survive antialiasing.
RGB = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 90, 220),
    "yellow": (240, 210, 20),
    "purple": (150, 60, 190),
    "orange": (255, 127, 14),
}

CHINESE = {
    "circle": "圆形", "square": "方形", "triangle": "三角形",
    "ring": "圆环", "cross": "十字", "star": "星形",
    "red": "红色", "green": "绿色", "blue": "蓝色",
    "yellow": "黄色", "purple": "紫色", "orange": "橙色",
    "small": "小", "large": "大",
    "top left": "左上角", "top": "上方", "top right": "右上角",
    "left": "左侧", "centre": "中央", "right": "右侧",
    "bottom left": "左下角", "bottom": "下方", "bottom right": "右下角",
    "yes": "是", "no": "否",
}  # fmt: skip

# What people (and larger models) write instead; all lower case.
SYNONYMS = {
    "circle": ("circle", "disc", "disk", "dot", "圆形", "圆"),
    "square": ("square", "box", "方形", "正方形", "方块"),
    "triangle": ("triangle", "三角形", "三角"),
    "ring": ("ring", "donut", "doughnut", "hoop", "圆环", "环"),
    "cross": ("cross", "plus sign", "plus", "十字", "十字形", "加号"),
    "star": ("star", "星形", "星星", "五角星"),
    "red": ("red", "红色", "红"),
    "green": ("green", "绿色", "绿"),
    "blue": ("blue", "蓝色", "蓝"),
    "yellow": ("yellow", "黄色", "黄"),
    "purple": ("purple", "violet", "紫色", "紫"),
    "orange": ("orange", "橙色", "橙", "橘色"),
    "small": ("small", "little", "tiny", "小"),
    "large": ("large", "big", "大"),
    "top left": ("top left", "upper left", "top-left", "upper-left", "左上角", "左上"),
    "top right": ("top right", "upper right", "top-right", "upper-right", "右上角", "右上"),
    "bottom left": ("bottom left", "lower left", "bottom-left", "lower-left", "左下角", "左下"),
    "bottom right": ("bottom right", "lower right", "bottom-right", "lower-right",
                     "右下角", "右下"),
    "top": ("top", "上方", "上面", "顶部"),
    "bottom": ("bottom", "下方", "下面", "底部"),
    "left": ("left", "左侧", "左边"),
    "right": ("right", "右侧", "右边"),
    "centre": ("centre", "center", "middle", "中央", "中间", "中心"),
}  # fmt: skip


def say(word: str, language: str) -> str:
    """The word in the language: `say("ring", "zh")` is 圆环."""
    return CHINESE[word] if language == "zh" else word
