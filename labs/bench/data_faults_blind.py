"""Faults as they happen to real data sets, written by someone who has not read the detector.

`VARIANTS` maps a kind of fault (a name of labs.doctors.data.kinds) to the ways in which it comes about
here. Each changes a `Plant` in place; its sentence says where the fault happens in the wild.
"""

import copy
import json
import re
from pathlib import PurePosixPath
from urllib.parse import quote

from PIL import Image

from labs.bench.data_plant import Plant, Variant
from labs.formats import IMAGE
from labs.shapes import caption, sample_scene

# --- bad_json ---------------------------------------------------------------------------------------


def python_repr(plant: Plant) -> None:
    """A script writes str(record) where json.dumps(record) was meant: quotes are single."""
    plant.line = repr(plant.record)


def two_writers(plant: Plant) -> None:
    """Workers append to one file without a lock, and one's line starts in the middle of another's."""
    text = json.dumps(plant.record, ensure_ascii=False)
    cut = plant.rng.randint(len(text) // 3, 2 * len(text) // 3)
    plant.line = text[:cut] + json.dumps(plant.other, ensure_ascii=False)


def saved_from_excel(plant: Plant) -> None:
    """The file was looked at in Excel and saved: the line is one CSV cell, its quotes doubled."""
    plant.line = '"' + json.dumps(plant.record, ensure_ascii=False).replace('"', '""') + '"'


def pasted_into_a_template(plant: Plant) -> None:
    """A pipeline fills answers of a language model into a JSON template without escaping quotes."""
    answer = _some_answer(plant)
    answer["value"] = f"@@{answer['value']}@@"
    text = json.dumps(plant.record, ensure_ascii=False)
    plant.line = text.replace("@@", '"')


# --- missing_image ----------------------------------------------------------------------------------


def another_case(plant: Plant) -> None:
    """The list was made on Windows or macOS, where a.PNG and a.png are one file, and moved to Linux."""
    path = PurePosixPath(plant.record["image"])
    plant.record["image"] = str(path.with_suffix(path.suffix.upper()))


def folder_twice(plant: Plant) -> None:
    """Two sets with different image roots are merged, and the root is put before the path again."""
    path = PurePosixPath(plant.record["image"])
    plant.record["image"] = str(path.parent / path)


def percent_encoded(plant: Plant) -> None:
    """The list was taken from a web page's links, so that the name is percent-encoded."""
    path = PurePosixPath(plant.record["image"])
    spaced = path.with_name(path.stem.replace("-", " ", 1) + f" ({path.stem[-1]})" + path.suffix)
    (plant.folder / path).with_name(spaced.name).write_bytes((plant.folder / path).read_bytes())
    plant.record["image"] = quote(str(spaced))


# --- truncated_image --------------------------------------------------------------------------------


def download_broke_off(plant: Plant) -> None:
    """The connection broke during the crawl and what had arrived was kept."""
    data = _bytes(plant)
    _store(plant, "part", data[: plant.rng.randint(4 * len(data) // 10, 9 * len(data) // 10)])


def zeros_at_the_end(plant: Plant) -> None:
    """The file was given its full size first, and the machine stopped before the rest was written."""
    data = _bytes(plant)
    kept = plant.rng.randint(3 * len(data) // 10, 7 * len(data) // 10)
    _store(plant, "zeros", data[:kept] + bytes(len(data) - kept))


def jpeg_without_its_end(plant: Plant) -> None:
    """A CDN's JPEG was cut at a limit of bytes; many viewers show it with a grey lower half."""
    target = _name(plant, "cut", ".jpg")
    _picture(plant).resize((256, 256)).save(plant.folder / target, quality=90)
    data = (plant.folder / target).read_bytes()
    (plant.folder / target).write_bytes(
        data[: plant.rng.randint(len(data) // 2, 8 * len(data) // 10)]
    )
    plant.record["image"] = target


# --- absurd_image -----------------------------------------------------------------------------------


def tracking_pixel(plant: Plant) -> None:
    """A crawler kept the one transparent pixel that counts visits as if it were the article's image."""
    target = _name(plant, "pixel", ".gif")
    Image.new("P", (1, 1)).save(plant.folder / target, transparency=0)
    plant.record["image"] = target


def page_screenshot(plant: Plant) -> None:
    """The picture is a screenshot of a whole page, a hundred times as high as wide."""
    picture = _picture(plant)
    strip = Image.new("RGB", (picture.width, picture.width * plant.rng.randint(60, 150)), "white")
    for top in range(0, strip.height - picture.height, picture.height * 7):
        strip.paste(picture, (0, top))
    _save(plant, "page", strip)


def divider(plant: Plant) -> None:
    """A page's decoration was kept, a line of a few pixels between two sections."""
    width = plant.rng.randint(600, 1200)
    _save(plant, "line", _picture(plant).resize((width, plant.rng.randint(2, 5))))


# --- missing_placeholder ----------------------------------------------------------------------------


def tags_escaped(plant: Plant) -> None:
    """Text went through an HTML template, which escapes what looks like a tag."""
    for turn in plant.record["conversations"]:
        turn["value"] = turn["value"].replace(IMAGE, "&lt;image&gt;")


def tags_translated(plant: Plant) -> None:
    """The set was translated by machine, and the placeholder with it."""
    for turn in plant.record["conversations"]:
        turn["value"] = turn["value"].replace(IMAGE, "<图像>")


def second_picture(plant: Plant) -> None:
    """A second picture was added to the list of images, and nobody said where it is shown."""
    plant.record["image"] = [plant.record["image"], plant.other["image"]]


# --- surplus_placeholder ----------------------------------------------------------------------------


def converted_twice(plant: Plant) -> None:
    """The script that puts the placeholder before the first question was run on its own output."""
    first = plant.record["conversations"][0]
    first["value"] = f"{IMAGE}\n{first['value']}"


def merged_questions(plant: Plant) -> None:
    """Questions on one image were merged into one conversation, each with its own placeholder."""
    question, answer = copy.deepcopy(plant.other["conversations"][:2])
    if IMAGE not in question["value"]:
        question["value"] = f"{IMAGE}\n{question['value']}"
    plant.record["conversations"] += [question, answer]


def image_lost_in_a_join(plant: Plant) -> None:
    """A join with the table of images found no row, so that the field holds null."""
    plant.record["image"] = None


# --- role_order -------------------------------------------------------------------------------------


def answer_filtered_out(plant: Plant) -> None:
    """A filter of single turns removed an answer and left its question, so that two questions follow."""
    if len(plant.record["conversations"]) < 4:
        plant.record["conversations"] += _follow_up(plant)
    del plant.record["conversations"][1]


def greeting_first(plant: Plant) -> None:
    """A scraped chat begins with the assistant's greeting."""
    hello = (
        "你好！有什么可以帮你？" if _chinese(plant.record) else "Hello! How can I help you today?"
    )
    plant.record["conversations"].insert(0, {"from": "gpt", "value": hello})


def streamed_in_pieces(plant: Plant) -> None:
    """A log of a streaming interface holds one answer as several turns of the assistant."""
    turns = plant.record["conversations"]
    spot = plant.rng.choice([i for i, turn in enumerate(turns) if turn["from"] == "gpt"])
    text = turns[spot]["value"] + (
        "。还有什么问题吗？" if _chinese(plant.record) else ". Anything else?"
    )
    cut = max(len(text) // 2, 1)
    turns[spot : spot + 1] = [{"from": "gpt", "value": part} for part in (text[:cut], text[cut:])]


# --- empty_answer -----------------------------------------------------------------------------------


def stopped_at_once(plant: Plant) -> None:
    """A language model's first token was a stop sequence, and the pipeline kept the empty string."""
    _some_answer(plant)["value"] = plant.rng.choice(["", "\n", " \n\n"])


def invisible_characters(plant: Plant) -> None:
    """Text copied from a web page: a no-break space, a zero-width space, a byte order mark."""
    _some_answer(plant)["value"] = plant.rng.choice(["\u00a0", "\u200b", "\ufeff\u00a0\u200b"])


def not_a_number(plant: Plant) -> None:
    """A table with a missing cell went through pandas, which writes null."""
    _some_answer(plant)["value"] = None


# --- special_token_in_text --------------------------------------------------------------------------


def decoded_with_specials(plant: Plant) -> None:
    """Answers of a model were decoded with skip_special_tokens=False."""
    _some_answer(plant)["value"] += plant.rng.choice(["<|im_end|>", "<|endoftext|>", "</s>"])


def rendered_prompt(plant: Plant) -> None:
    """A log of prompts was exported as the template had rendered them, markers and all."""
    question = plant.record["conversations"][0]
    question["value"] = f"<|im_start|>user\n{question['value']}<|im_end|>\n<|im_start|>assistant\n"


def about_chat_templates(plant: Plant) -> None:
    """A page on chat templates was crawled, and its text names the tokens in the middle."""
    question = plant.record["conversations"][0]
    question["value"] += plant.rng.choice(
        [
            " (Models of this family end each turn with <|im_end|> and never say it.)",
            "（每一轮对话以 <|im_end|> 结束。）",
            " Do not write <|endoftext|> in your answer.",
        ]
    )


# --- answer_cut_off ---------------------------------------------------------------------------------


def retrieved_context(plant: Plant) -> None:
    """Retrieval put whole documents before the question, more than the model will be shown."""
    lines = []
    for number in range(1, plant.max_length // 4 + 2):
        value = plant.rng.randint(10, 9999) / 10
        lines.append(
            f"[{number}] 第{plant.rng.randint(1, 99)}号站点记录到的数值为{value}，比前一天略高。"
            if _chinese(plant.record)
            else f"[{number}] Station {plant.rng.randint(1, 99)} recorded {value}, slightly more than the day before."
        )
    _before_the_question(plant, "\n".join(lines))


def inline_picture(plant: Plant) -> None:
    """The question was copied from a page as HTML, a small picture in it written out as base64."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    data = "".join(plant.rng.choice(letters) for _ in range(6 * plant.max_length))
    _before_the_question(plant, f'<p><img src="data:image/png;base64,{data}" alt=""></p>')


def endless_chat(plant: Plant) -> None:
    """A chat of a whole afternoon was kept as one sample: its last answers are never seen."""
    chinese, turns = _chinese(plant.record), plant.record["conversations"]
    for number in range(plant.max_length // 8 + 2):
        seen = plant.rng.randint(2, 99)
        asked, said = (
            (f"那么第{number + 1}步之后做什么？", f"先数到{seen}，再回到上一步检查一遍。")
            if chinese
            else (f"And what comes after step {number + 1}?", f"Count to {seen}, then check the step before.")
        )  # fmt: skip
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]


# --- duplicate_sample -------------------------------------------------------------------------------


def merged_dumps(plant: Plant) -> None:
    """Two dumps that overlap were concatenated and given new ids."""
    _become(plant, copy.deepcopy(plant.other))


def other_dialect(plant: Plant) -> None:
    """The same sample came in by two exports, one of them in the messages dialect."""
    _become(plant, _as_messages(plant.other))


def downloaded_again(plant: Plant) -> None:
    """A second crawl saved the same picture under another name, with the same text."""
    twin = copy.deepcopy(plant.other)
    twin["image"] = _twin_file(plant, plant.other["image"])
    _become(plant, twin)


# --- leaked_sample ----------------------------------------------------------------------------------


def split_after_copying(plant: Plant) -> None:
    """The set was multiplied first and split at random afterwards."""
    plant.other_split.append({**copy.deepcopy(plant.record), "id": f"{plant.record['id']}-copy"})


def test_set_in_another_dialect(plant: Plant) -> None:
    """The test split was exported by another tool, as messages, from the same source."""
    plant.other_split.append({**_as_messages(plant.record), "id": f"{plant.record['id']}-export"})


def renamed_for_the_test_set(plant: Plant) -> None:
    """The test split keeps its own copies of the pictures, under names of its own."""
    twin = copy.deepcopy(plant.record)
    twin["image"] = _twin_file(plant, plant.record["image"])
    plant.other_split.append({**twin, "id": f"{plant.record['id']}-held-out"})


# --- low_clip_score ---------------------------------------------------------------------------------


def caption_of_another_file(plant: Plant) -> None:
    """Captions were written in parallel and came back in another order than the pictures."""
    _captioned(plant, plant.rng.randint(2, 4))


def alt_text_of_the_neighbour(plant: Plant) -> None:
    """A crawler paired each picture of a gallery with the short alternative text of the one beside it."""
    _captioned(plant, 1)


# --- near_duplicate_image ---------------------------------------------------------------------------


def recompressed(plant: Plant) -> None:
    """The same picture from a second site, which compresses what is uploaded."""
    target = _name(plant, "jpeg", ".jpg")
    _picture(plant, plant.other).save(
        plant.folder / target, quality=plant.rng.randint(70, 92), subsampling=0
    )
    _shown_again(plant, target)


def another_size(plant: Plant) -> None:
    """A CDN serves one picture in several sizes, and the crawl has two of them."""
    picture = _picture(plant, plant.other)
    scale = plant.rng.choice([0.75, 1.5, 2])
    size = (round(picture.width * scale), round(picture.height * scale))
    target = _name(plant, "size", ".png")
    picture.resize(size, Image.Resampling.BICUBIC).save(plant.folder / target)
    _shown_again(plant, target)


def cropped_and_brightened(plant: Plant) -> None:
    """A repost: a pixel or so is cut off on each side, and a filter makes it a little brighter."""
    picture = _picture(plant, plant.other)
    width, height = picture.size
    cropped = picture.crop((1, 1, width - 1, height - 1)).resize(picture.size)
    target = _name(plant, "repost", ".png")
    cropped.point(lambda value: min(255, round(value * 1.04))).save(plant.folder / target)
    _shown_again(plant, target)


VARIANTS: dict[str, list[Variant]] = {
    "bad_json": [python_repr, two_writers, saved_from_excel, pasted_into_a_template],
    "missing_image": [another_case, folder_twice, percent_encoded],
    "truncated_image": [download_broke_off, zeros_at_the_end, jpeg_without_its_end],
    "absurd_image": [tracking_pixel, page_screenshot, divider],
    "missing_placeholder": [tags_escaped, tags_translated, second_picture],
    "surplus_placeholder": [converted_twice, merged_questions, image_lost_in_a_join],
    "role_order": [answer_filtered_out, greeting_first, streamed_in_pieces],
    "empty_answer": [stopped_at_once, invisible_characters, not_a_number],
    "special_token_in_text": [decoded_with_specials, rendered_prompt, about_chat_templates],
    "answer_cut_off": [retrieved_context, inline_picture, endless_chat],
    "duplicate_sample": [merged_dumps, other_dialect, downloaded_again],
    "leaked_sample": [split_after_copying, test_set_in_another_dialect, renamed_for_the_test_set],
    "low_clip_score": [caption_of_another_file, alt_text_of_the_neighbour],
    "near_duplicate_image": [recompressed, another_size, cropped_and_brightened],
}


# --- helpers ----------------------------------------------------------------------------------------


def _chinese(record: dict) -> bool:
    return any(re.search(r"[\u4e00-\u9fff]", turn["value"]) for turn in record["conversations"])


def _some_answer(plant: Plant) -> dict:
    turns = plant.record["conversations"]
    return plant.rng.choice([turn for turn in turns if turn["from"] == "gpt"])


def _follow_up(plant: Plant) -> list[dict]:
    asked, said = (
        ("你确定吗？", "确定。") if _chinese(plant.record) else ("Are you sure?", "Yes, I am.")
    )
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]


def _before_the_question(plant: Plant, text: str) -> None:
    """Put `text` after the first turn's placeholder, before its question."""
    first = plant.record["conversations"][0]
    head, image, question = first["value"].rpartition(IMAGE)
    first["value"] = f"{head}{image}\n{text}\n{question.lstrip()}"


def _become(plant: Plant, twin: dict) -> None:
    """The record is `twin` from now on, under its own id."""
    name = plant.record["id"]
    plant.record.clear()
    plant.record.update({**twin, "id": name})


def _as_messages(record: dict) -> dict:
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    messages = [
        {"role": roles[turn["from"]], "content": turn["value"]} for turn in record["conversations"]
    ]
    return {"messages": messages, "images": [record["image"]], "id": record["id"]}


def _picture(plant: Plant, record: dict | None = None) -> Image.Image:
    with Image.open(plant.folder / (record or plant.record)["image"]) as image:
        return image.convert("RGB")


def _bytes(plant: Plant) -> bytes:
    return (plant.folder / plant.record["image"]).read_bytes()


def _name(plant: Plant, tag: str, suffix: str) -> str:
    """A name that nobody uses, made of the record's own."""
    path = PurePosixPath(plant.record["image"])
    return str(path.with_name(f"{path.stem}-{tag}{suffix}"))


def _store(plant: Plant, tag: str, data: bytes) -> None:
    target = _name(plant, tag, PurePosixPath(plant.record["image"]).suffix)
    (plant.folder / target).write_bytes(data)
    plant.record["image"] = target


def _save(plant: Plant, tag: str, picture: Image.Image) -> None:
    target = _name(plant, tag, ".png")
    picture.save(plant.folder / target)
    plant.record["image"] = target


def _twin_file(plant: Plant, image: str) -> str:
    """A copy of the file, byte by byte, under another name."""
    path = PurePosixPath(image)
    target = str(path.with_name(f"{plant.rng.getrandbits(48):012x}{path.suffix}"))
    (plant.folder / target).write_bytes((plant.folder / path).read_bytes())
    return target


def _captioned(plant: Plant, count: int) -> None:
    """The record has one turn, and its caption is that of a scene of `count` objects drawn at random."""
    chinese = _chinese(plant.record)
    wrong = caption(sample_scene(plant.rng, count=count), "zh" if chinese else "en")
    question = "描述这张图片。" if chinese else "Describe the image."
    plant.record["conversations"] = [
        {"from": "human", "value": f"{IMAGE}\n{question}"},
        {"from": "gpt", "value": wrong},
    ]


def _shown_again(plant: Plant, target: str) -> None:
    """The record shows `target`, which is the other's picture again; its text fits and is not the same."""
    question, answer = copy.deepcopy(plant.other["conversations"][:2])
    question["value"] += "请回答。" if _chinese(plant.other) else " Please answer."
    plant.record.update(image=target, conversations=[question, answer])
