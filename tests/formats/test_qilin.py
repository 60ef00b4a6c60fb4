"""Qilin's search requests, notes and qrels, as JSONL and as Parquet."""

import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.errors import InputError
from labs.formats.qilin import (
    Impression,
    Note,
    SearchRequest,
    read_notes,
    read_qrels,
    read_search,
    write_notes,
    write_search,
)

DETAILS = [
    {"note_idx": 1946307, "position": 1, "click": 1.0, "like": 0.0, "collect": 1.0, "comment": 0.0, "share": 0.0, "page_time": 12.5, "timestamp": 1732680000.0},
    {"note_idx": 1685707, "position": 2, "click": 0.0, "like": 0.0, "collect": 0.0, "comment": 0.0, "share": 0.0, "page_time": -1.0, "timestamp": 1732680000.0},
]  # fmt: skip
SEARCH = {
    "search_idx": 0, "session_idx": 3, "user_idx": 8, "query": "露营灯推荐", "query_from_type": 1.0,
    "recent_clicked_note_idxs": [5, 6], "search_result_details_with_idx": DETAILS,
    "search_results": [1946307, 1685707], "bm25_results": [[1946307, 21.5], [4, 3]],
}  # fmt: skip
NOTE = {
    "note_idx": 7, "note_type": 1, "note_title": "露营灯", "note_content": "很亮", "image_path": ["image/0/a.webp", "image/0/b.webp"],
    "image_num": 2, "taxonomy1_id": "户外", "video_duration": None,
}  # fmt: skip


