"""Rank and scale: LoRA and rsLoRA at seven ranks, two seeds; and the ranks that AdaLoRA keeps."""

import json

import torch
from lessons import CODE, accuracy, dataset, fresh, list_the_colours, run, say_progress, script
from torch import nn

from labs.train import LoraSettings, TrainConfig, prepare

SEEDS = (0, 1)
RANKS = (1, 2, 4, 8, 16, 32, 64)
STEPS = 40
SHARED = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 10,
    "learning_rate": 5e-3,
    "warmup_steps": 3,
}


def kept_ranks(lessons, processor, model) -> dict[str, list[int]]:
    """Singular values that AdaLoRA leaves above zero, by kind of layer, first layer first."""
    lora = LoraSettings(r=3, init_r=8, tinit=5, tfinal=15, delta_t=1)
    settings = {"report_to": "none", "progress": False, "method": "adalora", "lora": lora}
    config = TrainConfig(**(SHARED | settings | {"max_steps": 60, "learning_rate": 1e-2}))
    trainer, _ = prepare(model, processor, lessons, config=config)
    trainer.train()
    kept: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if "lora_E" in name:
            kind = name.split(".lora_E")[0].rpartition(".")[2]
            kept.setdefault(kind, []).append(int((parameter.detach() != 0).sum()))
    return kept


def main() -> None:
    rows = []
    for seed in SEEDS:
        for method in ("lora", "rslora"):
            for rank in RANKS:
                model, processor = fresh()
                lessons = dataset([list_the_colours(i, "train") for i in range(400)], processor)
                exam = [list_the_colours(i, "val") for i in range(100)]
                lora = LoraSettings(r=rank, alpha=16.0)
                fit = run(model, processor, lessons, method=method, lora=lora, seed=seed, **SHARED)
                losses = fit.losses()[1]
                update = torch.stack(
                    [m.delta().norm() for m in model.modules() if hasattr(m, "delta")]
                ).norm()
                rows.append(
                    {
                        "seed": seed,
                        "method": method,
                        "rank": rank,
                        "loss": sum(losses[-5:]) / 5,
                        "accuracy": accuracy(model, processor, exam),
                        "update": update.item(),
                    }
                )
                say_progress(str(rows[-1]))
    model, processor = fresh()
    assert any(isinstance(m, nn.Linear) for m in model.modules())
    adalora = kept_ranks(lessons, processor, model)
    say_progress(str(adalora))
    code = [*CODE, script(__file__), "chapters/ch03_sft/lessons.py"]
    results = {"alpha": 16, "steps": STEPS, "sweep": rows, "adalora": adalora}
    print(json.dumps({"seed": list(SEEDS), "code": code, "results": results}))


if __name__ == "__main__":
    main()
