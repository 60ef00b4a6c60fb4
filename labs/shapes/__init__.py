"""The offline world: scenes with known objects, drawn, described and asked about.

The ground truth is the oracle for every metric, reward and judge of the book. Nothing here is
downloaded; handwritten digits come from scikit-learn.
"""

from labs.shapes.language import caption
from labs.shapes.oracle import Judgement, is_correct, judge, mentions, parse_yes_no
from labs.shapes.render import render
from labs.shapes.scene import Object, Scene, sample_digit_scene, sample_scene, split_of
from labs.shapes.tasks import QA, TASKS
from labs.shapes.world import Mix, add_partner, make_record, seeded, stream_record, write_dataset

__all__ = [
    "QA",
    "TASKS",
    "Judgement",
    "Mix",
    "Object",
    "Scene",
    "add_partner",
    "caption",
    "is_correct",
    "judge",
    "make_record",
    "mentions",
    "parse_yes_no",
    "render",
    "sample_digit_scene",
    "sample_scene",
    "seeded",
    "split_of",
    "stream_record",
    "write_dataset",
]