def written(tmp_path, *records, name="data.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records), encoding="utf-8")
    return path


def parquet(path, records):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")  # a submodule: `import pyarrow` alone does not bind it
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def test_a_search_request(tmp_path):
    (request,) = read_search(written(tmp_path, SEARCH))
    assert (request.search_idx, request.query, request.query_from_type) == (0, "露营灯推荐", 1)
    assert request.impressions[0] == Impression(1946307, 1, 1, 0, 1, 0, 0, 12.5, 1732680000.0)
    assert request.impressions[1].page_time is None
    assert (request.clicked, request.skipped) == ((1946307,), (1685707,))
    assert request.candidates == (1946307, 1685707) and request.recent_clicks == (5, 6)
    assert request.bm25 == ((1946307, 21.5), (4, 3.0)) and request.dpr == ()


def test_the_analysis_script_s_names_and_nested_json(tmp_path):
    """The CSV files of the repository hold the lists as JSON text, times as search_timestamp."""
    details = [{k if k != "timestamp" else "search_timestamp": v for k, v in d.items()} for d in DETAILS]  # fmt: skip
    row = {**SEARCH, "search_result_details_with_idx": json.dumps(details), "recent_clicked_note_idxs": "[5, 6]"}  # fmt: skip
    assert list(read_search(written(tmp_path, row))) == list(read_search(written(tmp_path, SEARCH, name="b.jsonl")))  # fmt: skip


def test_a_note(tmp_path):
    (note,) = read_notes(written(tmp_path, NOTE))
    assert note.images == tuple(str(tmp_path / "image/0" / f"{x}.webp") for x in "ab")
    assert note.text == "露营灯\n很亮" and note.note_type == 1
    assert note.features == {"image_num": 2, "taxonomy1_id": "户外"}
    (bare,) = read_notes(
        written(tmp_path, {"note_idx": 1, "note_title": None}), tmp_path / "images"
    )
    assert bare == Note(1, "", "")


def test_parquet_reads_as_jsonl_does(tmp_path):
    notes = [{**NOTE, "note_idx": i, "image_path": [f"{i}.webp"]} for i in range(2500)]
    parquet(tmp_path / "notes" / "train-00000-of-00002.parquet", notes[:2000])
    parquet(tmp_path / "notes" / "train-00001-of-00002.parquet", notes[2000:])
    lines = list(read_notes(written(tmp_path, *notes, name="notes.jsonl"), tmp_path / "notes"))
    assert list(read_notes(tmp_path / "notes")) == lines
    search = parquet(tmp_path / "search.parquet", [SEARCH])
    assert list(read_search(search)) == list(read_search(written(tmp_path, SEARCH)))


def test_parquet_that_is_broken_empty_or_cannot_be_read(tmp_path, monkeypatch):
    path = parquet(tmp_path / "a.parquet", [SEARCH])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="is not whole Parquet"):
        list(read_search(path))
    parquet(path, [{**SEARCH, "query": ""}])
    with pytest.raises(InputError, match="row 1: `query` must be a text"):
        list(read_search(path))
    import pyarrow

    schema = pyarrow.Table.from_pylist([SEARCH]).schema
    pyarrow.parquet.write_table(schema.empty_table(), path)
    with pytest.raises(InputError, match="not even a search request"):
        list(read_search(path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as where it is not installed
    with pytest.raises(InputError, match="convert the file to JSONL"):
        read_search(path)


def test_folders(tmp_path):
    with pytest.raises(InputError, match="neither Parquet nor JSONL"):
        read_notes(tmp_path)
    written(tmp_path, NOTE, name="a.jsonl")
    written(tmp_path, {**NOTE, "note_idx": 8}, name="b.jsonl")
    assert [n.note_idx for n in read_notes(tmp_path)] == [7, 8]
    (tmp_path / "c.parquet").write_text("x")
    with pytest.raises(InputError, match="both Parquet and JSONL"):
        read_notes(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_search(tmp_path / "none.jsonl")


def shown(**change):
    return {**SEARCH, "search_idx": 1, "search_result_details_with_idx": [{**DETAILS[0], **change}]}


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({**SEARCH}, "the search_idx 0 was used before, at line 1"),
        ({k: v for k, v in SEARCH.items() if k != "query"}, "`search_idx 0"),
        ({**SEARCH, "search_idx": 1, "query": None}, "`query` is missing"),
        ({**SEARCH, "search_idx": 1, "search_result_details_with_idx": None}, "_with_idx` is missing"),
        ({**SEARCH, "search_idx": 1, "search_result_details_with_idx": "[{"}, "must be a list, not a string"),
        ({**SEARCH, "search_idx": 1, "search_result_details_with_idx": [3]}, "result 1: not an object"),
        ({**SEARCH, "search_idx": 1, "recent_clicked_note_idxs": ["x"]}, "must be a whole number"),
        ({**SEARCH, "search_idx": 1, "bm25_results": [[1, 2, 3]]}, "pairs of note and score"),
        ({**SEARCH, "search_idx": 1, "bm25_results": [[1, None]]}, "pairs of note and score"),
        ({**SEARCH, "search_idx": 1, "bm25_results": [5]}, "`bm25_results` must be a list"),
        (shown(click=2), "result 1: `click` is 2"),
        (shown(click=0.5), "`click` must be a whole number"),
        (shown(click=None), "`click` is missing"),
        (shown(like=-1), "`like` is -1"),
        (shown(position=0), "`position` is 0"),
        (shown(note_idx=None), "`note_idx` is missing"),
    ],
)  # fmt: skip
def test_mistakes_in_requests(tmp_path, record, sentence):
    path = written(tmp_path, SEARCH, record)
    with pytest.raises(InputError) as error:
        list(read_search(path))
    assert sentence.replace("`search_idx 0", "search_idx 0 was used") in error.value.what
    assert f"{path}, line 2" in error.value.what


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"note_title": "x"}, "`note_idx` is missing"),
        (NOTE, "note_idx 7 was used before"),
        ({**NOTE, "note_idx": 8, "note_title": 5}, "title and content must be texts"),
        ({**NOTE, "note_idx": 8, "image_path": [5]}, "must hold paths"),
        ({**NOTE, "note_idx": 8, "image_path": {"a": 1}}, "`image_path` must be a list"),
        ({**NOTE, "note_idx": 8, "image_path": ["../x.webp"]}, "leaves the data folder"),
        ({**NOTE, "note_idx": 8, "note_type": "video"}, "`note_type` must be a whole number"),
    ],
)
def test_mistakes_in_notes(tmp_path, record, sentence):
    with pytest.raises(InputError) as error:
        list(read_notes(written(tmp_path, NOTE, record)))
    assert sentence in error.value.what and "line 2" in error.value.what


@given(st.lists(st.integers(-3, 8), max_size=12))
def test_repeated_notes_are_found_in_any_order(tmp_path_factory, numbers):
    """The set of numbers as the oracle of the run that needs no set."""
    path = tmp_path_factory.mktemp("notes") / "a.jsonl"
    records = [{"note_idx": number} for number in [*numbers, 100]]
    path.write_text("\n".join(map(json.dumps, records)))
    if len(set(numbers)) == len(numbers):
        assert [n.note_idx for n in read_notes(path)] == [*numbers, 100]
    else:
        with pytest.raises(InputError, match="was used before"):
            list(read_notes(path))


