"""One picture and how each family cuts it: the figure of chapter 1 on dynamic resolution."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from labs.models.resolution import Cut, family
from labs.shapes import render, sample_scene, seeded

SHOWN = ("llava-1.5", "llava-next", "qwen2-vl", "internvl", "smolvlm", "paligemma")
PADDING = 0.25  # grey level of what only fills the canvas
GAP = 0.06  # between canvas and overview, of the canvas's width


def scenes(columns: int = 3, rows: int = 2, resolution: int = 320, seed: int = 0) -> Image.Image:
    """A picture worth cutting: scenes side by side, columns x rows of `resolution` pixels each."""
    sheet = Image.new("RGB", (columns * resolution, rows * resolution))
    for number in range(rows * columns):
        scene = sample_scene(seeded("cuts", seed, number), "val")
        place = number % columns * resolution, number // columns * resolution
        sheet.paste(render(scene, resolution), place)
    return sheet


def draw_cuts(image: Image.Image, names: tuple[str, ...] = SHOWN, columns: int = 2) -> Figure:
    """A panel a family: what its vision tower is given, at the resolution it is given in.

    Thin lines bound what becomes one token, thick ones the tiles; dark is padding; the overview
    stands to the right. Every panel fills its place, so a blurred one is a picture made small.
    """
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.8, 2.35 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        chosen = family(name)
        cut = chosen.cut((image.height, image.width))
        draw_cut(axis, image, cut)
        axis.set_title(f"{chosen.title}: {cut.tokens:,} tokens", fontsize=10)
        axis.set_xlabel(_said(cut), fontsize=9)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    return figure


def draw_cut(axis: Axes, image: Image.Image, cut: Cut) -> None:
    """One cut on one axis, in pixels of the canvas."""
    (height, width), (inner_height, inner_width) = cut.canvas, cut.picture
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas = np.full((height, width, 3), PADDING)
    canvas[top : top + inner_height, left : left + inner_width] = _resized(image, cut.picture)
    axis.imshow(canvas, extent=(0, width, height, 0), interpolation="antialiased")
    _grid(axis, cut.canvas, _cells(cut), color="#6b8fb3", linewidth=0.3, alpha=0.8)
    _grid(axis, cut.canvas, ((0, 0), cut.canvas, cut.tiles), color="C1", linewidth=1.6)
    right = width
    if cut.overview:
        edge, start = height // cut.tiles[0], width * (1 + GAP)
        right = start + edge
        axis.imshow(_resized(image, (edge, edge)), extent=(start, right, edge, 0))
        axis.add_patch(Rectangle((start, 0), edge, edge, fill=False, color="C1", linewidth=1.6))
    axis.set(xlim=(-4, right + 4), ylim=(height + 4, -4), xticks=[], yticks=[], aspect="equal")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] of 0 to 1."""
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC), dtype=float) / 255


def _cells(cut: Cut) -> tuple[tuple[float, float], tuple[float, float], tuple[int, int]]:
    """Where on the canvas the tokens lie: corner, extent, rows and columns.

    What un-padding leaves lies in the middle; its tokens are as large as those of the whole canvas.
    """
    if cut.picture == cut.canvas or cut.tiles == (1, 1):
        return (0, 0), cut.canvas, cut.cells
    full = 0 if cut.picture[0] == cut.canvas[0] else 1  # the direction without padding
    edge = cut.canvas[full] / cut.cells[full]
    extent = cut.cells[0] * edge, cut.cells[1] * edge
    corner = (cut.canvas[0] - extent[0]) / 2, (cut.canvas[1] - extent[1]) / 2
    return corner, extent, cut.cells


def _grid(axis: Axes, canvas: tuple[int, int], where: tuple, **style) -> None:
    (top, left), (height, width), (rows, columns) = where
    across, down = (
        np.linspace(left, left + width, columns + 1),
        np.linspace(top, top + height, rows + 1),
    )
    axis.vlines(across, top, top + height, **style)
    axis.hlines(down, left, left + width, **style)


def _said(cut: Cut) -> str:
    """What happens to the picture, in a few words."""
    size = f"{cut.picture[1]} x {cut.picture[0]}"
    if cut.picture != cut.canvas:
        size += f" on {cut.canvas[1]} x {cut.canvas[0]}"
    if cut.overview:
        size += f", {cut.tiles[0]} x {cut.tiles[1]} tiles + overview"
    return size
