"""Records of every format as Samples: what the strict readers read, and what they refuse, counted."""

import ast
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.data import reading
from labs.doctors.data.kinds import KINDS
from labs.doctors.data.reading import sources
from labs.doctors.data.reading.conversation import conversation
from labs.doctors.data.reading.whole import reader, row_at, samples
from labs.doctors.data.sample import Place, Sample
from labs.errors import InputError
from labs.formats import parse_conversation
from labs.formats.row import Row
from labs.formats.sniff import FORMATS, sniff

HERE = Place("x.json", 1, 0)
ROOT = Path(__file__).parents[3]
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A ring."}]
READ = [("user", "<image>\nWhat?"), ("assistant", "A ring.")]


def read(format: str, record) -> Sample:
    return reader(format, Path("x.json"), {"5": "5.jpg"})(Row(1, 0, 0, 0, record), HERE)


def problems(sample: Sample) -> list[str]:
    return [problem.kind for problem in sample.problems]


# Conversations. The strict reader is the oracle: what it reads, this one reads the same.

names = st.sampled_from(
    ["human", "user", "gpt", "assistant", "GPT ", "system", "function", "", None]
)
texts = st.sampled_from(["hi", "<image>\nWhat?", "", "图中有什么？<image>"])
parts = st.one_of(
    texts,
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, st.just("b.jpg")),
    st.sampled_from([{"type": "image"}, {"type": "image", "image": "c.jpg"}, {"type": "video"}, 5]),
)
contents = st.one_of(texts, st.lists(parts, max_size=3), st.sampled_from([None, 7, {}, True]))
turns = st.one_of(
    st.builds(lambda role, text: {"from": role, "value": text}, names, contents),
    st.builds(lambda role, text: {"role": role, "content": text}, names, contents),
    st.builds(lambda text: {"content": text}, contents),
    texts,
    st.sampled_from([None, 3, [], {}]),
)
images = st.one_of(
    st.sampled_from(
        ["a.jpg", "a.jpg,b.png", "Paris, 1889.jpg", "", None, 4, {"path": "d.jpg"}, {}]
    ),
    st.lists(st.sampled_from(["a.jpg", "", None, {"path": "d.jpg"}, 5, ["x"]]), max_size=3),
)
records = st.fixed_dictionaries(
    {st_key: st.lists(turns, max_size=4) for st_key in ("conversations",)},
    optional={"id": st.sampled_from(["1", 2, None]), "image": images, "images": images},
)


@settings(max_examples=400, deadline=None)
@given(record=records)
def test_what_the_strict_reader_reads_is_read_the_same(record):
    sample = conversation(record, HERE)
    assert all(p.kind in KINDS for p in sample.problems)
    assert all(isinstance(text, str) for _, text in sample.turns)
    assert all(isinstance(image, str) for image in sample.images)
    try:
        strict = parse_conversation(record)
    except InputError:
        return
    assert sample.turns == [(turn.role, turn.text) for turn in strict.turns]
    assert sample.images == list(strict.images)
    assert sample.problems == []


@pytest.mark.parametrize("key", ["conversations", "messages", "conversation"])
def test_keys_of_turns(key):
    sample = read("llava", {"id": 7, "image": "a.jpg", key: TURNS})
    assert (sample.id, sample.images, sample.turns) == ("7", ["a.jpg"], READ)
    assert sample.problems == [] and sample.raw[key] is TURNS


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([1], "a list, not an object"),
        ("x", "a string, not an object"),
        (7, "a number, not an object"),
        (None, "nothing, not an object"),
        ({"id": 1, "b": 2}, "the keys are id, b"),
        ({"conversations": "x"}, "a string under `conversations`"),
        ({"messages": {}}, "an object under `messages`"),
    ],
)
def test_records_that_are_no_conversation(record, words):
    sample = read("llava", record)
    assert problems(sample) == ["not_a_sample"] and words in sample.problems[0].detail
    assert sample.turns == []


