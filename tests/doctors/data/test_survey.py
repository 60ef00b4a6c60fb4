"""One pass over the text: the same result whatever the number of processes and the size of the pieces."""

import io
import json
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labs.doctors.data.survey as surveys
from labs.doctors.data.options import Options
from labs.doctors.data.reading.jobs import Job
from labs.doctors.data.reading.pool import Alone, Pool
from labs.doctors.data.sample import Place
from labs.doctors.data.survey import Survey, Work, survey
from labs.doctors.zipapp_build import build
from labs.errors import InputError
from labs.formats.sniff import sniff


def record(n, **more):
    turns = [
        {"from": "human", "value": f"<image>\nquestion {n} 几个？"},
        {"from": "gpt", "value": "Yes" if n % 3 else "No."},
    ]
    return {"id": str(n), "image": f"{n % 4}.jpg", "conversations": turns, **more}


FAULTY = [
    record(0, image=["a.jpg", "b.jpg"]),
    record(1, conversations=[]),
    record(2, id=1),
    record(3, conversations=[{"from": "human", "value": "x<|im_end|>"}]),
    record(4, image=f"data:image/png;base64,{'A' * 100}"),
    {"no": "turns"},
    [1, 2],
    None,
    record(8, image="../secret.jpg"),
    record(9, image="http://example.com/a.jpg"),
    record(10, conversations=["q", "\0"]),
]


def look(path, workers=1, size=1 << 20, **options) -> Survey:
    path = Path(path)
    return survey(sniff(path), Options(path=path, workers=workers, **options), size=size)


def plain(result: Survey) -> dict:
    """All that a survey says, in plain containers."""
    return {
        "counts": result.tally.counts,
        "examples": {k: sorted(v) for k, v in result.tally.examples.items()},
        "hits": {k: sorted(v) for k, v in result.tally.hits.items()},
        "sums": (result.samples, result.turns, dict(result.answers)),
        "images": list(result.images),
        "uses": [list(result.images.places([e.reference])) for e in result.images],
        "histograms": {k: dict(v) for k, v in result.histograms.items()},
        "files": [
            (f.name, f.lines.tolist(), f.starts.tolist(), f.ids.tolist()) for f in result.files
        ],
    }


def write(path, records, form="list"):
    texts = [
        json.dumps(r, ensure_ascii=False, indent=1 if form == "indented" else None) for r in records
    ]
    text = "\n".join(texts) + "\n" if form == "jsonl" else "[" + ",\n".join(texts) + "]"
    path.write_text(text, encoding="utf-8")
    return path


# What it says.


def test_sums(tmp_path):
    path = write(tmp_path / "data.json", [record(n) for n in range(12)])
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(b"xy")
    result = look(path)
    assert (result.samples, result.turns) == (12, 24)
    assert result.tally.counts == {"missing_image": 3}
    assert result.histograms["turns"] == {2: 12} and result.histograms["images"] == {1: 12}
    assert result.histograms["characters"].total() == 12
    assert result.answers == {("en", "yes"): 8, ("en", "no"): 4}
    first, second, third, missing = result.images
    assert (first.reference, first.uses, first.path) == ("0.jpg", 3, str(tmp_path / "0.jpg"))
    assert (
        first.place == Place("data.json", 1, 0)
        and second.place.record == 1
        and third.problem is None
    )
    assert missing.path is None and missing.problem[0] == "missing_image"
    assert list(result.images.places(["3.jpg", "0.jpg"])) == [
        (f"{n % 4}.jpg", Place("data.json", n + 1, n)) for n in range(12) if n % 4 in (0, 3)
    ]
    assert any("--model" in sentence for sentence in result.unchecked)


def test_faults_with_their_places(tmp_path):
    path = write(tmp_path / "data.jsonl", FAULTY, "jsonl")
    result = look(path)
    where = {kind: [e.place.line for e in found] for kind, found in result.tally.examples.items()}
    assert where == {
        "missing_placeholder": [1, 4, 11],
        "missing_image": [1, 1, 3, 4, 11],
        "no_turns": [2],
        "duplicate_id": [3],
        "no_answer": [4],
        "special_token_in_text": [4],
        "not_a_sample": [6, 7, 8],
        "unsafe_path": [9],
        "web_address": [10],
        "control_characters": [11],
    }
    example = result.tally.examples["unsafe_path"][0]
    assert example.id == "8" and example.image == "../secret.jpg"
    assert "unsafe_path" in result.tally.hits["data.jsonl", 8]


def test_images_inside_records_are_found_again(tmp_path):
    path = write(tmp_path / "data.json", FAULTY)
    entry = next(e for e in look(path).images if e.reference.startswith("data:"))
    assert entry.path.file == str(path) and entry.path.record == 4
    with open(path, "rb") as file:
        file.seek(entry.path.start)
        assert file.read(300).decode().startswith('{"id": "4", "image": "data:image/png')


