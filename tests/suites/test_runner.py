"""A run can be stopped anywhere and gone on with; what comes out is that of a run left alone."""

import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.reading import Reading
from labs.models import build_tiny_llava
from labs.suites.chat import ChatAnswerer
from labs.suites.contract import Answer, Measure, Question, Suite
from labs.suites.folder import CONFIG, ITEMS, LOG, SCORES, locked
from labs.suites.results import read_run
from labs.suites.runner import Interrupted, rescore, run
from tests.suites.sums import Calculator, Sums, finished, items


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in items(folder).splitlines()]


def test_every_question_is_asked_once_and_stands_in_the_order_of_the_suite(tmp_path):
    calculator = Calculator()
    done = run(calculator, Sums(40), tmp_path / "run", batch_size=8)
    assert sorted(i for batch in calculator.asked for i in batch) == sorted(
        f"sum-{i}" for i in range(40)
    )
    assert all(len(batch) <= 8 for batch in calculator.asked)
    assert [row["id"] for row in lines(done.folder)] == [f"sum-{i}" for i in range(40)]
    third = lines(done.folder)[3]
    assert third == {
        "id": "sum-3", "group": None, "prompt": "What is 3 + 9?", "answer": 12,
        "about": {"last": 3, "wörter": "和"}, "said": "12", "thoughts": [], "tokens": 3,
        "finished": True, "status": "read", "parsed": 12, "score": 1.0,
    }  # fmt: skip


def test_scores_count_what_could_not_be_read_by_the_reason(tmp_path):
    done = finished(tmp_path / "run", n=70)
    silent = {i for i in range(70) if i % 7 == 6}
    endless = {i for i in range(70) if i % 11 == 10} - silent
    wrong = {i for i in range(70) if i % 5 == 4} - silent - endless
    right = 70 - len(silent | endless | wrong)
    scores = json.loads((done.folder / SCORES).read_text())
    assert scores["statuses"] == {
        "read": 70 - len(silent | endless), "empty": len(silent), "endless": len(endless),
    }  # fmt: skip
    assert scores["unparsed"]["value"] == (len(silent) + len(endless)) / 70
    assert scores["unfinished"]["value"] == len(endless) / 70
    assert scores["tokens"]["total"] == len(silent) + 8 * len(endless) + 3 * (right + len(wrong))
    assert done.measures["accuracy"] == Measure(right / 70, *wilson_ci(right, 70), 70)
    assert (scores["headline"], scores["n"], scores["model"]) == ("accuracy", 70, "calculator")
    assert scores["seconds"] > 0


def test_the_configuration_is_written_before_anything_is_asked(tmp_path):
    class Looks(Calculator):
        def answer(self, questions):
            self.found = json.loads((tmp_path / "run" / CONFIG).read_text())
            return super().answer(questions)

    looks = Looks()
    done = run(looks, Sums(9), tmp_path / "run", batch_size=4, max_new_tokens=5)
    assert looks.found == done.config
    assert done.config["model"] == looks.describe()
    assert done.config["suite"]["settings"] == {"n": 9}
    assert done.config["generation"] == {"decoding": "greedy", "max_new_tokens": [5]}
    assert done.config["batch_size"] == 4 and done.config["questions"]["n"] == 9
    assert done.config["versions"]["torch"] == torch.__version__
    assert done.config["hardware"]["cores"] == os.cpu_count()


def test_ctrl_c_keeps_what_is_answered_and_the_next_run_goes_on(tmp_path):
    whole = finished(tmp_path / "whole")
    first = Calculator(fails=[3], error=KeyboardInterrupt())
    with pytest.raises(Interrupted) as stopped:
        run(first, Sums(40), tmp_path / "run", batch_size=8)
    assert (stopped.value.done, stopped.value.total) == (24, 40)
    assert len(lines(tmp_path / "run")) == 24 and not (tmp_path / "run" / SCORES).exists()
    kept = {row["id"] for row in lines(tmp_path / "run")}
    updates, second = [], Calculator()
    run(second, Sums(40), tmp_path / "run", batch_size=8, progress=updates.append)
    assert not kept & {i for batch in second.asked for i in batch}
    assert items(tmp_path / "run") == items(whole.folder)
    assert [u.done for u in updates] == [24, 32, 40]
    assert [u.asked for u in updates] == [0, 8, 16]
    assert updates[-1].tokens == sum(
        row["tokens"] for row in lines(tmp_path / "run") if row["id"] not in kept
    )


def test_a_finished_run_is_not_asked_again(tmp_path):
    done = finished(tmp_path / "run")
    before = {p: p.read_bytes() for p in done.folder.iterdir() if p.is_file()}
    again = run(
        Calculator(fails=[0], error=AssertionError("asked")), Sums(40), done.folder, batch_size=8
    )
    assert again.rows == done.rows and again.scores == done.scores
    assert {p: p.read_bytes() for p in done.folder.iterdir() if p.is_file()} == before


