"""The checks of chapter 9's exercises. Grade with `labs grade ch09`."""

import copy
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labs.doctors.memory.follow.budget import byte_budget
from labs.grading import Check, case, inputs

IGNORE = -100
KIB, MIB, GIB = 1024, 1024**2, 1024**3


def values(model, seed):
    """The model with seeded parameters."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(inputs.normal(*parameter.shape, seed=seed + i, scale=0.3))
    return model


# -- training_memory ---------------------------------------------------------------------------


def test_training_memory(check: Check):
    # Every module of the three parts by its shape, and every tensor that AdamW keeps by its dtype.
    vit = [(3 * 14 * 14 * 1024,), (1024,), (577, 1024), *[(1024,)] * 4]
    vit += [*[(1024, 1024), (1024,)] * 4, (1024, 4096), (4096,), (4096, 1024), *[(1024,)] * 5] * 24
    projector = [(1024, 4096), (4096,), (4096, 4096), (4096,)]
    layer = [*[(4096, 4096)] * 4, *[(4096, 11008)] * 3, (4096,), (4096,)]
    llama = [(32000, 4096), *layer * 32, (4096,), (32000, 4096)]
    adapters = [(128, 8192)] * 4 + [(128, 15104)] * 3

    def numbers(shapes):
        return sum(math.prod(shape) for shape in shapes)

    half, single = torch.bfloat16.itemsize, torch.float32.itemsize
    adamw = 2 * half + 3 * single
    trained = numbers(llama) + numbers(projector)
    tokens = 1472 + numbers([(336 // 14, 336 // 14)])
    check.number(
        {
            "full_gib": (trained * adamw + numbers(vit) * half) / GIB,
            "lora_gib": (
                (numbers(adapters * 32) + numbers(projector)) * adamw
                + (numbers(llama) + numbers(vit)) * half
            )
            / GIB,
            "checkpoints_gib": 32 * numbers([(16, tokens, 4096)]) * half / GIB,
            "logits_gib": numbers([(16, tokens, 32000)]) * (half + single) / GIB,
        }
    )


# -- read_oom ----------------------------------------------------------------------------------


def written(size: float) -> str:
    """A size as PyTorch writes it."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size:.0f} bytes"


def message(tried, total, free, allocated, unallocated, layout, more="", pools="") -> str:
    """The sentence in one of its three layouts, in the middle of a log."""
    tried, total, free, kept, unused, both = map(
        written, (tried, total, free, allocated, unallocated, allocated + unallocated)
    )
    if layout in ("cached", "reserved"):
        last = f"{unused} cached" if layout == "cached" else f"{both} reserved in total by PyTorch"
        text = (
            f"RuntimeError: CUDA out of memory. Tried to allocate {tried} (GPU 1; {total} total "
            f"capacity; {kept} already allocated; {free} free; {last})"
        )
    else:
        text = (
            f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {tried}. GPU 1 has a "
            f"total {layout} of {total} of which {free} is free. {more}Of the allocated memory "
            f"{kept} is allocated by PyTorch, {pools}and {unused} is reserved by PyTorch but "
            "unallocated. If reserved but unallocated memory is large try setting "
            "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
        )
    return f"step 211 of 3000, loss 1.337\n[rank1]: {text}\nstep 212: gone after 3.00 GiB\n"


