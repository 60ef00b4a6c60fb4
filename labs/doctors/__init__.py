"""Doctors: tools that look at a training run that died, is dying, or has not started yet.

They work on scripts that know nothing of this repository. What reads files needs only Python's
standard library (3.9 or newer); nothing here imports torch until a command needs it.
"""