def test_a_kill_between_the_last_answer_and_the_scores_asks_nothing(tmp_path):
    done = finished(tmp_path / "run")
    before = items(done.folder)
    (done.folder / SCORES).unlink()
    again = Calculator()
    assert run(again, Sums(40), done.folder, batch_size=8).rows == done.rows
    assert again.asked == [] and items(done.folder) == before


def test_the_next_batch_is_made_ready_while_one_is_answered(tmp_path):
    class Prepares(Calculator):
        def __init__(self):
            super().__init__()
            self.ready, self.got = [], []

        def prepare(self, questions):
            self.ready.append([q.id for q in questions])
            return self.ready[-1], threading.get_ident()

        def answer(self, questions, prepared=None):
            self.got.append(prepared)
            deadline = time.monotonic() + 20
            while len(self.ready) < min(len(self.got), 4) and time.monotonic() < deadline:
                time.sleep(0.001)  # prepare of the next batch runs meanwhile, or this never ends
            return super().answer(questions)

    prepares = Prepares()
    done = run(prepares, Sums(40), tmp_path / "run", batch_size=8)
    assert items(done.folder) == items(finished(tmp_path / "plain").folder)
    assert prepares.got[0] is None
    assert [got[0] for got in prepares.got[1:]] == prepares.asked[1:] == prepares.ready
    assert {got[1] for got in prepares.got[1:]}.isdisjoint({threading.get_ident()})


@settings(max_examples=25)
@given(data=st.data())
def test_a_kill_at_any_byte_of_the_answers_loses_and_doubles_nothing(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("torn")
    with pytest.raises(Interrupted):
        run(
            Calculator(fails=[4], error=KeyboardInterrupt()), Sums(17), tmp_path / "run", batch_size=4
        )  # fmt: skip
    written = items(tmp_path / "run")
    cut = data.draw(st.integers(0, len(written)))
    (tmp_path / "run" / ITEMS).write_bytes(written[:cut])
    second = Calculator()
    run(second, Sums(17), tmp_path / "run", batch_size=4)
    # The batches are those of a run that was never stopped, and whole ones are left alone.
    undisturbed = Calculator()
    whole = run(undisturbed, Sums(17), tmp_path / "whole", batch_size=4)
    stood = written[:cut].count(b"\n") // 4
    assert second.asked == undisturbed.asked[stood:]
    assert items(tmp_path / "run") == items(whole.folder)


def work(folder: Path, log: Path, pause: float) -> None:
    """A process of its own that asks, and writes down what it asks."""
    calculator = Calculator(pause=pause)
    with open(log, "a") as calculator.log:
        run(calculator, Sums(200), folder, batch_size=5)


def test_kill_9_in_the_middle_then_again_then_to_the_end(tmp_path):
    folder = tmp_path / "run"

    def start(pause, log):
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(folder, log, pause)
        )
        process.start()
        return process

    def stored():
        try:
            return [json.loads(x)["id"] for x in items(folder).split(b"\n")[:-1]]
        except FileNotFoundError:
            return []

    known: list[str] = []
    for number in (1, 2):
        log = tmp_path / f"log{number}"
        process = start(0.05, log)
        while len(stored()) < len(known) + 20:
            assert process.is_alive(), "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        asked = log.read_text().split()
        assert not set(asked) & set(known), "asked again what was answered"
        new = stored()
        assert len(new) < 200 and new[: len(known)] == known
        assert set(new) <= set(known) | set(asked)
        # Of what was asked only two batches may be lost: one under way, one being written.
        assert len(set(asked) - set(new)) <= 10
        known = new
    log = tmp_path / "log3"
    process = start(0, log)
    process.join()
    assert process.exitcode == 0
    assert set(log.read_text().split()) == {f"sum-{i}" for i in range(200)} - set(known)
    undisturbed = run(Calculator(), Sums(200), tmp_path / "whole", batch_size=5)
    assert items(folder) == items(undisturbed.folder)
    assert {k: v for k, v in read_run(folder).scores.items() if k not in ("seconds", "date")} == {
        k: v for k, v in undisturbed.scores.items() if k not in ("seconds", "date")
    }


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch_size": 9}, "batch_size was 8 and now is 9"),
        ({"suite": Sums(30)}, "suite.settings.n was 40 and now is 30"),
        ({"answerer": Calculator(wrong=4)}, "model.wrong was 5 and now is 4"),
        ({"max_new_tokens": 3}, "generation.max_new_tokens was [8] and now is [3]"),
    ],
)
def test_another_run_is_refused_with_what_differs(tmp_path, change, words):
    done = finished(tmp_path / "run")
    before = items(done.folder), (done.folder / CONFIG).read_bytes()
    given = {"answerer": Calculator(), "suite": Sums(40), "batch_size": 8} | change
    with pytest.raises(InputError) as refused:
        run(given.pop("answerer"), given.pop("suite"), done.folder, **given)
    assert words in refused.value.what and "--output" in refused.value.do
    assert (items(done.folder), (done.folder / CONFIG).read_bytes()) == before