MINE = "Including non-PyTorch memory, this process has 78.91 GiB memory in use. "
CONTAINER = "Process 3021 has 22.92 GiB memory in use. "
OTHERS = "Process 811 has 9.50 GiB memory in use. Process 812 has 14.10 GiB memory in use. "
POOLS = "with 1.20 GiB allocated in private pools (e.g., CUDA Graphs), "
# What is special, layout, verdict; tried, total, free, allocated, unallocated; processes and pools.
MESSAGES = [
    ("1.4: cached", "cached", "fragmentation", "58M 15.9G 41M 14.5G 270M"),
    ("1.10: reserved", "reserved", "fragmentation", "2G 23.7G 900M 20.5G 1.5G"),
    ("2.1: capacty", "capacty", "capacity", "112M 79.1G 12M 77.4G 96M", MINE),
    ("2.4: in a container", "capacity", "capacity", "300M 23.5G 208M 22.1G 60M", CONTAINER),
    ("2.5: two processes", "capacity", "intruder", "50M 23.7G 30M 13.5G 260M", OTHERS),
    ("2.9: private pools", "capacity", "fragmentation", "700M 44.5G 350M 39.2G 4G", "", POOLS),
    ("1.13: 219 GiB", "reserved", "shape", "219.3G 79.3G 60.5G 17.1G 0.5G"),
    ("2.2: small sizes", "capacity", "fragmentation", "512 15.8G 4K 15.1G 300K"),
    ("1.8: a neighbour", "reserved", "intruder", "20M 10.8G 16M 5.2G 0.25G"),
    ("1.12: plain", "reserved", "capacity", "1.1G 31.7G 640M 29.2G 0.3G"),
]


def bytes_of(short: str) -> float:
    return float(short.rstrip("KMG")) * {"K": KIB, "M": MIB, "G": GIB}.get(short[-1], 1)


def test_read_oom(check: Check):
    texts, wanted = [], {}
    for label, layout, verdict, sizes, *more in MESSAGES:
        sizes = [bytes_of(size) for size in sizes.split()]
        text = message(*sizes, layout, *more)
        keys = ("tried", "total", "free", "allocated", "unallocated")
        texts.append(case(label, text))
        wanted[text] = dict(zip(keys, sizes, strict=True)) | {"verdict": verdict}
    check.cases(texts, lambda text: wanted[text], dtype=False)


# -- checkpointed ------------------------------------------------------------------------------


def block(width=7, hidden=11, dropout=0.0, seed=1):
    layers = nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, width)
    return values(nn.Sequential(*layers), seed)


def by_hand(layers, x):
    """The oracle: the block written out, tanh by its exponentials."""
    hidden = torch.einsum("...i,oi->...o", x, layers[0].weight) + layers[0].bias
    hidden = 1 - 2 / (torch.exp(2 * hidden) + 1)
    return torch.einsum("...i,oi->...o", hidden, layers[3].weight) + layers[3].bias


def slopes(run, layers, x, weights):
    (run(layers, x) * weights).sum().backward()
    return [parameter.grad for parameter in layers.parameters()]


def against_plain(run, layers, x):
    """With dropout: is it the same as `layers(x)`, and are the random numbers afterwards?"""

    def step(forward):
        layers.zero_grad()
        torch.manual_seed(5)
        start = x.clone().requires_grad_()
        y = forward(layers, start)
        between = torch.rand(3)
        (y * torch.cos(torch.arange(y.numel())).view_as(y)).sum().backward()
        return [y, between], [start.grad, *[p.grad for p in layers.parameters()]], [torch.rand(3)]

    def same(a, b):
        return all(
            p is not None and torch.allclose(p, q, atol=1e-6) for p, q in zip(a, b, strict=True)
        )

    plain, own = step(lambda layers, x: layers(x)), step(run)
    return [same(a, b) for a, b in zip(own, plain, strict=True)]


def kept_and_run(run, chain, x):
    """(bytes alive between forward and backward over the plain way's, times each block ran)"""
    from labs.doctors.memory.follow.budget import byte_budget

    def held(forward):
        with byte_budget(None, *chain) as budget:
            h = x.clone()
            before = budget.live_bytes
            for layers in chain:
                h = forward(layers, h)
            return budget.live_bytes - before, h

    (plain, _), ran = held(lambda layers, h: layers(h)), []
    for layers in chain:
        layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    own, h = held(run)
    h.sum().backward()
    return own < 0.4 * plain, len(ran) / len(chain)


