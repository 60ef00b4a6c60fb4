"""The tiny BLIP against Transformers' own BLIP, against loops, and against what must not matter."""

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import BlipConfig, BlipForImageTextRetrieval
from transformers.modeling_outputs import BaseModelOutput

from labs.errors import InputError
from labs.models import build_tiny_blip, load_blip, load_clip
from labs.models.fused import FIRST_TOKENS, ITMHead, begin, take_tower

TEXTS = ["a large red ring at the top left", "a small star", "a blue cross in the centre"]


@pytest.fixture(scope="module")
def built():
    model, processor = build_tiny_blip(seed=0)
    with torch.no_grad():  # a head that leans to one side hides which token it reads
        model.itm_head.bias.zero_()
    return model.eval(), processor


@pytest.fixture(scope="module")
def batch(built):
    tokenizer = built[1].tokenizer
    texts = [text + tokenizer.eos_token for text in TEXTS]
    return tokenizer(texts, padding=True, return_tensors="pt")


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


class Tower(nn.Module):
    """Our states where Transformers' BLIP has its own tower."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, **_):
        return BaseModelOutput(last_hidden_state=self.model.image_states(pixel_values))


@torch.no_grad()
def test_it_is_transformers_blip_for_retrieval(built, batch, pixels):
    model, config = built[0], built[0].config
    blip = BlipConfig(
        text_config=config.text_config.to_dict(),
        vision_config={"hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4},
        image_text_hidden_size=config.projection_dim,
    )
    oracle = BlipForImageTextRetrieval(blip).eval()
    oracle.vision_model = Tower(model)
    for name in ("text_encoder", "vision_proj", "text_proj", "itm_head"):
        getattr(oracle, name).load_state_dict(getattr(model, name).state_dict())
    states = model.image_states(pixels)

    ids, mask = begin(batch["input_ids"], batch["attention_mask"], config.encode_token_id)
    wanted = oracle(input_ids=ids, attention_mask=mask, pixel_values=pixels).itm_score
    got = model.match(batch["input_ids"], batch["attention_mask"], states)
    torch.testing.assert_close(got, wanted)

    ids, mask = begin(batch["input_ids"], batch["attention_mask"], config.cls_token_id)
    wanted = oracle(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, use_itm_head=False
    ).itm_score
    image = model.get_image_features(pixels).pooler_output
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    got = nn.functional.normalize(image, dim=-1) @ nn.functional.normalize(text, dim=-1).T
    torch.testing.assert_close(got, wanted)


def test_the_matching_head_reads_the_first_token_and_no_other():
    torch.manual_seed(0)
    head, states = ITMHead(8), torch.randn(3, 5, 8, requires_grad=True)
    torch.testing.assert_close(head(states), states[:, 0] @ head.weight.T + head.bias)
    head(states).square().sum().backward()
    reached = states.grad.abs().sum(-1) > 0
    assert reached[:, 0].all() and not reached[:, 1:].any()
    assert set(head.state_dict()) == {"weight", "bias"}  # the names of BLIP's own checkpoints


@torch.no_grad()
def test_what_is_matched_is_the_first_tokens_state(built, batch, pixels):
    model = built[0]
    given = batch["input_ids"], batch["attention_mask"], model.image_states(pixels)
    states, logits = model.fuse(*given), model.match(*given)
    head = model.itm_head
    by_token = states @ head.weight.T + head.bias
    torch.testing.assert_close(logits, by_token[:, 0])
    assert states.shape[1] == batch["input_ids"].shape[1] + 1
    for other in range(1, by_token.shape[1]):
        assert (by_token[:, other] - logits).abs().max() > 0.01, other


@torch.no_grad()
def test_padding_does_not_matter(built, batch, pixels):
    model, (ids, mask) = built[0], (batch["input_ids"], batch["attention_mask"])
    states = model.image_states(pixels)
    together = (
        model.get_text_features(ids, mask).pooler_output,
        model.match(ids, mask, states),
        model.caption_logits(ids, mask, states),
    )
    for row in range(3):
        own, seen = ids[row : row + 1, : mask[row].sum()], states[row : row + 1]
        alone = (
            model.get_text_features(own).pooler_output,
            model.match(own, None, seen),
            model.caption_logits(own, None, seen),
        )
        for a, b in zip(together, alone, strict=True):
            real = a[row : row + 1] if a.ndim == 2 else a[row : row + 1, : b.shape[1]]
            torch.testing.assert_close(real, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_encoder_looks_both_ways_and_the_decoder_back(built, batch, pixels):
    model, states = built[0], built[0].image_states(pixels)
    ids = batch["input_ids"][:, :6]
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 7) % 500
    before, after = (model.caption_logits(x, None, states) for x in (ids, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])  # [DEC] and four tokens
    assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-3
    before, after = (model.fuse(x, None, states) for x in (ids, changed))
    assert (before - after).abs().amax(-1).min() > 1e-4
    # both see the picture, and the text by itself does not
    other = states.flip(0)
    assert (model.match(ids, None, states) - model.match(ids, None, other)).abs().max() > 1e-3
    apart = model.caption_logits(ids, None, states) - model.caption_logits(ids, None, other)
    assert apart.abs().amax(-1)[0].min() > 1e-3


@torch.no_grad()
def test_captions_are_the_greedy_loop_over_the_logits(built, pixels):
    model = built[0]
    states = model.image_states(pixels)
    end, pad = model.config.text_config.eos_token_id, model.config.text_config.pad_token_id
    wanted = []
    for row in range(3):
        ids = torch.zeros(1, 0, dtype=torch.long)
        first = torch.full((1, 1), model.config.decode_token_id)
        while ids.shape[1] < 8 and not (ids == end).any():
            logits = model.text_decoder(
                torch.cat([first, ids], 1), encoder_hidden_states=states[row : row + 1]
            ).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        wanted.append(ids[0].tolist())
    got = model.caption(pixels, max_new_tokens=8)
    assert [[t for t in row if t != pad] for row in got.tolist()] == wanted


def test_the_decoder_shares_all_but_its_self_attention(built):
    model = built[0]
    owned = {id(p) for p in model.text_encoder.parameters()}
    shared, own = set(), set()
    for name, p in model.text_decoder.bert.named_parameters():
        (shared if id(p) in owned else own).add(name)
    assert own and all(".attention." in name for name in own)
    assert shared and not any(".attention." in name for name in shared)
    assert model.text_decoder.cls.predictions.decoder.weight is (
        model.text_encoder.embeddings.word_embeddings.weight
    )


def test_the_three_first_tokens_differ_and_the_tokenizer_knows_them(built):
    model, processor = built
    ids = [getattr(model.config, name) for name in FIRST_TOKENS]
    assert len(set(ids)) == 3
    assert processor.tokenizer.convert_tokens_to_ids(list(FIRST_TOKENS.values())) == ids
    assert max(ids) < model.config.text_config.vocab_size
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == ""


@torch.no_grad()
def test_it_saves_each_tensor_once_and_loads(built, batch, pixels, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert len(list(file.keys())) == len(list(model.parameters()))
    again, its_processor = load_blip(tmp_path)
    assert len(list(again.parameters())) == len(list(model.parameters()))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    assert again.text_decoder.bert.embeddings is again.text_encoder.embeddings
    given = batch["input_ids"], batch["attention_mask"], model.image_states(pixels)
    torch.testing.assert_close(again.caption_logits(*given), model.caption_logits(*given))
    text = "[ENC]" + TEXTS[0]
    assert its_processor.tokenizer(text).input_ids == processor.tokenizer(text).input_ids


@torch.no_grad()
def test_a_trained_tower_can_be_taken_over(pixels):
    model, _ = build_tiny_blip(seed=0, vision_tower="tiny-clip")
    clip = load_clip("tiny-clip")[0].vision_model
    torch.testing.assert_close(model.eval().image_states(pixels)[:, 0], clip(pixels).pooler_output)
    with pytest.raises(InputError):
        take_tower(model, "tiny-lm")
