"""Promises that the repository keeps as a whole: imports, style, generated files, versions."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import labs
from labs.doctors import data as data_doctor
from labs.doctors import memory as memory_doctor

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {path.name for path in (ROOT / "labs").iterdir() if (path / "__init__.py").exists()}

# Anything may import these; they import nothing of labs but each other.
ROOTS = {"errors", "settings", "__version__"}
RANKS = (
    {"formats", "shapes", "losses", "evaluation", "grading", "doctors"},
    {"data", "models"},
    {"train", "suites", "serving"},
    {"zoo", "recipes", "bench", "cli"},
)
# Packages of the lower ranks that a package may use, where that is not all of them.
ONLY = {
    "doctors": {"formats"},
    "data": {"formats", "shapes"},
    "train": {"data", "models", "losses", "evaluation", "shapes", "formats"},
    "suites": {"data", "models", "evaluation", "losses", "shapes", "formats"},
    "serving": {"models", "formats"},
}
# The doctors' rooms, as their docstrings tell: what each may import of the others. A room is a folder,
# or a file that puts rooms together; the files beside them are shared by all and import none of them.
MEMORY_ROOMS = {
    "log": set(),
    "snapshot": set(),
    "follow": set(),
    "cuda": set(),
    "setup": set(),
    "trace": {"follow", "cuda", "setup"},
    "forecast": {"trace", "cuda", "setup"},
    "live": {"follow", "snapshot"},
    "death": {"live"},
    "guard": {"death", "live", "follow", "snapshot", "log"},
}
MEMORY_ROOMS["commands"] = set(MEMORY_ROOMS)
DATA_ROOMS = {
    "text": set(),
    "reading": set(),
    "images": set(),
    "tokens": {"images"},
    "survey": {"reading", "text", "images"},
    "gallery": {"survey", "reading", "text", "images"},
    "scores": {"gallery", "survey", "reading", "tokens"},
    "report": {"images"},
    "check": {"scores", "gallery", "survey", "text", "images", "tokens", "report"},
    "pictures": {"check", "gallery", "report"},
    "repair": {"text"},
    "fix": {"check", "reading", "text", "tokens", "repair", "report"},
}
DATA_ROOMS["commands"] = set(DATA_ROOMS)
MEMORY = ROOT / "labs" / "doctors" / "memory"
DATA = ROOT / "labs" / "doctors" / "data"
DOCTORS = {MEMORY: MEMORY_ROOMS, DATA: DATA_ROOMS}
# Where this clone and its owner happen to live has no place in a file that others read. Ada and Anna
# live in the doctors' tests only: their paths are what a report must not repeat.
PRIVATE_PATH = re.compile(
    rf"""(?:^|[\s"'(=:`])"""
    rf"""(?:{re.escape(str(ROOT))}\b|/root/\w|/(?:home|Users)/(?!(?:ada|anna)/)\w+/)"""
)


def rank(package: str) -> int:
    return next(number for number, packages in enumerate(RANKS) if package in packages)


def imported(source: str, package: str) -> Iterator[str]:
    """The parts of labs that a file of `labs/<package>` imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.ImportFrom) and node.level > 1 and package != "doctors":
            # What the doctor loads into other processes has another name there: dots must do.
            raise AssertionError(f"labs/{package}: write imports in full, not with dots")
        else:
            continue
        yield from {name.split(".")[1] for name in names if name.startswith("labs.")} - {package}


def imports_of(folder: Path = ROOT / "labs") -> dict[str, set[str]]:
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).parts
        package = parts[0] if len(parts) > 1 else path.stem
        found.setdefault(package, set()).update(imported(path.read_text(), package))
    return found


def forbidden(package: str, other: str) -> str | None:
    """Why `package` may not import `other`; None where it may."""
    if other in ROOTS:
        return None
    if package in ROOTS:
        return "is imported by all, so imports none"
    if other in ONLY.get(package, set()):
        return None
    if rank(other) > rank(package):
        return "points upwards"
    if package in ONLY:
        return f"may use only {', '.join(sorted(ONLY[package]))}"
    if rank(other) == rank(package) and rank(package) < len(RANKS) - 1:
        return "has the same rank"
    return None


def test_every_package_has_a_rank():
    assert set().union(*RANKS) >= PACKAGES


def test_imports_never_point_upwards():
    wrong = [
        f"labs.{package} imports labs.{other}: {why}"
        for package, others in imports_of().items()
        if package != "__init__"
        for other in others
        if (why := forbidden(package, other))
    ]
    assert wrong == []


def test_imports_have_no_circles():
    graph = {package: others - ROOTS for package, others in imports_of().items()}
    assert sum(map(len, graph.values())) > 5, "the reader of imports found hardly any"
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def rooms_imported(source: str, path: Path, doctor: Path) -> set[str]:
    """The rooms that a file of a doctor imports anything of, by full name or with dots."""
    package = path.relative_to(ROOT).parent.parts
    prefix = f"labs.doctors.{doctor.name}."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            stem = [*start, *([node.module] if node.module else [])]
            names = [".".join([*stem, alias.name]) for alias in node.names]
        else:
            continue
        found |= {name.split(".")[3] for name in names if name.startswith(prefix)}
    return found & set(DOCTORS[doctor])


def room_of(path: Path, doctor: Path) -> str:
    """The room of a file of a doctor; "" for what is shared by the rooms."""
    parts = path.relative_to(doctor).with_suffix("").parts
    return parts[0] if parts[0] in DOCTORS[doctor] else ""


@pytest.mark.parametrize("doctor", DOCTORS, ids=lambda doctor: doctor.name)
def test_a_doctors_rooms_import_downwards(doctor):
    rooms = DOCTORS[doctor]
    folders = {path.name for path in doctor.iterdir() if (path / "__init__.py").exists()}
    files = {room for room in rooms if (doctor / f"{room}.py").exists()}
    assert folders | files == set(rooms)
    TopologicalSorter(rooms).prepare()  # raises CycleError with the circle
    wrong, seen = [], set()
    for path in sorted(doctor.rglob("*.py")):
        room = room_of(path, doctor)
        for other in rooms_imported(path.read_text(), path, doctor) - {room}:
            seen.add((room, other))
            if other not in rooms.get(room, set()):
                wrong.append(f"{path.relative_to(doctor)} imports {other}")
    assert wrong == []
    unused = {(room, other) for room, others in rooms.items() for other in others} - seen
    assert {pair for pair in unused if pair[0] != "commands"} == set(), "allowed, but not needed"


def test_the_memory_doctor_tells_of_its_rooms():
    told = re.findall(r"^    (\w+)/ +\S.*?(?:   +([\w, ]+))?$", memory_doctor.__doc__, re.MULTILINE)
    assert {room: set(filter(None, others.split(", "))) for room, others in told} == {
        **MEMORY_ROOMS,
        "commands": {"all"},
    }


def test_the_data_doctor_tells_of_its_rooms():
    """In the order in which they stand on each other: whoever is told of later may use earlier ones."""
    _, *told = re.findall(r"^- ([\w, ]+): ", data_doctor.__doc__, re.MULTILINE)
    folders = [room for room in DATA_ROOMS if (DATA / room).is_dir()]
    assert sorted(told) == sorted(folders)
    for number, room in enumerate(told):
        assert DATA_ROOMS[room] & set(folders) <= set(told[:number])


@pytest.mark.parametrize(
    "source",
    [
        "from labs.doctors.memory.death import gpu",
        "from labs.doctors.memory import death",
        "import labs.doctors.memory.death.gpu",
        "from ..death import gpu",
        "from .. import death",
        "from ..death.gpu import gpu_finding",
        "def f():\n    from labs.doctors.memory.death.gpu import gpu_finding",
    ],
)
def test_a_wrong_import_between_rooms_is_noticed(source):
    assert rooms_imported(source, MEMORY / "live" / "diary.py", MEMORY) == {"death"}
    assert rooms_imported(source, DATA / "text" / "turns.py", DATA) == set()


@pytest.mark.parametrize(
    ("package", "other"),
    [("losses", "models"), ("formats", "shapes"), ("models", "data"), ("data", "losses")],
)
def test_a_wrong_import_is_noticed(package, other):
    source = f"def f():\n    from labs.{other} import x\n"
    assert [forbidden(package, found) is not None for found in imported(source, package)] == [True]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def repository_files() -> list[Path]:
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments):
    result = run(sys.executable, "-m", "ruff", *arguments, ".")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr


def test_no_file_names_a_private_path():
    found = []
    for path in repository_files():
        if path == Path(__file__) or "vendor" in path.parts:
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        here = path.relative_to(ROOT)
        found += [
            f"{here}:{n}: {line}" for n, line in enumerate(lines, 1) if PRIVATE_PATH.search(line)
        ]
    assert found == []


@pytest.mark.parametrize("text", ['open("/root/x")', "see /home/berta/run", f" {ROOT}/labs"])
def test_a_private_path_is_noticed(text):
    assert PRIVATE_PATH.search(text)


def test_generated_exercises_are_current():
    result = run(sys.executable, "-m", "labs.grading.generate", "--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_version_and_changelog_agree():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == labs.__version__


def test_constraints_are_exact():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert [
        pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin)
    ] == []
    names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
    assert len(names) == len(set(names))


def test_every_dependency_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    names = {re.split(r"[;=<> ]", entry)[0].lower() for entry in wanted}
    assert [name for name in sorted(names) if f"\n{name}==" not in pins] == []


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)[1]
    targets = [t for t in phony.replace("\\\n", " ").split() if not t.startswith("setup-")]
    told = run("make", "--no-print-directory").stdout
    assert [t for t in targets if not re.search(rf"^  make {t} +\S", told, re.MULTILINE)] == []


def test_scripts_stop_at_the_first_error():
    assert "set -euo pipefail" in (ROOT / ".ci" / "run").read_text()
    assert ".SHELLFLAGS := -euo pipefail -c" in (ROOT / "Makefile").read_text()
    scripts = [path for path in repository_files() if path.suffix == ".sh"]
    assert [p.name for p in scripts if "set -euo pipefail" not in p.read_text()] == []