def test_checkpointed(check: Check):
    x = inputs.normal(5, 3, 7, seed=11)
    check.cases(
        [
            case("a batch of sequences", block(), x),
            case("rows", block(seed=21), inputs.normal(13, 7, seed=12)),
        ],
        by_hand,
        gradient=["x"],
    )
    weights, own = inputs.normal(5, 3, 7, seed=13), block()
    found = check.probe(slopes, block(), x, weights)
    (by_hand(own, x) * weights).sum().backward()
    wanted = [parameter.grad for parameter in own.parameters()]
    missing = any(slope is None for slope in found)
    check.holds(
        "The parameters get their gradients where x needs none.", not missing, stage="gradient"
    )
    check.equal(
        "The parameters' gradients are those of the block.", found, wanted, stage="gradient"
    )

    value, gradient, stream = check.probe(against_plain, block(dropout=0.4), x)
    check.holds("With dropout the value is that of the block.", value)
    check.holds("The second forward pass drops what the first has dropped.", gradient)
    check.holds("Random numbers drawn after the backward pass are as without it.", stream)

    chain = [block(16, 256, seed=31 + 10 * i) for i in range(5)]
    small, times = check.probe(kept_and_run, chain, inputs.normal(29, 16, seed=14))
    check.holds("Between forward and backward no activations are kept.", small, stage="cost")
    check.cost("Each block runs twice: forward, and once more in backward.", times, at_most=2)


# -- fitting_step ------------------------------------------------------------------------------


def at_once(model, x, labels, micro_batch):
    """The oracle: probabilities of one label at a time, over the whole batch."""
    losses = []
    for b, t in (labels != IGNORE).nonzero().tolist():
        scores = model(x[b : b + 1])[0, t].double()
        losses.append(scores.exp().sum().log() - scores[labels[b, t]])
    return {"loss": torch.stack(losses).mean().float().detach(), "micro_batch": micro_batch}


def under_budget(run, limit, model, x, labels, micro_batch):
    """A call under a budget, on a model that leaves padding (zeros) out: long rows cost more."""
    from torch import nn

    from labs.doctors.memory.follow.budget import byte_budget

    tried = []

    class Trimming(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            tried.append(len(x))
            longest = int((x != 0).any(-1).sum(-1).max())
            logits = self.inner(x[:, :longest])
            return nn.functional.pad(logits, (0, 0, 0, x.shape[1] - longest))

    result, error = None, ""
    try:
        with byte_budget(limit, model):
            result = run(Trimming(), x, labels, micro_batch)
    except RuntimeError as raised:
        error = type(raised).__name__
    return {
        "result": result,
        "error": error,
        "tried": tried,
        "gradients": [p.grad for p in model.parameters()],
    }


def head(width=16, hidden=256, vocab=97, seed=41):
    layers = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, vocab)
    return values(nn.Sequential(*layers), seed)


