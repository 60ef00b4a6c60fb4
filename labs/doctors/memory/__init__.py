"""The memory doctor: what a run will need, what it needs now, and why it died."""
