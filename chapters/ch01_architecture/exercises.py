"""Chapter 1, architecture: exercises.

Written from solutions/ch01_architecture.py; don't edit this file. `labs start ch01` copies it to
work/ch01_architecture/exercises.py: write your answers there, then `labs grade ch01`.
"""

# ruff: noqa: F401  (imports that the answers need)

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

TEXT, VISUAL = 0, 1  # what a token is


def tower_states(
    tower: nn.ModuleDict, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch places width"]:
    """A small vision tower: patches, row by row, and before them a class token, if it has one.

    CLIP's tower has one, SigLIP's has none (it pools over all patches instead).
    """
    x = tower["patches"](pixels).flatten(2).mT
    if "class_token" in tower:
        x = torch.cat([tower["class_token"].weight.expand(len(x), 1, -1), x], dim=1)
    return tower["block"](x + tower["positions"].weight)


def visual_features(
    tower: nn.ModuleDict, connector: nn.Module, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch patches hidden"]:
    """What goes to the language model: each patch through the connector, the class token left out."""
    states = tower_states(tower, pixels)
    return connector(states[:, 1:])


PATCH_LOG = """
a picture of 6 x 6 coloured cells, one patch each; the question names a cell, the answer is its colour
towers frozen, connector and head trained for 1500 steps, 64 pictures a batch
tower from CLIP    patches [64, 24, 6, 6]  places [64, 37, 24]  into the connector [64, 36, 24]
tower from SigLIP  patches [64, 24, 6, 6]  places [64, 36, 24]  into the connector [64, 35, 24]
loss, mean of the last 50 steps: CLIP 0.004, SigLIP 0.079
right answers by cell, 500 new pictures, tower from SigLIP (chance 0.20; from CLIP all above 0.97)
  0.23 1.00 1.00 1.00 1.00 1.00
  1.00 1.00 1.00 1.00 1.00 1.00
  1.00 1.00 1.00 1.00 1.00 1.00
  1.00 0.89 1.00 0.99 1.00 1.00
  1.00 1.00 1.00 1.00 1.00 1.00
  0.95 1.00 1.00 1.00 1.00 1.00
"""


class CrossAttentionParts(nn.Module):
    """The weights of Flamingo's layer, all but the gates: given."""

    def __init__(self, hidden_size: int, vision_hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(hidden_size)
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(vision_hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(vision_hidden_size, hidden_size, bias=False)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.ffw = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 4 * hidden_size, bias=False),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size, bias=False),
        )


def merge_image_features(
    inputs_embeds: Float[Tensor, "batch tokens hidden"],
    input_ids: Int[Tensor, "batch tokens"],
    image_features: list[Float[Tensor, "_ hidden"]],
    image_token_id: int,
) -> Float[Tensor, "batch tokens hidden"]:
    r"""Image features into the token sequence, each in the place of one placeholder.

    $$m_{b,t} = \begin{cases} f_i & \text{where } \mathtt{input\_ids}_{b,t} \text{ is the } i\text{-th
      placeholder, counted row by row} \\ e_{b,t} & \text{elsewhere} \end{cases}$$

    - `inputs_embeds`: `[batch, tokens, hidden]`, the embeddings of `input_ids` `[batch, tokens]`. A
      place of an image holds the id `image_token_id`; what stands there in `inputs_embeds` is lost.
    - `image_features`: one tensor `[places, hidden]` an image, in the order of the batch. A sample
      has no image, one or several; images differ in their number of places; the list may be empty.

    Returns a tensor of the shape *and dtype* of `inputs_embeds`. Nothing is written in place:
    gradients reach the features and all other embeddings.

    Raises `ValueError` where a sample's placeholders cannot be filled by whole images, so where one
    image would begin in one sample and end in the next, too. Its message says how many
    placeholders and how many features the batch has. Graded: the result for none, one and several
    images a sample; features in another dtype; both gradients; the inputs unchanged; the errors.
    """
    raise NotImplementedError("merge_image_features: not started")


def visual_tokens() -> dict:
    r"""What do two pictures cost in four families?

    A *photo*, 600 wide and 800 high, and an *icon* of 200 x 200. Count the visual tokens that one
    picture puts into the language model's sequence, newlines included, markers around the image
    left out:

    - `"llava_1.5"`: resized or padded to 336 x 336, patches of 14, no class token.
    - `"llava_next"`: the canvas of (height, width) 336 x 672, 672 x 336, 672 x 672, 1008 x 336 or
      336 x 1008 that keeps most of the picture's pixels (enlarging adds none), then the one with the
      smallest area, then the first of the list; patches of 14; one overview tile of 336 x 336
      without newlines; of the canvas, the features that saw only padding are removed, and each row
      that is left gets one newline.
    - `"qwen2_vl"`: both sides rounded to the nearest multiple of 28, patches of 14, of which 2 x 2
      become a token. Neither picture meets a limit on pixels.
    - `"internvl"`: of all grids of 1 to 12 tiles of 448 x 448, the one whose width : height is
      nearest to the picture's; of equals, a larger one only where the picture has more than half of
      its pixels; a thumbnail tile where there is more than one; patches of 14, of which 2 x 2 become
      a token.

    Return `{"photo": {...}, "icon": {...}, "cache_mib": ...}`: the four counts of each picture (in
    tokens), and the key-value cache in MiB of 1024² bytes that the photo's tokens fill in
    LLaVA-NeXT with Vicuna-7B: 32 layers, each with keys and values of 4096 numbers a token, in
    bfloat16.
    """
    raise NotImplementedError("visual_tokens: not started")


def llava_next_grid(
    size: tuple[int, int],
    canvases: list[tuple[int, int]],
    tile: int = 336,
    patch: int = 14,
) -> dict:
    r"""Which canvas LLaVA-NeXT gives to a picture, and how many tokens it makes of it.

    All sizes are (height, width), as in the configuration files of the released checkpoints; most
    image libraries say (width, height).

    1. *Canvas.* A picture of $h \times w$ is scaled by $s = \min(W/w, H/h)$ to fit into a canvas of
       $H \times W$, which keeps $\min(\lfloor sw \rfloor \lfloor sh \rfloor,\ hw)$ of its pixels:
       enlarging adds none. Take the canvas that keeps most; of equals, the one that wastes least,
       $HW$ minus what it keeps; of those, the first in the list.
    2. *Cells.* The canvas has $R = H / \text{patch}$ rows and $C = W / \text{patch}$ columns of
       features. Where the picture is wider than the canvas ($w/h > C/R$), it fills $\lfloor hC/w
       \rfloor$ rows, and the rest is padding above and below; else it fills $\lfloor wR/h \rfloor$
       columns, with padding left and right. At *either* edge, half of the rest, rounded down, is
       removed: of 21 rows of which 14 are filled, 3 go at either edge and 15 are left.
    3. *Tokens.* One overview tile of $(\text{tile}/\text{patch})^2$, and the cells that are left,
       with one newline at the end of each row.

    Returns `{"canvas": (height, width), "cells": (rows, columns), "tokens": count}`. Graded: tall,
    wide, square, small and extreme pictures, ties, several lists of canvases and sizes of tiles.
    """
    raise NotImplementedError("llava_next_grid: not started")


def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = 3136,
    max_pixels: int = 12845056,
) -> tuple[int, int]:
    r"""The size to which Qwen2-VL brings a picture: multiples of `factor`, within limits of pixels.

    1. Each side is rounded to the nearest multiple of `factor` (halves to the even one, as Python's
       `round` does); a side may become 0 here.
    2. If that has more than `max_pixels` pixels: with $\beta = \sqrt{hw / \text{max\_pixels}}$ of the
       sides *before* any rounding, $h/\beta$ and $w/\beta$ are rounded down instead, but to one
       `factor` at least.
    3. If it has fewer than `min_pixels`: with $\beta = \sqrt{\text{min\_pixels} / hw}$, $h\beta$ and
       $w\beta$ are rounded up instead.

    Raises `ValueError` where one side is more than 200 times the other. Returns (height, width).
    Graded: pictures of every shape, too large, too small, thin, other factors and limits; a side
    ratio of exactly 200, which is allowed, and of 201, which is not.
    """
    raise NotImplementedError("smart_resize: not started")