def rows(lengths, longest, seed, width=16, vocab=97):
    """(x, labels), padded on the right; a row of n tokens has a label on all but n // 3 of them."""
    x = inputs.normal(len(lengths), longest, width, seed=seed)
    labels = inputs.integers(len(lengths), longest, below=vocab, seed=seed + 1)
    for row, length in enumerate(lengths):
        x[row, length:] = 0
        labels[row, length:] = labels[row, : length // 3] = IGNORE
    return x, labels


def test_fitting_step(check: Check):
    long = [31, 29, 30, 31, 28, 31, 30]
    uneven = rows([5, 7, 3, 6, *long], 31, seed=43)
    check.cases([case("room for all: 11 rows, 4 at a time", head(), *uneven, 4)], at_once)
    wanted = head()
    loss = F.cross_entropy(wanted(uneven[0]).mT.double(), uneven[1])
    loss.backward()
    slopes_wanted = [parameter.grad for parameter in wanted.parameters()]

    def attempts(label, limit, batch, size, start=None):
        """What came of a call under a budget, and the wanted gradients held to those found."""
        return check.probe(under_budget, limit, start or head(), *batch, size)

    found = attempts("a budget for two long rows", "720 KiB", uneven, 8)
    check.holds(
        "What fits in smaller micro-batches goes through.",
        not found["error"],
        stage="value",
        wanted="no exception",
        got=found["error"],
    )
    sizes = [8, 4, 4, 2, 2, 2, 2, 2, 1]
    check.equal("Sizes are halved until they fit.", found["tried"], sizes, stage="value")
    result = {"loss": loss.detach().float(), "micro_batch": 2}
    check.equal("Loss and size are right under a budget.", found["result"], result, stage="value")
    check.equal(
        "The gradients are those of the large batch.",
        found["gradients"],
        slopes_wanted,
        stage="gradient",
    )
    old = head()
    for parameter in old.parameters():
        parameter.grad = torch.ones_like(parameter)
    found = attempts("gradients from before", "1 GiB", uneven, 8, old)["gradients"]
    check.equal("Gradients from before the call are dropped.", found, slopes_wanted)

    tight = attempts("not even one row fits", "280 KiB", rows([31, 30, 29], 31, seed=45), 3)
    check.equal("Every size down to one row is tried.", tight["tried"], [3, 1])
    got = tight["error"] or "no exception"
    goes_on = got == "OutOfMemoryError"
    check.holds("Where one row does not fit, the exception goes on.", goes_on, got=got)
    narrow = attempts("a model for other inputs", "1 GiB", uneven, 8, head(width=5))
    check.equal("Any other error goes on at once.", narrow["tried"], [8])
    check.holds("Any other error goes on as it is.", narrow["error"] == "RuntimeError")


# -- the debug runs ----------------------------------------------------------------------------


def language_model(vocab=211, width=32, hidden=64, dropout=0.0):
    layers = nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, vocab)
    return values(nn.Sequential(nn.Embedding(vocab, width), *layers), seed=51)


def text_batches(count, seed, rows=4, tokens=37, vocab=211, empty=None, guessed_by=None):
    """Batches of (ids, labels); batch i has labels on another number of tokens, `empty` on none.

    Of the labels a third or so is what the model `guessed_by` guesses.
    """
    batches = []
    for i in range(count):
        ids = inputs.integers(rows, tokens, below=vocab, seed=seed + 2 * i)
        labels = (7 * ids + 3) % vocab
        if guessed_by is not None:
            labels = torch.where(ids % 3 == 0, guessed_by.eval()(ids).argmax(-1), labels)
        labels[:, : (5 * i) % (tokens - 2)] = IGNORE
        labels[0, : tokens // 2] = IGNORE
        batches.append((ids, labels.fill_(IGNORE) if i == empty else labels))
    return batches


def within(run, limit, count, *arguments):
    """Call `run` under a byte budget; the first `count` arguments are the models.

    What it gave, whether it ran out of memory, how many rows each forward pass of the first model
    saw, and whether that model was training in the end (unless memory ran out).
    """
    from labs.doctors.memory.follow.budget import byte_budget

    rows, result, failed = [], None, False
    models = arguments[:count]
    models[0][0].register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        with byte_budget(limit, *models):
            result = run(*arguments)
    except torch.OutOfMemoryError:
        failed = True
    return {
        "result": result,
        "out_of_memory": failed,
        "rows": rows,
        "training": None if failed else models[0].training,
    }


@cache
def dies_as_logged(exercise, limit, models, scene):
    """Whether the broken run raises, under the budget, the very sentence that its log shows."""
    arguments = copy.deepcopy(scene()[0])
    try:
        with byte_budget(limit, *arguments[:models]):
            exercise.broken(*arguments)
    except torch.OutOfMemoryError as error:
        return str(error).split(" If reserved")[0] in exercise.log
    return False


def tower_and_connector(width=48, hidden=192, blocks=8):
    layers = [
        layer
        for _ in range(blocks)
        for layer in (nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
    ]
    connector = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 64))
    return values(nn.Sequential(*layers), 61), values(connector, 91)


