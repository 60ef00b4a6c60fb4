"""Rows with their places, out of files in every shape and with every fault, whatever the pieces' size."""

import json
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.formats import json_cut, rows
from labs.formats.json_rows import Piece, Rows, Shape
from labs.formats.row import Row, printable
from labs.formats.rows import Pieces, encoding_of, read_rows, shape_of

RECORDS = [
    {
        "id": str(i),
        "image": f"a{i}.jpg",
        "conversations": [
            {"from": "human", "value": '<image>\nq "x" 几个 { [ , \\'},
            {"from": "gpt", "value": "a\n]}"},
        ],
    }
    for i in range(5)
]
SHAPES = {
    "list": json.dumps(RECORDS),
    "list of lines": "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n",
    "indented": json.dumps(RECORDS, indent=2, ensure_ascii=False) + "\n",
    "jsonl": "\n".join(map(json.dumps, RECORDS)),
    "jsonl with blanks": "\n \n" + "\n\n".join(map(json.dumps, RECORDS)) + "\n\n",
    "crlf": "\r\n".join(map(json.dumps, RECORDS)) + "\r\n",
    "objects": "\n".join(json.dumps(r, indent=1) for r in RECORDS),
    "byte order mark": "\ufeff" + json.dumps(RECORDS),
    "white space": " \n\t" + json.dumps(RECORDS, separators=(" , ", " : ")) + " \n",
}


def read(data: bytes, size: int = 1 << 20, largest: int = rows.LARGEST) -> list[Row]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return list(rows._read(Pieces(file, shape_of(file), size, largest)))


def faults(found: list[Row]) -> list[tuple]:
    return [(row.line, row.record, row.problem[0]) for row in found if row.problem]


@pytest.mark.parametrize("size", [1, 7, 50, 400, 1 << 20])
@pytest.mark.parametrize("name", SHAPES)
def test_sound_files(name, size):
    text = SHAPES[name]
    data = text.encode()
    found = read(data, size)
    assert [row.value for row in found] == RECORDS
    assert [row.record for row in found] == list(range(len(RECORDS)))
    for row in found:
        assert row.problem is None
        assert json.loads(data[row.start : row.end]) == row.value
        assert row.line == data[: row.start].count(b"\n") + 1


