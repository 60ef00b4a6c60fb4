"""Lengths and truncation against Transformers' processors and the trainer's own encoding."""

import dataclasses
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, normalizers
from transformers import (
    AutoTokenizer,
    CanineTokenizer,
    Gemma3Processor,
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from labs.data import encode
from labs.data.skips import Skip
from labs.doctors.data.kinds import KINDS
from labs.doctors.data.sample import Place, Sample
from labs.doctors.data.tokens import make_checker
from labs.doctors.data.tokens.dialogue import Dialogue
from labs.errors import InputError
from labs.formats import Conversation, Turn
from labs.models.places import ZOO
from labs.models.tokenizer import CHAT_TEMPLATE
from tests.data.conftest import MAKERS, PARTS, QWEN, get_processor, train_bpe

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>{% else %}"
    "{{ c['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
BASE = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def llava_next():
    tokenizer = train_bpe(
        ["<s>", "</s>", "<image>"], bos_token="<s>", eos_token="</s>", pad_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
    )
    return LlavaNextProcessor(
        images, tokenizer, patch_size=7, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=PARTS,
    )  # fmt: skip


def idefics3():
    tiles = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer = train_bpe(BASE + marks + tiles, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 28}
    )
    template = CHATML.replace("IMAGE", "<image>")
    return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)


class WithoutVideo(InternVLProcessor):
    """The real class, less its insistence on a video processor, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        return None


WithoutVideo.__name__ = "InternVLProcessor"  # its defaults are looked up by name


def internvl():
    names = {
        "start_image_token": "<img>", "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
    }  # fmt: skip
    tokenizer = train_bpe(
        BASE + list(names.values()), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens=names,
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28})
    template = CHATML.replace("IMAGE", "<IMG_CONTEXT>\n")
    return WithoutVideo(images, tokenizer, image_seq_length=4, chat_template=template)


def gemma3():
    names = {
        "image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }  # fmt: skip
    special = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", *names.values()]
    tokenizer = train_bpe(
        special, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", extra_special_tokens=names
    )
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=GEMMA)


END = {
    "chatml": "<|im_end|>", "vicuna": "</s>", "parts": "</s>", "llama": "</s>",
    "qwen2_vl": "<|im_end|>", "llava_next": "</s>", "idefics3": "<|im_end|>",
    "internvl": "<|im_end|>", "gemma3": "<end_of_turn>",
}  # fmt: skip
OTHERS = {
    "llava_next": llava_next,
    "idefics3": idefics3,
    "internvl": internvl,
    "gemma3": gemma3,
}
_made: dict = {}


def processor_of(name: str):
    if name in MAKERS:
        return get_processor(name)
    if name not in _made:
        _made[name] = OTHERS[name]()
    return _made[name]


def checker_of(name: str, max_length: int | None = None):
    if (name, "checker") not in _made:
        _made[name, "checker"] = make_checker(processor_of(name))
    checker = _made[name, "checker"]
    checker.max_length = max_length
    return checker


def sample(*turns: tuple[str, str], images: int = 0, **fields) -> Sample:
    pictures = [f"{i}.jpg" for i in range(images)]
    return Sample(Place("a.json", 1, 0), "x", pictures, list(turns), **fields)


WORDS = ["ring", "two red rings", "有两个圆环", "🟥", "assistant", "\n", "  ", "a\n\nb", "."]
texts = st.lists(
    st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=5),
    max_size=5,
).map("".join)
sides = st.integers(20, 300)


@st.composite
def talks(draw):
    """Turns with pictures at their heads, and the pictures' sizes."""
    turns, sizes = [], []
    if draw(st.booleans()):
        turns.append(("system", draw(texts)))
    for _ in range(draw(st.integers(1, 4))):
        new = draw(st.lists(st.tuples(sides, sides), max_size=2 if len(sizes) < 3 else 0))
        sizes += new
        turns += [("user", "<image>\n" * len(new) + draw(texts)), ("assistant", draw(texts))]
    words = "".join(text for _, text in turns).replace("<image>", "")
    # "▁" is how Llama's tokenizer writes a space: it cannot tell the two apart.
    assume("image" not in words and "▁" not in words)
    return turns, sizes


def blanks(sizes) -> list:
    return [Image.new("RGB", size, "grey") for size in sizes]


