"""The rules by which a policy run's diary is judged, each with the numbers that show it. Chapter 5.

A rule takes a `View` and returns (severity, title, evidence, advice) for what it found; it raises
CannotTell where the diary lacks what it reads. The thresholds are this project's, set where a run is
better looked at; no paper gives them. Trends compare the first quarter of the entries with the last
(`series.change`), levels are means of the last tenth.
"""

import numpy as np

from labs.train.policy.series import Change, names, series, short
from labs.train.policy.view import CannotTell, View

KL_TOKEN, KL_SEQUENCE = 0.2, 10.0  # nats, above which growth is a runaway
ENTROPY_LEFT, ENTROPY_GONE, ENTROPY_NONE = 0.2, 0.05, 0.005  # shares of the start; nats
LENGTH_FULL, LENGTH_LOST = 0.9, 0.4  # of max_new_tokens; of the start
NO_SIGNAL, CLIPPED = 0.5, 0.3
SPIKE, SPIKE_TIMES = 0.1, 5.0  # approx_kl in nats, and times its median
MISMATCH, MISMATCH_MAX = 0.05, 1.0  # nats
SHARE_MOVED = 0.02  # hallucination rate, and 2.5 times it for the share finished


Judged = list[tuple[str, str, str, str]]  # severity, title, evidence, advice


def not_finite(view: View) -> Judged:
    broken = [s for s in (series(view.entries, n) for n in names(view.entries)) if s.broken]
    if not names(view.entries):
        raise CannotTell("The diary holds no number.")
    if not broken:
        return []
    broken.sort(key=lambda s: s.broken[0])
    told = ", ".join(
        f"{s.name} at step {s.broken[0]} ({len(s.broken)} entries)" for s in broken[:6]
    )
    more = f" and {len(broken) - 6} more" if len(broken) > 6 else ""
    return [(
        "bad", "NaN or infinite numbers", f"First: {told}{more}.",
        "Go back to the checkpoint before the first of them; lower the learning rate, clip gradients, "
        "and look for empty masks and divisions by a spread of zero.",
    )]  # fmt: skip


def kl_runaway(view: View) -> Judged:
    whole = view.has("kl_per_sequence")
    name, limit = ("kl_per_sequence", KL_SEQUENCE) if whole else ("kl", KL_TOKEN)
    if whole and (target := view.number("kl_target")):
        limit = 2 * target
    kl = view.trend(name)
    shown = f"{name} {_path(kl)}"
    if kl.last < -0.1 * limit:
        return [(
            "warning", "KL to the reference is below zero", shown + ".",
            "Its mean over the policy's own samples cannot be negative: compare masks, temperature "
            "and padding of both passes, and check that the reference is the start's weights.",
        )]  # fmt: skip
    growing = kl.rises and kl.last > 1.5 * kl.second
    if not (growing and kl.last > limit) and kl.last <= 5 * limit:
        return []
    try:
        reward = view.trend("reward")
    except CannotTell:
        reward = None
    if reward:
        shown += f"; reward {_path(reward)}"
    if view.has("kl_coef"):
        shown += f"; kl_coef {short(series(view.entries, 'kl_coef').last)} at the end"
    if reward and reward.rises:
        severity, title = "bad", "KL runs away while the reward rises: reward hacking suspected"
    else:
        severity, title = "warning", "KL runs away"
    return [(
        severity, title, f"{shown} (looked at above {short(limit)}).",
        "Read the last sample answers and score them by something the reward does not see; raise "
        "kl_coef or set kl_target, lower the learning rate, and take an earlier checkpoint.",
    )]  # fmt: skip


def entropy_collapse(view: View) -> Judged:
    entropy = view.get("entropy", 6)
    shown = f"entropy {short(entropy.first)} → {short(entropy.last)} nats a token."
    if entropy.first < ENTROPY_NONE:
        return [(
            "bad", "Nothing to explore from the start", shown,
            "All answers to a prompt are the same: start from a less certain model, or raise the "
            "temperature.",
        )]  # fmt: skip
    if entropy.last >= ENTROPY_LEFT * entropy.first:
        return []
    return [(
        "bad" if entropy.last < ENTROPY_GONE * entropy.first else "warning", "Entropy collapses",
        shown,
        "The policy stops exploring: raise kl_coef or clip_high, lower the learning rate or the number "
        "of epochs, and check that the answers are still varied.",
    )]  # fmt: skip


