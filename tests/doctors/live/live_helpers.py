"""What a run of the doctor in the tests leaves behind, and the tiny training program."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCTOR = ROOT / "tools" / "oom_doctor.py"

PROGRAM = """\
import sys, time, torch
from torch import nn
torch.manual_seed(0); torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
optimizer = torch.optim.AdamW(model.parameters())
def step(size=32):
    loss = model(torch.randn(size, 64)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@dataclass
class Done:
    code: int
    out: str
    err: str
    home: Path

    @property
    def folder(self) -> Path:
        return sorted((self.home / "runs").iterdir())[-1]

    @property
    def report(self) -> dict:
        return json.loads((self.folder / "report.json").read_text())

    @property
    def cause(self) -> dict:
        return self.report["findings"][0]

    @property
    def evidence(self) -> str:
        return "\n".join(e["text"] for e in self.cause["evidence"])


def environment(tmp_path, **changes):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return {**kept, "OOM_DOCTOR_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", **changes}