@pytest.mark.parametrize(
    ("turn", "role", "text", "words"),
    [
        ({"from": None, "value": "x"}, "user", "x", None),
        ({"from": "bing", "value": "x"}, "bing", "x", None),
        ({"from": 5, "value": "x"}, "5", "x", None),
        ({"from": [], "value": "x"}, "[]", "x", None),
        ({"from": "", "value": "x"}, "(empty)", "x", None),
        ({"from": "human", "value": 3}, "user", "3", "a number under `value`"),
        ({"from": "human", "value": {"a": 1}}, "user", "{'a': 1}", "an object under `value`"),
        ({"from": "human", "value": None}, "user", "", None),
        ({"from": "human"}, "user", "", None),
        (None, "user", "", "nothing where an object"),
        (4, "user", "4", "a number where an object"),
        ({"role": "user", "content": [{"type": "video", "video": "v"}]}, "user", "", "type video"),
    ],
)
def test_odd_turns(turn, role, text, words):
    sample = read("llava", {"conversations": [turn, {"from": "gpt", "value": "y"}]})
    assert sample.turns == [(role, text), ("assistant", "y")]
    if words is None:
        assert sample.problems == []
    else:
        assert problems(sample) == ["bad_field"] and words in sample.problems[0].detail


@pytest.mark.parametrize(
    ("image", "found", "odd"),
    [
        ("a.jpg,b.jpg", ["a.jpg", "b.jpg"], []),
        (["a.jpg", {"path": "b.jpg"}], ["a.jpg", "b.jpg"], []),
        ({"path": "b.jpg"}, ["b.jpg"], []),
        (5, [], ["bad_field"]),
        ({"url": "x"}, [], ["bad_field"]),
        (["a.jpg", 5, None, []], ["a.jpg"], ["bad_field"] * 3),
        ("", [], []),
        (None, [], []),
    ],
)
def test_odd_images(image, found, odd):
    sample = read("llava", {"conversations": TURNS, "image": image})
    assert sample.images == found and problems(sample) == odd


def test_images_in_and_beside_the_turns():
    turn = {
        "role": "user",
        "content": [{"type": "image", "url": "b.jpg"}, {"type": "text", "text": "?"}],
    }
    sample = read("llava", {"images": ["a.jpg"], "messages": [turn]})
    assert sample.images == ["a.jpg"] and problems(sample) == ["bad_field"]
    bare = {"role": "user", "content": [{"type": "image"}, "?"]}
    sample = read("llava", {"images": ["a.jpg"], "messages": [bare]})
    assert sample.images == ["a.jpg"] and sample.turns == [("user", "<image>?")]
    assert sample.problems == []


def test_a_fault_of_the_row_comes_with_the_sample():
    fault = Row(3, 2, 0, 0, {"conversations": TURNS}, ("bad_encoding", "byte e9"))
    sample = reader("llava", Path("x"))(fault, HERE)
    assert problems(sample) == ["bad_encoding"] and sample.turns == READ
    sample = reader("llava", Path("x"))(fault._replace(value=None), HERE)
    assert problems(sample) == ["bad_encoding"] and sample.turns == [] and sample.raw is None


# The other formats.


