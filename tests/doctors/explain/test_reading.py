"""Logs as they come: every encoding, progress bars, colours, packed, endless, empty, hostile."""

import gzip
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.memory.log import reading
from labs.doctors.memory.log.explain import explain, explain_file, explain_text
from labs.doctors.memory.log.lines import clean
from labs.doctors.memory.log.reading import from_text, read_log
from labs.errors import InputError
from tests.doctors.explain.rendering import FULL, error, ranked, traceback

LAST = traceback(
    ("/job/train.py", "<module>", "trainer.train()"),
    ("torch/nn/functional.py", "cross_entropy", "return torch._C._nn.cross_entropy_loss("),
    last=error("2.4", **FULL),
)
LOG = "first line\n" + ranked(LAST, 2) + "\nlast line\n"


def coloured(text: str) -> str:
    paint = ("\x1b[31m", "\x1b[1;38;5;208m", "\x1b[0m", "\x1b]8;;http://x\x1b\\")
    words = text.split(" ")
    return " ".join(f"{paint[i % 4]}{word}\x1b[0m" for i, word in enumerate(words))


def with_bars(text: str) -> str:
    bar = "\r".join(f" {n}%|███  | {n}/100 [00:10<00:10]" for n in range(3))
    return text.replace("\n", f"\n{bar}\r\r\n")


VARIANTS = {
    "plain": LOG.encode(),
    "windows line ends": LOG.replace("\n", "\r\n").encode(),
    "utf-8 with mark": b"\xef\xbb\xbf" + LOG.encode(),
    "utf-16": LOG.encode("utf-16"),
    "utf-16 without mark": LOG.encode("utf-16-le"),
    "utf-16 big-endian": LOG.encode("utf-16-be"),
    "utf-32": LOG.encode("utf-32"),
    "colours": coloured(LOG).encode(),
    "gzip": gzip.compress(LOG.encode()),
    "latin-1 bytes": b"\xe9t\xe9\xff\n" + LOG.encode(),
    "container time stamps": "".join(
        f"2024-05-01T12:00:00.123456789Z {line}\n" for line in LOG.splitlines()
    ).encode(),
    "Ray prefixes": "".join(
        f"\x1b[36m(TrainWorker pid=77, ip=10.0.0.3)\x1b[0m {line}\n" for line in LOG.splitlines()
    ).encode(),
    "mpirun tags": "".join(
        f"[1,2]<stderr>:{line}\n" for line in f"first line\n{LAST}\n".splitlines()
    ).encode(),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gets_the_same_diagnosis(name, tmp_path):
    path = tmp_path / "run.log"
    path.write_bytes(VARIANTS[name])
    report = explain_file(path)
    top = report.findings[0]
    assert (top.cause, top.confidence, top.evidence[0].rank) == ("logits", "likely", 2)
    assert report.facts["bytes"]["total"] == explain_text(LOG).facts["bytes"]["total"]


def test_progress_bars_keep_the_numbers_of_grep():
    log = from_text(with_bars(LOG))
    found = explain(log).findings[0]
    number = found.evidence[0].line
    assert "Tried to allocate" in with_bars(LOG).split("\n")[number - 1]
    assert found.cause == "logits"


def test_interleaved_ranks_each_keep_their_traceback():
    """Two ranks fail in different places and write line by line over each other."""
    one = ranked(LAST, 0).split("\n")
    other = ranked(
        traceback(
            ("/job/train.py", "<module>", "trainer.train()"),
            ("torch/optim/adamw.py", "_init_group", 'state["exp_avg"] = torch.zeros_like('),
            last=error("2.4", **{**FULL, "gpu": 1}),
        ),
        1,
    ).split("\n")
    for seed in range(20):
        draw = random.Random(seed)
        a, b, mixed = list(one), list(other), []
        while a or b:
            mixed.append((a if a and (not b or draw.random() < 0.5) else b).pop(0))
        found = explain_text("\n".join(mixed)).findings[0]
        first = next(line for line in mixed if "Tried to allocate" in line)
        assert found.cause == ("logits" if first.startswith("[rank0]") else "optimizer_states")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 300))
def test_a_sentence_torn_by_another_rank_is_still_explained(cut):
    text, other = error("2.4", **FULL), error("2.4", **{**FULL, "gpu": 1})
    report = explain_text(f"{text[:cut]}[rank1]: {other}\n{text[cut:]}\n")
    assert (report.verdict, report.findings[0].cause) == ("cause", "capacity")


