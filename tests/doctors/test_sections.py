"""Where a doctor sends its reader is a heading of the book."""

import re
from pathlib import Path

import pytest

from labs.doctors.memory.causes import CAUSES
from labs.doctors.memory.remedies import REMEDIES

CHAPTERS = Path(__file__).resolve().parents[2] / "chapters"
NAMED = {x.section for x in (*CAUSES.values(), *REMEDIES.values()) if x.section}


@pytest.mark.parametrize("section", sorted(NAMED))
def test_every_section_that_a_doctor_names_is_there(section):
    number, _, heading = section.partition(" ")
    [page] = CHAPTERS.glob(f"{number}_*/page.md")
    assert heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
