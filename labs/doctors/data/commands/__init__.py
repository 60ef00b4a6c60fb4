"""The command line of the data doctor, for `tools/data_doctor.py` and for `labs data check`."""
