"""Faults by someone who knows what the data doctor looks for: four variants of each kind.

`data_faults_blind.py` holds those of someone who does not; the bench tells the two apart.
"""

import json
import os

from PIL import Image, ImageDraw, ImageEnhance

from labs.bench.data_plant import Plant, Variant

CHATML = ("<|im_end|>", "<|im_start|>")


def turns(plant: Plant) -> list[dict]:
    return plant.record["conversations"]


def picture(plant: Plant) -> Image.Image:
    return Image.open(plant.folder / plant.record["image"]).convert("RGB")


def put(plant: Plant, image: Image.Image, suffix: str = "png", **options) -> None:
    """Save a changed copy under a new name and let the record show it."""
    name = f"images/{plant.record['id']}-new.{suffix}"
    image.save(plant.folder / name, **options)
    plant.record["image"] = name


def damaged(plant: Plant, suffix: str, change) -> None:
    """A copy of the picture in another format, its bytes changed."""
    put(plant, picture(plant), suffix)
    path = plant.folder / plant.record["image"]
    path.write_bytes(change(path.read_bytes()))


# bad_json


def half_a_line(plant: Plant) -> None:
    text = json.dumps(plant.record)
    plant.line = text[: plant.rng.randrange(len(text) // 4, len(text) - 2)]


def single_quotes(plant: Plant) -> None:
    plant.line = str(plant.record)


def bare_quote(plant: Plant) -> None:
    plant.line = json.dumps(plant.record).replace('"value": "', '"value": "say "hi" ', 1)


def trailing_comma(plant: Plant) -> None:
    plant.line = json.dumps(plant.record)[:-1] + ",}"


# missing_image


def never_fetched(plant: Plant) -> None:
    plant.record["image"] = f"images/{plant.rng.randrange(10**9):09d}.jpg"


def other_case(plant: Plant) -> None:
    plant.record["image"] = plant.record["image"].upper()


def other_suffix(plant: Plant) -> None:
    plant.record["image"] = plant.record["image"].replace(".png", ".jpeg")


def broken_link(plant: Plant) -> None:
    name = f"images/{plant.record['id']}-link.png"
    os.symlink("gone.png", plant.folder / name)
    plant.record["image"] = name


# truncated_image


def cut_jpeg(plant: Plant) -> None:
    damaged(plant, "jpg", lambda data: data[: len(data) * 2 // 3])


def cut_png(plant: Plant) -> None:
    damaged(plant, "png", lambda data: data[: len(data) // 2])


def zeros_in_png(plant: Plant) -> None:
    damaged(plant, "png", lambda data: data[: len(data) // 2].ljust(len(data), b"\0"))


def cut_webp(plant: Plant) -> None:
    damaged(plant, "webp", lambda data: data[: len(data) // 2])


# absurd_image


def one_pixel(plant: Plant) -> None:
    put(plant, Image.new("RGB", (1, 1), "white"))


def a_line(plant: Plant) -> None:
    put(plant, Image.new("RGB", (2000, 2), "grey"))


def a_tower(plant: Plant) -> None:
    put(plant, picture(plant).resize((40, 2400)))


def four_by_four(plant: Plant) -> None:
    put(plant, picture(plant).resize((4, 4)))


# missing_placeholder


def no_placeholder(plant: Plant) -> None:
    turns(plant)[0]["value"] = turns(plant)[0]["value"].replace("<image>\n", "")


def second_image(plant: Plant) -> None:
    plant.record["image"] = [plant.record["image"], plant.other["image"]]


def misspelt_placeholder(plant: Plant) -> None:
    turns(plant)[0]["value"] = turns(plant)[0]["value"].replace("<image>", "<img>")


def capital_placeholder(plant: Plant) -> None:
    turns(plant)[0]["value"] = turns(plant)[0]["value"].replace("<image>", "<Image>")


# surplus_placeholder


def twice(plant: Plant) -> None:
    turns(plant)[0]["value"] = "<image>\n" + turns(plant)[0]["value"]


def every_question(plant: Plant) -> None:
    for turn in turns(plant)[2::2] or turns(plant)[:1]:
        turn["value"] = "<image>\n" + turn["value"]


def image_lost(plant: Plant) -> None:
    del plant.record["image"]


def image_null(plant: Plant) -> None:
    plant.record["image"] = None


# role_order


def swapped(plant: Plant) -> None:
    turns(plant)[0]["from"], turns(plant)[1]["from"] = "gpt", "human"


def two_users(plant: Plant) -> None:
    turns(plant).insert(0, {"from": "human", "value": "Hello."})


def two_answers(plant: Plant) -> None:
    turns(plant).insert(2, {"from": "gpt", "value": "I hope that helps."})


def late_system(plant: Plant) -> None:
    turns(plant).insert(2, {"from": "system", "value": "Answer briefly."})


# empty_answer


def empty(plant: Plant) -> None:
    turns(plant)[1]["value"] = ""


def blank(plant: Plant) -> None:
    turns(plant)[-1]["value"] = " \n "


def wide_blank(plant: Plant) -> None:
    turns(plant)[1]["value"] = "\u3000\u00a0"


def zero_width(plant: Plant) -> None:
    turns(plant)[1]["value"] = "\u200b"


# special_token_in_text


def end_of_turn(plant: Plant) -> None:
    turns(plant)[0]["value"] += CHATML[0]


def copied_prompt(plant: Plant) -> None:
    turns(plant)[-1]["value"] += f"{CHATML[0]}\n{CHATML[1]}user\nThanks"


def llama_end(plant: Plant) -> None:
    turns(plant)[1]["value"] += "</s>"


def end_of_text(plant: Plant) -> None:
    turns(plant)[2 % len(turns(plant))]["value"] += "<|endoftext|>"


# answer_cut_off


def long_question(plant: Plant) -> None:
    del turns(plant)[2:]
    words = "one two three four five six seven eight nine ten ".split()
    turns(plant)[0]["value"] += " " + " ".join(plant.rng.choices(words, k=4 * plant.max_length))


def pasted_page(plant: Plant) -> None:
    del turns(plant)[2:]
    text = " ".join(turn["value"] for turn in plant.other["conversations"])
    turns(plant)[0]["value"] += "\n" + (text.replace("<image>", "") + " ") * plant.max_length


def long_system(plant: Plant) -> None:
    rule = "Answer briefly and say only what the picture shows. "
    turns(plant).insert(0, {"from": "system", "value": rule * plant.max_length})


def long_chinese(plant: Plant) -> None:
    del turns(plant)[2:]
    turns(plant)[0]["value"] += "请看图片并回答问题。" * plant.max_length


# duplicate_sample: the record comes a second time, here in another one's place


def again(plant: Plant) -> None:
    plant.line = json.dumps(plant.other, ensure_ascii=False)


def again_with_new_id(plant: Plant) -> None:
    plant.record |= {**plant.other, "id": plant.record["id"]}


def again_in_other_order(plant: Plant) -> None:
    copy = {**plant.other, "id": plant.record["id"]}
    plant.line = json.dumps(dict(reversed(copy.items())), ensure_ascii=True, indent=None)


def again_as_list(plant: Plant) -> None:
    plant.record |= {**plant.other, "id": plant.record["id"], "image": [plant.other["image"]]}


# leaked_sample


def in_test(plant: Plant) -> None:
    plant.other_split.append(json.loads(json.dumps(plant.record)))


def in_test_with_new_id(plant: Plant) -> None:
    copy = json.loads(json.dumps(plant.record))
    plant.other_split.append({**copy, "id": f"held-out-{copy['id']}"})


def in_test_as_messages(plant: Plant) -> None:
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    messages = [{"role": roles[t["from"]], "content": t["value"]} for t in turns(plant)]
    plant.other_split.append(
        {"id": "m-" + plant.record["id"], "images": [plant.record["image"]], "messages": messages}
    )


def in_test_as_copied_file(plant: Plant) -> None:
    copy = json.loads(json.dumps(plant.record))
    data = (plant.folder / copy["image"]).read_bytes()
    copy["image"] = f"images/test-{plant.record['id']}.png"
    (plant.folder / copy["image"]).write_bytes(data)
    plant.other_split.append(copy)


# low_clip_score


def captioned(plant: Plant, text: str) -> None:
    plant.record["conversations"] = [
        {"from": "human", "value": "<image>\nDescribe the image."},
        {"from": "gpt", "value": text},
    ]


def another_picture(plant: Plant) -> None:
    """The captions of two samples are swapped."""
    from labs.shapes import caption, sample_scene

    captioned(plant, caption(sample_scene(plant.rng, "train")))


def shifted_by_one(plant: Plant) -> None:
    """A merge is off by one: the picture is that of the record before."""
    from labs.shapes import caption, render, sample_scene

    scene, before = sample_scene(plant.rng, "train"), sample_scene(plant.rng, "train")
    put(plant, render(before))
    captioned(plant, caption(scene))


# near_duplicate_image


def saved_as_jpeg(plant: Plant) -> None:
    copy_of_other(plant, lambda image: image, "jpg", quality=plant.rng.randrange(60, 95))


def resized(plant: Plant) -> None:
    side = plant.rng.choice((36, 40, 64, 96))
    copy_of_other(plant, lambda image: image.resize((side, side), Image.Resampling.BICUBIC))


def brighter(plant: Plant) -> None:
    copy_of_other(plant, lambda image: ImageEnhance.Brightness(image).enhance(1.04))


def watermarked(plant: Plant) -> None:
    def mark(image: Image.Image) -> Image.Image:
        ImageDraw.Draw(image).point([(45, 45), (46, 46), (45, 46)], fill="black")
        return image

    copy_of_other(plant, mark)


def copy_of_other(plant: Plant, change, suffix: str = "png", **options) -> None:
    """The record shows a changed copy of another's picture, with that one's first turns."""
    image = Image.open(plant.folder / plant.other["image"]).convert("RGB")
    put(plant, change(image), suffix, **options)
    plant.record["conversations"] = json.loads(json.dumps(plant.other["conversations"]))[:2]


VARIANTS: dict[str, list[Variant]] = {
    "bad_json": [half_a_line, single_quotes, bare_quote, trailing_comma],
    "missing_image": [never_fetched, other_case, other_suffix, broken_link],
    "truncated_image": [cut_jpeg, cut_png, zeros_in_png, cut_webp],
    "absurd_image": [one_pixel, a_line, a_tower, four_by_four],
    "missing_placeholder": [
        no_placeholder,
        second_image,
        misspelt_placeholder,
        capital_placeholder,
    ],
    "surplus_placeholder": [twice, every_question, image_lost, image_null],
    "role_order": [swapped, two_users, two_answers, late_system],
    "empty_answer": [empty, blank, wide_blank, zero_width],
    "special_token_in_text": [end_of_turn, copied_prompt, llama_end, end_of_text],
    "answer_cut_off": [long_question, pasted_page, long_system, long_chinese],
    "duplicate_sample": [again, again_with_new_id, again_in_other_order, again_as_list],
    "leaked_sample": [in_test, in_test_with_new_id, in_test_as_messages, in_test_as_copied_file],
    "low_clip_score": [another_picture, shifted_by_one],
    "near_duplicate_image": [saved_as_jpeg, resized, brighter, watermarked],
}