@pytest.mark.parametrize("name", [*MAKERS, *OTHERS])
@settings(max_examples=20)
@given(talk=talks())
def test_as_many_tokens_as_the_processor_makes(name, talk):
    turns, sizes = talk
    processor = processor_of(name)
    dialogue = Dialogue(processor)
    text = dialogue.render(turns)
    images = blanks(sizes) or None
    if name == "idefics3" and images:
        images = [images]
    oracle = processor(
        text=[text],
        images=images,
        add_special_tokens=not text.startswith(processor.tokenizer.bos_token or "\0"),
    )["input_ids"][0]
    checker = checker_of(name)
    counted = checker.check(sample(*turns, images=len(sizes)), sizes)
    assert counted.tokens == len(oracle)
    repeated = {"gemma3": "<image_soft_token>"}.get(name, processor.image_token)
    assert counted.visual_tokens == list(oracle).count(
        processor.tokenizer.convert_tokens_to_ids(repeated)
    )
    assert counted.problems == []
    if not sizes and dialogue.parts:
        own = processor.apply_chat_template(dialogue.messages(turns), tokenize=True)
        own = own["input_ids"] if hasattr(own, "keys") else own
        assert counted.tokens == len(own[0] if isinstance(own[0], list) else own)


@pytest.mark.parametrize("name", [*MAKERS, "llava_next", "idefics3", "internvl", "gemma3"])
@settings(max_examples=12)
@given(talk=talks(), share=st.floats(0.02, 1.3))
def test_truncation_as_the_trainer_does_it(name, talk, share):
    turns, sizes = talk
    processor = processor_of(name)
    conversation = Conversation("x", tuple(blanks(sizes)), tuple(Turn(*turn) for turn in turns))
    whole = encode(conversation, processor)
    length = len(whole["input_ids"])
    limit = max(1, round(share * length))
    checker = checker_of(name, limit)
    counted = checker.check(sample(*turns, images=len(sizes)), sizes)
    assert counted.tokens == length
    spans = sum(whole["num_image_tokens"])  # with what some families write around and between tiles
    assert counted.visual_tokens == spans or (
        name in ("idefics3", "internvl", "gemma3") and counted.visual_tokens < spans
    )
    found = {problem.kind for problem in counted.problems}
    try:
        cut = encode(conversation, processor, limit, "truncate")
        assert "answer_cut_off" not in found
        assert bool(found & {"overlong", "later_answer_cut_off"}) == (length > limit)
        answers = [i for i, turn in enumerate(conversation.turns) if turn.role == "assistant"]
        one_less = dataclasses.replace(conversation, turns=conversation.turns[: answers[-1]])
        if len(answers) > 1 and "later_answer_cut_off" in found:
            # What is learned is learned from the turns before the last answer alone.
            shorter = encode(one_less, processor, limit, "truncate")["labels"]
            assert (shorter != -100).sum() == (cut["labels"] != -100).sum()
        lost = len(cut["num_image_tokens"]) < len(sizes)
        assert ("image_cut_off" in found) == lost
    except Skip as skip:
        assert skip.reason == "no_label" and "answer_cut_off" in found and "overlong" not in found


def test_what_is_cut_is_told_with_numbers():
    checker = checker_of("chatml", 50)
    turns = [("user", "<image>\n<image>\nWhat?"), ("assistant", "a ring")]
    counted = checker.check(sample(*turns, images=2), [(48, 48), (48, 48)])
    found = dict(counted.problems)
    assert set(found) == {"answer_cut_off", "image_cut_off"}
    assert "max_length 50" in found["answer_cut_off"]
    assert found["image_cut_off"].startswith("1 of 2 pictures") and counted.visual_tokens == 72
    assert all(KINDS[kind].severity == "error" for kind in found)
    checker.max_length = counted.tokens
    assert checker.check(sample(*turns, images=2), [(48, 48)] * 2).problems == []
    checker.max_length -= 1
    ((kind, detail),) = checker.check(sample(*turns, images=2), [(48, 48)] * 2).problems
    assert (
        kind == "overlong" and detail == f"{counted.tokens} tokens, max_length {counted.tokens - 1}"
    )


