"""Votes read back: checked, analysed, and written as preferences."""

import json
import random

import krippendorff
import numpy as np
import pytest
from PIL import Image

from labs.errors import InputError
from labs.formats import load_image, read_preferences
from labs.shapes import judge
from labs.suites.rating import (
    Item,
    analyse,
    read_key,
    read_votes,
    simulated_votes,
    write_preference_file,
    write_sheets,
)
from labs.suites.rating.pictures import data_url, page_picture
from tests.suites.rating_world import items, sent_back, sheets


def by_text(comparison):
    """The truth of `rating_world.items`: the caption without a fault, else a tie of two faulty ones."""
    good = [text == TRUE[comparison["id"]] for text in comparison["answers"]]
    return "tie" if good[0] == good[1] else "first" if good[0] else "second"


TRUE = {item.id: item.reference for item in items(80)}


# simulated raters


def test_known_accuracy_gives_known_agreement_and_win_rate(tmp_path):
    """Two raters who are right with probability p on two labels agree p² + (1-p)² of the time."""
    made = [Item(f"q{i}", "?", {"a": f"left {i}", "b": f"right {i}"}) for i in range(600)]
    rng = random.Random(0)
    truth = {item.id: "first" if rng.random() < 0.7 else "second" for item in made}
    _, key = sheets(tmp_path, made, n=600, raters=3)
    p = 0.85
    votes, missing = read_votes(sent_back(tmp_path, key, lambda c: truth[c["id"]], accuracy=p), key)
    found = analyse(key, votes, missing)
    true_rate = np.mean([winner == "first" for winner in truth.values()])
    rate = true_rate * p + (1 - true_rate) * (1 - p)
    alpha = 1 - 2 * p * (1 - p) / (2 * rate * (1 - rate))
    assert found.votes == 1800 and found.unseen == 0
    win = found.win_rates["a", "b"]
    assert win.low < rate < win.high and win.high - win.low < 0.08
    assert found.measures["alpha"].low < alpha < found.measures["alpha"].high
    assert abs(found.measures["alpha"].value - alpha) < 0.08
    assert found.measures["left"].low < 0.5 < found.measures["left"].high


def test_perfect_raters_agree_wholly_and_blind_ones_not_at_all(tmp_path):
    made = items(60)
    _, key = sheets(tmp_path, made, n=60, raters=3)
    sure = analyse(key, *read_votes(sent_back(tmp_path, key, by_text, accuracy=1.0), key))
    assert sure.measures["alpha"].value == 1.0
    anything = ("first", "second", "tie", "both_bad")
    blind = analyse(
        key, *read_votes(sent_back(tmp_path, key, by_text, accuracy=0.0, wrong=anything), key)
    )
    assert blind.measures["alpha"].value < 0.3


def test_alpha_is_that_of_the_package_krippendorff(tmp_path):
    made = items(40)
    _, key = sheets(tmp_path, made, n=20, raters=4, overlap=2)
    paths = sent_back(
        tmp_path, key, by_text, accuracy=0.6, answered=0.8, wrong=("first", "second", "tie")
    )
    votes, missing = read_votes(paths, key)
    assert sum(missing.values()) > 0
    found = analyse(key, votes, missing)
    codes = {"first": 0, "second": 1, "tie": 2, "both_bad": 3}
    table = np.full((4, len(key.comparisons)), np.nan)
    for vote in votes:
        table[int(vote.rater[-1]) - 1, vote.comparison] = codes[vote.winner]
    expected = krippendorff.alpha(table, level_of_measurement="nominal")
    assert found.measures["alpha"].value == pytest.approx(expected, abs=1e-9)


