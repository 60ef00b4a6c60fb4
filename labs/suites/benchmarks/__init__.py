"""Public benchmarks, read from the files that they are published in."""

from labs.suites.benchmarks.mmbench import MMBench
from labs.suites.benchmarks.mme import Mme
from labs.suites.benchmarks.pope import Pope
from labs.suites.benchmarks.vqa import VqaV2
from labs.suites.benchmarks.write_world import WorldFiles, write_world

__all__ = ["MMBench", "Mme", "Pope", "VqaV2", "WorldFiles", "write_world"]
