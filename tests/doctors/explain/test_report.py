"""What leaves the doctor: terminal, JSON, page; and what must not leave the house."""

import json
import re

import pytest

from labs.doctors.finding import SCHEMA, Evidence, Finding, Report, size
from labs.doctors.memory.log.explain import explain_text
from labs.doctors.memory.remedies import REMEDIES, remedy
from labs.doctors.redact import redact, redact_text
from labs.doctors.show import text
from labs.doctors.show_html import html_of
from tests.doctors.explain.rendering import FULL, error, traceback

SECRETS = {
    "hub token": ("login(token='hf_AbCdEfGhIjKlMnOp')", "hf_AbC"),
    "api key": ("OPENAI_API_KEY=sk-proj-abcdefghijkl", "abcdefghijkl"),
    "bearer": ("Authorization: Bearer abcdefghijklmnop", "abcdefghijklmnop"),
    "wandb": ("wandb: key 0123456789abcdef0123456789abcdef01234567", "0123456789abcdef"),
    "password": ("password = 'correct horse'", "horse"),
    "home": ('File "/home/anna/secret-project/train.py", line 3, in main', "anna"),
    "windows home": (r'File "C:\Users\anna\x\train.py", line 3', "anna"),
    "mac home": ("/Users/anna/code/train.py", "anna"),
    "address": ("worker at 10.11.12.13:29500 lost", "10.11.12.13"),
    "host of NCCL": ("gpu-node-07:77:91 [3] NCCL WARN x", "gpu-node-07"),
    "host of Slurm": ("srun: error: gpu-node-07: task 3: Out Of Memory", "gpu-node-07"),
    "internal name": ("connect to head-0.train.svc.cluster.local failed", "head-0"),
    "mail": ("contact anna.b@example.com", "anna.b"),
    "url with a login": ("git clone https://anna:pw@git.company.io/repo", "anna"),
    "prompt": ('{"prompt": "What is in my kitchen?", "n": 3}', "kitchen"),
    "conversation": ('"conversations": [{"from": "human", "value": "my secret"}]', "my secret"),
    "shell": ("anna@box:~/work$ python train.py", "anna@box"),
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_go(name):
    raw, secret = SECRETS[name]
    assert secret not in redact_text(raw)


KEPT = [
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total",
    'File "…/torch/nn/functional.py", line 3029, in cross_entropy',
    "see https://pytorch.org/docs/stable/notes/cuda.html#environment-variables",
    "max_new_tokens=512, pad_token_id: 0, num_tokens: 4096",
    "/dev/shm and /proc/meminfo and /sys/fs/cgroup/memory.max",
    "loss 1.5/2.0 at 3 it/s, batch_size 4, 10:22:33",
    "Process 4242 has 3.00 GiB memory in use, 77.80/79.15",
]


@pytest.mark.parametrize("line", KEPT)
def test_what_a_reader_needs_stays(line):
    assert redact_text(line) == line


def test_redacting_twice_changes_nothing_more():
    for raw, _ in SECRETS.values():
        once = redact_text(raw)
        assert redact_text(once) == once


def sample() -> Report:
    return explain_text(
        traceback(
            ("/home/anna/run/train.py", "<module>", "loss = model(prompt='a <b> secret').loss"),
            ("torch/nn/functional.py", "cross_entropy", "return torch._C._nn.cross_entropy_loss("),
            last=error("2.4", **FULL),
        )
    )


def test_json_has_a_schema_and_bytes():
    report = json.loads(redact(sample()).to_json())
    assert report["schema"] == SCHEMA == "oom-doctor/1"
    assert report["verdict"] == "cause"
    assert report["facts"]["bytes"]["tried"] == FULL["tried"]
    assert {"cause", "title", "confidence", "evidence", "why", "remedies", "next_command", "section"} == set(
        report["findings"][0]
    )  # fmt: skip
    assert "anna" not in json.dumps(report)
    assert "anna" in explain_text("/home/anna/x: CUDA out of memory.").to_json()


@pytest.mark.parametrize("width", [40, 80, 110])
def test_text_keeps_within_the_terminal(width):
    shown = text(sample(), width)
    words = max(len(word) for word in shown.split())
    assert max(map(len, shown.splitlines())) <= max(width, words + 12)
    for part in ("logits, likely", "line 6", "What to do", "Next", "ch09"):
        assert part in shown


def test_the_page_escapes_the_log_and_asks_for_nothing_outside():
    report = explain_text("<script>alert(1)</script> CUDA out of memory.")
    page = html_of(report)
    assert "<script>" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert "&lt;script&gt;" in page
    for other in (sample(), explain_text("fine\n")):
        assert html_of(other).startswith("<!doctype html>")


def test_findings_refuse_unknown_words():
    with pytest.raises(ValueError):
        Finding("x", "x", "sure")
    with pytest.raises(ValueError):
        Report("memory", "explain", "maybe")
    assert Evidence("x", 1200, 3).where == "line 1,200, rank 3"


def test_sizes_are_printed_in_binary_units():
    assert size(3 << 30) == "3.00 GiB"
    assert size(-(5 << 20)) == "-5.00 MiB"
    assert size(100) == "100 bytes"


WANTED = """smaller_batch accumulation checkpointing sdpa flash_attention chunked_loss lora qlora adam8bit
paged_adam bf16 freeze_tower_no_grad fewer_visual_tokens shorter_sequence offload_optimizer
offload_activations zero2 zero3 expandable_segments empty_cache_between_phases eval_accumulation
eval_batch detach_losses close_other_process shm_size fewer_workers host_ram precomputed_reference
fewer_generations vllm_share""".split()


def test_the_catalogue_of_remedies():
    assert set(WANTED) <= set(REMEDIES)
    for entry in REMEDIES.values():
        assert entry.title and entry.costs and entry.section.startswith("ch09 ")
        assert entry.how or entry.id == "larger_gpu"
    assert remedy("lora", saves_bytes=5).saves_bytes == 5
    with pytest.raises(KeyError):
        remedy("prayer")
