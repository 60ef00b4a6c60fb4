"""Grades a learner's answers: `pytest chapters/ch03_sft [--answers PATH]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

pytest_plugins = ["labs.grading.plugin"]
