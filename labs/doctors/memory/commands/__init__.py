"""The command lines of `oom_doctor.py`, one file a command; each is imported only when asked for."""
