"""`labs data check`: the data doctor, as `tools/data_doctor.py check` runs it."""

import typer

# The doctor reads its own command line, so that both ways in take the same options.
SETTINGS = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


def check(context: typer.Context):
    """Check a training set: unreadable images, broken turns, leaks, duplicates; --fix cleans."""
    from labs.doctors.data.commands.check import run

    return run(context.args, "labs data check")
