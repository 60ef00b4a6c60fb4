"""Two processes with half the pairs each are one process with all of them."""

import datetime
import multiprocessing
import os
import traceback

import pytest
import torch
import torch.distributed as dist
from torch import nn

from labs.losses import chunked_info_nce, gather_features, gathered_info_nce, info_nce

RANKS, BATCH, WIDTH = 2, 6, 5
WAYS = {"plain": None, "chunked": 4}  # a chunk that does not divide the batch


class Encoder(nn.Module):
    """Both towers, and a learned temperature."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.double()

    def forward(self, images, texts):
        return self.image(images), self.text(texts), (-self.log_scale).exp()


def pairs():
    generator = torch.Generator().manual_seed(1)
    shape = 2, RANKS * BATCH, WIDTH
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def share(rank):
    return slice(rank * BATCH, (rank + 1) * BATCH)


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def _work(rank, folder):
    """On one rank: value, gradients of the features, gradients of the parameters under DDP."""
    results = {}
    images, texts = pairs()[:, share(rank)]
    for way, chunk_size in WAYS.items():
        encoder = Encoder()
        features = [f.detach().requires_grad_() for f in encoder(images, texts)]
        loss = gathered_info_nce(*features, chunk_size=chunk_size)
        loss.backward()
        results[way] = {"loss": loss.item(), "features": [f.grad for f in features]}

        # DistributedDataParallel itself averages the gradients
        ddp = nn.parallel.DistributedDataParallel(encoder)
        gathered_info_nce(*ddp(images, texts), chunk_size=chunk_size).backward()
        results[way]["parameters"] = gradients(encoder)
        encoder = Encoder()  # without DDP's hooks
        # shares of another loss: ranks that weigh theirs differently
        (gathered_info_nce(*encoder(images, texts), chunk_size=chunk_size) * (1 + rank)).backward()
        results[way]["weighed"] = gradients(encoder)

    images = images.clone().requires_grad_()
    everything = gather_features(images)
    torch.testing.assert_close(everything, pairs()[0])
    (everything * torch.arange(everything.numel()).view_as(everything)).sum().backward()
    results["gather"] = images.grad
    features = [gather_features(f) for f in Encoder()(images, texts)[:2]]
    results["by hand"] = chunked_info_nce(*features, 0.1, chunk_size=4).item()
    try:
        gathered_info_nce(torch.ones(3 + rank, 2), torch.ones(3 + rank, 2))
    except ValueError as error:
        results["unequal"] = str(error)
    torch.save(results, folder / f"{rank}.pt")


def _rank(rank, folder):
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), RANKS)
        timeout = datetime.timedelta(seconds=60)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timeout)
        _work(rank, folder)
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_rank, args=(rank, folder)) for rank in range(RANKS)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def one():
    encoder = Encoder()
    loss = info_nce(*encoder(*pairs()))
    loss.backward()
    features = [f.detach().requires_grad_() for f in encoder(*pairs())]
    info_nce(*features).backward()
    return {
        "loss": loss.item(),
        "parameters": gradients(encoder),
        "features": [f.grad for f in features],
    }


@pytest.mark.parametrize("way", WAYS)
def test_the_value_on_every_rank_is_that_of_the_joined_batch(ranks, one, way):
    for rank in ranks:
        assert rank[way]["loss"] == pytest.approx(one["loss"], rel=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_features_get_as_many_times_the_gradient_as_there_are_ranks(ranks, one, way):
    for number, rank in enumerate(ranks):
        for got, whole in zip(rank[way]["features"][:2], one["features"][:2], strict=True):
            torch.testing.assert_close(got, RANKS * whole[share(number)])
    temperatures = torch.stack([rank[way]["features"][2] for rank in ranks])
    torch.testing.assert_close(temperatures.mean(), one["features"][2])


@pytest.mark.parametrize("way", WAYS)
def test_after_ddp_the_gradients_are_those_of_one_process(ranks, one, way):
    for rank in ranks:
        assert set(rank[way]["parameters"]) == set(one["parameters"])
        for name, gradient in rank[way]["parameters"].items():
            torch.testing.assert_close(gradient, one["parameters"][name], msg=name)


def test_both_ways_agree_where_the_ranks_weigh_their_loss_differently(ranks):
    for name in ranks[0]["plain"]["weighed"]:
        totals = [sum(rank[way]["weighed"][name] for rank in ranks) for way in WAYS]
        if name != "log_scale":  # of the temperature each rank has another part
            torch.testing.assert_close(*totals, msg=name)


def test_the_gradient_of_gathering_is_the_sum_over_ranks(ranks):
    for number, rank in enumerate(ranks):
        weights = torch.arange(RANKS * BATCH * WIDTH, dtype=torch.float64).view(-1, WIDTH)
        torch.testing.assert_close(rank["gather"], RANKS * weights[share(number)])


def test_gathering_and_chunks_compose_by_hand_too(ranks):
    features = Encoder()(*pairs())[:2]
    for rank in ranks:
        assert rank["by hand"] == pytest.approx(info_nce(*features, 0.1).item(), rel=1e-12)


def test_unequal_batches_are_named_on_every_rank(ranks):
    assert [rank["unequal"] for rank in ranks] == [
        "The ranks hold batches of different sizes: [3, 4]."
    ] * RANKS


@pytest.mark.parametrize("chunk_size", WAYS.values())
def test_alone_nothing_is_gathered(chunk_size):
    features = Encoder()(*pairs())
    loss = gathered_info_nce(*features, chunk_size=chunk_size)
    torch.testing.assert_close(loss, info_nce(*features))
    assert gather_features(features[0]) is features[0]
