"""nanoVLM's training step at its published batch sizes, traced whole on fake tensors."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import torch  # noqa: E402
from nanovlm_trace import PUBLISHED, trace_step  # noqa: E402

torch.set_num_threads(1)


def main() -> None:
    rows = []
    for batch in (1, 4, 8, 16, 32, 64, 256):
        found = trace_step(batch)
        rows.append({"batch": batch, "published": PUBLISHED[batch], **found})
        print(rows[-1], file=sys.stderr)
    here = "chapters/ch09_oom"
    code = [f"{here}/nanovlm.py", f"{here}/nanovlm_trace.py", f"{here}/measure_ch09_nanovlm.py"]
    code += ["labs/doctors/memory/follow", "labs/doctors/memory/cuda"]
    code += ["labs/doctors/memory/trace/fakes.py"]
    print(json.dumps({"seed": 0, "code": code, "results": {"rows": rows}}))


if __name__ == "__main__":
    main()
