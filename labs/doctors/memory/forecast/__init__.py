"""From traces of a plan to what a run will need, what it fits, and what to change."""
