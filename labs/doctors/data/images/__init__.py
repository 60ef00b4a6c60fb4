"""The pictures of a data set: opened in children under limits of time and memory, and compared.

- first_bytes: what a file is that is no image; verdict: what was found out about one picture;
- source: where the bytes come from; look: one picture, looked at in this process; child, process,
  pool: many, in children that may die of them;
- near: pictures that look alike; sizes: histograms.

Needs Pillow, the same that training opens pictures with. Python 3.9 or newer.
"""

from labs.doctors.data.images.near import groups, leaks, near_duplicates
from labs.doctors.data.images.pool import check_images, unavailable
from labs.doctors.data.images.sizes import Sizes
from labs.doctors.data.images.source import header_size
from labs.doctors.data.images.verdict import ImageVerdict

__all__ = [
    "ImageVerdict", "Sizes", "check_images", "groups", "header_size", "leaks", "near_duplicates", "unavailable",
]  # fmt: skip
