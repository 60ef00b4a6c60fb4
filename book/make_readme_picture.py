"""Draws the README's pictures: `python -m book.make_readme_picture`.

readme.png: tiny-sft describes pictures of the test split, and the world's oracle marks what is not
there. scene.png: one of them alone, for the README's first command.
"""

import argparse
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from book.builder.contents import ROOT
from labs.models import generate, load_vlm, user_message
from labs.shapes import judge, render, sample_scene, seeded

PICTURE = ROOT / "book" / "_static" / "readme.png"
SCENES = 64
PROMPT = "Describe the image."


def describe(model: str) -> list[tuple]:
    """(scene, caption, judgement) of the first scenes of the test split."""
    network, processor = load_vlm(model)
    rng = seeded("readme", "test")
    scenes = [sample_scene(rng, "test") for _ in range(SCENES)]
    answers = generate(
        network,
        processor,
        [[user_message(PROMPT, images=1)] for _ in scenes],
        [[render(scene)] for scene in scenes],
        max_new_tokens=80,
    )
    judged = [judge(scene, answer) for scene, answer in zip(scenes, answers, strict=True)]
    return list(zip(scenes, answers, judged, strict=True))


def choose(described: list[tuple]) -> list[tuple]:
    """The first two perfect captions and the first two that name what is not there."""
    perfect = [entry for entry in described if entry[2].perfect]
    inventive = [entry for entry in described if entry[2].hallucinated]
    if len(perfect) < 2 or len(inventive) < 2:
        raise SystemExit(
            f"Only {len(perfect)} perfect and {len(inventive)} hallucinating captions among "
            f"{SCENES}; the picture needs two of each. Is this a trained model?"
        )
    return perfect[:2] + inventive[:2]


def draw(described: list[tuple], model: str, path: Path) -> None:
    chosen = choose(described)
    rate = sum(bool(judgement.hallucinated) for _, _, judgement in described) / len(described)
    plt.style.use(ROOT / "book" / "labs.mplstyle")
    figure, axes = plt.subplots(1, len(chosen), figsize=(11, 4.1))
    for axis, (scene, answer, judgement) in zip(axes, chosen, strict=True):
        axis.imshow(render(scene, resolution=384))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        text = textwrap.fill(answer.strip(), 34)
        if judgement.hallucinated:
            kind = judgement.hallucinated[0].kind
            there = any(shown.kind == kind for shown in scene.objects)
            axis.set_title("names what is not there", color="#b34700")
            text += f"\n→ one {kind} too many" if there else f"\n→ there is no {kind}"
        else:
            axis.set_title("right", color="#00664b")
        axis.set_xlabel(text, fontsize=9.5, loc="left")
    figure.suptitle(
        f"{model} describes pictures it has never seen: "
        f"{rate:.0%} of {len(described)} captions hallucinate",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    partial = path.with_suffix(".part.png")
    figure.savefig(partial, dpi=120)
    partial.replace(path)
    render(chosen[-1][0]).save(path.with_name("scene.png"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m book.make_readme_picture", description=__doc__)
    parser.add_argument("--model", default="tiny-sft")
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    draw(describe(options.model), options.model, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
