"""The sentences that terminal and page share. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import shlex

from labs.doctors.data.report.report import Finding, Report

FORMATS = {
    "llava": "LLaVA conversations",
    "coco": "COCO captions",
    "pairs": "image and text pairs",
    "preference": "preference pairs",
    "qilin": "Qilin search",
    "mmbench": "MMBench TSV",
    "pope": "POPE",
    "mme": "MME",
    "webdataset": "WebDataset shards",
}


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 sample`, `2,000 samples`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share that is not nought never reads as 0 %, one that is not all never as 100 %."""
    if not 0 < share < 1:
        return f"{share:.0%}".replace("%", " %")
    if share < 0.001:
        return "< 0.1 %"
    return f"{min(share, 0.999):.1%}".replace("%", " %")


def headline(report: Report) -> str:
    """The first line: the verdict, and how much of what was found."""
    size = counted(report.facts.get("samples", 0), "sample")
    errors, warnings, notes = (report.of(s) for s in ("error", "warning", "note"))
    rest = [counted(len(notes), "note")] if notes else []
    if warnings:
        rest.insert(0, f"{counted(len(warnings), 'kind')} of warning")
    if errors:
        total = counted(sum(finding.count for finding in errors), "time")
        said = f"Not fit to train on: {counted(len(errors), 'kind')} of error, found {total}"
        return "; ".join([said, ", ".join(rest)] if rest else [said]) + f". {size} checked."
    if warnings:
        return f"No error, but {', '.join(rest)}. {size} checked."
    if notes:
        return f"No error and no warning; {rest[0]}. {size} checked."
    return f"Nothing found. {size} checked."


def extent(finding: Finding) -> str:
    """How far a fault reaches: the samples that it concerns and their share, where that is known."""
    if not finding.samples:
        return ""
    return f"{counted(finding.samples, 'sample')}, {percent(finding.share)}"


def next_command(report: Report, path: str, program: str, image_root: str | None = None) -> str:
    """The command that comes next, or nothing: the cleaned copy where it mends what is wrong.

    path, image_root: as the person wrote them; program: "data_doctor.py check".
    """
    if report.fixed:
        out, root = report.fixed["out"], report.fixed["image_root"]
        return _command(program, out, None if root == out else root, "")
    mendable = [f for f in report.findings if f.repair != "keep" and not f.semantic]
    if not mendable or report.facts.get("format") not in FIXABLE:
        return ""
    return _command(program, path, image_root, " --fix cleaned")


def cleaned(report: Report) -> list[str]:
    """What `--fix` wrote, in sentences; nothing where it was not asked for."""
    fixed = report.fixed
    if not fixed:
        return []
    said = [
        f"{fixed['out']}: {counted(fixed['kept'], 'sample')} as they were, {fixed['mended']:,} mended, "
        f"{fixed['removed']:,} removed. Each change: {fixed['log']}",
    ]
    if fixed["image_root"]:
        said.append(f"The folder of its images: {fixed['image_root']}")
    if fixed["errors_left"]:
        said.append(f"Errors that no repair mends: {', '.join(fixed['errors_left'])}.")
    else:
        said.append("A second look finds no error in it.")
    return said


def _command(program: str, path: str, image_root: str | None, rest: str) -> str:
    root = f" --image-root {shlex.quote(image_root)}" if image_root else ""
    return f"{program} {shlex.quote(path)}{root}{rest}"


# Formats of which `--fix` can write a cleaned copy.
FIXABLE = ("llava", "pairs", "preference", "pope")
