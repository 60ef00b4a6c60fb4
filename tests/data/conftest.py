"""Processors of five makes: the tiny models' ChatML, Vicuna, a template of parts, Llama, Qwen2-VL."""

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from labs.formats import Conversation, Turn
from labs.models.tiny import build_tiny_llava, tiny_processor

SENTENCES = [
    "USER: How many rings are there? ASSISTANT: There are two red rings.",
    "A chat between a curious human and an assistant. 有几个圆环？有两个红色的圆环。",
]
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
    "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# As the hub's LLaVA-1.5 writes it: images first, each with a line break, then the text, stripped.
PARTS = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'].strip() }}{% endif %}"
    "{% endfor %}{{ '</s>\n' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_bpe(special: list[str], **names) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few sentences, with a beginning-of-text token that it adds by itself."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[AddedToken(t, special=True, normalized=False) for t in special],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if "bos_token" in names:
        bos = names["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    else:
        # Trims white space off the offsets, as GPT-2's and many others do.
        core.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def llava(template: str) -> LlavaProcessor:
    tokenizer = train_bpe(
        ["<s>", "</s>", "<image>"], bos_token="<s>", eos_token="</s>", pad_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def llama() -> LlavaProcessor:
    """As Llama's: spaces become "▁", unknown characters become bytes, and <s> comes by itself."""
    pieces = ["<s>", "</s>", "<image>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyzASITUNER:.?", "▁r", "▁ri", "in", "▁rin", "▁ring"]
    merges = [("▁", "r"), ("▁r", "i"), ("▁ri", "n"), ("▁rin", "g"), ("i", "n")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in pieces[:3]])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    processor = llava(VICUNA)
    return LlavaProcessor(
        processor.image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )


def qwen2_vl() -> Qwen2VLProcessor:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    tokenizer = train_bpe(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=112 * 112)
    return Qwen2VLWithoutVideo(images, tokenizer, chat_template=QWEN)


class Qwen2VLWithoutVideo(Qwen2VLProcessor):
    """The real class, less its insistence on a video processor, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        return None


MAKERS = {
    "chatml": tiny_processor,
    "vicuna": lambda: llava(VICUNA),
    "parts": lambda: llava(PARTS),
    "llama": llama,
    "qwen2_vl": qwen2_vl,
}
END = {
    "chatml": "<|im_end|>",
    "vicuna": "</s>",
    "parts": "</s>",
    "llama": "</s>",
    "qwen2_vl": "<|im_end|>",
}
# What the generation prompt "ASSISTANT:" leaves to the model before the answer.
LEAD = {"chatml": "", "vicuna": " ", "parts": " ", "llama": " ", "qwen2_vl": ""}
_made: dict = {}


def get_processor(name: str):
    if name not in _made:
        _made[name] = MAKERS[name]()
    return _made[name]


@pytest.fixture(params=list(MAKERS))
def named_processor(request):
    return request.param, get_processor(request.param)


@pytest.fixture
def processor():
    return get_processor("chatml")


@pytest.fixture(scope="session")
def tiny():
    model, processor = build_tiny_llava(seed=0)
    return model.eval(), processor


def picture(seed: int = 0, size: tuple[int, int] = (48, 48)) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def talk(*texts: str, images: int = 0, system: str | None = None, id: str = "x") -> Conversation:
    """texts alternate user, assistant; the images stand at the head of the first user turn."""
    turns = [Turn("system", system)] if system is not None else []
    for i, text in enumerate(texts):
        head = "<image>\n" * images if i == 0 else ""
        turns.append(Turn("assistant" if i % 2 else "user", head + text))
    return Conversation(id, tuple(picture(i) for i in range(images)), tuple(turns))