def test_results_without_a_configuration_are_not_written_over(tmp_path):
    (tmp_path / ITEMS).write_text("precious\n")
    with pytest.raises(InputError, match="no config"):
        run(Calculator(), Sums(4), tmp_path)
    assert (tmp_path / ITEMS).read_text() == "precious\n"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda row: row | {"id": "sum-999"}, "'sum-999'"),
        (lambda row: row | {"id": 3}, "which this run did not write"),
        (lambda row: row | {"tokens": "many"}, "`tokens`"),
    ],
)
def test_answers_that_this_run_did_not_write_are_named(tmp_path, change, words):
    with pytest.raises(Interrupted):
        run(
            Calculator(fails=[1], error=KeyboardInterrupt()),
            Sums(8),
            tmp_path / "run",
            batch_size=4,
        )
    rows = lines(tmp_path / "run")
    rows[2] = change(rows[2])
    (tmp_path / "run" / ITEMS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as refused:
        run(Calculator(), Sums(8), tmp_path / "run", batch_size=4)
    assert words in refused.value.what


def test_two_processes_cannot_write_to_one_folder(tmp_path):
    other = pytest.raises(InputError, match="Another process is writing")
    with locked(tmp_path / "run"), other:
        run(Calculator(), Sums(4), tmp_path / "run")
    assert len(run(Calculator(), Sums(4), tmp_path / "run").rows) == 4


def test_a_batch_that_does_not_fit_is_halved_and_the_answers_stay_the_same(tmp_path):
    whole = finished(tmp_path / "whole")
    notes = []
    small = Calculator(fits=3, error=torch.OutOfMemoryError("CUDA out of memory."))
    done = run(
        small, Sums(40), tmp_path / "run", batch_size=8,
        progress=lambda u: notes.append(u.note) if u.note else None,
    )  # fmt: skip
    assert items(done.folder) == items(whole.folder)
    assert [len(batch) for batch in small.asked[:3]] == [8, 4, 2]
    assert all(len(batch) <= 2 for batch in small.asked[3:])
    assert ["4 questions" in notes[0], "2 questions" in notes[1], len(notes)] == [True, True, 2]
    assert [json.loads(x).get("halved") for x in (done.folder / LOG).read_text().splitlines()].count(2) == 1  # fmt: skip


def test_a_question_that_does_not_fit_alone_is_named(tmp_path):
    none = Calculator(fails=range(99), error=RuntimeError("CUDA error: out of memory"))
    with pytest.raises(InputError, match="does not fit into memory even alone") as refused:
        run(none, Sums(6), tmp_path / "run", batch_size=4)
    assert "sum-2" in refused.value.what  # the longest prompts come first


def test_another_runtime_error_is_not_taken_for_one_of_memory(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(Calculator(fails=[0], error=RuntimeError("shapes differ")), Sums(6), tmp_path / "run")


def test_a_full_disk_is_told_in_a_sentence_and_gone_on_with(tmp_path):
    whole = finished(tmp_path / "whole", n=80)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(InputError, match=r"The disk is full: \d+ of 80 answers are kept"):
            run(Calculator(), Sums(80), tmp_path / "run", batch_size=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = items(tmp_path / "run")
    assert 0 < kept.count(b"\n") < 80 and kept.endswith(b"\n"), "half a batch was left"
    assert kept.count(b"\n") % 8 == 0
    run(Calculator(), Sums(80), tmp_path / "run", batch_size=8)
    assert items(tmp_path / "run") == items(whole.folder)


class Changed(Sums):
    """Sums with questions that are not as they should be."""

    def __init__(self, n, change):
        super().__init__(n)
        self.change = change

    def questions(self):
        for i, question in enumerate(super().questions()):
            yield replace(question, **self.change(i))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda i: {"id": f"same-{i % 3}"}, "'same-0'"),
        (lambda i: {"about": {"set": {1, 2}}}, "sum-0"),
        (lambda i: {"answer": float("nan")}, "sum-0"),
        (lambda i: {"max_new_tokens": 0 if i == 4 else 8}, "sum-4"),
        (lambda i: {"images": ("nowhere/cat.png",) if i % 2 else ()}, "3 pictures"),
    ],
)
def test_questions_that_cannot_be_asked_are_named_before_any_is(tmp_path, change, words):
    calculator = Calculator()
    with pytest.raises(InputError) as refused:
        run(calculator, Changed(6, change), tmp_path / "run")
    assert words in refused.value.what
    assert calculator.asked == [] and not (tmp_path / "run").exists()