def test_many_at_once_are_as_one_by_one():
    checker = checker_of("qwen2_vl", 30)
    samples = [
        (sample(("user", "<image>" * n + "word " * n), ("assistant", "圆" * n), images=n),
         [(28 * (i + 2), 56) for i in range(n)])
        for n in range(6)
    ]  # fmt: skip
    samples.append((sample(), []))
    assert checker.check_many(samples) == [checker.check(*one) for one in samples]
    assert checker.check(sample()) == ([], None, None)
    assert checker.check_many([]) == []


@pytest.mark.parametrize("name", [*MAKERS, *OTHERS])
def test_sound_processors_have_no_startup_problem(name):
    checker = checker_of(name)
    assert {END[name], *processor_of(name).tokenizer.all_special_tokens} <= set(
        checker.special_tokens
    )
    assert checker.startup_problems == []
    assert checker.unchecked == ["Truncation was not checked: no --max-length was given."]


@pytest.mark.parametrize("name", ["tiny-sft", "tiny-base", "tiny-lm", "tiny-sft-clean"])
def test_the_zoo(name):
    checker = make_checker(ZOO / name, max_length=100)
    assert checker.startup_problems == []
    counted = checker.check(sample(("user", "How many rings?"), ("assistant", "two")))
    tokenizer = AutoTokenizer.from_pretrained(ZOO / name)
    messages = [
        {"role": "user", "content": "How many rings?"},
        {"role": "assistant", "content": "two"},
    ]
    oracle = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert counted == ([], len(oracle), 0)
    if name == "tiny-lm":
        (sentence,) = checker.unchecked
        assert "tokenizer alone" in sentence and checker.fixed_pictures
    else:
        assert checker.unchecked == []


def test_a_template_over_a_tokenizer_that_does_not_know_its_tokens():
    """The usual mistake: ChatML put on a base model."""
    tokenizer = train_bpe(["<s>", "</s>"], bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    checker = make_checker(tokenizer)
    split = {problem.detail.split()[0] for problem in checker.startup_problems}
    assert split == {"<|im_start|>", "<|im_end|>"}
    assert all(problem.kind == "special_token_split" for problem in checker.startup_problems)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert make_checker(tokenizer).startup_problems == []


def broken(how):
    tokenizer = train_bpe(["<s>", "</s>"], bos_token="<s>", eos_token="</s>")
    backend = tokenizer.backend_tokenizer
    if how == "lower-cased":
        backend.normalizer = normalizers.Lowercase()
        tokenizer.add_tokens([AddedToken("<IMG>", special=True, normalized=True)])
    elif how == "whole words only":
        tokenizer.add_tokens([AddedToken("<IMG>", special=True, single_word=True)])
    else:
        tokenizer.add_tokens([AddedToken("<IMG>", special=True)])
    return tokenizer


@pytest.mark.parametrize(
    ("how", "words"), [("lower-cased", ""), ("whole words only", "right after a word")]
)
def test_special_tokens_that_do_not_survive(how, words):
    problems = make_checker(broken(how)).startup_problems
    assert [problem.detail.split()[0] for problem in problems] == ["<IMG>"]
    assert words in problems[0].detail
    assert make_checker(broken("not")).startup_problems == []


def test_an_image_token_that_is_none():
    processor = MAKERS["chatml"]()
    processor.image_token = "<picture>"
    (problem,) = make_checker(processor).startup_problems
    assert problem.detail.startswith("<picture> is read as")


def test_without_a_template_the_special_tokens_are_checked_and_the_rest_is_said():
    tokenizer = train_bpe(["<s>", "</s>"], bos_token="<s>", eos_token="</s>")
    checker = make_checker(tokenizer, 10)
    (sentence,) = checker.unchecked
    assert "no chat template" in sentence
    assert checker.check(sample(("user", "a " * 50), ("assistant", "b"))) == ([], None, None)
    assert make_checker(broken("whole words only")).startup_problems != []


def test_turns_that_the_template_refuses():
    processor = MAKERS["chatml"]()
    processor.chat_template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    checker = make_checker(processor, 50)
    good = checker.check(sample(("user", "a"), ("assistant", "b")))
    assert good.problems == [] and good.tokens
    bad = checker.check(sample(("assistant", "b"), ("user", "a")))
    assert bad.tokens is None
    assert [(p.kind, p.detail) for p in bad.problems] == [
        ("template_fails", "roles must alternate")
    ]


def test_a_template_that_drops_later_pictures():
    processor = MAKERS["parts"]()
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "{% if loop.index0 == 0 %}<image>{% endif %}{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}</s>{% endfor %}"
    )
    checker = make_checker(processor)
    turns = [("user", "<image><image>both?"), ("assistant", "yes")]
    (problem,) = checker.check(sample(*turns, images=2), [(9, 9), (9, 9)]).problems
    assert problem.kind == "template_fails" and "1 times for 2 pictures" in problem.detail


