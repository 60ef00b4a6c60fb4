"""What is seen of a run while it lives: from inside its processes, and from outside."""