def test_a_rater_who_takes_the_left_is_found_out_and_changes_nothing(tmp_path):
    made = items(60)
    _, key = sheets(tmp_path, made, n=60, raters=2)
    votes, missing = read_votes(sent_back(tmp_path, key, by_text, left=[0.0, 1.0]), key)
    found = analyse(key, votes, missing)
    honest, lazy = found.raters
    assert lazy.left.value == 1.0 and honest.left.low < 0.5 < honest.left.high
    # Sides are balanced: votes for the left alone make every win rate one half.
    alone = analyse(key, [v for v in votes if v.rater == "rater-2"], {"rater-2": 0})
    assert alone.win_rates["tiny-base", "model-x"].value == 0.5


def test_three_models_are_rated(tmp_path):
    models = ("best", "middle", "worst")
    made = items(50, models)
    rank = {model: number for number, model in enumerate(models)}
    _, key = sheets(tmp_path, made, n=90, raters=2)

    def truth(comparison):
        a, b = comparison["models"]
        return "first" if rank[a] < rank[b] else "second"

    found = analyse(key, *read_votes(sent_back(tmp_path, key, truth, accuracy=0.8), key))
    assert list(found.ratings) == list(models)
    assert found.ratings["best"].low > found.ratings["worst"].high
    assert len(found.win_rates) == 3
    # A vote is an observation: the share of the votes, ties half.
    votes, _ = read_votes(sorted(tmp_path.glob("votes-*.json")), key)
    own = [v.winner for v in votes if key.comparisons[v.comparison]["models"] == ["best", "worst"]]
    assert found.win_rates["best", "worst"].value == pytest.approx(own.count("first") / len(own))
    two = analyse(read_key(key.path), votes, {"rater-1": 0})
    assert two.absent == ("rater-2",)


def test_models_that_never_met_are_not_rated_and_the_rest_stands(tmp_path):
    _, key = sheets(tmp_path, items(12, ("one", "two", "three", "four")), n=24, raters=1)
    votes, missing = read_votes(sent_back(tmp_path, key, lambda c: "first"), key)
    met = [["one", "two"], ["three", "four"]]
    some = [v for v in votes if key.comparisons[v.comparison]["models"] in met]
    found = analyse(key, some, missing)
    assert found.ratings == {} and "never met" in found.unrated and len(found.win_rates) == 2
    assert found.unseen == 24 - len(some)
    whole = analyse(key, votes, missing)
    assert len(whole.ratings) == 4 and whole.unrated is None


def test_checks_of_attention_find_who_does_not_look(tmp_path):
    made = items(40)
    _, key = sheets(tmp_path, made, n=20, raters=3, gold=8)
    paths = sent_back(tmp_path, key, by_text, accuracy=[1.0, 0.9, 0.2], wrong=("first", "second"))
    votes, missing = read_votes(paths, key)
    found = analyse(key, votes, missing)
    assert [r.failed for r in found.raters] == [False, False, True]
    assert found.raters[0].gold == (8, 8) and found.raters[2].gold[1] == 8
    assert found.votes == 60, "checks count in no rate"
    assert set(found.win_rates) == {("tiny-base", "model-x")}
    kept = analyse(key, votes, missing, drop_failed=True)
    assert kept.dropped == ("rater-3",) and kept.votes == 40
    assert kept.measures["alpha"].value > found.measures["alpha"].value
    lazy = [v for v in votes if v.rater == "rater-3"]
    with pytest.raises(InputError, match="No vote is left"):
        analyse(key, lazy, {"rater-3": 0}, drop_failed=True)


def test_agreement_that_cannot_be_had_is_left_out(tmp_path):
    _, key = sheets(tmp_path, items(12), n=6, raters=2, overlap=1)
    alone = analyse(key, *read_votes(sent_back(tmp_path, key, by_text), key))
    assert "alpha" not in alone.measures, "nobody shares a comparison"
    other = tmp_path / "same"
    other.mkdir()
    _, key = sheets(other, items(12), n=6, raters=2)
    same = analyse(key, *read_votes(sent_back(other, key, lambda c: "tie", accuracy=1.0), key))
    assert "alpha" not in same.measures and same.measures["tie"].value == 1.0
    assert "left" not in same.measures and same.raters[0].left is None


