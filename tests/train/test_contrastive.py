"""The contrastive stage: the right loss, and negatives from all ranks."""

import os
import socket

import pytest
import torch
from PIL import Image
from train_helpers import fork, quiet, weights

from labs.errors import InputError
from labs.losses import info_nce, siglip_loss
from labs.models import build_tiny_clip, build_tiny_llava
from labs.train import PairCollator, prepare, train


@pytest.fixture(scope="module")
def pairs():
    colours = ["red", "green", "blue", "yellow", "white", "black", "orange", "purple"]
    return [
        {"image": Image.new("RGB", (48, 48), c), "text": f"a {c} {'very ' * i}big picture"}
        for i, c in enumerate(colours)
    ]


def clip_run(pairs, **changes):
    model, processor = build_tiny_clip(seed=0)
    config = quiet(**{"max_steps": 3, "per_device_train_batch_size": 8, **changes})
    result = train(model, processor, pairs, config=config, stage="contrastive")
    return weights(model), result


@pytest.mark.parametrize("loss", ["info_nce", "siglip"])
def test_the_loss_is_the_library_function_on_the_models_features(pairs, loss):
    model, processor = build_tiny_clip(seed=0)
    with torch.no_grad():
        out = model(**PairCollator(processor)(pairs))
        scale = model.logit_scale.exp()
        if loss == "info_nce":
            expected = info_nce(out.image_embeds, out.text_embeds, 1 / scale)
        else:
            expected = siglip_loss(out.image_embeds, out.text_embeds, scale, torch.tensor(-10.0))
    after, result = clip_run(pairs, contrastive_loss=loss, shuffle=False)
    assert result.losses()[1][0] == pytest.approx(expected.item(), rel=1e-5)
    assert result.losses()[1][-1] < result.losses()[1][0]
    assert ("logit_bias" in after) == (loss == "siglip")


def test_every_text_ends_in_the_token_that_is_pooled(pairs):
    _, processor = build_tiny_clip(seed=0)
    batch = PairCollator(processor)(pairs)
    ends = (batch["input_ids"] == processor.tokenizer.eos_token_id).sum(dim=1)
    assert bool((ends >= 1).all())


def _rank(rank, port, pairs, folder):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )
    from accelerate.state import PartialState

    PartialState._reset_state()
    after, result = clip_run(pairs, per_device_train_batch_size=4)
    if rank == 0:
        torch.save({"weights": after, "losses": result.losses()[1]}, folder / "out.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_see_all_negatives(tmp_path, pairs):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children = [fork(_rank, rank, port, pairs, tmp_path) for rank in range(2)]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    two = torch.load(tmp_path / "out.pt", weights_only=True)
    one, result = clip_run(pairs)
    assert two["losses"] == pytest.approx(result.losses()[1], rel=1e-5)
    for name, tensor in one.items():
        torch.testing.assert_close(two["weights"][name], tensor, rtol=0, atol=3e-4, msg=name)
    # what each rank's four pairs alone would give is another loss
    alone, _ = clip_run(pairs, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert any((alone[n] - one[n]).abs().max() > 1e-3 for n in one)


def test_a_language_model_is_no_dual_encoder(pairs):
    model, processor = build_tiny_llava()
    with pytest.raises(InputError, match="needs a dual encoder"):
        prepare(model, processor, pairs, config=quiet(), stage="contrastive")