def test_read_rows_opens_the_file(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(SHAPES["indented"], encoding="utf-8")
    assert list(read_rows(path)) == read(SHAPES["indented"].encode())


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object(indent):
    text = json.dumps(RECORDS[0], indent=indent).encode()
    (row,) = read(text, 10)
    assert row == Row(1, 0, 0, len(text), RECORDS[0])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(plain, max_size=5),
    size=st.integers(1, 40),
    indent=st.none() | st.just(1),
    ascii=st.booleans(),
)
def test_any_list_equals_json(values, size, indent, ascii):
    data = json.dumps(values, indent=indent, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        # A list of lists may as well be a bracket too many: told apart by the records' keys alone.
        shape = Shape("list", data.index(b"[") + 1, frozenset(["no", "such", "keys"]))
        found = list(rows._read(Pieces(file, shape, size)))
    assert [row.value for row in found] == values
    assert faults(found) == []


# Cutting: exact where the JSON is sound, so that the pieces can be read apart.


@settings(max_examples=150, deadline=None)
@given(values=st.lists(plain, min_size=1, max_size=6), cut=st.floats(0, 1), indent=st.booleans())
def test_the_last_cut_is_the_end_of_the_last_whole_element(values, cut, indent):
    text = json.dumps(values, indent=1 if indent else None)
    head = text[1 : 1 + int(cut * (len(text) - 1))]
    decode, position, ends = json.JSONDecoder().raw_decode, 0, []
    for _ in values:  # the oracle: element by element, from the whole text
        while text[1 + position] in " \n":
            position += 1
        _, end = decode(text, 1 + position)
        position = end  # after the element, less the bracket, plus the comma
        ends.append(position)
    commas = [end for end in ends[:-1] if end <= len(head)]
    assert json_cut.last_cut(head.encode()) == (commas[-1] if commas else None)


def test_the_last_cut_looks_back_as_far_as_it_must():
    head = b'{"a": "' + b"x, " * 100_000
    assert json_cut.last_cut(b"1, 2, " + head) == 5
    assert json_cut.last_cut(head) is None


@pytest.mark.parametrize("backslashes", range(7))
def test_a_quote_after_backslashes(backslashes):
    text = b'["' + b"\\" * backslashes + b'"'
    assert json_cut.brackets(text) == (b"[", backslashes % 2 == 1)


def test_top_level_finds_values_without_decoding_them():
    value = {"a": [1, {"b": '"]}'}], "c\\": "x,y", "d": -1.5e3, "e": {}, "f": [[]]}
    data = (" " + json.dumps(value, indent=1)).encode()
    for block in (4, 50, 1 << 18):
        with tempfile.TemporaryFile() as file:
            file.write(data)
            spans = json_cut.top_level(file, 1, block)
        assert [json.loads(data[span.start : span.end]) for span in spans] == list(value.values())
    with tempfile.TemporaryFile() as file:
        file.write(data[:-12])
        assert [span.end is None for span in json_cut.top_level(file, 1, 50)].count(True) <= 1


def test_hostile_brackets_and_backslashes_take_no_quadratic_time():
    with tempfile.TemporaryFile() as file:
        file.write(b'{"a": ' + b"[" * 300_000 + b"\\" * 300_001)
        assert json_cut.top_level(file, 0)[0].end is None
    assert json_cut.lowest(b"[" * 100_000 + b"]" * 100_000) == 0
    assert json_cut.lowest(b"]" * 7 + b"[" * 9) == -7


# Files that end too early.


def test_a_list_cut_at_every_byte():
    """Whole records are read, the rest is one fault; and it does not depend on the pieces."""
    data = json.dumps(RECORDS[:3], ensure_ascii=False).encode()
    shape = shape_of_bytes(data)
    ends = [row.end for row in read(data)]
    for cut in range(1, len(data)):
        found = read(data[:cut], 30)
        assert [row.value for row in found if row.value] == RECORDS[: sum(e <= cut for e in ends)]
        assert [row.problem[0] for row in found if row.problem] == ["cut_off"], data[:cut][-20:]
        assert found == read(data[:cut])
    assert shape.kind == "list"


def shape_of_bytes(data: bytes) -> Shape:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        return shape_of(file)


def test_jsonl_cut_at_every_byte():
    data = "\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS[:3]).encode()
    ends = [row.end for row in read(data)]
    for cut in range(ends[0] + 2, len(data)):
        found = read(data[:cut], 30)
        whole = sum(end <= cut for end in ends)
        assert [row.value for row in found if row.value] == RECORDS[:whole]
        torn = cut not in ends and data[cut - 1 : cut] != b"\n"
        assert [row.problem[0] for row in found if row.problem] == ["cut_off"] * torn


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), size=st.integers(1, 300), name=st.sampled_from(sorted(SHAPES)))
def test_any_shape_cut_anywhere(cut, size, name):
    data = SHAPES[name].encode()
    data = data[: int(cut * len(data))]
    found = read(data, size)
    values = [row.value for row in found if row.value]
    assert values == RECORDS[: len(values)]
    assert len(faults(found)) <= 1 and found == read(data)


# Faults in the middle: each is one row with its line, and what follows is read.


def damaged(change) -> bytes:
    lines = [json.dumps(r) for r in RECORDS]
    lines[2] = change(lines[2])
    return ("[\n" + ",\n".join(lines) + "\n]").encode()