def length_drift(view: View) -> Judged:
    length, limit = view.trend("response_length"), view.number("max_new_tokens")
    shown = f"response_length {_path(length)} tokens" + (f", limit {limit:g}" if limit else "")
    if length.rises and limit and length.last > LENGTH_FULL * limit:
        title, severity = "Answers grow to the limit", "bad"
    elif length.rises and length.last > 2 * max(length.first, 1.0):
        title, severity = "Answers grow to more than twice their length", "warning"
    elif length.falls and length.last < LENGTH_LOST * length.first:
        title, severity = "Answers shrink to nothing", "bad"
    else:
        return []
    return [(
        severity, title, shown + ".",
        "The reward pays for length, or for saying little: test it on long and short answers of equal "
        "content; set length_penalty and missing_eos_penalty, or aggregate over tokens.",
    )]  # fmt: skip


def share_finished(view: View) -> Judged:
    share = view.trend("finished")
    if not share.falls or share.first - share.last < 2.5 * SHARE_MOVED:
        return []
    return [(
        "bad" if share.last < 0.5 else "warning", "Fewer answers end by themselves",
        f"finished {_path(share)}.",
        "Set missing_eos_penalty, check that the end token is inside the loss mask, and raise "
        "max_new_tokens if the answers need it.",
    )]  # fmt: skip


def no_signal(view: View) -> Judged:
    if view.critic and not view.has("no_signal"):
        return []  # a value head compares an answer with its estimate, not with its group
    share = view.get("no_signal", 5)
    if share.last <= NO_SIGNAL:
        return []
    shown = f"no_signal {short(share.first)} → {short(share.last)}"
    if view.has("reward"):
        shown += f", at a reward of {short(series(view.entries, 'reward').last)}"
    return [(
        "warning", "More than half of the groups give no signal", shown + ".",
        "All answers to these prompts score alike: take prompts the policy gets right sometimes, more "
        "answers a prompt, a higher temperature, or a reward with finer steps.",
    )]  # fmt: skip


def steps_too_large(view: View) -> Judged:
    found, missing = [], []
    for judge in (_clipped, _spikes):
        try:
            found += judge(view)
        except CannotTell as why:
            missing.append(str(why))
    if missing and not found:
        raise CannotTell(" ".join(missing))
    advice = (
        "Lower the learning rate or the epochs a rollout, set target_kl; where the first update of a "
        "step is already clipped, the old log-probabilities are stale or of another temperature."
    )
    return [(severity, title, shown, advice) for severity, title, shown in found]


def _clipped(view: View) -> list[tuple[str, str, str]]:
    clipped = view.get("clip_fraction")
    level = max(clipped.last, float(clipped.values.mean()))
    if level <= CLIPPED:
        return []
    shown = f"clip_fraction {short(float(clipped.values.mean()))} on average, {short(clipped.last)} at the end."
    return [("warning", "Steps too large, or stale log-probabilities: much is clipped", shown)]


def _spikes(view: View) -> list[tuple[str, str, str]]:
    kl = view.get("approx_kl")
    usual = float(np.median(kl.values))
    spikes = kl.values > max(SPIKE, SPIKE_TIMES * abs(usual))
    if not spikes.any():
        return []
    top = int(kl.values.argmax())
    shown = (
        f"approx_kl up to {short(float(kl.values[top]))} (step {kl.steps[top]}), in {int(spikes.sum())} "
        f"of {len(kl)} entries far above its median of {short(usual)}."
    )
    return [("warning", "Steps too large, or stale log-probabilities: approx_kl spikes", shown)]


