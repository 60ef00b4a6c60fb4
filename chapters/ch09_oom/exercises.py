"""Chapter 9, GPU memory: exercises.

Written from solutions/ch09_oom.py; don't edit this file. `labs start ch09` copies it to
work/ch09_oom/exercises.py: write your answers there, then `labs grade ch09`.
"""

# ruff: noqa: F401  (imports that the answers need)

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

IGNORE = -100  # a label that carries no loss


UNITS = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def fit(
    model: nn.Module,
    batches: list[tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]],
    lr: float = 0.5,
) -> dict[str, Tensor]:
    """Train on batches of (ids, labels) and log, for each step, the loss and the entropy of the
    model's predictions.
    """
    losses, entropies = [], []
    for ids, labels in batches:
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
                parameter.grad = None
        losses.append(loss)
        entropies.append(entropy)
    return {"loss": torch.stack(losses), "entropy": torch.stack(entropies)}


GROWING_LOG = """
before step  weights  inputs  activations   all (MiB)
          1     0.09    0.00         0.00  0.09
          2     0.09    0.00         0.36  0.45
          3     0.09    0.00         0.60  0.69
          4     0.09    0.01         0.83  0.93
          5     0.09    0.01         1.07  1.17
          6     0.09    0.01         1.31  1.41
step 6: CUDA out of memory. Tried to allocate 121.98 KiB. GPU 0 has a total capacity of 2.00 MiB of which 23.61 KiB is free. Including non-PyTorch memory, this process has 1.98 MiB memory in use. Of the allocated memory 1.98 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
alive then: 6 float32 [4, 37, 211] from _softmax, 6 from _log_softmax: one of each step, 1 to 6
            1 float32 [148, 211] from addmm, _log_softmax, nll_loss_backward: all of step 6
"""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: list[tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]],
) -> dict[str, Tensor]:
    """Loss and accuracy over all labelled tokens of all batches of (ids, labels); dropout is off
    meanwhile.
    """
    training = model.training
    model.eval()
    kept, wanted = [], []
    for ids, labels in batches:
        kept.append(model(ids))
        wanted.append(labels)
    model.train(training)
    logits, labels = torch.cat(kept).flatten(0, 1), torch.cat(wanted).flatten()
    counted = labels != IGNORE
    return {
        "loss": F.cross_entropy(logits, labels, ignore_index=IGNORE),
        "accuracy": (logits.argmax(-1) == labels)[counted].float().mean(),
    }


EVALUATION_LOG = """
evaluation    weights  gradients  activations  inputs  other   all (MiB)
batch  1         0.16       0.00         0.00    0.00   0.00  0.16
batch  2         0.16       0.00         0.00    0.00   0.14  0.30
batch  4         0.16       0.00         0.00    0.00   0.41  0.57
batch  8         0.16       0.00         0.00    0.01   0.95  1.12
batch 12         0.16       0.00         0.00    0.01   1.49  1.67
after batch 12: CUDA out of memory. Tried to allocate 1.63 MiB. GPU 0 has a total capacity of 2.50 MiB of which 712.74 KiB is free. Including non-PyTorch memory, this process has 1.80 MiB memory in use. Of the allocated memory 1.80 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
"""


def vision_step(
    tower: nn.Module,
    connector: nn.Module,
    pixels: Float[Tensor, "images patches width"],
    targets: Float[Tensor, "images patches hidden"],
    train_tower: bool = False,
) -> dict:
    """One step's loss, and the gradients of what is trained: the connector, and the tower where
    `train_tower` says so (connector first).
    """
    tower.requires_grad_(train_tower)
    trained = [*connector.parameters(), *(tower.parameters() if train_tower else ())]
    for parameter in trained:
        parameter.grad = None
    pixels = pixels.clone().requires_grad_()  # as enable_input_require_grads() does
    features = tower(pixels)
    loss = F.mse_loss(connector(features), targets)
    loss.backward()
    return {"loss": loss.detach(), "gradients": [parameter.grad for parameter in trained]}