def test_time_and_both_bad_are_told(tmp_path):
    _, key = sheets(tmp_path, items(12), n=6, raters=1)
    [path] = sent_back(tmp_path, key, lambda c: "both_bad", accuracy=1.0)
    data = json.loads(path.read_text())
    for number, vote in enumerate(data["votes"]):
        vote["seconds"] = number + 1
    data["votes"][0]["seconds"] = "soon"
    path.write_text(json.dumps(data))
    found = analyse(key, *read_votes([path], key))
    assert found.measures["both_bad"].value == 1.0 and found.raters[0].both_bad == 6
    assert found.raters[0].seconds == 4 and found.measures["seconds"].n == 5
    json.dumps(found.to_dict())


# reading


@pytest.fixture
def one(tmp_path):
    _, key = sheets(tmp_path, items(12), n=4, raters=2)
    sheet, other = list(key.sheets)
    return key, simulated_votes(key, sheet, by_text), other


def spoil(data, **changes):
    return {**data, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, o: spoil(d, format="other"), "no file of votes"),
        (lambda d, o: [d], "no file of votes"),
        (lambda d, o: spoil(d, version=2), "version 2"),
        (lambda d, o: spoil(d, sheet="0" * 12), "does not know"),
        (lambda d, o: spoil(d, sheet=None), "does not know"),
        (lambda d, o: spoil(d, sheet=o), "not on that sheet"),
        (lambda d, o: spoil(d, votes={}), "no list of votes"),
        (lambda d, o: spoil(d, votes=[*d["votes"], d["votes"][0]]), "second vote on the item"),
        (lambda d, o: spoil(d, votes=[{"item": "x", "choice": "left"}]), "not on that sheet"),
        (lambda d, o: spoil(d, votes=[{**d["votes"][0], "choice": "up"}]), "chooses 'up'"),
        (lambda d, o: spoil(d, votes=[{**d["votes"][0], "choice": ["left"]}]), "chooses"),
        (lambda d, o: spoil(d, votes=["left"]), "no JSON object"),
    ],
)
def test_votes_that_cannot_be_are_refused(one, tmp_path, change, message):
    key, data, other = one
    path = tmp_path / "votes.json"
    path.write_text(json.dumps(change(data, other)))
    with pytest.raises(InputError, match=message) as caught:
        read_votes([path], key)
    assert str(path) in caught.value.what


def test_files_that_are_none_are_refused(one, tmp_path):
    key, data, _ = one
    path = tmp_path / "votes.json"
    for content in (b"", b"{", b"\xff", b"<!doctype html><html>", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_votes([path], key)
        with pytest.raises(InputError):
            read_key(path)
    with pytest.raises(InputError, match="no votes"):
        read_votes([], key)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="no key of a rating sheet"):
        read_key(path)


def test_a_file_that_comes_twice_counts_once(one, tmp_path):
    key, data, _ = one
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    for path in (first, second):
        path.write_text(json.dumps(data))
    assert len(read_votes([first, second], key)[0]) == 4
    changed = [{**vote, "choice": "tie"} for vote in data["votes"]]
    second.write_text(json.dumps(spoil(data, votes=changed)))
    with pytest.raises(InputError, match="do not agree"):
        read_votes([first, second], key)