CHANGES = {
    "single quotes": lambda line: str(RECORDS[2]),
    "a bare quote": lambda line: line.replace('"a2.jpg"', '"a"2.jpg"'),
    "a lost quote": lambda line: line.replace('"a2.jpg"', '"a2.jpg'),
    "a trailing comma": lambda line: line[:-1] + ",}",
    "no colon": lambda line: line.replace(": ", " ", 1),
    "a lost bracket": lambda line: line.replace("]}", "}"),
    "a lost brace": lambda line: line[:-1],
    "a line break in a string": lambda line: line.replace("a2", "a\n2"),
    "a bad escape": lambda line: line.replace("a2", "\\x"),
    "True": lambda line: line.replace('"a2.jpg"', "True"),
    "half": lambda line: line[: len(line) // 2],
    "words": lambda line: "oops",
    "deep": lambda line: "[" * 100_000,
    "digits": lambda line: line.replace('"2"', "9" * 5000),
}


@pytest.mark.parametrize("size", [9, 200, 1 << 20])
@pytest.mark.parametrize("name", CHANGES)
def test_a_damaged_element_is_one_fault_and_the_rest_is_read(name, size):
    found = read(damaged(CHANGES[name]), size)
    assert [row.value for row in found if row.value] == RECORDS[:2] + RECORDS[3:]
    assert faults(found) == [(4, 2, "bad_json")]
    assert [row.record for row in found] == [0, 1, 2, 3, 4]
    assert [row.line for row in found if row.value][-1] == damaged(CHANGES[name]).count(b"\n")


def test_details_say_where():
    (row,) = (row for row in read(damaged(CHANGES["a trailing comma"])) if row.problem)
    assert "double quotes" in row.problem[1] and row.line == 4
    text = json.dumps(RECORDS, indent=1).replace('"a3.jpg"', "a3")
    (row,) = (row for row in read(text.encode()) if row.problem)
    line = text[: text.index("a3,")].count("\n") + 1
    assert f"line {line}" in row.problem[1]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[{A}\n{B}]", 2, "no comma"),
        ("[{A},\n{B},\n]", 3, "a comma before the end"),
        ("[{A}\n}, {B}]", 2, "text after a record"),
        ("[{A}]\n[{B}]", 2, "after the end of the list"),
        ("[{A}, {B}]\n\0\0\0", 2, "NUL bytes"),
        ("[{A}]\n, {B}]", 2, "after the end of the list"),
        ("[{A}, [{B}]]", 1, "a list opens inside the list"),
        ("{A},\n{B}", 1, "a comma between records in no list"),
        ("[{A}, /* b */\n{B}]", 1, "expecting value"),
    ],
)
def test_faults_between_records(text, line, words):
    """They belong to no record, and both records are read."""
    a, b = json.dumps(RECORDS[0]), json.dumps(RECORDS[1])
    data = text.replace("{A}", a).replace("{B}", b).encode()
    for size in (5, 300, 1 << 20):
        found = read(data, size)
        assert [row.value for row in found if row.value] == RECORDS[:2]
        odd = [row for row in found if row.problem]
        assert odd[0].record is None and odd[0].line == line and words in odd[0].problem[1]
        assert {row.problem[0] for row in odd} == {"bad_json"}


def test_one_bad_line_of_jsonl_is_one_fault():
    lines = [json.dumps(r) for r in RECORDS]
    for number in range(5):
        for change in ("x", lines[number][:-5], lines[number] + ",", "\0" * 9, "[" * 10**5):
            changed = [*lines[:number], change, *lines[number + 1 :]]
            found = read("\n".join([*changed, ""]).encode(), 100)
            assert [r.value for r in found if r.value] == RECORDS[:number] + RECORDS[number + 1 :]
            assert faults(found) == [(number + 1, number, "bad_json")]


@settings(max_examples=300, deadline=None)
@given(
    where=st.floats(0, 1),
    action=st.sampled_from(["delete", "insert", "replace"]),
    byte=st.sampled_from(list(b'"{}[],:\\ \n0a\xff')),
    name=st.sampled_from(["list", "list of lines", "indented"]),
    size=st.integers(1, 500),
)
def test_one_wrong_byte_costs_one_record(where, action, byte, name, size):
    data = SHAPES[name].encode()
    spans = [(row.start, row.end) for row in read(data)]
    at = 1 + int(where * (len(data) - 2))
    changed = data[:at] + (b"" if action == "delete" else bytes([byte]))
    changed += data[at + (action != "insert") :]
    found = read(changed, size)
    untouched = [r for r, (a, b) in zip(RECORDS, spans, strict=True) if not a <= at <= b]
    values = [row.value for row in found]
    assert [record for record in untouched if record not in values] == []
    assert found == read(changed)


# Encodings.


def test_a_byte_that_is_not_utf8_is_a_fault_of_its_record():
    lines = [json.dumps(r, ensure_ascii=False).encode() for r in RECORDS]
    lines[3] = lines[3].replace(b"a3", b"a\xe9\x803")
    for data in (b"\n".join(lines), b"[" + b",\n".join(lines) + b"]"):
        for size in (20, 1 << 20):
            found = read(data, size)
            assert faults(found) == [(4, 3, "bad_encoding")]
            assert "byte e9 80 at line 4" in found[3].problem[1]
            assert found[3].value["image"] == "a\ufffd\ufffd3.jpg"
            assert [row.value for row in found if not row.problem] == RECORDS[:3] + RECORDS[4:]


def test_a_byte_outside_strings_that_is_not_utf8():
    found = read(b'{"id": 1}\n{"id": \xff}\n{"id": 3}\n')
    assert faults(found) == [(2, 1, "bad_encoding")] and found[2].value == {"id": 3}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_unicode_encodings_are_read_and_named(tmp_path, encoding):
    path = tmp_path / "data.jsonl"
    path.write_bytes(SHAPES["jsonl"].encode(encoding))
    first, *found = read_rows(path)
    assert first.problem[0] == "bad_encoding" and "UTF-16" in first.problem[1].replace("32", "16")
    assert [row.value for row in found] == RECORDS
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_taken_for_utf16_that_is_not():
    assert encoding_of(SHAPES["list"].encode()) is None
    assert encoding_of("图中有几个红色的圆环".encode() * 20) is None
    assert encoding_of(b"\0" * 100) is None
    assert encoding_of(b"") is None