TOWER_LOG = """
parameters: tower 0 of 149,376 trainable, connector 7,296 of 7,296
step 1, forward: CUDA out of memory. Tried to allocate 55.12 KiB. GPU 0 has a total capacity of 2.25 MiB of which 38.25 KiB is free. Including non-PyTorch memory, this process has 2.21 MiB memory in use. Of the allocated memory 2.21 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
alive then, in KiB: weights 612, gradients 0, optimizer 0, images 55 and their copy 55
  activations: tower.0 220  tower.3 220  tower.6 220  tower.9 220  tower.12 220  tower.15 220
"""


def training_memory() -> dict[str, float]:
    r"""What does LLaVA-1.5-7B need to train, before you rent anything?

    The vision tower has 303,507,456 parameters, the projector 20,979,712 and the language model
    6,738,415,616: 32 layers, a hidden size of 4096, a vocabulary of 32,000. Mixed-precision AdamW
    keeps for every *trained* parameter a working copy and a gradient in bfloat16, and a master copy
    and two moments in float32. A frozen parameter has its working copy and nothing else. Return a
    dict of four numbers, all in GiB (1024³ bytes):

    - `"full_gib"`: weights, gradients and optimizer where language model and projector are trained
      and the tower is frozen.
    - `"lora_gib"`: the same where the language model is frozen too, and LoRA adapters of
      319,815,680 parameters (chapter 3's rank 128) are trained beside the projector.
    - `"checkpoints_gib"`: the activations that gradient checkpointing keeps in the language model:
      the input of each layer, in bfloat16, for 16 samples. A sample is a picture of 336 x 336
      pixels, one visual token for every patch of 14 x 14, and 1472 tokens of text beside these.
    - `"logits_gib"`: that batch's logits at every position, in bfloat16, together with the float32
      copy that the loss is taken from.

    Context, workspace and fragmentation come on top; here they are left out.
    """
    raise NotImplementedError("training_memory: not started")


def read_oom(text: str) -> dict:
    r"""Read PyTorch's out-of-memory message, as several versions write it, and say what it means.

    The sentence has had three layouts (here on several lines; in a log it is one line):

        1.5 to 2.0  CUDA out of memory. Tried to allocate 58.00 MiB (GPU 0; 15.90 GiB total
                    capacity; 14.75 GiB already allocated; 41.88 MiB free; 15.02 GiB reserved
                    in total by PyTorch)
        up to 1.4   the same, but the last size is "270.00 MiB cached"
        from 2.1    CUDA out of memory. Tried to allocate 58.00 MiB. GPU 0 has a total capacty of
                    15.90 GiB of which 41.88 MiB is free. Process 71 has 15.40 GiB memory in use.
                    Of the allocated memory 14.75 GiB is allocated by PyTorch, and 276.48 MiB is
                    reserved by PyTorch but unallocated.

    From 2.1 on the list of processes varies ("Including non-PyTorch memory, this process has ...",
    one or several "Process N has ...", in a container also yourself under such a number),
    "capacty" is spelt "capacity" from 2.2, and "with 1.20 GiB allocated in private pools (e.g.,
    CUDA Graphs), " may stand before the unallocated size. Units are bytes, KiB, MiB or GiB, of
    1024. `reserved in total` *includes* what is allocated; `cached` does not.

    Return a dict: `tried`, `total`, `free`, `allocated`, `unallocated` (reserved by PyTorch but
    not allocated), all in bytes, and `verdict`, the first of these that is true:

    - `"shape"`: tried is more than the whole GPU: no freeing helps, look at the shape.
    - `"intruder"`: more than 4 GiB of the total is neither free nor PyTorch's here. (Context and
      NCCL take up to about 3.5 GiB; beyond that somebody else is there, whatever the list says.)
    - `"fragmentation"`: free and unallocated together would have held it, in one piece.
    - `"capacity"`: the run needs more than there is.
    """
    raise NotImplementedError("read_oom: not started")