@pytest.mark.parametrize(
    ("format", "record", "images", "turns", "others"),
    [
        ("pairs", {"file_name": "a.jpg", "text": "t"}, ["a.jpg"], [("assistant", "t")], []),
        ("pairs", {"image": "a.jpg", "caption": ["t", "u"]}, ["a.jpg"], [("assistant", "t")], ["u"]),
        ("coco", {"image_id": 5, "id": 1, "caption": "t"}, ["5.jpg"], [("assistant", "t")], []),
        (
            "preference",
            {"prompt": "p", "chosen": "c", "rejected": "r", "images": ["a.jpg"]},
            ["a.jpg"],
            [("user", "p"), ("assistant", "c")],
            ["r"],
        ),
        (
            "preference",
            {
                "prompt": [{"role": "user", "content": [{"type": "image", "image": "b.jpg"}, "p"]}],
                "chosen": [{"role": "assistant", "content": "c"}],
                "rejected": [{"role": "assistant", "content": "r"}],
            },
            ["b.jpg"],
            [("user", "<image>p"), ("assistant", "c")],
            ["r"],
        ),
        (
            "preference",
            {
                "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
                "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}],
            },
            [],
            [("user", "p"), ("assistant", "c")],
            ["r"],
        ),
        (
            "preference",
            {
                "image": "a.jpg",
                "conversations": TURNS,
                "output_1": {"from": "gpt", "value": "r"},
                "output_2": {"from": "gpt", "value": "c"},
                "preference": 2,
            },
            ["a.jpg"],
            [("user", "<image>\nWhat?"), ("assistant", "c")],
            ["r"],
        ),
        (
            "preference",
            {
                "image_path": "a.jpg",
                "text": json.dumps({"question": "p", "chosen": "c", "rejected": "r"}),
            },
            ["a.jpg"],
            [("user", "p"), ("assistant", "c")],
            ["r"],
        ),
        (
            "pope",
            {"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "no"},
            ["a.jpg"],
            [("user", "Is it?"), ("assistant", "no")],
            [],
        ),
        (
            "qilin",
            {"note_idx": 7, "note_title": "t", "note_content": "c", "image_path": '["a.webp"]'},
            ["a.webp"],
            [("user", "t\nc")],
            [],
        ),
        ("qilin", {"search_idx": 1, "query": "q", "search_results": []}, [], [("user", "q")], []),
        (
            "mmbench",
            {"index": "1", "question": "q", "hint": "", "A": "x", "B": "y", "answer": "A",
             "image": "9" * 100},
            ["data:image/*;base64," + "9" * 100],
            [("user", "q\nA. x\nB. y"), ("assistant", "A")],
            [],
        ),
    ],
)  # fmt: skip
def test_formats(format, record, images, turns, others):
    sample = read(format, record)
    assert (sample.images, sample.turns, sample.alternatives) == (images, turns, others)
    assert sample.problems == []


@pytest.mark.parametrize(
    ("format", "record", "kind", "words"),
    [
        ("pairs", {"text": "t"}, "not_a_sample", "no image"),
        ("pairs", {"image": "a.jpg", "text": 5}, "bad_field", "a number where text"),
        ("pairs", {"image": 5, "text": "t"}, "bad_field", "a number where a path"),
        ("pairs", ["a.jpg", "t"], "not_a_sample", "a list"),
        ("coco", {"image_id": 6, "id": 1, "caption": "t"}, "not_a_sample", "image_id 6"),
        ("coco", {"image_id": [], "caption": "t"}, "not_a_sample", "image_id"),
        ("preference", {"prompt": "p", "chosen": "c"}, "not_a_sample", "no rejected"),
        ("preference", {"prompt": 5, "chosen": "c", "rejected": "r"}, "bad_field", "the prompt"),
        ("preference", {"text": "{oops", "image": "a"}, "not_a_sample", "no JSON object"),
        (
            "preference",
            {"conversations": TURNS, "output_1": "a", "output_2": "b", "preference": 3},
            "bad_field",
            "`preference` is 3",
        ),
        (
            "preference",
            {
                "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}],
            },
            "bad_field",
            "not in the prompt",
        ),
        ("pope", {"image": "a", "text": "q", "label": "maybe"}, "bad_field", "neither yes nor no"),
        ("pope", {"text": "q", "label": "yes"}, "bad_field", "no image"),
        ("qilin", {"note_idx": 1, "note_title": 5}, "bad_field", "`note_title`"),
        ("qilin", {"a": 1}, "not_a_sample", "neither note nor request"),
        (
            "qilin",
            {"query": "q", "search_result_details_with_idx": [5]},
            "bad_field",
            "no list of what was shown",
        ),
        ("qilin", {"query": " ", "search_results": []}, "empty_question", "the query is empty"),
        ("mmbench", {"question": "q", "A": "x", "image": "7"}, "bad_field", "no choice"),
        ("mmbench", {"question": "q", "A": "x", "C": "y", "image": "7"}, "bad_field", "no choice"),
        (
            "mmbench",
            {"question": "q", "A": "x", "B": "y", "answer": "C", "image": "7"},
            "bad_field",
            "none of the options",
        ),
        ("mmbench", {"question": "q", "A": "x", "B": "y"}, "bad_field", "no image"),
    ],
)  # fmt: skip
def test_formats_with_faults(format, record, kind, words):
    sample = read(format, record)
    assert problems(sample) == [kind]
    assert words in sample.problems[0].detail


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "id conversations messages from role value content type text image images path url prompt "
                "chosen rejected question output_1 output_2 preference caption file_name image_id label "
                "query note_idx note_title image_path search_result_details_with_idx".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    record=anything,
    format=st.sampled_from(["llava", "pairs", "coco", "preference", "pope", "qilin"]),
)
def test_no_record_makes_it_raise(record, format):
    sample = read(format, record)
    assert all(isinstance(item, str) for item in sample.images + sample.alternatives)
    assert all(isinstance(r, str) and isinstance(t, str) for r, t in sample.turns)
    assert sample.id is None or isinstance(sample.id, str)
    for problem in sample.problems:
        assert problem.kind in KINDS and problem.detail.isprintable()


# Files of the formats that are not JSON.


