"""What is alive in this process: every storage followed from its allocation to its end."""