def checkpointed(
    block: nn.Module, x: Float[Tensor, "*batch width"]
) -> Float[Tensor, "*batch width"]:
    r"""Gradient checkpointing: `block(x)`, with no activation of the block kept for the backward
    pass.

    Keep `x` alone (and what costs next to nothing); when the backward pass comes by, run the block
    a second time, now with its graph, and go through that. Memory falls from that of all blocks
    to that of one, for one more forward pass: 4 units of work instead of 3.

    - The value and all gradients, of `x` and of the block's parameters, are those of `block(x)`.
      The parameters get theirs also where `x` needs none (a first layer above frozen embeddings).
    - A block with dropout draws the *same* mask again; and the random numbers that the program
      draws after the backward pass are those it would have drawn without checkpointing.
    - The block runs twice: once in the forward pass, once in the backward pass.

    The block's parameters are all trained; it has one input and one output. Graded: value and
    gradients, with and without a gradient for x; dropout; the random stream; the bytes kept
    between forward and backward, and the times the block ran. Chen et al., arXiv:1604.06174.
    """

    raise NotImplementedError("checkpointed: not started")


def fitting_step(
    model: nn.Module,
    x: Float[Tensor, "batch tokens width"],
    labels: Int[Tensor, "batch tokens"],
    micro_batch: int,
) -> dict:
    r"""Loss and gradients of one batch, in micro-batches that are halved until they fit.

    $$L = \frac{1}{N} \sum_{b,t:\ y_{b,t} \neq -100} -\log p(y_{b,t} \mid x_b)$$

    `model(x[i:j])` gives logits `[j - i, tokens, vocab]`; `labels` `[batch, tokens]` belong to the
    same positions (no shift here), -100 carries no loss, and $N$ counts the labels of the *whole*
    batch that do. Go through the rows in order, `micro_batch` at a time (the last may be
    smaller), with a backward pass for each. Where a `torch.OutOfMemoryError` is raised, halve
    `micro_batch` (rounded down) and start the batch again.

    - The gradients of $L$ lie in the parameters' `.grad` at the end; what lay there before the call
      is dropped. Loss and gradients are those of the large batch, whatever size was reached.
    - Where one row at a time does not fit, the exception goes on to the caller. Any other error
      goes on at once: a bug is not a lack of memory.

    Return `{"loss": scalar tensor, detached, "micro_batch": the size that fitted}`. Graded under a
    byte budget that raises PyTorch's own exception: loss and gradients, with unequal label counts
    and rows of unequal cost, the sizes tried, and the errors.
    """
    raise NotImplementedError("fitting_step: not started")


def growing_run() -> dict:
    r"""A run that fits at first and dies some steps later: find the fault and mend it.

    `fit` trains a small language model and logs two numbers a step: the loss, and the entropy
    $-\sum_v p_v \ln p_v$ of its predictions, averaged over positions. The log is from twelve
    batches under a budget of 2 MiB, which you can set yourself in a cell:

        from labs.doctors.memory.follow.budget import byte_budget
        with byte_budget("2 MiB", model):
            fit(model, batches)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of `fit`.
    Graded: the same two numbers for every step, on short runs that never failed too; that the run
    fits, on whole batches; and that twice as many steps need no more memory.

    The log:

    ```text
    before step  weights  inputs  activations   all (MiB)
              1     0.09    0.00         0.00  0.09
              2     0.09    0.00         0.36  0.45
              3     0.09    0.00         0.60  0.69
              4     0.09    0.01         0.83  0.93
              5     0.09    0.01         1.07  1.17
              6     0.09    0.01         1.31  1.41
    step 6: CUDA out of memory. Tried to allocate 121.98 KiB. GPU 0 has a total capacity of 2.00 MiB of which 23.61 KiB is free. Including non-PyTorch memory, this process has 1.98 MiB memory in use. Of the allocated memory 1.98 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
    alive then: 6 float32 [4, 37, 211] from _softmax, 6 from _log_softmax: one of each step, 1 to 6
                1 float32 [148, 211] from addmm, _log_softmax, nll_loss_backward: all of step 6
    ```

    The diagnosis is one of:

    - `"logged_with_graph"`: a number is logged as a tensor, and its graph stays alive with it
    - `"gradients_kept"`: gradients are not dropped after the step, and pile up
    - `"batch_too_large"`: one step's activations do not fit: the batch is too large
    - `"fragmentation"`: there is enough memory, but in pieces
    - `"data_kept"`: the batches stay in memory after they have been used
    """

    raise NotImplementedError("growing_run: not started")


