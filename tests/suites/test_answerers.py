"""Real models, asked: the same answers as one at a time, counted to the token, and pictures opened."""

import pytest
import torch
from PIL import Image

from labs.cli.chat import Chat
from labs.errors import InputError
from labs.models import build_tiny_llava, generate, load_lm, load_vlm, user_message
from labs.models.places import NAMES
from labs.shapes import Object, Scene, caption, render
from labs.suites.answerers import kind_of, load_answerer
from labs.suites.chat import ChatAnswerer
from labs.suites.contract import Question
from labs.suites.machine import identity

RING = Scene((Object("ring", "red", "large", 4),), background=240)
PAIR = Scene(
    (Object("star", "blue", "large", 0), Object("square", "green", "large", 8)), background=240
)


def asked(scene=RING, prompt="How many objects are there?", id="q", **changes):
    return Question(id, prompt, None, (render(scene, 48),), **changes)


@pytest.fixture(scope="module")
def base():
    return load_answerer("tiny-base", device="cpu")


QUESTIONS = [
    asked(RING, "How many objects are there?"),
    asked(PAIR, "Describe the image.", max_new_tokens=112),
    asked(PAIR, "Is there a ring?"),
    asked(RING, "What colour is the ring?"),
    asked(PAIR, "图中有多少个物体？"),
    Question("text", "What colour is the ring?", None),
]


def test_a_batch_says_what_each_question_gets_alone(base):
    alone = [base.answer([q])[0] for q in QUESTIONS]
    assert base.answer(QUESTIONS) == alone
    assert base.answer(QUESTIONS[::-1]) == alone[::-1]
    assert [a.text for a in alone[:4]][::3] == ["1", "red"]


def test_what_was_made_ready_is_answered_the_same(base):
    assert base.answer(QUESTIONS, base.prepare(QUESTIONS)) == base.answer(QUESTIONS)
    before = [asked(PAIR, "Is there a ring?", before=("Describe the image.",)), QUESTIONS[0]]
    assert base.answer(before, base.prepare(before)) == base.answer(before)


def test_answers_are_those_of_generate(base):
    model, processor = load_vlm("tiny-base")
    for question, answer in zip(QUESTIONS, base.answer(QUESTIONS), strict=True):
        [said] = generate(
            model, processor, [[user_message(question.prompt, images=len(question.images))]],
            [list(question.images)], max_new_tokens=question.max_new_tokens,
        )  # fmt: skip
        assert answer.text == said


def test_tokens_and_ends_are_counted(base):
    for question, answer in zip(QUESTIONS[:5], base.answer(QUESTIONS[:5]), strict=True):
        text = base.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
        assert answer.finished and answer.tokens == len(text) + 1, question.prompt
    [whole] = base.answer([QUESTIONS[1]])
    [cut] = base.answer([asked(PAIR, "Describe the image.", max_new_tokens=5)])
    assert (cut.tokens, cut.finished) == (5, False)
    assert whole.text.startswith(cut.text) and len(cut.text) < len(whole.text)
    # The end token may be the last that is allowed, and then the answer did end by itself.
    fits = asked(PAIR, "Describe the image.", max_new_tokens=whole.tokens)
    assert base.answer([fits]) == [whole]
    tight = asked(PAIR, "Describe the image.", max_new_tokens=whole.tokens - 1)
    assert base.answer([tight])[0][1:3] == (whole.tokens - 1, False)


def test_a_long_neighbour_does_not_lengthen_an_answer():
    model, processor = build_tiny_llava(seed=0)  # random weights: it never stops
    answerer = ChatAnswerer(model, processor, {"name": "random"})
    short, long = asked(max_new_tokens=4), asked(PAIR, max_new_tokens=30)
    [alone] = answerer.answer([short])
    beside, other = answerer.answer([short, long])
    assert beside == alone and (alone.tokens, alone.finished) == (4, False)
    assert (other.tokens, other.finished) == (30, False)


