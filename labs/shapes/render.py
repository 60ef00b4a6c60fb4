"""Draws a scene at any resolution: shapes drawn four times too large and averaged down, plus grain."""

import math

import numpy as np
from PIL import Image, ImageDraw

from labs.shapes.digits import digit_image
from labs.shapes.scene import RADIUS, Object, Scene
from labs.shapes.vocabulary import RGB

OVERSAMPLE = 4
GRAIN = 4  # standard deviation of the grain, in grey levels
INK = (25, 25, 35)


def render(scene: Scene, resolution: int = 48) -> Image.Image:
    """The scene as an RGB image of resolution x resolution pixels. The same scene, the same pixels."""
    side = resolution * OVERSAMPLE
    canvas = Image.new("RGB", (side, side), (scene.background,) * 3)
    draw = ImageDraw.Draw(canvas)
    for obj in scene.objects:
        _draw_object(draw, obj, side, scene.background)
    image = canvas.resize((resolution, resolution), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.float32)
    if scene.digits:
        pixels = _write_digits(pixels, scene, resolution)
    grain = np.random.default_rng(scene.noise).normal(0, GRAIN, (resolution, resolution, 1))
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def _draw_object(draw: ImageDraw.ImageDraw, obj: Object, side: int, background: int) -> None:
    x, y = (c * side for c in obj.centre)
    r = RADIUS[obj.size] * side
    fill = RGB[obj.colour]
    if obj.kind == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif obj.kind == "square":
        s = r * 0.88
        draw.rectangle((x - s, y - s, x + s, y + s), fill=fill)
    elif obj.kind == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r * 0.85), (x - r, y + r * 0.85)], fill=fill)
    elif obj.kind == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        h = r * 0.5
        draw.ellipse((x - h, y - h, x + h, y + h), fill=(background,) * 3)
    elif obj.kind == "cross":
        w = r * 0.32
        draw.rectangle((x - r, y - w, x + r, y + w), fill=fill)
        draw.rectangle((x - w, y - r, x + w, y + r), fill=fill)
    else:  # star
        points = []
        for k in range(10):
            reach = r * (1.1 if k % 2 == 0 else 0.42)
            angle = -math.pi / 2 + k * math.pi / 5
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(points, fill=fill)


def _write_digits(pixels: np.ndarray, scene: Scene, resolution: int) -> np.ndarray:
    """Blends handwritten digits into the picture, side by side, moved a little by the grain's seed."""
    count = len(scene.digits)
    size = int(resolution * (0.62 if count == 1 else 0.9 / count))
    rng = np.random.default_rng(scene.noise + 1)
    slack = (resolution - size * count) // 2
    shift = max(1, slack // 2)
    left = slack + int(rng.integers(-shift, shift + 1))
    top = (resolution - size) // 2 + int(rng.integers(-shift, shift + 1))
    for k, index in enumerate(scene.digits):
        ink = Image.fromarray((digit_image(index) * 255).astype(np.uint8))
        alpha = np.asarray(ink.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
        x = left + k * size
        patch = pixels[top : top + size, x : x + size]
        pixels[top : top + size, x : x + size] = (
            patch * (1 - alpha[..., None]) + np.array(INK, np.float32) * alpha[..., None]
        )
    return pixels