def test_a_damaged_key_is_refused(one, tmp_path):
    key, _, _ = one
    whole = json.loads(key.path.read_text(encoding="utf-8"))
    sheet = next(iter(whole["sheets"]))
    item = next(iter(whole["sheets"][sheet]["items"]))

    def damaged(change):
        data = json.loads(json.dumps(whole))
        change(data)
        path = tmp_path / "damaged.json"
        path.write_text(json.dumps(data))
        return path

    for change in (
        lambda d: d.pop("comparisons"),
        lambda d: d["comparisons"][0].pop("answers"),
        lambda d: d["comparisons"][0].update(answers=["one"]),
        lambda d: d["comparisons"][0].update(pictures=[1]),
        lambda d: d["sheets"][sheet].pop("rater"),
        lambda d: d["sheets"][sheet]["items"][item].update(comparison=99),
        lambda d: d["sheets"][sheet]["items"][item].update(comparison=-1),
        lambda d: d["sheets"][sheet]["items"][item].update(flipped=0),
        lambda d: d.update(sheets=[]),
    ):
        with pytest.raises(InputError, match="not a whole key"):
            read_key(damaged(change))


# preferences


def test_majorities_become_preferences_that_read_back(tmp_path):
    made = items(30)
    _, key = sheets(tmp_path / "rating", made, n=30, raters=3, gold=3)
    votes, _ = read_votes(sent_back(tmp_path, key, by_text, accuracy=1.0), key)
    path = tmp_path / "train" / "preferences.jsonl"
    written, left_out = write_preference_file(path, key, votes)
    pairs = list(read_preferences(path))
    decided = [c for c in key.comparisons if not c["gold"] and by_text(c) != "tie"]
    assert written == len(pairs) == len(decided)
    assert left_out == ({"tie": 30 - written} if written < 30 else {})
    by_id = {item.id: item for item in made}
    for pair in pairs:
        item = by_id[pair.id.split("#")[0]]
        assert pair.chosen == item.reference and pair.rejected != item.reference
        assert pair.prompt[-1].text == f"<image>\n{item.question}"
        assert pair.meta["chosen_model"] in item.answers
        assert pair.meta["votes"] == {"chosen": 3, "rejected": 0, "tie": 0, "both_bad": 0}
        picture = load_image(pair.images[0])
        assert picture.tobytes() == item.images[0].convert("RGB").tobytes()
        assert str(pair.images[0]).startswith(str(tmp_path / "train"))


def test_what_no_majority_decides_is_counted_and_left_out(tmp_path):
    made = [Item(f"q{i}", "Which?", {"a": "yes", "b": "no"}) for i in range(6)]
    made[5].answers["a"] = " "
    _, key = sheets(tmp_path, made, n=6, raters=2)
    number = {c["id"]: i for i, c in enumerate(key.comparisons)}
    said = {
        "q0": ("first", "first"), "q1": ("first", "second"), "q2": ("tie", "tie"),
        "q3": ("both_bad", "both_bad"), "q4": (), "q5": ("second", "second"),
    }  # fmt: skip
    votes = []
    for place, (sheet, plan) in enumerate(key.sheets.items()):
        data = {"format": "labs-rating-votes", "version": 1, "sheet": sheet, "votes": []}
        for item, placed in plan["items"].items():
            winners = said[key.comparisons[placed["comparison"]]["id"]]
            if not winners:
                continue
            choice = winners[place]
            if choice in ("first", "second"):
                choice = "left" if (choice == "first") != placed["flipped"] else "right"
            data["votes"].append({"item": item, "choice": choice})
        path = tmp_path / f"{place}.json"
        path.write_text(json.dumps(data))
        votes += read_votes([path], key)[0]
    written, left_out = write_preference_file(tmp_path / "out.jsonl", key, votes)
    assert written == 1
    assert left_out == {"split": 1, "tie": 1, "both_bad": 1, "unseen": 1, "empty": 1}
    [pair] = read_preferences(tmp_path / "out.jsonl")
    assert (pair.id, pair.chosen, pair.rejected) == (f"q0#{number['q0']}", "yes", "no")
    assert pair.images == () and not (tmp_path / "out_images").exists()
    # One rater alone decides what two could not; without votes there is nothing to write.
    written, _ = write_preference_file(tmp_path / "one.jsonl", key, votes, dropped=["rater-2"])
    assert written == 2
    with pytest.raises(InputError, match="no preferences to write"):
        write_preference_file(tmp_path / "none.jsonl", key, [])