def test_turns_before_are_asked_first_and_their_answers_seen(base):
    model, processor = load_vlm("tiny-base")
    questions = [
        asked(PAIR, "Is there a ring?", id="two", before=("Describe the image.",)),
        asked(RING, "How many objects are there?", id="none"),
        asked(
            RING, "Is there a star?", id="three",
            before=("What colour is the ring?", "Describe the image."),
        ),
    ]  # fmt: skip
    for question, answer in zip(questions, base.answer(questions), strict=True):
        chat = Chat(model, processor, question.images)
        thoughts = tuple(chat.ask(text) for text in question.before)
        assert answer.thoughts == thoughts
        assert answer.text == chat.ask(question.prompt)
        own = base.tokenizer([*thoughts, answer.text], add_special_tokens=False)["input_ids"]
        assert answer.tokens == sum(len(ids) + 1 for ids in own)


def test_what_a_generation_config_adds_is_set_aside(base):
    model, processor = load_vlm("tiny-base")
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=50.0)
    wild = ChatAnswerer(model, processor, {"name": "wild"})
    assert wild.answer(QUESTIONS) == base.answer(QUESTIONS)


def test_a_blind_model_gets_the_words_only():
    blind = load_answerer("tiny-base", device="cpu", blind=True)
    assert blind.name == "tiny-base-blind" and blind.describe()["pictures"] == "dropped"
    model, processor = load_vlm("tiny-base")
    said = generate(
        model, processor, [[user_message("What colour is the ring?")]], max_new_tokens=24
    )
    answers = blind.answer(
        [asked(RING, "What colour is the ring?"), asked(PAIR, "What colour is the ring?")]
    )
    assert [a.text for a in answers] == said * 2
    # It needs no picture, so a broken one is no error.
    blind.answer([Question("q", "What colour is the ring?", None, ("nowhere.png",))])


def test_a_text_only_model_reads_a_description():
    text = caption(RING)
    about = {"description": text}
    described = load_answerer("tiny-lm", device="cpu", described=True)
    assert (described.name, described.describe()["pictures"]) == ("tiny-lm-described", "described")
    model, tokenizer = load_lm("tiny-lm")
    [told, bare] = described.answer(
        [
            asked(prompt="What colour is the ring?", about=about),
            asked(prompt="What colour is the ring?"),
        ]
    )
    [said] = generate(model, tokenizer, [[user_message(f"{text}\nWhat colour is the ring?")]])
    assert told.text == said == "red"
    # Without a description it is asked blind, as a text-only model is by default.
    alone = load_answerer("tiny-lm", device="cpu")
    assert alone.describe()["pictures"] == "dropped"
    assert alone.answer([asked(prompt="What colour is the ring?", about=about)]) == [bare]


def test_a_dual_encoder_chooses_a_caption():
    clip = load_answerer("tiny-clip", device="cpu")
    scenes = [
        Scene((Object(kind, colour, "large", 4),))
        for kind, colour in (("ring", "red"), ("star", "blue"), ("square", "green"))
    ]
    captions = [caption(s) for s in scenes]
    questions = [
        asked(s, id=str(i), about={"captions": captions[k:] + captions[:k], "letters": list("XYZ")})
        for i, s in enumerate(scenes)
        for k in range(3)
    ]
    answers = clip.answer(questions)
    assert [a.text for a in answers] == list("XZYYXZZYX")
    assert {(a.tokens, a.finished) for a in answers} == {(0, True)}
    assert clip.length(questions[0]) == 3


@pytest.mark.parametrize(
    "about, images, words",
    [
        ({}, 1, "can only choose among captions"),
        ({"captions": ["a", "b"], "letters": ["A"]}, 1, "can only choose among captions"),
        ({"captions": ["a", "b"], "letters": ["A", "B"]}, 2, "one picture"),
        ({"captions": ["a", "b"], "letters": ["A", "B"]}, 0, "one picture"),
    ],
)
def test_a_dual_encoder_says_what_it_cannot_do(about, images, words):
    clip = load_answerer("tiny-clip", device="cpu")
    question = Question("q-7", "?", None, (render(RING, 48),) * images, about)
    for ask in (clip.length, lambda q: clip.answer([q])):
        with pytest.raises(InputError, match="q-7") as refused:
            ask(question)
        assert words in refused.value.what