def images(count, seed=101, patches=49):
    pixels = inputs.normal(count, patches, 48, seed=seed)
    return pixels, inputs.normal(count, patches, 64, seed=seed + 1)


def repaired(check, patch, limit, models, arguments, wanted, passes):
    """The patched run fits, gives what it should, and sees every batch once and whole."""
    found = check.probe(within, limit, models, *arguments, target=patch)
    check.holds(
        f"The run fits into {limit}.",
        not found["out_of_memory"],
        stage="value",
        wanted="no exception",
        got="OutOfMemoryError",
    )
    check.equal("Its numbers are right.", found["result"], wanted, stage="value")
    check.equal("Each batch goes through the model once, whole.", found["rows"], passes)
    return found


# -- growing_run -------------------------------------------------------------------------------


def step_by_step(model, batches, lr=0.5):
    """The oracle: probabilities by hand, one step at a time, gradients by `autograd.grad`."""
    model = copy.deepcopy(model)
    losses, entropies = [], []
    for ids, labels in batches:
        scores = model(ids).double().exp()
        p = scores / scores.sum(-1, keepdim=True)
        entropies.append(-(p * p.log()).sum(-1).mean().item())
        where = labels != IGNORE
        loss = -p[where][torch.arange(int(where.sum())), labels[where]].log().mean()
        losses.append(loss.item())
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter -= lr * slope
    return {"loss": torch.tensor(losses), "entropy": torch.tensor(entropies)}


@cache
def growing():
    """(model and the 12 batches that fail), what is wanted of them, 12 batches more"""
    model, batches = language_model(), text_batches(24, seed=1)
    return (model, batches[:12]), step_by_step(model, batches[:12]), batches[12:]


def logged(run, model, batches):
    """The numbers alone, whether or not they still carry their graphs."""
    log = run(model, batches)
    if not isinstance(log, dict):
        return log
    return {k: v.detach() if isinstance(v, Tensor) else v for k, v in log.items()}


def test_growing_run(check: Check):
    exercise, limit = check.exercise, "2 MiB"
    (model, failing), wanted, more = growing()

    def shows_fault(run):
        healthy = run(copy.deepcopy(model), failing[:3])["entropy"]
        right = torch.allclose(healthy, wanted["entropy"][:3], rtol=1e-4)
        return right and dies_as_logged(exercise, limit, 1, growing)

    patch = check.diagnosis("logged_with_graph", "one of each step", exercise.broken, shows_fault)
    few = {key: value[:3] for key, value in wanted.items()}
    found = check.probe(logged, model, failing[:3], target=patch)
    check.equal("A healthy run of three steps logs what it logged.", found, few, stage="value")
    check.cases(
        [case("a healthy run: three steps", model, failing[:3])], step_by_step, target=patch
    )
    repaired(check, patch, limit, 1, (model, failing), wanted, passes=[4] * 12)
    found = check.probe(within, limit, 1, model, failing + more, target=patch)
    check.holds(
        "Twice as many steps fit too.",
        not found["out_of_memory"],
        stage="cost",
        wanted="no exception",
        got="OutOfMemoryError",
    )


# -- evaluation_run ----------------------------------------------------------------------------


def one_by_one(model, batches):
    """The oracle: one labelled token at a time, dropout left out by hand."""
    losses, right = [], []
    embedding, first, _, _, last = model
    for ids, labels in batches:
        for b, t in (labels != IGNORE).nonzero().tolist():
            scores = last(F.gelu(first(embedding.weight[ids[b, t]]))).double()
            losses.append(scores.exp().sum().log() - scores[labels[b, t]])
            right.append(scores.argmax() == labels[b, t])
    accuracy = torch.stack(right).float().mean()
    return {"loss": torch.stack(losses).mean().float().detach(), "accuracy": accuracy}


