"""Planted faults whose detector their author never read: two ways of each of fourteen kinds.

Every variant follows something that exports, merges, crawls, editors, operating systems and pipelines
around language models do. What the words say stays true where the fault lies elsewhere, so that each
variant is a case of its own kind and, where that can be helped, of no other.
"""

import copy
import csv
import io
import json
import unicodedata
from collections.abc import Callable

import numpy as np
from PIL import Image

from labs.bench.data_plant import Plant
from labs.shapes import Scene, caption, render, sample_scene
from labs.shapes.language import ask
from labs.shapes.vocabulary import RGB

TAG = "<image>"
PREFIX = TAG + "\n"


def _dump(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False)


def _language(record: dict) -> str:
    text = "".join(turn["value"] for turn in record["conversations"])
    return "zh" if any("\u4e00" <= char <= "\u9fff" for char in text) else "en"


def _turns(record: dict, role: str) -> list[dict]:
    return [turn for turn in record["conversations"] if turn["from"] == role]


def _pair(question: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _open(plant: Plant, record: dict) -> Image.Image:
    with Image.open(plant.folder / record["image"]) as image:
        return image.convert("RGB")


def _fresh(plant: Plant, name: str) -> str:
    """A path under images/ that no file has yet; `name` holds {} for a number."""
    while True:
        path = "images/" + name.format(f"{plant.rng.randrange(10**7):07d}")
        if not (plant.folder / path).exists():
            return path


# bad_json


def csv_doubled_the_quotes(plant: Plant) -> None:
    """A JSONL column saved from a spreadsheet or `to_csv`: the line is quoted, its quotes doubled."""
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="").writerow([_dump(plant.record)])
    plant.line = buffer.getvalue()


