"""The VLM from parts is Transformers' LLaVA: the same logits, loss and gradients, and answers."""

import copy

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from labs.data import Collator
from labs.errors import InputError
from labs.losses import IGNORE
from labs.models import build_tiny_llava, generate, load_vlm, user_message
from labs.models.connectors import CONNECTORS, LinearConnector, MLPConnector
from labs.models.generation import encode_prompts, render_prompt
from labs.models.vlm import VLM, VisionTower, processor_for
from labs.shapes import make_record

COUNTS = {"none": (0, 0), "one": (1, 1), "several": (2, 3), "mixed": (0, 1, 3)}


def random_llava():
    """Another LLaVA than the zoo's: features from the last layer but one with the CLS, head untied."""
    model, processor = build_tiny_llava(seed=3)
    config = copy.deepcopy(model.config)
    config.vision_feature_layer, config.vision_feature_select_strategy = -2, "full"
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    torch.manual_seed(4)
    model = type(model)(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.1)
        model.model.multi_modal_projector.linear_1.bias.normal_()
    return model, processor_for(processor, 37)


@pytest.fixture(scope="module", params=["tiny-base", "random"])
def pair(request):
    llava, processor = load_vlm("tiny-base") if request.param == "tiny-base" else random_llava()
    return llava.eval(), VLM.from_llava(llava), processor


def batch_of(processor, counts, side):
    """A prompt for each count with so many different pictures, padded on one side, with labels."""
    prompts, images, number = [], [], 0
    for row, count in enumerate(counts):
        text = "Is there a red ring? " * (1 + row)
        prompts.append(render_prompt(processor, [user_message(text, count)]))
        images.append([make_record("count", number + k, "val")["image"] for k in range(count)])
        number += count
    batch = encode_prompts(processor, prompts, images)
    labels = batch["input_ids"].clone()
    labels[(labels == processor.image_token_id) | (batch["attention_mask"] == 0)] = IGNORE
    batch["labels"] = labels
    if side == "right":  # move each row's padding to its end
        order = batch["attention_mask"].argsort(dim=1, descending=True, stable=True)
        for name in ("input_ids", "attention_mask", "labels"):
            batch[name] = batch[name].gather(1, order)
    return batch


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_logits_loss_and_every_gradient_equal_transformers(pair, counts, side):
    llava, vlm, processor = pair
    batch = batch_of(processor, counts, side)
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) == len(counts)  # ragged
    ends = batch["attention_mask"][:, -1 if side == "left" else 0]
    assert bool(ends.all())
    found = []
    for model in (llava, vlm):
        model.zero_grad(set_to_none=True)
        output = model(**batch)
        output.loss.backward()
        found.append(output)
    theirs, ours = found
    seen = batch["attention_mask"].bool()
    torch.testing.assert_close(ours.logits[seen], theirs.logits[seen], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss, theirs.loss)
    gradients = {name: p.grad for name, p in llava.named_parameters()}
    names = vlm._llava_names()
    assert sum(counts) == 0 or sum(g is not None for g in gradients.values()) > 60
    compared = 0
    for name, parameter in vlm.named_parameters():
        other = gradients.pop(names[name])
        assert (parameter.grad is None) == (other is None), name
        if other is not None:
            scale = other.abs().max().item()
            torch.testing.assert_close(parameter.grad, other, atol=1e-5 * scale + 1e-9, rtol=1e-4)
            compared += 1
    assert not gradients and compared > 30


def test_answers_are_those_of_transformers(pair):
    llava, vlm, processor = pair
    records = [make_record(task, 3, "val") for task in ("count", "colour", "caption")]
    asked = [[user_message(r["conversations"][0]["value"].split("\n")[-1], 1)] for r in records]
    asked.append([user_message("a small red ring at the top left.\nWhat colour is the ring?")])
    images = [[r["image"]] for r in records] + [[]]
    options = {"max_new_tokens": 12}
    assert generate(vlm, processor, asked, images, **options) == generate(
        llava, processor, asked, images, **options
    )
    options |= {"temperature": 1.0, "num_return_sequences": 3, "seed": 5}
    assert generate(vlm, processor, asked, images, **options) == generate(
        llava, processor, asked, images, **options
    )


