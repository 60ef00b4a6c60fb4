"""What the pages' cells share: numbers for the text, tables, library code, pictures, records."""

import base64
import inspect
import io
import json
import warnings

import torch
from IPython.display import Markdown
from myst_nb import glue
from PIL import Image
from transformers.utils import logging as transformers_logging

from book.measure import RECORDS, is_current


def quiet() -> None:
    """One thread, as the budgets are counted, and no chatter that a reader cannot act on."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="IProgress not found")
    warnings.filterwarnings("ignore", category=FutureWarning)


def tell(name: str, value) -> None:
    """Keep a number of this run for the text (`glue` prints numpy's numbers with their type)."""
    glue(name, value.item() if hasattr(value, "item") else value, display=False)


def pretty(frame, formats="{}", index: bool = True):
    """A pandas table for the page."""
    style = frame.style.format(formats).set_table_attributes('class="dataframe"')
    return style if index else style.hide(axis="index")


def source(thing) -> Markdown:
    """Library code, shown as it is."""
    return Markdown(f"```python\n{inspect.getsource(thing)}```")


def picture(image: Image.Image, width: int = 96) -> str:
    """A picture as an HTML tag that stays crisp when enlarged. width: CSS pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    style = f"width:{width}px;min-width:{width}px;image-rendering:pixelated;border-radius:4px"
    return f'<img alt="a scene" style="{style}" src="data:image/png;base64,{data}">'


def recorded(name: str) -> tuple[dict, Markdown]:
    """Results of a measurement that takes too long for a page, and a line on where they come from."""
    path = RECORDS / f"{name}.json"
    record = json.loads(path.read_text())
    seed = record["seed"]
    seeds = ", ".join(map(str, seed)) if isinstance(seed, list) else seed
    age = "" if is_current(path) else " **The code has changed since.**"
    return record["results"], Markdown(
        f"*Recorded measurement* `{name}`, {record['date']}, commit {record['commit'][:7]}, "
        f"seed {seeds}, {record['hardware']['cpu']}, torch {record['versions']['torch']}.{age}"
    )
