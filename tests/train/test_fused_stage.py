"""The stage `fused`: each part of its loss has an oracle, and reaches what it should."""

import datetime

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from train_helpers import fork, quiet

from labs.errors import InputError
from labs.losses import hard_negatives, info_nce
from labs.models import build_tiny_blip, build_tiny_clip, load_blip
from labs.models.fused import begin
from labs.recipes import load
from labs.recipes.run import run_recipe
from labs.train import PairCollator, prepare, train
from labs.train.fused import FusedLosses, FusedObjective

COLOURS = ["red", "green", "blue", "yellow", "white", "black"]


@pytest.fixture(scope="module")
def pairs():
    return [
        {"image": Image.new("RGB", (48, 48), c), "text": f"a {c} {'very ' * (i % 4)}big picture"}
        for i, c in enumerate(COLOURS)
    ]


@pytest.fixture(scope="module")
def objective():
    return FusedObjective(build_tiny_blip(seed=0)[0]).eval()


@pytest.fixture(scope="module")
def batch(pairs):
    return PairCollator(build_tiny_blip()[1])(pairs)


@pytest.fixture(scope="module")
def losses(objective, batch):
    return objective.losses(batch)


@torch.no_grad()
def features(model, batch):
    image = model.get_image_features(batch["pixel_values"])
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    return image.pooler_output, text.pooler_output, image.last_hidden_state


def test_contrastive_is_info_nce_of_the_features(objective, batch, losses):
    image, text, _ = features(objective.model, batch)
    wanted = info_nce(image, text, 1 / objective.model.logit_scale.exp())
    torch.testing.assert_close(losses.contrastive, wanted)


@torch.no_grad()
def test_matching_asks_about_every_pair_and_two_wrong_ones(objective, batch, losses):
    """One question at a time, in a loop."""
    model = objective.model
    image, text, states = features(model, batch)
    cosines = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=-1)
    similarity = cosines * model.logit_scale.exp()
    generator = torch.Generator().manual_seed(0)
    wrong_text = hard_negatives(similarity, generator).tolist()
    wrong_image = hard_negatives(similarity.T, generator).tolist()
    n = len(states)
    asked = [(i, i, 1) for i in range(n)]
    asked += [(i, wrong_text[i], 0) for i in range(n)] + [(wrong_image[i], i, 0) for i in range(n)]
    assert all((i == j) == bool(right) for i, j, right in asked)
    total = 0.0
    for i, j, right in asked:
        ids = batch["input_ids"][j : j + 1, : batch["attention_mask"][j].sum()]
        logits = model.match(ids, None, states[i : i + 1])
        total -= logits.log_softmax(-1)[0, right].item()
    assert losses.matching.item() == pytest.approx(total / (3 * n), rel=1e-4)


@torch.no_grad()
def test_generation_is_the_loss_of_transformers_own_head(objective, batch, losses):
    model, states = objective.model, features(objective.model, batch)[2]
    ids, mask = begin(batch["input_ids"], batch["attention_mask"], model.config.decode_token_id)
    labels = ids.masked_fill(mask == 0, -100)
    wanted = model.text_decoder(
        ids, attention_mask=mask, encoder_hidden_states=states, labels=labels
    ).loss
    torch.testing.assert_close(losses.generation, wanted)


def test_the_loss_is_the_sum_and_a_share_of_the_step(objective, batch, losses):
    torch.testing.assert_close(objective(batch, 6), sum(losses))
    torch.testing.assert_close(objective(batch, 12), sum(losses) / 2)


# by part of the loss: what of the model it must reach, and what it cannot
REACH = {
    "contrastive": (
        ("vision_model.", "text_encoder.encoder", "vision_proj", "text_proj", "logit_scale"),
        ("crossattention", "itm_head", "text_decoder"),
    ),
    "matching": (
        ("vision_model.", "crossattention", "itm_head", "text_encoder.encoder"),
        ("text_decoder.bert.encoder", "logit_scale", "vision_proj", "text_proj"),
    ),
    "generation": (
        ("vision_model.", "crossattention", "text_decoder.bert.encoder", "text_decoder.cls"),
        ("itm_head", "vision_proj", "text_proj", ".attention.self.query.weight"),
    ),
}