def matching_loss(
    head: nn.Linear,
    right: Float[Tensor, "batch tokens hidden"],
    wrong_text: Float[Tensor, "batch tokens_2 hidden"],
    wrong_image: Float[Tensor, "batch tokens hidden"],
) -> Float[Tensor, ""]:
    r"""The loss of image-text matching: does this text belong to this image?

    BLIP's fused encoder reads a text while it looks at an image. Its states come here three times:
    `right`, where the two belong together; `wrong_text`, each image with a text of another;
    `wrong_image`, each text with an image of another: hard negatives, B of each. Texts differ in
    length between the batches.

    $$L = -\frac{1}{3B} \sum_{n=1}^{3B} \log \text{softmax}(W h_n + b)_{y_n}$$

    - $h_n$: the state of the pair's *first* token, which BLIP puts there for this question; padding
      stands at the end.
    - `head`: a linear layer with two outputs; class 1 means that the two belong together.

    Returns a scalar tensor. Graded: the value and the gradients of all three; that no state but the
    first matters.
    """
    raise NotImplementedError("matching_loss: not started")


def mrope_position_ids(
    token_types: Int[Tensor, "batch tokens"],
    grids: Int[Tensor, "visuals 3"],
    attention_mask: Int[Tensor, "batch tokens"],
    merge: int = 2,
) -> Int[Tensor, "3 batch tokens"]:
    r"""Qwen2-VL's position ids: time, height and width of every token of mixed sequences.

    - `token_types`: `[batch, tokens]`, 0 for text and 1 for a visual (image or video).
    - `grids`: `[visuals, 3]`, time, height and width of each visual of the batch, in order, counted
      in *patches*; `merge` x `merge` patches are one token, and frames are not merged. A visual has
      $t \cdot (h / \text{merge}) \cdot (w / \text{merge})$ tokens, frame by frame, row by row.
    - `attention_mask`: `[batch, tokens]`, 1 for a token and 0 for padding, on either side.

    A text token has the same position in all three rows, and the next text token one more. A visual
    that starts at position $p$ gives its token in frame $f$, row $r$, column $c$ the positions
    $(p + f,\ p + r,\ p + c)$; an image is one frame. What follows a visual starts one past the
    *largest* position so far, in any of the three rows, as the paper has it (arXiv:2409.12191).
    Each sample starts at 0; padding does not count, and its positions are 0.

    Returns `[3, batch, tokens]`, int64, the rows in the order time, height, width. Graded: none, one
    and two images a sample, two without text between them, a video, padding on either side, `merge`
    of 1, 2 and 3.
    """
    raise NotImplementedError("mrope_position_ids: not started")


