"""One step of a plan, run on fake tensors: every allocation and every free of it."""