def two_workers_wrote_at_once(plant: Plant) -> None:
    """Two processes append to one file without a lock: half a record, then another in one line."""
    half = _dump(plant.other)
    cut = plant.rng.randrange(len(half) // 4, len(half) * 3 // 4)
    plant.line = half[:cut] + _dump(plant.record)


# missing_image


def name_in_another_unicode_form(plant: Plant) -> None:
    """An archive packed on macOS: the file's accents are decomposed (NFD), the record's are not."""
    path = _fresh(plant, unicodedata.normalize("NFD", "Übungsblatt-é-{}.png"))
    _open(plant, plant.record).save(plant.folder / path)
    plant.record["image"] = unicodedata.normalize("NFC", path)


def number_lost_its_zeros(plant: Plant) -> None:
    """A spreadsheet reads the file names as numbers: 000000123.png is on disk, 123.png in the record."""
    path = _fresh(plant, "00000{}.png")
    _open(plant, plant.record).save(plant.folder / path)
    number = path.removeprefix("images/").lstrip("0")
    plant.record["image"] = f"images/{number}"


# truncated_image


def preallocated_and_never_filled(plant: Plant) -> None:
    """A download manager reserves the whole file and is stopped: right size, but zeros from a block on."""
    path = _fresh(plant, "part-{}.png")
    _open(plant, plant.record).save(plant.folder / path, compress_level=1)
    data = (plant.folder / path).read_bytes()
    keep = max(int(plant.rng.uniform(0.2, 0.5) * len(data)) // 256, 1) * 256
    (plant.folder / path).write_bytes(data[:keep] + bytes(len(data) - keep))
    plant.record["image"] = path


def upload_lost_on_the_train(plant: Plant) -> None:
    """A phone's upload of a progressive JPEG breaks off, and the server keeps what had come by then."""
    path = _fresh(plant, "IMG_{}.jpg")
    _open(plant, plant.record).save(plant.folder / path, quality=95, progressive=True)
    data = (plant.folder / path).read_bytes()
    scan = data.index(b"\xff\xda")  # the headers have come, so it is still known to be a JPEG
    keep = scan + int(plant.rng.uniform(0.3, 0.8) * (len(data) - scan))
    (plant.folder / path).write_bytes(data[:keep])
    plant.record["image"] = path


# absurd_image


def channels_taken_for_a_side(plant: Plant) -> None:
    """`cv2.resize(img, img.shape[1:])`: width and channels are passed as the size, so 3 pixels high."""
    path = _fresh(plant, "resized-{}.png")
    image = _open(plant, plant.record)
    image.resize((image.width, 3), Image.Resampling.BILINEAR).save(plant.folder / path)
    plant.record["image"] = path


def picture_pulled_into_a_rule(plant: Plant) -> None:
    """An office export keeps a picture dragged to the page's width and one line's height as pixels."""
    path = _fresh(plant, "image{}.png")
    size = (plant.rng.randrange(800, 1200), 32)
    _open(plant, plant.record).resize(size, Image.Resampling.BICUBIC).save(plant.folder / path)
    plant.record["image"] = path


# missing_placeholder


def placeholder_was_translated(plant: Plant) -> None:
    """The set went through machine translation and back, and the tag was translated like any other word."""
    word = {"zh": "<图像>", "en": "<picture>"}[_language(plant.record)]
    first = plant.record["conversations"][0]
    first["value"] = first["value"].replace(TAG, word)


def conversation_split_in_windows(plant: Plant) -> None:
    """Long conversations are split, and the later part keeps the picture but not the turn with its tag."""
    turns = plant.record["conversations"]
    turns[0]["value"] = turns[0]["value"].replace(PREFIX, "")
    if len(turns) > 2:
        del turns[:2]


# surplus_placeholder


def merged_questions_each_bring_a_tag(plant: Plant) -> None:
    """Single questions about one picture are merged into a conversation, each with its own tag."""
    turns = plant.record["conversations"]
    if len(turns) == 2:
        sure = {"en": ("Are you sure?", "yes"), "zh": ("你确定吗？", "是")}
        turns += _pair(*sure[_language(plant.record)])
    for turn in _turns(plant.record, "human")[1:]:
        turn["value"] = PREFIX + turn["value"]


def second_picture_failed_to_download(plant: Plant) -> None:
    """A crawl drops the picture that answers 404 from the record, but not its tag from the text."""
    first = plant.record["conversations"][0]
    numbered = {"en": "Picture {}: <image>\n", "zh": "图{}：<image>\n"}[_language(plant.record)]
    question = first["value"].replace(PREFIX, "")
    first["value"] = numbered.format(1) + numbered.format(2) + question


# role_order


def bot_greeted_first(plant: Plant) -> None:
    """The log of a chat widget begins with the bot's greeting, so the assistant speaks first."""
    greeting = {"en": "Hello! What would you like to know?", "zh": "您好！请问您想了解什么？"}
    turn = {"from": "gpt", "value": greeting[_language(plant.record)]}
    plant.record["conversations"].insert(0, turn)


def both_branches_of_a_regenerated_answer(plant: Plant) -> None:
    """A chat export flattens its tree of messages: the answer and its second version, one after the other."""
    turns = plant.record["conversations"]
    place = plant.rng.randrange(1, len(turns), 2)
    lead = {"en": "Looking again: ", "zh": "再看一遍："}[_language(plant.record)]
    turns.insert(place + 1, {"from": "gpt", "value": lead + turns[place]["value"]})


# empty_answer


def space_of_an_editor_alone(plant: Plant) -> None:
    """A rich-text editor leaves a no-break space in an empty field, a Chinese input method a wide one."""
    space = {"en": "\u00a0", "zh": "\u3000"}[_language(plant.record)]
    plant.rng.choice(_turns(plant.record, "gpt"))["value"] = space


def blank_letter_past_a_required_field(plant: Plant) -> None:
    """A form insists on an answer, and the annotator pastes the invisible Braille blank, U+2800."""
    plant.rng.choice(_turns(plant.record, "gpt"))["value"] = "\u2800"


# special_token_in_text


def generation_ran_into_the_next_turn(plant: Plant) -> None:
    """Answers sampled without a stop token and decoded with special tokens: the next turn has begun."""
    turn = plant.rng.choice(_turns(plant.record, "gpt"))
    more = {"en": "Thank you.", "zh": "谢谢。"}[_language(plant.record)]
    turn["value"] += f"<|im_end|>\n<|im_start|>user\n{more}"


def separator_of_packed_documents(plant: Plant) -> None:
    """Questions cut out of a pretraining file whose documents were joined by their end token."""
    plant.rng.choice(_turns(plant.record, "human"))["value"] += "<|endoftext|>"


# answer_cut_off

PASSAGES = {
    "en": (
        "The museum opened its new wing in spring and shows works lent by eleven other houses.",
        "Visitors are asked to leave umbrellas and large bags in the lockers beside the stairs.",
        "A catalogue in three languages can be bought at the counter or ordered by post.",
        "Guided tours start on the hour; groups of more than twelve people should book early.",
        "The restorers took two years to clean the ceiling, and found an older painting below.",
        "From the station it is a walk of ten minutes along the river, past the old customs hall.",
        "In winter the garden closes at four, in summer one hour after the last concert has ended.",
        "The founder left letters, maps and a diary, none of which has been printed in full so far.",
    ),
    "zh": (
        "博物馆新馆于春天开放，展出向其他十一家机构借来的作品。",
        "参观者请把雨伞和大件行李存放在楼梯旁的储物柜里。",
        "图录有三种语言，可以在柜台购买，也可以邮购。",
        "讲解每逢整点开始，超过十二人的团体请提前预约。",
        "修复人员用了两年时间清洗天花板，并在下面发现了更早的壁画。",
        "从车站沿着河边步行十分钟，经过旧海关大楼就到了。",
        "冬季花园下午四点关闭，夏季在最后一场音乐会结束一小时后关闭。",
        "创办人留下了书信、地图和一本日记，至今都没有全部出版。",
    ),
}


def _before_the_question(plant: Plant, parts: Callable[[], str]) -> None:
    """Parts between the tag and the first question, until all answers lie beyond max_length.

    No tokenizer is asked: the tiny models' packs fewer than four bytes of such text into one token.
    """
    first, text = plant.record["conversations"][0], ""
    while len(text.encode()) < 4 * plant.max_length:
        text += parts() + "\n"
    first["value"] = PREFIX + text + first["value"].replace(PREFIX, "")


def retrieved_pages_before_the_question(plant: Plant) -> None:
    """A retrieval pipeline stores the prompt it sent: pages of search results, and then the question."""
    passages = PASSAGES[_language(plant.record)]
    joint = {"en": " ", "zh": ""}[_language(plant.record)]

    def page() -> str:
        number = plant.rng.randrange(1, 400)
        return f"[{number}] " + joint.join(plant.rng.sample(passages, 4))

    _before_the_question(plant, page)


def tool_schemas_before_the_question(plant: Plant) -> None:
    """An agent's log repeats the JSON schemas of all of its tools before what the user asked."""

    def tool() -> str:
        verb = plant.rng.choice(("get", "list", "create", "update", "delete", "search"))
        noun = plant.rng.choice(("invoice", "ticket", "contact", "calendar", "order", "folder"))
        properties = {
            name: {"type": kind, "description": f"The {name} of the {noun} to {verb}."}
            for name, kind in (("id", "integer"), ("owner", "string"), ("limit", "integer"))
        }
        return json.dumps(
            {"name": f"{verb}_{noun}", "parameters": {"type": "object", "properties": properties}}
        )

    _before_the_question(plant, tool)


# duplicate_sample


def two_roots_merged(plant: Plant) -> None:
    """Two exports of one set are merged: a new id, keys in another order, the path from `find .`."""
    own = plant.record["id"]
    again = copy.deepcopy(plant.other)
    plant.record.clear()
    plant.record["image"] = "./" + again["image"]
    plant.record["conversations"] = again["conversations"]
    plant.record["id"] = own


def second_export_put_the_image_last(plant: Plant) -> None:
    """LLaVA's own files hold the tag before or after the question; a second export chose otherwise."""
    plant.record["image"] = plant.other["image"]
    plant.record["conversations"] = copy.deepcopy(plant.other["conversations"])
    first = plant.record["conversations"][0]
    first["value"] = first["value"].replace(PREFIX, "") + "\n" + TAG


# leaked_sample


def split_drawn_again_with_another_seed(plant: Plant) -> None:
    """The test split was drawn anew with another seed and numbered afresh, the train split was not."""
    leaked = copy.deepcopy(plant.record)
    leaked["id"] = f"test-{plant.rng.randrange(10**9):09d}"
    plant.other_split.append(leaked)


def benchmark_came_with_the_crawl(plant: Plant) -> None:
    """A crawl finds a benchmark's page: the same words and pixels, the PNG packed anew by the site."""
    path = _fresh(plant, "benchmark-{}.png")
    _open(plant, plant.record).save(plant.folder / path, optimize=True)
    leaked = copy.deepcopy(plant.record)
    leaked["id"], leaked["image"] = path.removeprefix("images/").removesuffix(".png"), path
    plant.other_split.append(leaked)


# low_clip_score


def _colours(image: Image.Image) -> set[str]:
    """The world's colours that some pixels of the picture have; grain and soft edges aside."""
    pixels = np.asarray(image, np.float32).reshape(-1, 1, 3)
    apart = np.abs(pixels - np.array(list(RGB.values()), np.float32)).max(axis=2)
    return {name for name, near in zip(RGB, (apart < 24).sum(axis=0), strict=True) if near >= 4}


def _foreign(plant: Plant, colours: set[str], kinds: frozenset[str] = frozenset()) -> Scene:
    """A scene of two or three objects, none of which has one of the colours or is of one of the kinds."""
    while True:
        scene = sample_scene(plant.rng, "train", plant.rng.choice((2, 3)))
        if not colours & {o.colour for o in scene.objects} and not kinds & scene.kinds:
            return scene


def _describe(plant: Plant, scene: Scene) -> None:
    """The record says nothing but a caption, of that scene."""
    language = _language(plant.record)
    question = PREFIX + ask("caption", language, plant.rng)
    plant.record["conversations"] = _pair(question, caption(scene, language))


def captions_slipped_by_a_row(plant: Plant) -> None:
    """Pictures and captions lie in two sorted lists, one of which lost an entry: each gets the next's."""
    _describe(plant, _foreign(plant, _colours(_open(plant, plant.record))))


def later_download_took_the_name(plant: Plant) -> None:
    """Two sites call a picture 0001.png: the later download replaced the one that the caption is about."""
    shown = sample_scene(plant.rng, "train", 3)
    while len(shown.kinds) > 2:  # leaves kinds for the caption that the picture does not show
        shown = sample_scene(plant.rng, "train", 3)
    path = _fresh(plant, "{}.png")
    render(shown).save(plant.folder / path)
    plant.record["image"] = path
    _describe(plant, _foreign(plant, {o.colour for o in shown.objects}, shown.kinds))


# near_duplicate_image


def _another_question(plant: Plant) -> None:
    """One question about the other record's picture that does not repeat that whole record."""
    turns = plant.other["conversations"]
    question, answer = turns[-2]["value"], turns[-1]["value"]
    if len(turns) == 2:
        lead = {"en": "Look closely. ", "zh": "请仔细看。"}[_language(plant.other)]
        question = lead + question.replace(PREFIX, "")
    plant.record["conversations"] = _pair(PREFIX + question, answer)


def shared_as_a_screenshot(plant: Plant) -> None:
    """Someone shares a screenshot instead of the file: a pixel lost at each edge, twice the size."""
    image = _open(plant, plant.other)
    size = (2 * image.width, 2 * image.height)
    image = image.crop((1, 1, image.width - 1, image.height - 1))
    path = _fresh(plant, "Screenshot-{}.png")
    image.resize(size, Image.Resampling.BICUBIC).save(plant.folder / path)
    plant.record["image"] = path
    _another_question(plant)


def brightened_by_a_photo_app(plant: Plant) -> None:
    """A photo app's automatic correction lifts the tones a little and saves a copy."""
    values = np.asarray(_open(plant, plant.other), np.float32) / 255
    lifted = np.round(255 * values ** plant.rng.uniform(0.82, 0.9)).astype(np.uint8)
    path = _fresh(plant, "edited-{}.png")
    Image.fromarray(lifted).save(plant.folder / path)
    plant.record["image"] = path
    _another_question(plant)


VARIANTS: dict[str, list[Callable[[Plant], None]]] = {
    "bad_json": [csv_doubled_the_quotes, two_workers_wrote_at_once],
    "missing_image": [name_in_another_unicode_form, number_lost_its_zeros],
    "truncated_image": [preallocated_and_never_filled, upload_lost_on_the_train],
    "absurd_image": [channels_taken_for_a_side, picture_pulled_into_a_rule],
    "missing_placeholder": [placeholder_was_translated, conversation_split_in_windows],
    "surplus_placeholder": [merged_questions_each_bring_a_tag, second_picture_failed_to_download],
    "role_order": [bot_greeted_first, both_branches_of_a_regenerated_answer],
    "empty_answer": [space_of_an_editor_alone, blank_letter_past_a_required_field],
    "special_token_in_text": [generation_ran_into_the_next_turn, separator_of_packed_documents],
    "answer_cut_off": [retrieved_pages_before_the_question, tool_schemas_before_the_question],
    "duplicate_sample": [two_roots_merged, second_export_put_the_image_last],
    "leaked_sample": [split_drawn_again_with_another_seed, benchmark_came_with_the_crawl],
    "low_clip_score": [captions_slipped_by_a_row, later_download_took_the_name],
    "near_duplicate_image": [shared_as_a_screenshot, brightened_by_a_photo_app],
}
