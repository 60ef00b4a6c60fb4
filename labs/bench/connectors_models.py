"""The contestants of `labs bench connectors`, what they train on, and what a step of each costs."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from labs.data import Collator, ConversationDataset
from labs.data.world import WorldDataset
from labs.models import load_vlm
from labs.models.connectors import CONNECTORS
from labs.models.vlm import VLM, processor_for
from labs.shapes import Mix
from labs.train import TrainConfig
from labs.train.stages import prepare

START = "tiny-base"
# 36 patches come from the tower. All that make fewer vectors of them make nine, as pixel shuffle of
# 2 x 2 has to; latents, queries and heads cost next to nothing, so that the number of vectors is
# what they are compared at. A connector of two blocks is the smallest in which a Q-Former's
# self-attention can follow what its queries saw.
OPTIONS = {
    "linear": {},
    "mlp": {},
    "pixel_shuffle": {"ratio": 2},
    "resampler": {"num_latents": 9, "depth": 2, "num_heads": 4},
    "q_former": {"num_queries": 9, "depth": 2, "num_heads": 4},
    "gated_cross_attention": {"num_latents": 9, "depth": 2, "num_heads": 4},
}
# Everything in English: a connector is to be compared, not a vocabulary.
MIX = {"turns": 6, "chinese": 0.0, "digits": 0.12}
OPTIMIZER = {
    "learning_rate": 1e-3,
    "learning_rates": {"connector": 2e-3},
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.05,
}


def build(way: str, seed: int):
    """(model, processor): tiny-base's tower and language model, the connector new from `seed`."""
    llava, processor = load_vlm(START)
    vlm = VLM.from_llava(llava)
    torch.manual_seed(seed)
    connector = CONNECTORS[way](
        vlm.vision_tower.hidden_size,
        vlm.connector.hidden_size,
        vlm.vision_tower.num_patches,
        **OPTIONS[way],
    )
    model = VLM(vlm.vision_tower, connector, vlm.language_model, vlm.image_token_id)
    return model, processor_for(processor, connector.num_placeholders)


def dataset(processor, samples: int, seed: int) -> ConversationDataset:
    """The same conversations in the same order for every connector; others for another seed."""
    # The zoo's recipes read the streams 0 to 9.
    world = WorldDataset(samples, Mix(**MIX), "train", seed=100 + seed)
    data = ConversationDataset([world[0]], processor)
    data.conversations = world  # drawn when asked for, not held
    return data


def trainer(way: str, seed: int, steps: int, batch: int, on_log=None):
    """(Trainer, processor) of a run of `steps`: connector and language model train, the tower not."""
    model, processor = build(way, seed)
    config = TrainConfig(
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=batch,
        shuffle=False,
        logging_steps=max(1, steps // 20),
        progress=False,
        report_to="none",
        loss="plain",
        save_final=False,
        **OPTIMIZER,
    )
    data = dataset(processor, steps * batch, seed)
    made, _ = prepare(model, processor, data, config=config, stage="sft", on_log=on_log)
    return made, processor


def batches_of(processor, number: int, batch: int, seed: int) -> list[dict]:
    """The first batches of the run, ready for the model."""
    data, collate = dataset(processor, number * batch, seed), Collator(processor)
    return [collate([data[i] for i in range(k * batch, (k + 1) * batch)]) for k in range(number)]


def step_flops(objective, batches: list[dict]) -> float:
    """Floating-point operations of a step, forward and backward, in the mean over `batches`.

    Counted by torch.utils.flop_counter: two for each multiply-add of every matrix product,
    convolution and attention; norms, activations, softmax and the optimizer's update are not
    counted. PyTorch's counter does not know the fused attention of the CPU, so attention runs here
    as the matrix products it is made of. What is frozen costs its forward pass alone.
    """
    from torch.utils.flop_counter import FlopCounterMode

    total = 0
    for batch in batches:
        prepared = objective.prepare(batch)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            objective(prepared, objective.count(batch)).backward()
        total += counter.get_total_flops()
    objective.zero_grad(set_to_none=True)
    return total / len(batches)