@pytest.mark.parametrize(
    "raw, rank, text",
    [
        ("[rank3]: File", 3, "File"),
        ("[default7]:Traceback", 7, "Traceback"),
        ("[1,5]<stderr>: x", 5, " x"),
        ("4:   File", 4, "  File"),
        ("worker-1: [rank9]: x", 9, "x"),
        ("node:12:34 [6] NCCL WARN x", 6, "node:12:34 [6] NCCL WARN x"),
        ("12: not a rank", None, "12: not a rank"),
        ("[2024-05-01 10:00:00] x", None, "[2024-05-01 10:00:00] x"),
    ],
)
def test_ranks_are_read_from_every_launcher(raw, rank, text):
    found, _, number = clean(raw)
    assert number == rank
    assert found.strip() == text.strip()


def large(tmp_path, where: float, monkeypatch):
    """A log above the limit for reading whole, with the error at this part of it."""
    monkeypatch.setattr(reading, "WHOLE", 1 << 16)
    monkeypatch.setattr(reading, "CHUNK", 1 << 18)
    rows = [f"{{'loss': 1.0, 'epoch': {n / 1000:.3f}, 'step': {n}}}" for n in range(60_000)]
    at = int(where * len(rows))
    rows[at:at] = LOG.strip().split("\n")
    path = tmp_path / "large.log"
    path.write_text("\n".join(rows) + "\n")
    return path, rows


@pytest.mark.parametrize("where", [0.0, 0.1, 0.333, 0.5, 0.9, 1.0])
def test_the_error_is_found_anywhere_with_its_line(where, tmp_path, monkeypatch):
    path, rows = large(tmp_path, where, monkeypatch)
    report = explain_file(path)
    evidence = report.findings[0].evidence[0]
    assert "Tried to allocate" in rows[evidence.line - 1]
    assert report.findings[0].cause == "logits"
    assert sum(map(len, read_log(path).regions)) < len(rows)


def test_a_word_across_the_border_of_two_chunks_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "WHOLE", 1024)
    monkeypatch.setattr(reading, "HEAD", 100)
    monkeypatch.setattr(reading, "TAIL", 100)
    monkeypatch.setattr(reading, "CHUNK", 4096)
    text = error("2.4", **FULL)
    for before in range(4096 - 30, 4096, 3):  # "CUDA out of memory" across byte 4096
        path = tmp_path / "border.log"
        before -= text.index("CUDA")
        path.write_text("x" * (before - 1) + "\n" + text + "\n" + "y" * 30_000 + "\n")
        assert explain_file(path).verdict == "cause", before


def test_a_log_full_of_errors_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "WHOLE", 1 << 16)
    path = tmp_path / "full.log"
    path.write_text("\n".join(f"step {n} skipped: {error('2.4', **FULL)}" for n in range(30_000)))
    log = read_log(path)
    kept = sum(len(line.shown) for line in log.lines)
    bound = (reading.FIRST + reading.LAST) * (reading.BEFORE + reading.AFTER) * 2
    assert kept < bound < 20 << 20
    assert log.lines[-1].number == 30_000


def test_standard_input(monkeypatch):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    class Stdin:
        buffer = Pipe(LOG.encode())

    monkeypatch.setattr("sys.stdin", Stdin)
    assert explain_file("-").findings[0].cause == "logits"


def test_bad_input_is_one_sentence(tmp_path):
    empty, binary, broken = tmp_path / "empty", tmp_path / "binary", tmp_path / "broken.gz"
    empty.write_bytes(b"")
    binary.write_bytes(b"\x80\x04\x95" + bytes(range(256)) * 20)
    broken.write_bytes(gzip.compress(LOG.encode() * 100)[:60])
    for path, words in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "is a folder"),
        (empty, "zero bytes"),
        (binary, "binary file"),
        (broken, "damaged"),
    ):
        with pytest.raises(InputError, match=words):
            explain_file(path)


HOSTILE = {
    "one endless line": "a" * 300_000,
    "endless line with the word": "CUDA out of memory. Tried to allocate " * 5_000,
    "brackets": "[" * 50_000 + "(" * 50_000,
    "blanks before a word": " " * 100_000 + "Killed",
    "frames without end": '  File "x", line 1, in f\n    y\n' * 20_000 + "CUDA out of memory",
    "numbers": "9" * 100_000 + " GiB",
    "a size beyond floats": "CUDA out of memory. Tried to allocate " + "9" * 5_000 + " GiB",
    "nulls": "\0" * 3 + "x\n" * 10,
    "memory words": "memory " * 30_000,
    "json": '{"prompt": "' * 10_000,
    "paths": "/a" * 50_000,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_no_time_and_raises_nothing(name):
    from labs.doctors.redact import redact
    from labs.doctors.show import text

    text(redact(explain_text(HOSTILE[name])))


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "log"
    path.write_bytes(data)
    try:
        explain_file(path)
    except InputError as refused:
        assert refused.what.endswith(".") and refused.do.endswith((".", "-"))