def first_patch() -> dict:
    r"""A model that answers questions about all parts of a picture but one: find the fault and mend it.

    `visual_features` was written for a tower from CLIP and now serves one from SigLIP. Nothing
    stops: the number of placeholders is taken from the shape of its result. (A public project has
    `image_context_length = 728` for a SigLIP tower of 27 x 27 patches.)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of
    `visual_features`: one row for *each* patch and none for anything else. Graded: the features
    and their gradients into the pixels, for SigLIP's tower and pictures of several shapes, wide
    and tall ones and a single patch too; and that CLIP's tower still loses its class token and
    nothing else.

    The log:

    ```text
    a picture of 6 x 6 coloured cells, one patch each; the question names a cell, the answer is its colour
    towers frozen, connector and head trained for 1500 steps, 64 pictures a batch
    tower from CLIP    patches [64, 24, 6, 6]  places [64, 37, 24]  into the connector [64, 36, 24]
    tower from SigLIP  patches [64, 24, 6, 6]  places [64, 36, 24]  into the connector [64, 35, 24]
    loss, mean of the last 50 steps: CLIP 0.004, SigLIP 0.079
    right answers by cell, 500 new pictures, tower from SigLIP (chance 0.20; from CLIP all above 0.97)
      0.23 1.00 1.00 1.00 1.00 1.00
      1.00 1.00 1.00 1.00 1.00 1.00
      1.00 1.00 1.00 1.00 1.00 1.00
      1.00 0.89 1.00 0.99 1.00 1.00
      1.00 1.00 1.00 1.00 1.00 1.00
      0.95 1.00 1.00 1.00 1.00 1.00
    ```

    The diagnosis is one of:

    - `"no_class_token"`: the tower has no class token: what is dropped as one is the first patch
    - `"class_token_kept"`: the class token goes to the language model as if it were a patch
    - `"patches_transposed"`: the patches are read column by column
    - `"one_position_short"`: the first patch has no position embedding
    - `"too_coarse"`: the patches are larger than the cells that the questions are about
    """

    raise NotImplementedError("first_patch: not started")


class GatedCrossAttention(CrossAttentionParts):
    r"""Flamingo's layer: the tokens of a frozen language model look at the images, through a gate.

    $$y = x + \tanh(a) \cdot \text{Attention}(\text{LN}(x), \text{images}), \qquad
      z = y + \tanh(b) \cdot \text{FFW}(y)$$

    - `__init__(hidden_size, vision_hidden_size, num_heads)`: the base class makes norm, projections
      (`q_proj`, `k_proj`, `v_proj`, `out_proj`) and `ffw`, which begins with a LayerNorm of its own.
      You add the gates, scalar parameters `attention_gate` (a) and `ffw_gate` (b). Both start at
      zero.
    - `forward(states, images, mask)`: `states` `[batch, tokens, hidden]`, `images`
      `[batch, places, vision]`, `mask` `[batch, tokens, places]`, True where a token may look.
      Queries come from the normalised states, keys and values from the images as they are. With
      heads of width $d$: $\text{softmax}(q k^\top / \sqrt{d})\, v$ over the image places, heads side
      by side in the order of the projections' rows, then `out_proj`.
    - A token that may look nowhere (there is no image before it) passes through unchanged, to the
      bit, whatever the gates are: no attention, and no feed-forward either.

    Returns `[batch, tokens, hidden]`. Graded: the start (unchanged to the bit; the gates alone get
    a gradient); values and gradients with open gates, for tokens that may look at no, one and two
    images; that what is masked does not matter. Alayrac et al., arXiv:2204.14198.
    """

    def __init__(self, hidden_size: int, vision_hidden_size: int, num_heads: int):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        raise NotImplementedError("GatedCrossAttention: not started")

    def forward(
        self,
        states: Float[Tensor, "batch tokens hidden"],
        images: Float[Tensor, "batch places vision"],
        mask: Bool[Tensor, "batch tokens places"],
    ) -> Float[Tensor, "batch tokens hidden"]:
        raise NotImplementedError("GatedCrossAttention: not started")