def test_table(tmp_path):
    path = tmp_path / "dev.tsv"
    big = "A" * 300_000
    path.write_text(
        f'index\tquestion\tA\tB\timage\n1\t"two\nlines, ""q"" and\ttab"\tx\ty\t{big}\n'
        "2\tq\tx\n\n3\tq\tx\ty\t1\n"
    )
    rows = list(sources.table_rows(path))
    assert [row.line for row in rows] == [2, 4, 6] and [row.record for row in rows] == [0, 1, 2]
    assert rows[0].value["question"] == 'two\nlines, "q" and\ttab' and rows[0].value["image"] == big
    assert rows[1].problem == ("bad_json", "3 columns where the header has 5")
    assert rows[2].value["A"] == "x"
    found = list(samples(sniff(path), tmp_path))
    assert found[0].images == ["data:image/*;base64," + big] and found[2].images == []
    assert str(found[2].place) == "dev.tsv, line 6"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_row_of_a_table_is_read_again_at_its_byte(tmp_path, encoding):
    path = tmp_path / "dev.tsv"
    text = "index\tquestion\tA\tB\timage\n"
    for n in range(5):
        text += f'{n}\t"图{n}\nline ""two"""\tx\ty\t{"A" * 200_000 * (n == 2)}\r\n'
    path.write_bytes(text.encode(encoding))
    rows = list(sources.table_rows(path))
    assert [row.value["index"] for row in rows] == list("01234")
    for row in rows:
        again = row_at(path, row.start)
        assert (again is None) if encoding == "utf-16" else again.value == row.value


def test_table_with_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_bytes(b"index\tquestion\tA\tB\timage\n1\tcaf\xe9\tx\ty\tz\n2\tq\tx\ty\tz\n")
    first, second = sources.table_rows(path)
    assert first.problem[0] == "bad_encoding" and first.value["question"] == "caf\ufffd"
    assert second.problem is None