def evaluation_run() -> dict:
    r"""Training fits, and the first evaluation kills the run: find the fault and mend it.

    `evaluate` gives the mean loss and the accuracy over the $N$ labelled tokens of a whole set,

    $$L = \frac{1}{N} \sum_{i=1}^{N} -\log p(y_i), \qquad
      A = \frac{1}{N} \sum_{i=1}^{N} [\arg\max_v z_{i,v} = y_i]$$

    (labels belong to the same positions; -100 does not count). The log is from 12 batches of 4 x 29
    tokens, with a vocabulary of 307, under a budget of 2.5 MiB:

        from labs.doctors.memory.follow.budget import byte_budget
        with byte_budget("2.5 MiB", model):
            evaluate(model, batches)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of
    `evaluate`. Graded: both numbers, on three batches that never failed too, with unequal label
    counts and one batch that has none; that the run fits, on whole batches; that twice as many
    batches need no more memory; and that the model is left in the mode in which it came.

    The log:

    ```text
    evaluation    weights  gradients  activations  inputs  other   all (MiB)
    batch  1         0.16       0.00         0.00    0.00   0.00  0.16
    batch  2         0.16       0.00         0.00    0.00   0.14  0.30
    batch  4         0.16       0.00         0.00    0.00   0.41  0.57
    batch  8         0.16       0.00         0.00    0.01   0.95  1.12
    batch 12         0.16       0.00         0.00    0.01   1.49  1.67
    after batch 12: CUDA out of memory. Tried to allocate 1.63 MiB. GPU 0 has a total capacity of 2.50 MiB of which 712.74 KiB is free. Including non-PyTorch memory, this process has 1.80 MiB memory in use. Of the allocated memory 1.80 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
    ```

    The diagnosis is one of:

    - `"keeps_all_logits"`: the logits of every batch are kept until all of them are joined
    - `"graph_kept"`: the forward passes store activations for a backward pass
    - `"batch_too_large"`: one batch of the evaluation does not fit
    - `"fragmentation"`: there is enough memory, but in pieces
    - `"training_left_over"`: gradients and optimizer states of the training take the place
    """

    raise NotImplementedError("evaluation_run: not started")


def frozen_tower() -> dict:
    r"""A frozen vision tower that needs the memory of a trained one: find the fault and mend it.

    `vision_step` trains a connector behind a vision tower. The tower is frozen unless `train_tower`
    says otherwise, and still its activations fill the memory. The log is from a batch of 6 images
    of 49 patches, under a budget of 2.25 MiB, which is plenty for the connector alone:

        from labs.doctors.memory.follow.budget import byte_budget
        with byte_budget("2.25 MiB", tower, connector):
            vision_step(tower, connector, pixels, targets)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of
    `vision_step`. Graded: loss and gradients, also of the healthy run that *trains* the tower;
    that the frozen step fits; that the tower sees the whole batch, once; and that no gradient comes
    back to it where it is frozen.

    The log:

    ```text
    parameters: tower 0 of 149,376 trainable, connector 7,296 of 7,296
    step 1, forward: CUDA out of memory. Tried to allocate 55.12 KiB. GPU 0 has a total capacity of 2.25 MiB of which 38.25 KiB is free. Including non-PyTorch memory, this process has 2.21 MiB memory in use. Of the allocated memory 2.21 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
    alive then, in KiB: weights 612, gradients 0, optimizer 0, images 55 and their copy 55
      activations: tower.0 220  tower.3 220  tower.6 220  tower.9 220  tower.12 220  tower.15 220
    ```

    The diagnosis is one of:

    - `"graph_through_frozen"`: the frozen tower stores activations: its input asks for a gradient
    - `"tower_trained"`: the tower's weights are trained after all
    - `"too_many_images"`: the step needs more than there is: fewer images must go in
    - `"attention_maps"`: attention builds maps of patches x patches
    - `"leak"`: something is kept from step to step
    """

    raise NotImplementedError("frozen_tower: not started")
