"""`--fix`: a cleaned copy of a training set and a log of each change. The original is never touched."""
