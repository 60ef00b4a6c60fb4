"""For the author of a program: an out-of-memory that explains itself, and trainers' callbacks."""