# Sizes.


def test_a_string_of_ten_megabytes():
    value = "x" * 10_000_000
    for text in (json.dumps([{"id": 1, "t": value}, {"id": 2}]), f'{{"t": "{value}"}}\n{{}}'):
        found = read(text.encode())
        assert faults(found) == [] and len(found) == 2 and found[0].value["t"] == value


def test_a_record_above_the_limit_is_told_of():
    long = json.dumps({"id": "x" * 3000})
    found = read(f"{{}}\n{long}\n{{}}\n".encode(), 10, largest=500)
    assert [(r.line, r.record, r.value) for r in found] == [(1, 0, {}), (2, 1, None), (3, 2, {})]
    assert "more than" in found[1].problem[1]
    found = read(f"[{{}}, {long}, {{}}]".encode(), 10, largest=500)
    assert [(r.record, r.value) for r in found] == [(0, {}), (1, None)]
    assert "not read" in found[1].problem[1]


def test_an_unclosed_bracket_in_a_large_file_is_found_without_reading_all_of_it(monkeypatch):
    monkeypatch.setattr("labs.formats.json_rows.SUSPECT", 2000)
    lines = [json.dumps({**RECORDS[0], "id": str(i)}) for i in range(400)]
    lines[7] = lines[7][:-2]
    data = ("[" + ",\n".join(lines) + "]").encode()
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        pieces = Pieces(file, shape_of(file), 500)
        longest = 0
        take = pieces.take

        def watched():
            nonlocal longest
            piece = take()
            longest = max(longest, piece.end - piece.start if piece else 0)
            return piece

        pieces.take = watched
        found = list(rows._read(pieces))
    assert faults(found) == [(8, 7, "bad_json")] and len(found) == 400
    assert longest < 5000 < len(data) / 10


def test_memory_is_that_of_a_piece(tmp_path):
    path = tmp_path / "long.json"
    with open(path, "w") as file:
        file.write("[")
        for i in range(12_000):
            file.write(("," if i else "") + json.dumps({**RECORDS[0], "id": i, "pad": "x" * 800}))
        file.write("]")
    assert path.stat().st_size > 11_000_000
    tracemalloc.start()
    count = sum(1 for row in read_rows(path) if row.value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 12_000 and peak < 7_000_000


def test_hostile_nesting_takes_no_quadratic_time():
    for text in ('[{"a":' * 30_000, '{"a":[' * 30_000, '[{"a":"' * 30_000, "[[" * 100_000):
        assert all(row.value is None for row in read(text.encode()))


# Anything at all.


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"1", b"a", b"\xff"]
        ),
        max_size=40,
    ).map(b"".join),
    size=st.integers(1, 30),
)
def test_no_bytes_make_it_raise(data, size):
    found = read(data, size)
    assert [row.record for row in found if row.record is not None] == list(
        range(sum(row.record is not None for row in found))
    )
    for row in found:
        assert row.problem is None or (row.problem[0] in KINDS and row.problem[1].isprintable())


KINDS = {"bad_json", "cut_off", "bad_encoding"}


@pytest.mark.parametrize("data", [b"", b" \n\n", b"\xef\xbb\xbf", b"[]", b" [ ] \n"])
def test_nothing_in_the_file(data):
    assert read(data) == []


def test_records_that_are_no_objects():
    values = [1, "two", ["three"], None, 4.5, True]
    assert [row.value for row in read(json.dumps(values).encode(), 3)] == values
    assert [row.value for row in read("\n".join(map(json.dumps, values)).encode())] == values


def test_duplicate_keys_keep_the_last():
    (row,) = read(b'[{"id": 1, "id": 2}]')
    assert row.value == {"id": 2} and row.problem is None


def test_a_piece_is_read_alone():
    data = b'{"id": 1},\n{"id": 2}, {"id": 3'
    found = Rows(data, Piece(100, 100 + len(data), 7, more=True), Shape("list", 1))
    assert [(row.line, row.record, row.start) for row in found] == [(7, 0, 100), (8, 1, 111)]
    assert found.arrival == (122, 8, True, False)
    assert found.record == 2


@given(st.text())
def test_printable_is_printable(text):
    assert printable(text).isprintable()
    printable(text).encode()  # nothing that has no bytes


def test_only_the_files_that_it_was_given_are_touched(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(SHAPES["list"])
    before = path.stat()
    list(read_rows(path))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and list(Path(tmp_path).iterdir()) == [
        path
    ]