def test_every_shipped_model_is_of_its_kind():
    assert {name: kind_of(name) for name in NAMES} == {
        "tiny-clip": "clip", "tiny-lm": "lm", "tiny-base": "vlm", "tiny-sft": "vlm",
        "tiny-sft-clean": "vlm", "tiny-ppo": "vlm", "tiny-grpo": "vlm",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("tiny-base", {"described": True, "blind": True}, "exclude each other"),
        ("tiny-clip", {"blind": True}, "--blind is not for a dual encoder"),
        ("tiny-clip", {"adapter": "x"}, "--adapter is not for a dual encoder"),
        ("tiny-lm", {"quantization": "nf4"}, "not quantised"),
        ("tiny-lm", {"likelihood": True}, "--described"),
        ("tiny-nothing", {}, "no model 'tiny-nothing'"),
        ("tiny-base", {"dtype": "float8"}, "no dtype 'float8'"),
        ("tiny-base", {"device": "gpu"}, "no device 'gpu'"),
        ("tiny-base", {"device": "cuda:99"}, "no device 'cuda:99'"),
        ("tiny-base", {"quantization": "q4"}, "quantization 'q4'"),
    ],
)
def test_what_a_kind_of_model_cannot_do_is_refused(name, options, words):
    with pytest.raises(InputError) as refused:
        load_answerer(name, **options)
    assert words in str(refused.value)


def test_a_broken_picture_is_named_with_its_question(base, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(InputError, match=r"question q-3 .*cut\.png"):
        base.answer([asked(), Question("q-3", "?", None, (tmp_path / "cut.png",))])


def test_a_prompt_that_the_processor_refuses_is_named(base):
    hostile = asked(prompt="Is <image> the same as <image>?", id="q-hostile")
    with pytest.raises(InputError, match="q-hostile cannot be put to tiny-base"):
        base.answer([asked(), hostile])


def test_pictures_of_any_kind_are_opened(base, tmp_path):
    picture = render(RING, 48)
    picture.save(tmp_path / "a.png")
    grey = Image.new("L", (1, 1))
    answers = base.answer(
        [asked(), Question("path", QUESTIONS[0].prompt, None, (str(tmp_path / "a.png"),)),
         Question("grey", QUESTIONS[0].prompt, None, (grey,))]
    )  # fmt: skip
    assert answers[0] == answers[1]


def test_weights_are_told_apart_and_found_again():
    model, _ = build_tiny_llava(seed=0)
    same, _ = build_tiny_llava(seed=0)
    other, _ = build_tiny_llava(seed=1)
    assert identity(model) == identity(same) != identity(other)
    assert identity(model)["parameters"] == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        next(same.model.multi_modal_projector.parameters()).mul_(1.001)
    assert identity(model)["weights"] != identity(same)["weights"]


def test_an_adapter_is_put_on_top_and_is_another_model(tmp_path, base):
    from peft import LoraConfig, get_peft_model

    model, _ = load_vlm("tiny-base")
    torch.manual_seed(0)
    config = LoraConfig(target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "lora")
    adapted = load_answerer("tiny-base", device="cpu", adapter=tmp_path / "lora")
    assert adapted.name == "tiny-base+lora"
    assert adapted.describe()["class"] == base.describe()["class"]
    assert adapted.describe()["weights"] != base.describe()["weights"]
    assert len(adapted.answer(QUESTIONS[:2])) == 2


def test_a_prompt_longer_than_the_context_is_refused_by_name(base, monkeypatch):
    short, long = (
        asked(prompt="Is there a ring?"),
        asked(prompt="Is there a ring? " * 900, id="long"),
    )
    for ask in (base.answer, base.prepare):
        with pytest.raises(
            InputError, match=r"Question long has \d,\d{3} tokens; tiny-base reads 2,048"
        ):
            ask([short, long])
    # To the token: what just fits is answered, one token less of room and it is not.
    config = base.model.config.get_text_config()
    [tokens] = base.prepare([short]).batch["attention_mask"].sum(1).tolist()
    monkeypatch.setattr(config, "max_position_embeddings", tokens)
    assert base.answer([short])[0].text
    monkeypatch.setattr(config, "max_position_embeddings", tokens - 1)
    with pytest.raises(InputError, match=f"q has {tokens} tokens; tiny-base reads {tokens - 1}"):
        base.answer([short])
