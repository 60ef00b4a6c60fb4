"""Prompts of the world: true, balanced, repeatable; and prompts of files."""

import json
from collections import Counter

import pytest
from PIL import Image

from labs.errors import InputError
from labs.formats import Preference, Turn, write_preferences
from labs.models import build_tiny_llava
from labs.models.generation import render_prompt
from labs.shapes import Mix, caption, split_of
from labs.train.policy.world import FilePrompts, WorldPrompts

YES_NO = {"yes": True, "是": True, "no": False, "否": False}


def test_a_prompt_depends_on_its_index_alone():
    prompts = WorldPrompts(50, seed=3)
    again = WorldPrompts(20, seed=3)
    for index in (19, 0, 7):
        a, b = prompts[index], again[index]
        assert (a.id, a.messages, a.answer, a.about) == (b.id, b.messages, b.answer, b.about)
        assert a.images[0].tobytes() == b.images[0].tobytes()
    other = WorldPrompts(50, seed=4)
    assert sum(prompts[i].about["scene"] == other[i].about["scene"] for i in range(50)) == 0
    assert len(prompts) == 50 and len(list(again)) == 20
    assert prompts[-1].id == prompts[49].id
    with pytest.raises(IndexError):
        prompts[50]
    with pytest.raises(InputError, match="0 prompts"):
        WorldPrompts(0)


def test_scenes_are_of_the_split():
    for split in ("train", "test"):
        scenes = [p.about["scene"] for p in WorldPrompts(40, Mix(digits=0), split)]
        assert {split_of(scene) for scene in scenes} == {split}


@pytest.mark.parametrize(
    ("task", "n"), [("existence", 500), ("conjunction", 150), ("reasoning", 150), ("dialogue", 150)]
)
def test_half_of_the_yes_no_questions_are_answered_yes(task, n):
    prompts = WorldPrompts(n, Mix(tasks={task: 1.0}, digits=0, yes_rate=0.9))
    answers = Counter(YES_NO.get(p.answer) for p in prompts)
    said = answers[True] + answers[False]
    # 4 standard deviations of a fair coin: of 500 the 60 % of a plain stream are out of it.
    assert abs(answers[True] - said / 2) < 2 * said**0.5
    assert {p.task for p in prompts} == {task}


def test_half_of_the_absent_kinds_have_their_partner_there():
    prompts = WorldPrompts(400, Mix(tasks={"existence": 1.0}, digits=0, adversarial=0.5))
    asked = Counter(p.about["qa"].about["negatives"] for p in prompts)
    assert abs(asked["adversarial"] - asked["random"]) < 5 * (400 / 2) ** 0.5


def test_answers_are_true_whatever_faults_the_mix_has():
    tasks = {"existence": 1.0, "caption": 1.0}
    mix = Mix(tasks=tasks, digits=0, false_yes=1.0, false_captions=1.0, described=1.0, yes_rate=1.0)
    for prompt in WorldPrompts(80, mix):
        scene, qa = prompt.about["scene"], prompt.about["qa"]
        if prompt.task == "existence":
            assert YES_NO[prompt.answer] == (qa.about["kind"] in scene.kinds)
        else:
            assert prompt.answer == caption(scene, prompt.about["language"])
        assert prompt.answer == qa.answer and len(prompt.images) == 1


def test_a_dialogue_is_asked_up_to_its_last_turn():
    prompt = WorldPrompts(1, Mix(tasks={"dialogue": 1.0}, digits=0, chinese=0))[0]
    roles = [m["role"] for m in prompt.messages]
    assert roles == ["user", "assistant"] * 3 + ["user"]
    assert prompt.text == prompt.about["qa"].question and prompt.text.startswith("Is there a ")


def test_the_model_reads_a_prompt_as_it_was_trained_to(tmp_path):
    _, processor = build_tiny_llava()
    prompt = WorldPrompts(1, Mix(chinese=0))[0]
    picture = tmp_path / "a.png"
    prompt.images[0].save(picture)
    record = {"id": "r", "image": "a.png", "conversations": [
        {"from": "human", "value": f"<image>\n{prompt.text}"},
        {"from": "gpt", "value": prompt.answer}]}  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps([record]))
    read = FilePrompts(tmp_path / "data.json")[0]
    assert render_prompt(processor, read.messages) == render_prompt(processor, prompt.messages)
    assert (read.answer, read.images) == (prompt.answer, (str(picture),))


def test_of_a_files_conversations_the_last_question_is_asked(tmp_path):
    rows = [
        {"id": "two", "task": "count", "options": ["1", "2"], "conversations": [
            {"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"},
            {"from": "human", "value": "How many?"}, {"from": "gpt", "value": "2"}]},
        {"id": "open", "conversations": [{"from": "human", "value": "Why?"}]},
    ]  # fmt: skip
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = FilePrompts(path)
    assert [m["role"] for m in first.messages] == ["user", "assistant", "user"]
    assert (first.text, first.answer, first.task) == ("How many?", "2", "count")
    assert first.about["options"] == ["1", "2"]
    assert (second.text, second.answer, second.task) == ("Why?", None, "")


def test_of_pairs_the_prompt_is_asked_and_the_chosen_answer_is_no_truth(tmp_path):
    turns = (Turn("user", "<image>\nWhat is it?"),)
    picture = Image.new("RGB", (8, 8), "red")
    pair = Preference("p", (picture,), turns, "red", "a cat", {"task": "colour", "facts": "red"})
    write_preferences([pair], tmp_path / "pairs.jsonl")
    (prompt,) = FilePrompts(tmp_path / "pairs.jsonl")
    assert (prompt.text, prompt.answer, prompt.task) == ("What is it?", None, "colour")
    assert prompt.about["chosen"] == "red" and prompt.about["rejected"] == "a cat"
    assert prompt.about["facts"] == "red" and len(prompt.images) == 1
    # A field `answer` is the truth.
    write_preferences([Preference("p", (), (Turn("user", "Is it?"),), "no", "yes", {"answer": "yes"})],
                      tmp_path / "b.jsonl")  # fmt: skip
    assert FilePrompts(tmp_path / "b.jsonl")[0].answer == "yes"


def test_files_that_ask_nothing_or_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        FilePrompts(tmp_path / "none.json")
    path = tmp_path / "data.json"
    path.write_text(
        json.dumps([{"id": "s", "conversations": [{"from": "system", "value": "Be."}]}])
    )
    with pytest.raises(InputError, match="asks nothing"):
        FilePrompts(path)
