"""A pytest plugin beside nbval: keeps what each cell printed, and shows how far each page is.

nbval runs the cells and fails on errors, but throws the outputs away. With this plugin one run is
both the test of a page and the source of what the book shows.
"""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ANSI = re.compile(r"\x1b\[[0-9;]*m")
EXECUTED = "executed.ipynb"
FAILURES = "failures.json"


def pytest_addoption(parser):
    parser.addoption("--record", help="the folder that holds one folder for each page")


def pytest_configure(config):
    if config.getoption("--record") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Watcher(Path(config.getoption("--record"))))


def pytest_runtest_setup(item):
    if getattr(item.parent, "broken", False):
        pytest.skip("an earlier cell of this page failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" and hasattr(item, "cell"):
        if report.failed:
            item.parent.broken = True
            errors = [o for o in item.test_outputs or [] if o.output_type == "error"]
            message = (
                f"{errors[-1].ename}: {errors[-1].evalue}" if errors else str(call.excinfo.value)
            )
            trace = "\n".join(errors[-1].traceback) if errors else ""
            report.user_properties += [("source", item.cell.source), ("error", message)]
            report.user_properties += [("traceback", ANSI.sub("", trace))]
        else:
            keep(item, call.duration)
    return report


def keep(item, seconds: float) -> None:
    """Puts the outputs into the notebook; after its last cell, writes it beside the original."""
    notebook = item.parent.nb
    item.cell.outputs = [nbformat.from_dict(dict(output)) for output in item.test_outputs]
    item.cell.execution_count = item.cell_num + 1
    item.cell.metadata["seconds"] = round(seconds, 2)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if item.cell_num == len(code_cells) - 1:
        nbformat.write(notebook, Path(item.path).with_name(EXECUTED))


class Watcher:
    """Lives in the main process: one progress bar a page, and the failures as JSON."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.failures = []
        console = Console(file=sys.stderr)
        self.plain = not console.is_terminal
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description:24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            console=console,
        )
        self.tasks = {}
        for path in sorted(folder.glob("*/*.ipynb")):
            cells = nbformat.read(path, as_version=4).cells
            total = sum(cell.cell_type == "code" for cell in cells)
            name = path.parent.name
            self.tasks[name] = self.progress.add_task(name, total=total, start=False)

    def pytest_sessionstart(self):
        if not self.plain:
            self.progress.start()

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and not report.failed:
            return
        page = Path(report.nodeid.split("::")[0]).parent.name
        task = self.tasks[page]
        self.progress.start_task(task)
        if report.failed:
            found = dict(report.user_properties)
            self.failures.append(
                {
                    "page": page,
                    "cell": report.nodeid.rsplit(" ", 1)[-1],
                    "source": found.get("source", ""),
                    "error": found.get("error", ANSI.sub("", str(report.longrepr))),
                    "traceback": found.get("traceback", ""),
                }
            )
        self.progress.advance(task)
        state = self.progress.tasks[task]
        if self.plain and (report.failed or state.completed == state.total):
            word = "failed" if report.failed else "executed"
            self.console.print(f"{page}: {word}, {state.completed:.0f}/{state.total:.0f} cells")

    def pytest_sessionfinish(self):
        if not self.plain:
            self.progress.stop()
        (self.folder / FAILURES).write_text(json.dumps(self.failures, indent=1))