def test_no_questions_and_no_batch(tmp_path):
    with pytest.raises(InputError, match="no questions"):
        run(Calculator(), Sums(0), tmp_path)
    with pytest.raises(InputError, match="batch"):
        run(Calculator(), Sums(3), tmp_path, batch_size=0)


def test_answers_are_scored_again_without_a_model(tmp_path):
    class InWords(Sums):
        """Reads endless answers as minus one, and asks the same."""

        def read(self, question, said):
            return Reading(-1) if said.startswith("well") else super().read(question, said)

    done = finished(tmp_path / "run")
    again = rescore(done.folder, InWords(40))
    assert [row.said for row in again.rows] == [row.said for row in done.rows]
    changed = [a.id for a, b in zip(again.rows, done.rows, strict=True) if a != b]
    assert changed == [row.id for row in done.rows if row.status == "endless"]
    assert again.scores["statuses"].keys() == {"read", "empty"}
    assert rescore(done.folder, Sums(40)).rows == done.rows
    with pytest.raises(InputError, match="40 questions then, 39 now"):
        rescore(done.folder, Sums(39))


def test_an_unfinished_run_is_not_scored_again(tmp_path):
    with pytest.raises(Interrupted):
        run(
            Calculator(fails=[1], error=KeyboardInterrupt()),
            Sums(8),
            tmp_path / "run",
            batch_size=4,
        )
    with pytest.raises(InputError, match="no answer to 4 of 8"):
        rescore(tmp_path / "run", Sums(8))


def test_a_reader_that_changed_in_between_reads_all_answers(tmp_path):
    """A run that was stopped and is gone on with by a newer reader has rows of one make."""

    class Strict(Sums):
        def score(self, question, reading):
            return 0.25

    with pytest.raises(Interrupted):
        run(
            Calculator(fails=[1], error=KeyboardInterrupt()),
            Sums(8),
            tmp_path / "run",
            batch_size=4,
        )
    done = run(Calculator(), Strict(8), tmp_path / "run", batch_size=4)
    assert {row.score for row in done.rows if row.status == "read"} == {0.25}


class Looking(Suite):
    """Questions about pictures in files, for a real model."""

    name, title = "looking", "Looking at files"

    def __init__(self, folder, n=6):
        self.folder, self.n = folder, n

    def questions(self):
        for i in range(self.n):
            yield Question(f"look-{i}", "What is there?", "a ring", (self.folder / f"{i}.png",), max_new_tokens=3)  # fmt: skip

    def read(self, question, said):
        return Reading(said)

    def score(self, question, reading):
        return float(reading.value == question.answer)


def test_a_broken_picture_ends_the_run_with_its_question_and_what_is_answered_is_kept(tmp_path):
    for i in range(6):
        Image.new("RGB", (30, 30), (40 * i, 90, 9)).save(tmp_path / f"{i}.png")
    good = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(good[:40])
    model, processor = build_tiny_llava(seed=0)
    answerer = ChatAnswerer(model, processor, {"name": "random"})
    with pytest.raises(InputError, match=r"look-4 .*4\.png"):
        run(answerer, Looking(tmp_path), tmp_path / "run", batch_size=2)
    assert [row["id"] for row in lines(tmp_path / "run")] == [f"look-{i}" for i in range(4)]
    (tmp_path / "4.png").write_bytes(good)
    done = run(answerer, Looking(tmp_path), tmp_path / "run", batch_size=2)
    assert len(done.rows) == 6 and all(row.tokens == 3 for row in done.rows)


def test_a_suite_that_measures_errors_is_asked_in_its_own_way(tmp_path):
    class Errors(Looking):
        def around(self, answerer):
            return Shielded(answerer)

    class Shielded:
        def __init__(self, inner):
            self.inner, self.name, self.length = inner, inner.name, inner.length

        def describe(self):
            return self.inner.describe() | {"asked": "shielded"}

        def answer(self, questions):
            return [Answer("error: no such file", 0, True) for _ in questions]

    model, processor = build_tiny_llava(seed=0)
    answerer = ChatAnswerer(model, processor, {"name": "random"})
    done = run(answerer, Errors(tmp_path, n=2), tmp_path / "run")  # no file is there
    assert done.config["model"]["asked"] == "shielded"
    assert [row.said for row in done.rows] == ["error: no such file"] * 2
