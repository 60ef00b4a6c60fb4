"""`data_doctor.py check PATH` and `labs data check PATH`: one function, from arguments to exit code.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from labs.doctors.data.commands.arguments import options_of, parser
from labs.doctors.data.commands.progress import Progress
from labs.errors import InputError


def run(arguments: list[str], program: str) -> int:
    """Check what `arguments` name; returns 0 or 1 (see arguments.EXIT_CODES).

    program: how this command is called, as "data_doctor.py check". Raises InputError for bad input.
    """
    given = parser(program).parse(arguments)
    options = options_of(given)

    # Imported here, so that --help and a mistyped option are answered at once.
    from labs.doctors.data.check import examine
    from labs.doctors.data.fix import check_fixable, fix
    from labs.doctors.data.repair.target import check_target, is_file_name
    from labs.doctors.data.report.redaction import redacted
    from labs.doctors.data.report.terminal import show
    from labs.doctors.data.report.words import next_command
    from labs.formats.sniff import sniff

    if given.html:
        _check_writable(given.html)
    if given.fix:
        check_target(options.path, Path(given.fix))
        check_fixable(sniff(options.path, options.image_root))
        if given.copy_images and is_file_name(Path(given.fix)):
            raise InputError(
                f"--copy-images needs a folder, and {given.fix} (--fix) names a file.",
                "Give the name of a folder.",
            )
    with Progress() as progress:
        examined = examine(options, progress)
        report = examined.report
        if given.fix:
            out = Path(given.fix)
            report = fix(examined, out, given.fix_semantic, given.copy_images, progress)
        if given.html:
            from labs.doctors.data.pictures import pictures_of
            from labs.doctors.data.report.html import write_html

            shown = redacted(report) if given.redact else report
            named = next_command(shown, report.path, program)
            write_html(given.html, shown, pictures_of(examined, progress), named)
    # The person's own words for the path: the command is to be copied and run.
    following = next_command(report, given.path, program, given.image_root)
    told = redacted(report) if given.redact else report
    if given.json:
        print(told.to_json())
    else:
        # Where the copy is, too, stands in the person's own words.
        show(dataclasses.replace(told, fixed=report.fixed), following)
        if given.html:
            print(f"\nWritten: {given.html}")
    sys.stdout.flush()
    return 1 if report.reaches(given.fail_on) else 0


def _check_writable(path: str) -> None:
    """Say at once, not after an hour, that the page has no place to go."""
    target = Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(
            f"The page {path} cannot be written: "
            + ("it is a folder." if target.is_dir() else "its folder does not exist."),
            "Name a file in a folder that exists and that you may write to.",
        )