def test_gradients_reach_all_parts_and_each_loss_its_own(objective, batch):
    names, parameters = zip(*objective.model.named_parameters(), strict=True)
    reached_by = {}
    for part, loss in objective.losses(batch)._asdict().items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        reached_by[part] = {
            name
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None and gradient.abs().max() > 0
        }
    for part, (inside, outside) in REACH.items():
        for piece in inside:
            assert any(piece in name for name in reached_by[part]), (part, piece)
        for piece in outside:
            wrong = {n for n in reached_by[part] if piece in n and not n.startswith("text_decoder")}
            if piece.startswith("text_decoder"):
                wrong = {n for n in reached_by[part] if n.startswith(piece)}
            assert not wrong, (part, piece)
    # softmax does not see what a key's bias adds to all of a row
    left = set(names) - set().union(*reached_by.values())
    assert all("key.bias" in name or "k_proj.bias" in name for name in left), left


def test_a_few_steps_lower_each_part(pairs, batch):
    model, processor = build_tiny_blip(seed=0)
    objective = FusedObjective(model).eval()
    with torch.no_grad():
        before = objective.losses(batch)
    config = quiet(max_steps=25, per_device_train_batch_size=6, learning_rate=1e-3, warmup_steps=5,
                   lr_scheduler_type="constant_with_warmup")  # fmt: skip
    result = train(model, processor, pairs, config=config, stage="fused")
    with torch.no_grad():
        after = objective.eval().losses(batch)
    for name, start, end in zip(FusedLosses._fields, before, after, strict=True):
        assert end < 0.8 * start, name
    for entry in result.history:
        parts = [entry[f"{name}_loss"] for name in FusedLosses._fields]
        assert entry["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_the_recipes_tiny_form_trains_saves_and_loads(tmp_path):
    recipe = load("tiny_blip", ["progress=false", "report_to=none"], tiny=True)
    assert recipe.stage == "fused"
    model, _, result = run_recipe(recipe, tmp_path)
    assert result.steps == 3 and result.best_eval_loss is not None
    again, processor = load_blip(tmp_path / "model")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    assert "[ENC]" in processor.tokenizer.get_vocab()


def _rank(rank, folder, batch):
    store = dist.FileStore(str(folder / "store"), 2)
    timeout = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timeout)
    half = {name: value[3 * rank : 3 * rank + 3] for name, value in batch.items()}
    objective = FusedObjective(build_tiny_blip(seed=0)[0]).eval()
    with torch.no_grad():
        losses = objective.losses(half)
    torch.save(losses._asdict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_over_two_ranks_contrastive_and_generation_are_those_of_all_pairs(tmp_path, batch, losses):
    children = [fork(_rank, rank, tmp_path, batch) for rank in range(2)]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for found in ranks:
        torch.testing.assert_close(found["contrastive"], losses.contrastive)
    # the captions of the two halves differ in length: a mean of means would be another number
    lengths = batch["attention_mask"].sum(1)
    assert lengths[:3].sum() != lengths[3:].sum()
    generation = sum(found["generation"] for found in ranks) / 2
    torch.testing.assert_close(generation, losses.generation)


def test_what_cannot_be_trained_is_said(pairs, objective, batch):
    one = {name: value[:1] for name, value in batch.items()}
    with pytest.raises(InputError, match="one pair"):
        objective.count(one)
    with pytest.raises(InputError, match="5 images and 6 texts"):
        objective.count(batch | {"pixel_values": batch["pixel_values"][:5]})
    model, processor = build_tiny_clip()
    with pytest.raises(InputError, match="CLIPModel cannot"):
        prepare(model, processor, pairs, config=quiet(), stage="fused")
