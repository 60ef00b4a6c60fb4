"""The words of a data set: turns and answers, copies, leaks, and what its image references point to."""
