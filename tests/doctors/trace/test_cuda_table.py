"""The table of what CUDA does differently, by the rules of its sources; and that a trace obeys it."""

import pytest
import torch
from torch.nn import functional as F

from labs.doctors.memory.cuda import cuda_table
from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.trace import fakes

Q = (2, 8, 100, 64)
KV = (2, 2, 100, 64)


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        ("flash", {}),
        ("flash", {"dtype": "float16", "causal": True}),
        ("flash", {"key": KV, "value": KV, "gqa": True}),
        ("efficient", {"mask": True}),
        ("efficient", {"dtype": "float32"}),
        ("efficient", {"query": (2, 8, 1, 64), "causal": True}),  # causal and not square
        ("efficient", {"query": (2, 8, 100, 264), "key": (2, 8, 100, 264), "value": (2, 8, 100, 264)}),
        ("math", {"mask": True, "mask_needs_grad": True}),
        ("math", {"mask": True, "key": KV, "value": KV, "gqa": True}),
        ("math", {"dtype": "float64"}),
        ("math", {"mask": True, "query": (2, 8, 100, 36), "key": (2, 8, 100, 36), "value": (2, 8, 100, 36)}),
        ("math", {"query": (8, 100, 64), "key": (8, 100, 64), "value": (8, 100, 64)}),
    ],
)  # fmt: skip
def test_attention_kernels(kernel, settings):
    usual = {"query": Q, "key": Q, "value": Q, "dtype": "bfloat16", "mask": False}
    assert cuda_table.sdpa_kernel(**(usual | settings)) == kernel


def test_workspaces_of_attention():
    flash = cuda_table.attention_workspace("_flash_attention_backward", Q, Q, True)
    assert flash == 4 * 2 * 8 * 128 * 64 + 4 * 2 * 8 * 128, "T rounded to 128, and a sum a row"
    grouped = cuda_table.attention_workspace("_flash_attention_backward", Q, KV, True)
    assert grouped - flash == 2 * 2 * 8 * 100 * 64 * 2
    assert cuda_table.attention_workspace("_flash_attention_forward", Q, Q, True) == 0
    single = cuda_table.attention_workspace("_efficient_attention_backward", Q, Q, False)
    assert single == 4 * 2 * 8 * 128


def traced(work, autocast=False):
    follower = Follower()
    cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast)
    with fakes.fake_tensors(), follower, fakes.as_cuda(follower, autocast), cast:
        result = work()
    return result, follower


def ops(follower):
    return {event.op.split(".")[0] for event in follower.events}


def test_a_kernel_is_taken_in_forward_and_backward_and_its_workspace_counted():
    def work():
        q, k, v = (torch.randn(Q, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.sum().backward()
        return out

    out, follower = traced(work)
    assert out.shape == Q
    assert "_scaled_dot_product_flash_attention_backward" in ops(follower)
    sizes = {event.bytes for event in follower.events if event.category == "workspace"}
    assert cuda_table.attention_workspace("flash_attention_backward", Q, Q, True) in sizes


def test_head_sizes_that_flash_cannot_take_are_padded():
    shape = (2, 8, 100, 36)

    def work():
        x = torch.randn(shape, dtype=torch.bfloat16)
        return F.scaled_dot_product_attention(x, x, x)

    out, follower = traced(work)
    assert out.shape == shape
    assert "constant_pad_nd" in ops(follower)


def test_softmax_in_float32_makes_no_copy_of_its_input():
    def work():
        return F.softmax(torch.randn(64, 64, dtype=torch.bfloat16), dim=-1, dtype=torch.float32)

    out, follower = traced(work)
    assert out.dtype == torch.float32
    assert follower.peak_bytes == 64 * 64 * (2 + 4)


def test_dropout_keeps_a_boolean_mask():
    def work():
        x = torch.randn(1000, requires_grad=True)
        return F.dropout(x, 0.5, True), x

    _, follower = traced(work)
    assert 1000 in {event.bytes for event in follower.events}


def test_autocast_uses_cudas_lists_inside_and_nothing_of_it_stays():
    def work():
        x = torch.randn(4, 8, dtype=torch.bfloat16)
        assert torch.is_autocast_enabled()  # asks about CUDA
        return {
            "layer_norm": F.layer_norm(x, (8,)).dtype,
            "pow": x.pow(2).dtype,
            "softmax": x.softmax(-1).dtype,
            "sum": x.sum().dtype,
            "mm": (x.float() @ x.float().t()).dtype,
            "gelu": F.gelu(x).dtype,
        }

    found, _ = traced(work, autocast=True)
    half = {name for name, dtype in found.items() if dtype == torch.bfloat16}
    assert half == {"mm", "gelu"}
    assert not torch.is_autocast_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(4, 8, dtype=torch.bfloat16)
        assert x.pow(2).dtype == torch.bfloat16, "CPU's own list is back"
        assert F.scaled_dot_product_attention.__name__ == "scaled_dot_product_attention"


def test_cublas_takes_a_workspace_for_each_thread_that_multiplies_and_keeps_it():
    def work():
        x = torch.randn(8, 8, requires_grad=True)
        (x @ x).sum().backward()
        (x.detach() @ x.detach()).sum()

    _, follower = traced(work)
    assert follower.live()["workspace"] == 2 * cuda_table.CUBLAS_WORKSPACE["default"]


def test_integers_stay_real_and_floats_are_fake():
    from torch._subclasses.fake_tensor import FakeTensor

    with fakes.fake_tensors():
        numbers = torch.arange(10)
        assert (numbers > 3).sum().item() == 6
        floats = torch.randn(1 << 40)
        assert isinstance(floats, FakeTensor)
        assert isinstance(numbers + floats[:10], FakeTensor)
        assert floats[:10][numbers > 3].shape == (6,), "a real mask counts for a fake tensor"
        assert isinstance(torch.zeros(1 << 40, dtype=torch.long), FakeTensor), (
            "too large to be real"
        )
