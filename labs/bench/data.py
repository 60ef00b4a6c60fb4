"""The data doctor at full size: 665,000 samples read and checked, and pictures against a bare decode loop.

The structure check runs as a person runs it (`data_doctor.py check data.json --no-images`), on all
cores, on a LLaVA JSON of the world with a picture file of its own for each sample. Its memory is the
largest sum of the resident memory of all its processes, looked at ten times a second (pages that they
share are counted once for each: an upper bound).

Pictures: the doctor and a loop that does nothing but `Image.open(path).load()` take turns on the same
JPEGs, with the same number of processes each; the bare loop's processes are started beforehand, the
doctor starts its own each time. The ratio is taken within a round.
"""

import functools
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from labs.bench.children import (
    ROOT,
    BenchError,
    Progress,
    interleave,
    medians,
    ratio,
    serve,
    spread,
)
from labs.bench.record import READING

SAMPLES, PICTURES, SEED = 665_000, 1000, 0
SECONDS, MEGABYTES, SPEED = 60.0, 500, 0.8  # what is wanted
PROCESSES = 2
TOOL = ROOT / "tools" / "data_doctor.py"
CODE = (
    "labs/bench/data.py", "labs/bench/children.py", "labs/doctors/data", *READING,
    "tools/data_doctor.py",
)  # fmt: skip


def run(repeats: int = 3, quick: bool = False, progress: Progress | None = None) -> dict:
    """Returns {"setting": …, "structure": {"samples", "file_mb", "seconds": [one a run], "peak_mb",
    "verdict", "findings"}, "images": {"a_second": {"bare", "doctor"}, "against_bare", "spread"}}."""
    say = progress or (lambda _: None)
    samples, pictures = (4000, 60) if quick else (SAMPLES, PICTURES)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        say(f"writing {samples:,} samples with their pictures")
        write_set(folder, samples)
        checks = []
        for number in range(1 if quick else repeats):
            say(f"structure, run {number + 1}")
            checks.append(check_structure(folder / "data.json"))
        structure = {
            "samples": samples,
            "file_mb": (folder / "data.json").stat().st_size / 1e6,
            "seconds": [check["seconds"] for check in checks],
            "peak_mb": max(check["peak_mb"] for check in checks),
            "verdict": checks[-1]["verdict"],
            "findings": checks[-1]["findings"],
        }
    with tempfile.TemporaryDirectory() as place:
        say(f"writing {pictures:,} JPEGs")
        for index in range(pictures):
            photograph(index).save(Path(place, f"{index:05d}.jpg"), quality=85)
        rounds = interleave(
            "labs.bench.data",
            ("bare", "doctor"),
            {"folder": place},
            turns=2 if quick else 2 * repeats,
            name="pictures",
            progress=progress,
        )[1]
    return {
        "setting": {"processes": PROCESSES, "pictures": pictures, "size": [640, 480]},
        "structure": structure,
        "images": {
            "a_second": {way: pictures / s for way, s in medians(rounds, "seconds").items()},
            "against_bare": ratio(rounds, "seconds", "bare", "doctor"),
            "spread": list(spread(rounds, "seconds", "bare", "doctor")),
        },
    }


def write_set(folder: Path, samples: int) -> None:
    """`folder`/data.json and one PNG a sample, made by two processes."""
    (folder / "images").mkdir()
    parts = [(start, min(start + 5000, samples)) for start in range(0, samples, 5000)]
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(PROCESSES) as pool,
        open(folder / "data.json", "w", encoding="utf-8") as file,
    ):
        file.write("[\n")
        write = functools.partial(write_part, str(folder))
        for number, text in enumerate(pool.imap(write, parts)):
            file.write((",\n" if number else "") + text)
        file.write("\n]\n")