def test_a_quote_that_stays_open(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("index\tquestion\tA\tB\timage\n" + '1\t"q\tx\ty\tz\n' + "2\tq\tx\ty\tz\n" * 200)
    (row,) = sources.table_rows(path)
    assert row.line == 2 and "quote" in row.problem[1]


def test_mme(tmp_path):
    folder = tmp_path / "landmark" / "questions_answers_YN"
    folder.mkdir(parents=True)
    (folder / "0001.txt").write_text("Is it?\tYes\nIs it not?\tmaybe\nno tab\n")
    (tmp_path / "landmark" / "images").mkdir()
    (tmp_path / "landmark" / "images" / "0001.png").touch()
    first, second, third = samples(sniff(tmp_path), tmp_path)
    assert first.images == ["landmark/images/0001.png"] and first.problems == []
    assert first.turns == [("user", "Is it?"), ("assistant", "Yes")]
    assert str(first.place) == "landmark/questions_answers_YN/0001.txt, line 1"
    assert problems(second) == ["bad_field"] and problems(third) == ["bad_json"]


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_shards(tmp_path):
    record = {"conversations": TURNS, "image": "elsewhere.jpg"}
    path = tar(
        tmp_path / "train-000.tar",
        [
            ("a.jpg", b"JPEG"), ("a.txt", "一只狗".encode()),
            ("b.jpg", b"JPEG"), ("b.json", json.dumps(record).encode()),
            ("c.jpg", b"JPEG"), ("c.json", b'{"caption": "a ring", "width": 5}'),
            ("d.txt", b"alone"), ("e.png", b"alone"), ("f.jpg", b"x"), ("f.json", b"{oops"),
            ("g.jpg", b"x"), ("g.txt", b"\xff\xfe"), ("h.jpg", b"x"), ("h.json", b"[1]"),
        ],
    )  # fmt: skip
    a, b, c, d, e, f, g, h = samples(sniff(path), tmp_path)
    assert (a.id, a.images, a.turns) == ("a", ["train-000.tar/a.jpg"], [("assistant", "一只狗")])
    name, offset, size = a.raw["members"]["jpg"]
    assert path.read_bytes()[offset : offset + size] == b"JPEG" and name == "a.jpg"
    assert str(a.place) == "train-000.tar, a, record 0" and a.problems == []
    assert b.images == ["train-000.tar/b.jpg"] and b.turns == READ and b.problems == []
    assert c.turns == [("assistant", "a ring")]
    assert [problems(s) for s in (d, e)] == [["not_a_sample"], ["not_a_sample"]]
    assert problems(f)[0] == "bad_json" and problems(g)[0] == "bad_encoding"
    assert problems(h) == ["not_a_sample"]


def test_a_shard_that_is_cut_off(tmp_path):
    path = tar(
        tmp_path / "x.tar", [(f"{n}.{e}", b"z" * 600) for n in range(3) for e in ("jpg", "txt")]
    )
    path.write_bytes(path.read_bytes()[:5000])
    *rows, last = sources.shard_rows(path)
    assert len(rows) == 1 and rows[0].value["text"] == "z" * 600
    assert last.record is None and last.problem[0] == "cut_off"


def test_coco_file(tmp_path):
    value = {
        "images": [{"id": 5, "file_name": "5.jpg"}, {"id": 6}, "x"],
        "annotations": [
            {"image_id": 5, "id": 1, "caption": "t"},
            {"image_id": 9, "id": 2, "caption": "u"},
        ],
        "info": {},
    }
    path = tmp_path / "captions.json"
    for indent in (None, 1):
        path.write_text(json.dumps(value, indent=indent))
        first, second = samples(sniff(path), tmp_path)
        assert first.images == ["5.jpg"] and problems(second) == ["not_a_sample"]
        names, faults = sources.coco_names(path)
        assert names == {"5": "5.jpg"} and [row.problem[0] for row in faults] == ["bad_field"] * 2
    path.write_text(json.dumps(value)[:-30])
    assert [row.problem[0] for row in sources.rows_of(path, "coco", tmp_path) if row.problem] == [
        "cut_off"
    ]


def test_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "notes.parquet"
    note = {"note_idx": 7, "note_title": "t", "note_content": "c", "image_path": ["a.webp"]}
    pandas.DataFrame([note] * 3).to_parquet(path)
    found = list(samples(sniff(path), tmp_path))
    assert len(found) == 3 and found[0].images == ["a.webp"] and found[0].problems == []
    path.write_bytes(path.read_bytes()[:-20])
    (row,) = sources.parquet_rows(path)
    assert row.problem[0] == "cut_off"


def test_places_are_relative_to_the_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "train.jsonl"
    path.write_text("\n" + json.dumps({"conversations": TURNS}) + "\n")
    (sample,) = samples(sniff(tmp_path), tmp_path)
    assert sample.place == Place("deep/train.jsonl", 2, 0)


def test_a_record_is_read_again_at_its_byte(tmp_path):
    path = tmp_path / "data.json"
    long = [{"id": n, "t": "几" * 50_000 * (n == 1)} for n in range(3)]
    path.write_text(json.dumps(long, ensure_ascii=False), encoding="utf-8")
    for row in sources.rows_of(path, "llava", tmp_path):
        assert row_at(path, row.start).value == row.value
    assert row_at(path, -1) is None and row_at(path, 10**9) is None


# Where it must run.

MINE = [
    *(ROOT / "labs" / "doctors" / "data" / "reading").glob("*.py"),
    *(ROOT / "labs" / "doctors" / "data" / "text").glob("*.py"),
    ROOT / "labs" / "doctors" / "data" / "survey.py",
    *(
        ROOT / "labs" / "formats" / f"{name}.py"
        for name in "__init__ dialects row rows json_rows json_cut json_faults sniff sniff_file sniff_root".split()
    ),
]


@pytest.mark.parametrize("path", MINE, ids=lambda path: path.name)
def test_python_39_can_parse_it(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    annotated = any(isinstance(node, (ast.FunctionDef, ast.AnnAssign)) for node in ast.walk(tree))
    assert not annotated or any(node.module == "__future__" for node in future)
    strict = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and any(k.arg in ("strict", "slots", "kw_only") for k in node.keywords)
    ]
    assert strict == []


BARE = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"PIL", "numpy", "torch", "transformers", "pyarrow", "rich", "pydantic", "yaml"}:
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbid())
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from labs.formats.sniff import sniff
from labs.doctors.data.options import Options
from labs.doctors.data.survey import survey
for name in sys.argv[2:]:
    path = Path(name)
    found = survey(sniff(path), Options(path=path, workers=1))
    print(found.samples, sorted(found.tally.counts))
"""


def test_it_needs_the_standard_library_only(tmp_path):
    llava = tmp_path / "train.jsonl"
    llava.write_text(
        json.dumps({"id": 1, "conversations": [{"value": "hi"}, {"value": "Hello."}]}) + "\n"
    )
    shard = tar(tmp_path / "x.tar", [("a.jpg", b"x"), ("a.txt", b"A ring.")])
    done = subprocess.run(
        [sys.executable, "-S", "-c", BARE, str(ROOT), str(llava), str(shard)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["1 []", "1 []"]


def test_every_format_has_a_reader():
    for format in FORMATS:
        assert callable(reader(format, Path("x.json"), {}))
    assert set(reading.__all__) == {"reader", "samples"}