def test_weights_go_back_into_transformers(pair):
    llava, vlm, _ = pair
    changed, other = copy.deepcopy(vlm), copy.deepcopy(llava)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.5)
    changed.store_llava(other)
    again = VLM.from_llava(other)
    for (name, a), (_, b) in zip(changed.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(vlm.parameters(), changed.parameters(), strict=True):
        assert not torch.equal(a, b)  # copies: the first model is as it was


def test_num_items_makes_shares_that_add_up(pair):
    _, vlm, processor = pair
    batch = batch_of(processor, (0, 1, 3), "right")
    items = int((batch["labels"][:, 1:] != IGNORE).sum())
    whole = vlm(**batch).loss
    shares = 0
    for row, images in enumerate([slice(0, 0), slice(0, 1), slice(1, 4)]):
        part = {k: v[row : row + 1] for k, v in batch.items() if k != "pixel_values"}
        if images.stop > images.start:
            part["pixel_values"] = batch["pixel_values"][images]
        shares = shares + vlm(**part, num_items=items).loss
    torch.testing.assert_close(shares, whole)


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_picture_more_or_less_than_placeholders_is_refused(name):
    vlm, processor = vlm_with(name)
    batch = batch_of(processor, (0, 1, 3), "right")
    with pytest.raises(InputError, match="Sample 2 has"):
        vlm(**batch | {"pixel_values": batch["pixel_values"][:3]})
    with pytest.raises(InputError, match="Sample 1 has"):
        vlm(**{k: v for k, v in batch.items() if k != "pixel_values"})


def vlm_with(name, seed=0, **options):
    """A VLM with tiny towers and this connector, and its processor."""
    llava, processor = build_tiny_llava(seed)
    parts = VLM.from_llava(llava)
    defaults = {"resampler": {"num_latents": 5}, "q_former": {"num_queries": 5},
                "gated_cross_attention": {"num_latents": 5}}  # fmt: skip
    torch.manual_seed(seed)
    connector = CONNECTORS[name](96, 128, 36, **defaults.get(name, {}) | options)
    vlm = VLM(parts.vision_tower, connector, parts.language_model, parts.image_token_id)
    return vlm.eval(), processor_for(processor, connector.num_placeholders)


@pytest.mark.parametrize("name", CONNECTORS)
def test_every_connector_answers_alike_in_any_batch(name):
    """Padding, batch mates and the KV cache must not change what is said."""
    vlm, processor = vlm_with(name)
    for module in vlm.modules():  # gates ajar, so that the images matter
        if hasattr(module, "attention_gate"):
            torch.nn.init.constant_(module.attention_gate, 0.7)
            torch.nn.init.constant_(module.ffw_gate, -0.4)
    pictures = [make_record("count", k, "val")["image"] for k in range(3)]
    asked = [
        ([user_message("Is there a ring?", 1)], pictures[:1]),
        ([user_message("a red ring.\nWhat colour is it?")], []),
        ([user_message("Describe these images in a few words.", 2)], pictures[1:]),
    ]
    together = generate(vlm, processor, *zip(*asked, strict=True), max_new_tokens=6)
    for said, (messages, images) in zip(together, asked, strict=True):
        batch = encode_prompts(processor, [render_prompt(processor, messages)], [images])
        ids, pixels = batch["input_ids"], batch.get("pixel_values")
        for _ in range(6):  # the slow oracle: no cache, one forward pass a token
            with torch.no_grad():
                token = vlm(input_ids=ids, pixel_values=pixels).logits[0, -1].argmax()
            if token == processor.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
        new = ids[0, batch["input_ids"].shape[1] :]
        assert said == processor.tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("number", [1, 9, 36])
def test_the_processor_writes_as_many_placeholders_as_asked(number):
    _, processor = build_tiny_llava()
    changed = processor_for(processor, number)
    image = make_record("count", 0, "val")["image"]
    prompt = render_prompt(changed, [user_message("How many?", 2)])
    ids = encode_prompts(changed, [prompt], [[image, image]])["input_ids"]
    assert int((ids == changed.image_token_id).sum()) == 2 * number
    assert Collator(changed).pad_id == Collator(processor).pad_id


def test_the_tower_takes_the_layer_and_the_tokens_it_is_told(pair):
    llava, _, _ = pair
    encoder = llava.model.vision_tower
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        states = encoder(pixels, output_hidden_states=True).hidden_states
        for layer in (-4, -2, -1, 0, 3):
            kept = VisionTower(encoder, layer, "full")
            dropped = VisionTower(encoder, layer, "default")
            assert torch.equal(kept(pixels), states[layer])
            assert torch.equal(dropped(pixels), states[layer][:, 1:])
            assert (kept.num_patches, dropped.num_patches) == (37, 36)


def test_a_tower_without_cls_keeps_all_its_patches():
    torch.manual_seed(0)
    encoder = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            image_size=48, patch_size=16,
        )
    )  # fmt: skip
    with pytest.raises(InputError, match=r'SiglipVisionModel has no CLS.*select_strategy="full"'):
        VisionTower(encoder, -1, "default")
    tower = VisionTower(encoder, -1, "full")
    assert tower.num_patches == 9
    assert tower(torch.randn(1, 3, 48, 48)).shape == (1, 9, 32)
    llava, _ = build_tiny_llava()
    language_model = VLM.from_llava(llava).language_model
    vlm = VLM(tower, MLPConnector(32, 128, 9), language_model, 3)
    ids = torch.tensor([[5, *[3] * 9, 6]])
    assert vlm(ids, torch.randn(1, 3, 48, 48)).logits.shape == (1, 11, 543)


def test_parts_that_do_not_fit_are_refused(pair):
    llava, vlm, _ = pair
    with pytest.raises(InputError, match="from 36 patches of width 64 to width 128"):
        VLM(
            VisionTower(llava.model.vision_tower, -1, "default"),
            MLPConnector(64, 128, 36),
            vlm.language_model,
            3,
        )
    with pytest.raises(InputError, match="feature_layer = 4"):
        VisionTower(llava.model.vision_tower, 4)
    with pytest.raises(InputError, match="'patch' is unknown"):
        VisionTower(llava.model.vision_tower, -1, "patch")
    other = VLM(
        VisionTower(llava.model.vision_tower, -1, "default"),
        LinearConnector(96, 128, 36),
        vlm.language_model,
        3,
    )
    with pytest.raises(InputError, match="no LinearConnector"):
        other.store_llava(llava)
    several = copy.deepcopy(llava)
    several.config.vision_feature_layer = [-1, -2]
    with pytest.raises(InputError, match="joins the layers"):
        VLM.from_llava(several)
