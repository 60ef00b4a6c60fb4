"""A new instruction learnt with every memory saver: peak bytes, seconds a step, loss afterwards."""

import json
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(ROOT / "chapters" / "ch03_sft")]

import bitsandbytes as bnb  # noqa: E402
import torch  # noqa: E402
from lessons import list_the_colours  # noqa: E402
from workbench import checkpointed, chunked_loss, plain_loss, train  # noqa: E402

from labs.data import Collator, ConversationDataset  # noqa: E402
from labs.models import load_vlm  # noqa: E402
from labs.train import LoraSettings, TrainConfig  # noqa: E402
from labs.train.methods import apply_method  # noqa: E402

STEPS, SAMPLES, HELD_OUT = 40, 16, 64
torch.set_num_threads(1)
warnings.filterwarnings("ignore")


def adamw(rate):
    def make(model):
        trainable = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0, foreach=False)

    return make


def adamw_8bit(model):
    trainable = [p for p in model.parameters() if p.requires_grad]
    return bnb.optim.AdamW8bit(trainable, lr=1e-3, weight_decay=0.0)


def with_method(name):
    def change(model):
        config = TrainConfig(method=name, lora=LoraSettings(r=8, alpha=16.0))
        apply_method(model, config)
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_("lora" in parameter_name)
        return model

    return change


WAYS = {
    "plain": {},
    "4 micro-batches": {"micro_batches": 4},
    "checkpointing": {"change": checkpointed},
    "chunked loss": {"loss": chunked_loss},
    "8-bit AdamW": {"optimizer": adamw_8bit},
    "LoRA": {"change": with_method("lora"), "optimizer": adamw(1e-2)},
    "QLoRA": {"change": with_method("qlora"), "optimizer": adamw(1e-2)},
    "checkpointing + chunked loss + 8-bit": {
        "change": checkpointed,
        "loss": chunked_loss,
        "optimizer": adamw_8bit,
    },
}


def main() -> None:
    _, processor = load_vlm("tiny-base")
    collate = Collator(processor)
    records = [list_the_colours(i, "train") for i in range(STEPS * SAMPLES)]
    data = ConversationDataset(records, processor)
    rows = [data[i] for i in range(len(data))]
    batches = [collate(rows[i * SAMPLES : (i + 1) * SAMPLES]) for i in range(STEPS)]
    held_out = ConversationDataset([list_the_colours(i, "val") for i in range(HELD_OUT)], processor)
    exam = collate([held_out[i] for i in range(HELD_OUT)])
    keep = ("input_ids", "attention_mask", "labels", "pixel_values")
    batches = [{name: batch[name] for name in keep} for batch in batches]
    exam = {name: exam[name] for name in keep}
    found = {}
    for name, way in WAYS.items():
        torch.manual_seed(0)
        model, _ = load_vlm("tiny-base")
        change = way.pop("change", lambda model: model)
        model = change(model)
        run = train(model, batches, **{"optimizer": adamw(1e-3), "loss": plain_loss} | way)
        model.eval()
        items = int((exam["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            loss = plain_loss(model, exam, items).item()
        at_peak = run.at_peak
        found[name] = {
            "peak": run.peak,
            "at_peak": at_peak,
            "seconds": run.seconds,
            "losses": run.losses,
            "held_out": loss,
        }
        print(name, run.peak / 2**20, round(run.seconds, 3), run.losses[-1], loss, file=sys.stderr)
    here = "chapters/ch09_oom"
    code = [f"{here}/workbench.py", f"{here}/measure_ch09_equal_loss.py", "labs/zoo/weights"]
    code += ["chapters/ch03_sft/lessons.py", "labs/losses", "labs/doctors/memory/follow"]
    results = {"steps": STEPS, "samples": SAMPLES, "ways": found}
    print(json.dumps({"seed": 0, "code": code, "results": results}))


if __name__ == "__main__":
    main()
