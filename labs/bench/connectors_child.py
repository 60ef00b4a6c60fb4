"""One connector of `labs bench connectors`: what a step costs, and one run with its answers."""

import json
import sys
import time

from labs.bench.children import Turns, serve


class Cost:
    """Parameters, vectors and operations of a connector's step; its clock, a turn at a time."""

    def __init__(self, way: str, batch: int, batches: int, seed: int):
        from labs.bench.connectors_models import batches_of, step_flops, trainer
        from labs.train.freezing import count_parts

        self.trainer, processor = trainer(way, seed, batches, batch)
        self.batches = batches_of(processor, batches, batch, seed)
        self.objective = self.trainer.objective
        self.objective.train()
        connector = self.objective.model.connector
        parts = {part.part: part for part in count_parts(self.objective.model)}
        self.setup = {
            "parameters": parts["connector"].total,
            "trainable": sum(part.trainable for part in parts.values()),
            "visual_tokens": connector.num_visual_tokens,
            "placeholders": connector.num_placeholders,
            "tokens_per_sample": sum(b["attention_mask"].sum().item() for b in self.batches)
            / (batches * batch),
            "step_flops": step_flops(self.objective, self.batches),
        }

    def turn(self) -> dict:
        """Forward, backward and update over the batches; making them is not on the clock."""
        import torch

        started, cpu = time.perf_counter(), time.process_time()
        for batch in self.batches:
            loss = self.objective(self.objective.prepare(batch), self.objective.count(batch))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trainer.parameters, 1.0)
            self.trainer.optimizer.step()
            self.trainer.optimizer.zero_grad(set_to_none=True)
        steps = len(self.batches)
        return {
            "seconds_per_step": (time.perf_counter() - started) / steps,
            "cpu_seconds_per_step": (time.process_time() - cpu) / steps,
        }


def run(way: str, seed: int, steps: int, batch: int, questions: int, types: list[str]) -> dict:
    """One training run and what the model then answers: {"history", "right": {type: [0 or 1]}}.

    Seed s is asked questions s·n to (s+1)·n - 1 of each type, so that no two seeds share one.
    """
    from labs.bench.connectors_models import trainer
    from labs.suites import ask
    from labs.suites.world import items

    started = time.perf_counter()
    made, processor = trainer(way, seed, steps, batch)
    history = made.train().history
    trained = time.perf_counter()
    model = made.objective.model.eval()
    right = {
        name: [
            int(item.correct is True)
            for item in items(ask(model, processor, name, n=questions, first=seed * questions))
        ]
        for name in types
    }
    return {
        "steps": made.position.step,
        "history": [{k: entry[k] for k in ("step", "loss")} for entry in history],
        "right": right,
        "seconds": {
            "training": trained - started,
            "questions": time.perf_counter() - trained,
        },
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    settings = json.loads(sys.argv[1])
    turns, task = Turns(), settings.pop("task")
    if task == "cost":
        cost = Cost(**settings)
        serve(cost.turn, cost.setup, turns)
    serve(lambda: run(**settings), turns=turns)


if __name__ == "__main__":
    main()
