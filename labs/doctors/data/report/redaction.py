"""A Report without home folders, addresses of people, and secrets.

Milder than `labs.doctors.redact`, which is made for logs: there the texts of the data set are what
must go, here they are what the report is about. Names of files stay, hexadecimal ones too: a person
looks for the sample by them.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from labs.doctors.data.report.report import Report
from labs.doctors.redact import BEARER, EMAIL, POSIX, SECRETS, SYSTEM, WINDOWS, shorter_path

# A home folder in the middle of a relative path, as `../../home/ada/pictures/1.jpg`.
HOME = re.compile(r"[^\s\"'<>|]*(?:^|(?<=[\s\"'<>|/\\]))\.\.[\\/][^\s\"'<>|]*", re.M)
WEB = re.compile(
    r"\b([a-z][a-z0-9+.\-]{1,12})://(?:[^\s/\"'@]*@)?([^\s\"'?#]*)([?#][^\s\"']*)?", re.I
)


def redact_text(text: str) -> str:
    """`text` without secrets, mail addresses, and the folders of absolute and outward paths.

    A web address loses what signs it: the user's name before the host, and the query.
    """
    for pattern in SECRETS:
        text = pattern.sub("<secret>", text)
    text = BEARER.sub(r"\1 <secret>", text)
    kept: list[str] = []

    def keep(match: re.Match) -> str:
        # Addresses are set aside, so that the rules for paths leave them whole.
        scheme, rest, query = match.groups()
        kept.append(f"{scheme}://{rest}" + ("?<query>" if query else ""))
        return f"\x00{len(kept) - 1}\x00"

    text = WEB.sub(keep, text.replace("\x00", "\\x00"))
    text = EMAIL.sub("<email>", text)
    text = HOME.sub(_outward, text)
    text = POSIX.sub(shorter_path, WINDOWS.sub(shorter_path, text))
    return re.sub(r"\x00(\d+)\x00", lambda match: kept[int(match.group(1))], text)


def _outward(match: re.Match) -> str:
    path = match.group(0)
    return path if SYSTEM.match(path) else shorter_path(match)


def redacted(report: Report) -> Report:
    """The same report with every text of it redacted, but for the doctor's own sentences."""
    findings = [
        dataclasses.replace(
            finding,
            examples=[
                dataclasses.replace(
                    example,
                    **{
                        name: _value(getattr(example, name))
                        for name in ("place", "file", "member", "id", "detail", "image")
                    },
                )
                for example in finding.examples
            ],
        )
        for finding in report.findings
    ]
    return dataclasses.replace(
        report,
        path=_value(report.path),
        findings=findings,
        facts=_value(report.facts),
        checked=[(what, _value(how)) for what, how in report.checked],
        unchecked=_value(report.unchecked),
        fixed=_value(report.fixed),
    )


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(item) for item in value]
    return value