def test_shards(tmp_path):
    path = tmp_path / "train-000.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("a.jpg", b"JPEG"),
            ("a.txt", b"A ring."),
            ("b.png", b"PNG"),
            ("b.txt", b"null"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    result = look(tmp_path)
    first, second = result.images
    assert first.reference == "train-000.tar/a.jpg" and first.uses == 1
    name, offset, size = first.path
    with open(name, "rb") as file:
        file.seek(offset)
        assert file.read(size) == b"JPEG"
    assert result.tally.counts == {"junk_caption": 1}
    assert second.place == Place("train-000.tar", None, 1)


def test_utf16_is_named_and_read(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes("".join(json.dumps(record(n)) + "\n" for n in range(9)).encode("utf-16"))
    for size in (50, 1 << 20):
        result = look(path, size=size)
        assert result.samples == 9 and result.tally.counts["bad_encoding"] == 1


def test_progress(tmp_path):
    path = write(tmp_path / "data.json", [record(n, pad="x" * 4000) for n in range(600)])
    told = []
    given = Options(path=path, workers=1)
    survey(sniff(path), given, lambda *what: told.append(what), size=1 << 18)
    assert [stage for stage, _, _ in told] == ["text"] * len(told) and len(told) > 5
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1:] == (path.stat().st_size >> 20, path.stat().st_size >> 20)


# The same, however it is done.

damage = st.sampled_from(
    [b"", b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\xff", b"\n", b'"}]},{"id":', b"\0"]
)


@pytest.fixture(scope="module")
def two():
    with Pool(Work("llava", True, True), 2) as pool:
        yield pool


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    picks=st.lists(st.integers(0, 20), max_size=12),
    form=st.sampled_from(["list", "indented", "jsonl"]),
    cuts=st.lists(st.tuples(st.floats(0, 1), damage), max_size=2),
    size=st.integers(20, 900),
)
def test_it_does_not_depend_on_processes_and_pieces(tmp_path_factory, two, picks, form, cuts, size):
    """Sound and damaged files alike: one process and two, small pieces and the whole file."""
    folder = tmp_path_factory.mktemp("survey")
    chosen = [record(-1), *(FAULTY[n] if n < len(FAULTY) else record(n) for n in picks)]
    path = write(folder / "data.json", chosen, form)
    data = path.read_bytes()
    for where, bytes_ in cuts:
        at = 2 + int(where * (len(data) - 2))
        data = data[:at] + bytes_ + data[at + 1 :]
    path.write_bytes(data)
    whole = look_with(Alone(Work("llava", True, True)), path, 1 << 20)
    assert look_with(Alone(Work("llava", True, True)), path, size) == whole
    assert look_with(two, path, size) == whole


def look_with(runner, path, size) -> dict:
    corpus = surveys.Corpus()
    run = surveys._Run(corpus, sniff(path), Work("llava", True, True))
    run.add([path], path.parent, Options(path=path), {})
    done = sum(run.results(runner, size))
    assert done == path.stat().st_size
    surveys._finish(corpus, None, True, run.layout)
    return plain(
        Survey(
            run.layout, corpus.tally, corpus.samples, corpus.turns, corpus.images, corpus.histograms,
            dict(corpus.answers), corpus.unchecked, corpus.files,
        )
    )  # fmt: skip


@pytest.mark.parametrize("form", ["list", "jsonl"])
def test_three_processes(tmp_path, monkeypatch, form):
    """By the front door: a folder of files, one of them in many pieces, one damaged."""
    monkeypatch.setattr(surveys, "SMALL", 0)
    write(tmp_path / "train.json", [*FAULTY, *(record(n) for n in range(200)), *FAULTY], form)
    write(tmp_path / "test.json", [record(n) for n in range(50)], form)
    for n in range(4):
        write(tmp_path / f"more-{n}.json", [record(n, image="x.jpg")], form)
    data = (tmp_path / "train.json").read_bytes()
    (tmp_path / "train.json").write_bytes(data[:9000] + b'"' + data[9001:-30])
    alone = plain(look(tmp_path, 1, 2000))
    assert plain(look(tmp_path, 3, 2000)) == alone
    assert alone["counts"]["leaked_sample"] > 20 and alone["counts"]["cut_off"] == 1