def test_qrels(tmp_path):
    path = tmp_path / "search.test.qrels.csv"
    path.write_text("qid,pid\n0,1946307\n0,1685707\n3,5\n")
    assert read_qrels(path) == {0: {1946307, 1685707}, 3: {5}}
    for text, sentence in [
        ("qid,pid\n", "not even a clicked note"),
        ("qid;pid\n0;1\n", "line 2: the field `qid` is missing"),
        ("qid,pid\n0,x\n", "line 2: `pid` must be a whole number"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_qrels(path)


index = st.integers(0, 10**6)
seconds = st.floats(0, 1e9, allow_nan=False).map(float)
words = st.text(min_size=1, max_size=10).filter(str.strip)
scores = st.lists(st.tuples(index, st.floats(-50, 50)), max_size=3).map(tuple)
act = st.integers(0, 1)
requests = st.builds(
    SearchRequest, index, words,
    st.lists(st.builds(Impression, index, st.integers(1, 99), act, act, act, act, act, st.none() | seconds, st.none() | seconds), max_size=3).map(tuple),
    st.none() | index, st.none() | index, st.none() | index,
    st.lists(index, max_size=3).map(tuple), st.lists(index, max_size=3).map(tuple), scores, scores,
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(requests, min_size=1, max_size=3, unique_by=lambda r: r.search_idx))
def test_round_trip_of_requests(tmp_path_factory, requests):
    path = tmp_path_factory.mktemp("qilin") / "search.jsonl"
    assert write_search(requests, path) == len(requests)
    assert list(read_search(path)) == requests


notes = st.builds(
    Note, index, st.text(max_size=8), st.text(max_size=8),
    st.lists(st.integers(0, 9).map("image/{}.webp".format), max_size=2).map(tuple), st.none() | st.integers(1, 2),
    st.dictionaries(st.sampled_from(["image_num", "taxonomy1_id", "view_time"]), index | words | seconds),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(notes, min_size=1, max_size=3, unique_by=lambda n: n.note_idx))
def test_round_trip_of_notes(tmp_path_factory, notes):
    folder = tmp_path_factory.mktemp("qilin")
    write_notes(notes, folder / "notes.jsonl")
    back = list(read_notes(folder / "notes.jsonl"))
    for note, read in zip(notes, back, strict=True):
        assert read.images == tuple(str(folder / image) for image in note.images)
        assert (read.note_idx, read.title, read.content) == (note.note_idx, note.title, note.content)  # fmt: skip
        assert (read.note_type, read.features) == (note.note_type, note.features)
    write_notes(back, folder / "again.jsonl")
    assert (folder / "again.jsonl").read_bytes() == (folder / "notes.jsonl").read_bytes()


def test_unknown_times_are_written_as_the_public_files_do(tmp_path):
    request = SearchRequest(1, "q", (Impression(2, 1, 0, page_time=None),))
    write_search([request], tmp_path / "a.jsonl")
    (detail,) = json.loads((tmp_path / "a.jsonl").read_text())["search_result_details_with_idx"]
    assert detail["page_time"] == -1.0
    row = {**SEARCH, "search_result_details_with_idx": [{**DETAILS[0], "page_time": math.nan}]}
    assert next(read_search(written(tmp_path, row))).impressions[0].page_time is None


def test_nothing_bad_is_written(tmp_path):
    request, note = SearchRequest(1, "q", ()), Note(1, "t", "c")
    for write, bad, sentence in [
        (write_search, [], "nothing to write"),
        (write_search, [request, request], "search_idx 1 was used before"),
        (write_search, [SearchRequest(1, " ", ())], "`query` must be a text"),
        (write_search, [SearchRequest(1, "q", (Impression(5, 0, 1),))], "`position` is 0"),
        (write_notes, [], "nothing to write"),
        (write_notes, [note, note], "note_idx 1 was used before"),
        (write_notes, [Note(1, "t", "c", ("../a.webp",))], "leaves the data folder"),
    ]:
        with pytest.raises(InputError, match=sentence):
            write(bad, tmp_path / "bad.jsonl")
    assert not list(tmp_path.iterdir())