def write_part(folder: str, part: tuple[int, int]) -> str:
    """Save the pictures of a stretch of samples; its records as the inside of a JSON list."""
    from labs.shapes import Mix, stream_record

    mix, rows = Mix(turns=5), []
    for index in range(*part):
        built = stream_record(mix, index, "train", SEED)
        name = f"images/{index // 1000:04d}-{index:07d}.png"
        built["image"].save(Path(folder, name), compress_level=1)
        row = {"id": f"{index:07d}", "image": name, "conversations": built["conversations"]}
        rows.append(json.dumps(row, ensure_ascii=False))
    return ",\n".join(rows)


def check_structure(file: Path) -> dict:
    """One run of the doctor on a file: wall seconds, peak memory of all its processes, what it found."""
    import psutil

    command = [sys.executable, str(TOOL), "check", str(file), "--no-images", "--json"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=out, stderr=errors, cwd=file.parent)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(watched))
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        out.seek(0)
        errors.seek(0)
        if process.returncode not in (0, 1):
            raise BenchError(f"the doctor ended with {process.returncode}: {errors.read()[-2000:]}")
        report = json.load(out)
    findings = {finding["kind"]: finding["count"] for finding in report["findings"]}
    return {"seconds": seconds, "peak_mb": peak / 1e6, "verdict": report["verdict"], "findings": findings}  # fmt: skip


def resident(process) -> int:
    """Bytes of resident memory of a process and all its descendants."""
    import psutil

    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def photograph(index: int):
    """A picture with the bytes of a photograph: soft shapes at several scales, and grain."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng((SEED, index))
    pixels = np.zeros((480, 640, 3))
    for cells, weight in ((4, 60), (16, 30), (64, 12)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += weight * (
            np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)) / 128.0 - 1
        )
    pixels += rng.normal(0, 5, pixels.shape)
    return Image.fromarray(np.clip(128 + pixels, 0, 255).astype(np.uint8))


def decode(path: str) -> tuple[int, int]:
    """All that the bare loop does with a picture."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image.size


def _child(way: str, folder: str) -> None:
    files = sorted(str(path) for path in Path(folder).iterdir())
    if way == "bare":
        pool = multiprocessing.get_context("spawn").Pool(PROCESSES)
        pool.map(decode, files[: 4 * PROCESSES], chunksize=1)  # imports done, codecs loaded

        def measure():
            start = time.perf_counter()
            seen = sum(1 for _ in pool.imap_unordered(decode, files, chunksize=16))
            return {"seconds": time.perf_counter() - start, "seen": seen}
    else:
        from labs.doctors.data.images import check_images
        from labs.doctors.data.options import Options

        options = Options(path=Path(folder), workers=PROCESSES)

        def measure():
            start = time.perf_counter()
            verdicts = [verdict for _, verdict in check_images([(f, f) for f in files], options)]
            seconds = time.perf_counter() - start
            if any(verdict.problems for verdict in verdicts):
                raise BenchError("a sound picture was found faulty")
            return {"seconds": seconds, "seen": len(verdicts)}

    serve(measure)


def tables(result: dict) -> list:
    """Both halves, each with what is wanted."""
    from rich.table import Table

    structure, images = result["structure"], result["images"]
    table = Table(title="The data doctor at full size")
    for column in ("what", "measured", "wanted"):
        table.add_column(column)
    seconds = ", ".join(f"{s:.1f}" for s in structure["seconds"])
    size = f"{structure['samples']:,} samples, {structure['file_mb']:,.0f} MB"
    table.add_row(f"structure of {size}: seconds", seconds, f"below {SECONDS:g}")
    table.add_row(
        "memory of all processes, MB", f"{structure['peak_mb']:,.0f}", f"below {MEGABYTES}"
    )
    table.add_row("found there", str(structure["findings"] or "nothing"), "nothing above a note")
    speeds = images["a_second"]
    table.add_row(
        "pictures a second: doctor / bare loop",
        f"{speeds['doctor']:,.0f} / {speeds['bare']:,.0f} = {images['against_bare']:.2f}",
        f"at least {SPEED:g}",
    )
    return [table]


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