@cache
def evaluated():
    """(model and the 12 batches that fail), what is wanted of them and of three, 12 more"""
    model = language_model(vocab=307, hidden=96, dropout=0.1)
    how = {"tokens": 29, "vocab": 307, "empty": 2, "guessed_by": model}
    batches = text_batches(24, seed=31, **how)
    wanted = one_by_one(model, batches[:12]), one_by_one(model, batches[:3])
    return (model.train(), batches[:12]), wanted, batches[12:]


def test_evaluation_run(check: Check):
    exercise, limit = check.exercise, "2.5 MiB"
    (model, failing), (wanted, wanted_of_three), more = evaluated()

    def shows_fault(run):
        healthy = run(copy.deepcopy(model), failing[:3])["loss"]
        right = torch.isclose(healthy, wanted_of_three["loss"], rtol=1e-4)
        return right and dies_as_logged(exercise, limit, 1, evaluated)

    patch = check.diagnosis("keeps_all_logits", "1.63 MiB", exercise.broken, shows_fault)
    healthy = [case("a healthy run: three batches", model, failing[:3])]
    check.cases(healthy, lambda model, batches: wanted_of_three, target=patch)
    found = repaired(check, patch, limit, 1, (model, failing), wanted, passes=[4] * 12)
    check.holds("A model that was training is training afterwards.", found["training"])
    idle = copy.deepcopy(model).eval()
    found = check.probe(within, limit, 1, idle, failing[:3], target=patch)
    check.holds("A model that was not training is not afterwards.", not found["training"])
    found = check.probe(within, limit, 1, model, failing + more, target=patch)
    check.holds(
        "Twice as many batches fit too.",
        not found["out_of_memory"],
        stage="cost",
        wanted="no exception",
        got="OutOfMemoryError",
    )


# -- frozen_tower ------------------------------------------------------------------------------


def with_all_gradients(tower, connector, pixels, targets, train_tower=False):
    """The oracle: the mean square by hand, everything differentiated, what is asked for kept."""
    tower, connector = copy.deepcopy((tower, connector))
    both = [*connector.parameters(), *tower.requires_grad_().parameters()]
    error = (connector(tower(pixels)) - targets).flatten()
    loss = error @ error / error.numel()
    slopes = torch.autograd.grad(loss, both)
    kept = slopes if train_tower else slopes[: len(list(connector.parameters()))]
    return {"loss": loss.detach(), "gradients": list(kept)}


def watched(run, tower, *rest):
    """How often the tower ran, and whether a gradient came back to its output."""
    runs, carried = [], []

    def ends(module, inputs, output):
        runs.append(len(output))
        if output.requires_grad:
            output.register_hook(lambda slope: carried.append(1))

    tower[-1].register_forward_hook(ends)
    run(tower, *rest)
    return {"runs": len(runs), "carried": bool(carried)}


@cache
def six_images():
    """(tower, connector, images and targets of the step that fails), its loss and gradients"""
    step = *tower_and_connector(), *images(6)
    return step, with_all_gradients(*step)


def test_frozen_tower(check: Check):
    exercise, limit = check.exercise, "2.25 MiB"
    step, wanted = six_images()
    tower, connector, pixels, targets = step
    one = tower, connector, pixels[:1], targets[:1]

    def shows_fault(run):
        right = with_all_gradients(*one)["loss"]
        healthy = torch.isclose(run(*copy.deepcopy(one))["loss"], right, rtol=1e-4)
        return healthy and dies_as_logged(exercise, limit, 2, six_images)

    patch = check.diagnosis("graph_through_frozen", "tower.3 220", exercise.broken, shows_fault)
    trained = case("a healthy run: the tower is trained", tower, connector, *images(2, 111), True)
    check.cases([case("one image", *one), trained], with_all_gradients, target=patch)
    found = check.probe(watched, *step, target=patch)
    repaired(check, patch, limit, 2, step, wanted, passes=[6])
    check.holds("No gradient is carried back into the tower.", not found["carried"], stage="cost")
