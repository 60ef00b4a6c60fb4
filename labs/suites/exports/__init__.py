"""Results in the layouts that other evaluation kits read."""

from labs.suites.exports.lmms_eval import write_lmms_eval
from labs.suites.exports.vlmevalkit import write_vlmevalkit

__all__ = ["write_lmms_eval", "write_vlmevalkit"]