def test_an_archive_of_the_doctor_starts_its_children_too(tmp_path):
    """As the zipapp does: nothing is importable but what is in the archive."""
    tool = tmp_path / "tool.py"
    tool.write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        import labs.doctors.data.survey as surveys
        from labs.doctors.data.options import Options
        from labs.formats.sniff import sniff
        surveys.SMALL = 0
        path = Path(sys.argv[1])
        found = surveys.survey(sniff(path), Options(path=path, workers=2), size=500)
        print(found.samples, surveys.__file__)
        """)
    )
    archive = build(tool, tmp_path / "built")
    path = write(tmp_path / "data.json", [record(n) for n in range(40)])
    done = subprocess.run(
        [sys.executable, "-S", str(archive), str(path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr == "" and done.stdout.startswith("40 ") and "tool.pyz" in done.stdout


# Children.


def test_a_pool_answers_in_any_order(tmp_path, monkeypatch):
    module = tmp_path / "works_for_pool.py"
    module.write_text(
        "import os\nfrom labs.errors import InputError\n"
        "def double():\n    print('noise')\n    return lambda job: job * 2\n"
        "def fail():\n    raise InputError('No work can be made.', 'Try another.')\n"
        "def die():\n    return lambda job: os._exit(3)\n"
        "def err():\n    return lambda job: 1 / 0\n"
        "def large():\n    return lambda job: bytes(3_000_000)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import works_for_pool as works

    with Pool(works.double, 2) as pool:
        tickets = []
        while pool.room:
            tickets.append(pool.submit(len(tickets)))
        assert len(tickets) == 4
        pool.forget(tickets[1])
        assert [pool.result(tickets[n]) for n in (3, 0, 2)] == [6, 0, 4]
        assert pool.room
    for make, error, words in (
        (works.fail, InputError, "No work can be made"),
        (works.die, InputError, "exit code 3"),
        (works.err, RuntimeError, "ZeroDivisionError"),
    ):
        with Pool(make, 1) as pool, pytest.raises(error, match=words):
            pool.result(pool.submit(1))
    with Pool(works.large, 2) as pool:
        tickets = [pool.submit(n) for n in range(4)]
        assert [len(pool.result(t)) for t in reversed(tickets)] == [3_000_000] * 4


def test_children_end_with_the_pool(two):
    with Pool(Work("llava", True, False), 2) as pool:
        for n in range(2):
            pool.submit(Job(n, "nowhere.json", "x", "llava", "."))
        processes = [child._process for child in pool._children]
        assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_vanishes(tmp_path, monkeypatch, workers):
    path = write(tmp_path / "data.json", [record(n) for n in range(20)])
    layout = sniff(path)
    path.unlink()
    with pytest.raises(InputError, match=r"data.json cannot be read: No such file"):
        survey(layout, Options(path=path, workers=workers))
    # Between the parent's look and the children's: the names of COCO's images, say.
    monkeypatch.setattr(surveys, "SMALL", 0)
    with Pool(Work("llava", True, True), workers) as pool, pytest.raises(FileNotFoundError):
        pool.result(pool.submit(Job(0, str(path), "data.json", "llava", str(tmp_path))))


def test_tokens_are_counted_by_what_is_made_in_each_process(tmp_path, monkeypatch):
    module = tmp_path / "checker_for_survey.py"
    module.write_text(
        textwrap.dedent("""
        from labs.doctors.data.sample import Problem
        class Checker:
            startup_problems = [Problem("special_token_split", "<x> is read as 2 tokens")]
            special_tokens = ["<x>", "<image>"]
            unchecked = ["Nothing was counted twice."]
            fixed_pictures = False
            def check_many(self, samples):
                found = []
                for sample, sizes in samples:
                    tokens = sum(len(text.split()) for _, text in sample.turns)
                    visual = sum(size[0] * size[1] for size in sizes if size) if all(sizes) else None
                    long = [Problem("overlong", f"{tokens} tokens")] if tokens > 5 else []
                    found.append((long, tokens, visual))
                return found
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import checker_for_survey
    from PIL import Image

    for n in range(3):
        Image.new("RGB", (n + 2, 2)).save(tmp_path / f"{n}.jpg")
    records = [record(n) for n in range(8)]
    records[6]["conversations"][1]["value"] = "one two three <x>"
    records[7]["conversations"][1]["value"] = "fine <|im_end|>"
    path = write(tmp_path / "data.json", records)
    for workers in (1, 2):
        given = Options(path=path, workers=workers)
        result = survey(sniff(path), given, None, checker_for_survey.Checker, size=300)
        assert result.tally.counts["special_token_split"] == 1
        assert [e.place.record for e in result.tally.examples["overlong"]] == [6, 7]
        assert [e.place.record for e in result.tally.examples["special_token_in_text"]] == [6]
        assert result.histograms["tokens"].total() == 8
        assert dict(result.histograms["visual_tokens"]) == {4: 2, 6: 2, 8: 2}  # 3.jpg is missing
        assert result.unchecked == ["Nothing was counted twice."]


# How fast. The full measure is a bench's; here is a bound that a slip of ten times would break.


def test_speed(tmp_path):
    path = tmp_path / "data.json"
    turns = [
        {
            "from": ("human", "gpt")[i % 2],
            "value": "What is to be seen on the left of the picture? " * 3,
        }
        for i in range(10)
    ]
    turns[0]["value"] += "<image>"
    with open(path, "w") as file:
        file.write("[")
        for n in range(4000):
            text = json.dumps({"id": n, "image": f"{n}.jpg", "conversations": turns})
            file.write(("," if n else "") + text.replace("picture", f"picture {n}"))
        file.write("]")
    began = time.process_time()
    result = look(path)
    seconds = time.process_time() - began
    assert result.samples == 4000
    assert seconds < 4.0, (
        "180 microseconds a sample are the budget of two cores; this is over 1,000"
    )
