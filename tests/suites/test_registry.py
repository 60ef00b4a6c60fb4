"""Every registered suite can be made, asks what it says, and refuses what it does not know."""

import json

import pytest

from labs.errors import InputError
from labs.suites.benchmarks.write_world import write_world
from labs.suites.questions import fingerprint, prepare
from labs.suites.registry import SUITES, load_again, load_suite

OFFLINE = [name for name, entry in SUITES.items() if not entry.files]
FILES = [name for name, entry in SUITES.items() if entry.files]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = write_world(tmp_path_factory.mktemp("files"), n=2)
    return {
        "mmbench": made.mmbench,
        "pope": made.pope,
        "mme": made.mme,
        "vqav2": made.vqa_questions.parent,
    }


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_suite_goes_by_its_name_and_is_the_same_twice(name):
    suite = load_suite(name, n=4, language="zh")
    assert suite.name == name and suite.settings()["n"] == 4
    questions = prepare(suite, pictures=False)
    assert questions and json.dumps(suite.settings())
    assert fingerprint(questions) == fingerprint(
        prepare(load_suite(name, n=4, language="zh"), pictures=False)
    )
    assert fingerprint(questions) != fingerprint(
        prepare(load_suite(name, n=4, language="en"), pictures=False)
    )


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_is_read_from_its_path(name, files):
    suite = load_suite(f"{name}:{files[name]}", n=2)
    assert suite.name == name and prepare(suite)


def test_a_suite_is_loaded_again_from_the_configuration(files):
    suite = load_suite(f"pope:{files['pope']}", n=2)
    again = load_again({"suite": {"name": "pope", "loaded": json.loads(json.dumps(suite.loaded))}})
    assert fingerprint(prepare(again)) == fingerprint(prepare(suite))
    with pytest.raises(InputError, match="do not say how"):
        load_again({"suite": {"name": "sums", "loaded": None}})


@pytest.mark.parametrize(
    "spec, options, words",
    [
        ("existance", {}, "Did you mean 'existence'?"),
        ("zzzz", {}, "Suites: existence,"),
        ("pope", {}, "--suite pope:PATH"),
        ("pope:", {}, "--suite pope:PATH"),
        ("counting:file.json", {}, "Write --suite counting."),
        ("counting", {"rotations": 4}, "language, n, split"),
        ("mmbench:x.tsv", {"split": "test"}, "no option `split`"),
        ("counting", {"language": "xx"}, "'en' or 'zh'"),
    ],
)
def test_what_a_suite_does_not_know_is_refused(spec, options, words):
    with pytest.raises(InputError) as refused:
        load_suite(spec, **options)
    assert words in str(refused.value)