def test_pictures_of_unknown_size():
    turns = [("user", "<image>\nWhat?"), ("assistant", "a ring " * 30)]
    fixed, free = checker_of("vicuna", 10_000), checker_of("qwen2_vl", 10_000)
    assert fixed.fixed_pictures and not free.fixed_pictures
    assert fixed.check(sample(*turns, images=1), [None]).visual_tokens == 16
    assert free.check(sample(*turns, images=1), [None]) == ([], None, None)
    free.max_length = 30  # the words alone are too many
    ((kind, detail),) = free.check(sample(*turns, images=1), [None]).problems
    assert kind == "overlong" and detail.startswith("at least ")


def test_a_picture_that_the_processor_refuses():
    turns = [("user", "<image>\nWhat?"), ("assistant", "a line")]
    counted = checker_of("qwen2_vl").check(sample(*turns, images=1), [(20_000, 10)])
    ((kind, detail),) = counted.problems
    assert kind == "absurd_image" and "20000 x 10" in detail and counted.tokens is None


def test_the_rule_by_size_is_used_only_where_it_is_right():
    """LLaVA's own arithmetic takes the crop's size, which tiny-sft never makes."""
    tiny = checker_of("chatml")
    told = processor_of("chatml")._get_num_multimodal_tokens(image_sizes=[(48, 48)])
    assert told["num_image_tokens"] != [36]
    turns = [("user", "<image>\nWhat?"), ("assistant", "a ring")]
    assert tiny.check(sample(*turns, images=1), [(640, 480)]).visual_tokens == 36


def test_the_other_answer_of_a_pair_counts_too():
    turns = [("user", "What?"), ("assistant", "a ring")]
    checker = checker_of("chatml", 40)
    assert checker.check(sample(*turns, alternatives=["a cross"])).problems == []
    long = "a very long cross " * 10
    ((kind, detail),) = checker.check(sample(*turns, alternatives=["no", long])).problems
    alone = checker.check(sample(turns[0], ("assistant", long))).tokens
    assert kind == "overlong" and detail.startswith(f"{alone} tokens with the other answer")


def test_a_tokenizer_in_python():
    tokenizer = CanineTokenizer()
    assert not tokenizer.is_fast
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    checker = make_checker(tokenizer, 20)
    turns = [("user", "What?"), ("assistant", "a ring")]
    rendered = "user: What?\nassistant: a ring\n"
    counted = checker.check(sample(*turns))
    assert counted.tokens == len(rendered)  # a token a letter
    assert [p.kind for p in counted.problems] == ["answer_cut_off"]
    checker.max_length = rendered.index("a ring") + 1
    assert [p.kind for p in checker.check(sample(*turns)).problems] == ["overlong"]


def hub_folder(path):
    """Qwen2-VL's files as the hub has them, with a small tokenizer."""
    processor = get_processor("qwen2_vl")
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)
    (path / "chat_template.json").write_text(json.dumps({"chat_template": QWEN}))
    (path / "chat_template.jinja").unlink(missing_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    settings = json.loads((path / "preprocessor_config.json").read_text())
    settings |= {
        "processor_class": "Qwen2VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


def test_a_processor_with_a_part_for_videos_that_cannot_be_had(tmp_path):
    """Without torchvision AutoProcessor refuses Qwen2-VL; pictures need none of it."""
    checker = make_checker(hub_folder(tmp_path))
    turns = [("user", "<image>\nWhat?"), ("assistant", "a ring")]
    for size in ((100, 60), (300, 40)):
        assert checker.check(sample(*turns, images=1), [size]) == checker_of("qwen2_vl").check(
            sample(*turns, images=1), [size]
        )
    assert checker.startup_problems == []


def test_folders_that_hold_no_processor(tmp_path):
    with pytest.raises(InputError, match="No processor or tokenizer"):
        make_checker(tmp_path)
    hub_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="No processor or tokenizer"):
        make_checker(tmp_path)
    with pytest.raises(InputError, match="from the hub"):
        make_checker("nobody/no-such-model")  # offline: said at once