def value_useless(view: View) -> Judged:
    if not view.critic and not view.has("value_explained_variance"):
        return []  # no value head
    found = view.get("value_explained_variance", 5)
    later = found.values[-(-len(found) // 10) :]
    if np.median(later) > 0:
        return []
    return [(
        "warning", "The value head explains nothing",
        f"value_explained_variance has a median of {short(float(np.median(later)))} after the first tenth, "
        f"{int((later <= 0).sum())} of {len(later)} entries at or below 0.",
        "It is worse than a constant: raise value_learning_rate or vf_coef, unclip its loss at the start, "
        "and check that the returns carry no reward that it cannot see.",
    )]  # fmt: skip


def mismatch(view: View) -> Judged:
    mean, largest = series(view.entries, "mismatch"), series(view.entries, "mismatch_max")
    if not len(mean) and not len(largest):
        raise CannotTell("mismatch and mismatch_max are in no entry.")
    level = float(mean.values.mean()) if len(mean) else 0.0
    top = float(largest.values.max()) if len(largest) else 0.0
    if level <= MISMATCH and top <= MISMATCH_MAX:
        return []
    shown = [f"mean |difference| {short(level)}"] if len(mean) else []
    if len(largest):
        shown.append(f"largest {short(top)} at step {largest.steps[int(largest.values.argmax())]}")
    return [(
        "bad" if level > MISMATCH else "warning", "Rollout and trainer disagree on the log-probabilities",
        f"{', '.join(shown)} (limits {MISMATCH} and {MISMATCH_MAX:g}).",
        "Look for padding side, position ids, dropout, temperature, or weights that the rollout got late; "
        "what is left is numerics: importance_cap, or float32 logits.",
    )]  # fmt: skip


def hallucination(view: View) -> Judged:
    rate, reward = view.trend("hallucination_rate"), view.trend("reward")
    if not (rate.rises and rate.last - rate.first > SHARE_MOVED and reward.rises):
        return []
    return [(
        "bad", "More captions hallucinate while the reward rises",
        f"hallucination_rate {_path(rate)}; reward {_path(reward)}.",
        "The reward does not see what is not in the picture: add a reward that does, or take the weight "
        "from the part that pays for length and confidence.",
    )]  # fmt: skip


def tasks_fall(view: View) -> Judged:
    tasks = names(view.entries, "task/")
    if not tasks:
        raise CannotTell("task/NAME is in no entry.")
    reward, judged, missing = view.trend("reward"), {}, ""
    for name in tasks:
        try:
            judged[name] = view.trend(name)
        except CannotTell as why:
            missing = str(why)
    if not judged:
        raise CannotTell(missing)
    gained = reward.last - reward.first
    falling = {
        name: task
        for name, task in judged.items()
        # against the mean's gain, so that rewards of any scale can be judged
        if task.falls and task.first - task.last > 0.1 * gained
    }
    if not reward.rises or not falling:
        return []
    told = "; ".join(f"{name} {_path(task)}" for name, task in falling.items())
    return [(
        "bad", "Some tasks get worse while the mean reward rises",
        f"reward {_path(reward)}; {told}.",
        "One task is paid for with another: raise its share of the prompts, scale the rewards to one "
        "range, or raise kl_coef.",
    )]  # fmt: skip


def _path(moved: Change) -> str:
    return f"{short(moved.first)} → {short(moved.second)} → {short(moved.last)}"


RULES = {
    "not_finite": ("NaN", not_finite),
    "kl_runaway": ("KL", kl_runaway),
    "hallucination": ("Hallucination against reward", hallucination),
    "tasks_fall": ("Tasks against the mean", tasks_fall),
    "entropy_collapse": ("Entropy", entropy_collapse),
    "length_drift": ("Response length", length_drift),
    "share_finished": ("Share finished", share_finished),
    "no_signal": ("Groups without a signal", no_signal),
    "steps_too_large": ("Size of the steps", steps_too_large),
    "value_useless": ("Value head", value_useless),
    "mismatch": ("Rollout against trainer", mismatch),
}