def test_placeholders_in_texts_stand_for_no_picture(tmp_path):
    picture = Image.new("RGB", (8, 8), "red")
    made = [Item("a", "<image> What?", {"mx": "a <image> ring", "my": "<image>"}, (picture,)),
            Item("b", "What?", {"mx": "x <image>", "my": "y"}, (picture, picture))]  # fmt: skip
    _, key = sheets(tmp_path / "rating", made, n=2, raters=1)
    votes, _ = read_votes(sent_back(tmp_path, key, lambda c: "first", accuracy=1.0), key)
    written, left_out = write_preference_file(tmp_path / "out.jsonl", key, votes)
    [pair] = read_preferences(tmp_path / "out.jsonl")
    assert (written, left_out) == (1, {"empty": 1})
    assert pair.prompt[0].text == "<image><image>\nWhat?" and len(pair.images) == 2


def test_a_picture_outside_the_key_s_folder_is_not_copied(tmp_path):
    _, key = sheets(tmp_path / "rating", items(8), n=4, raters=1)
    votes, _ = read_votes(sent_back(tmp_path, key, lambda c: "first", accuracy=1.0), key)
    (tmp_path / "secret.png").write_bytes(b"secret")
    key.comparisons[0]["pictures"] = ["../secret.png"]
    with pytest.raises(InputError, match="leaves the data folder"):
        write_preference_file(tmp_path / "out.jsonl", key, votes)
    key.comparisons[0]["pictures"] = ["pictures/gone.png"]
    with pytest.raises(InputError, match="cannot be copied"):
        write_preference_file(tmp_path / "out.jsonl", key, votes)


# what is written


def test_sheets_are_the_same_bytes_for_the_same_arguments(tmp_path):
    made = items(20)
    for name in ("one", "two"):
        write_sheets(tmp_path / name, made, n=8, raters=2, gold=2, seed=3)
    one, two = (sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two] and len(one) > 3
    write_sheets(tmp_path / "one", made, n=8, raters=2, gold=2, seed=3)  # again is no harm
    with pytest.raises(InputError, match="key of other sheets"):
        write_sheets(tmp_path / "one", made, n=8, raters=2, gold=2, seed=4)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two], "and nothing was touched"


def test_pictures_are_small_and_tell_nothing_of_the_camera(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010F] = "SECRET CAMERA"
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (3000, 1000), "green").save(path, exif=exif, comment=b"SECRET PLACE")
    data = page_picture(str(path))
    assert b"SECRET" not in data
    shown = load_image(data_url(data))
    assert shown.size == (341, 1024) and not shown.getexif()
    small = Image.effect_noise((48, 48), 80).convert("RGB")
    assert load_image(data_url(page_picture(small))).tobytes() == small.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "fr"}, "page in 'fr'"),
        ({"gold": -1}, "-1 checks"),
        ({"raters": 0}, "0 raters"),
        ({"overlap": 3}, "by 3 of 2 raters"),
        ({"n": 1000}, "1000 comparisons are wanted"),
    ],
)
def test_sheets_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        sheets(tmp_path / "out", items(8), **options)
    assert not (tmp_path / "out").exists()


def test_a_picture_that_cannot_be_opened_is_named(tmp_path):
    made = [Item("the-item", "?", {"a": "1", "b": "2"}, (str(tmp_path / "gone.png"),))]
    with pytest.raises(InputError, match="the-item"):
        sheets(tmp_path / "out", made, n=1)


def test_the_world_s_items_are_what_the_tests_take_them_for():
    made = items(80)
    assert {judge_of(item) for item in made} == {True}


def judge_of(item) -> bool:
    """The reference is a caption of its scene: no test above rests on a broken helper."""
    from labs.shapes import make_record

    scene = make_record("caption", int(item.id.rsplit("-", 1)[1]), "test")["meta"]["scene"]
    return judge(scene, item.reference).perfect
