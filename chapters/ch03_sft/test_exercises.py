"""The checks of chapter 3's exercises. Grade with `labs grade ch03`."""

import math

import torch
from torch import Tensor, nn

from labs.grading import Check, case, inputs

IGNORE = -100


# -- generation_loss ---------------------------------------------------------------------------


def slow_generation_loss(logits, labels, num_items=None):
    """One token at a time: -log(exp(its logit) / sum of exp(all logits)), in double precision."""
    losses = []
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            label = int(labels[b, t + 1])
            if label != IGNORE:
                weights = logits[b, t].double().exp()
                losses.append(-torch.log(weights[label] / weights.sum()))
    total = torch.stack(losses).sum()
    return (total / (num_items or len(losses))).to(logits.dtype)


def test_generation_loss(check: Check):
    right, right_labels = inputs.language_batch(seed=1, side="right")
    left, left_labels = inputs.language_batch(seed=2, side="left")
    double, double_labels = inputs.language_batch(3, 7, 11, seed=3, dtype=torch.float64)
    # A label in the very first place has no logits to be predicted from.
    first, first_labels = inputs.language_batch(seed=4, prompt=0, empty_row=False)
    check.cases(
        [
            case("padding on the right, one row without labels", right, right_labels),
            case("padding on the left", left, left_labels),
            case("num_items given", right, right_labels, num_items=43),
            case("double precision", double, double_labels),
            case("a label on the first token", first, first_labels),
        ],
        slow_generation_loss,
        gradient=["logits"],
    )

    uniform = torch.zeros(2, 5, 19)
    labels = inputs.integers(2, 5, below=19, seed=5)
    got = check.call(uniform, labels, label="all logits equal")
    check.equal(
        "Where all logits are equal the loss is ln(vocab).", got, torch.tensor(math.log(19))
    )

    huge = check.call(right * 200, right_labels, label="logits in the hundreds")
    check.holds("Logits in the hundreds give a finite loss.", torch.isfinite(huge), got=huge)

    # Logits that predict an unlabelled token, or nothing, must not matter.
    unused = torch.ones(right_labels.shape, dtype=torch.bool)
    unused[:, :-1] = right_labels[:, 1:] == IGNORE
    scrambled = torch.where(unused[..., None], inputs.normal(*right.shape, seed=6), right)
    check.equal(
        "Logits of positions without a label do not change the loss.",
        check.call(scrambled, right_labels, label="scrambled where nothing is asked"),
        check.call(right, right_labels),
    )

    count = int((right_labels[:, 1:] != IGNORE).sum())
    parts = [
        check.call(right[rows], right_labels[rows], num_items=count, label="a micro-batch")
        for rows in (slice(0, 2), slice(2, 5))
    ]
    check.equal(
        "Micro-batches with num_items add up to the large batch.",
        parts[0] + parts[1],
        slow_generation_loss(right, right_labels),
    )


# -- label_mask --------------------------------------------------------------------------------

END = 3  # the end-of-turn token


def conversation(*turns, seed, cut=None, pad=0):
    """Ids and spans of a conversation in which every turn has a header, a text and an end.

    Texts are given by their lengths. The ids of user texts hold an END of their own.
    """
    ids, spans = [], []
    source = inputs.generator(seed)
    for role, length in turns:
        ids += [1, {"system": 4, "user": 5, "assistant": 6}[role], 2]
        text = torch.randint(7, 101, (length,), generator=source).tolist()
        if role == "user" and length > 2:
            text[1] = END
        spans.append((role, len(ids), len(ids) + length))
        ids += [*text, END]
    ids = ids[:cut] + [0] * pad
    return torch.tensor(ids), spans


def slow_label_mask(input_ids, spans, end_of_turn):
    """Ask of each position: is there an assistant's turn that says this token?"""

    def says(role, start, end, i):
        return role == "assistant" and (
            start <= i < end or (i == end and int(input_ids[i]) == end_of_turn)
        )

    return torch.tensor(
        [
            int(token) if any(says(*span, i) for span in spans) else IGNORE
            for i, token in enumerate(input_ids)
        ]
    )


def test_label_mask(check: Check):
    talk = [("user", 5), ("assistant", 7), ("user", 3), ("assistant", 2)]
    long = [("system", 6), *talk, ("user", 11), ("assistant", 13), ("user", 4)]
    cut = conversation(*talk, seed=13, cut=-2)
    padded = conversation(*talk, seed=14, cut=-1, pad=5)
    check.cases(
        [
            case("two questions, two answers", *conversation(*talk, seed=11), END),
            case("a system turn, a question at the end", *conversation(*long, seed=12), END),
            case("cut inside the last answer", *cut, END),
            case("cut before the last end of turn, then padded", *padded, END),
            case(
                "the assistant speaks first",
                *conversation(("assistant", 3), ("user", 2), ("assistant", 5), seed=15),
                END,
            ),
            case(
                "an empty answer",
                *conversation(("user", 3), ("assistant", 0), ("user", 2), seed=16),
                END,
            ),
            case("nobody answers", *conversation(("system", 2), ("user", 7), seed=17), END),
        ],
        slow_label_mask,
    )

    ids, spans = conversation(*talk, seed=18)
    spoken = slow_label_mask(ids, spans, END) != IGNORE
    others = torch.where(spoken, ids, inputs.integers(len(ids), below=101, start=7, seed=19))
    check.equal(
        "Other ids in the prompt do not change the labels.",
        check.call(others, spans, END, label="the prompt's ids scrambled"),
        check.call(ids, spans, END),
    )


# -- LoRALinear --------------------------------------------------------------------------------


def linear(inputs_, outputs, seed, bias=True, values=inputs.normal, **how):
    """An nn.Linear of seeded numbers."""
    layer = nn.Linear(inputs_, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(values(outputs, inputs_, seed=seed, **how))
        if bias:
            layer.bias.copy_(values(outputs, seed=seed + 1, **how))
    return layer


def summed_ranks(base, a, b, scale):
    """The oracle: W plus one outer product a rank, as a single matrix."""
    weight = base.weight.detach().float()
    for column, row in zip(b.float().T, a.float(), strict=True):
        weight = weight + scale * torch.outer(column, row)
    bias = 0 if base.bias is None else base.bias.detach().float()
    return lambda x: (torch.einsum("...i,oi->...o", x.float(), weight) + bias).to(x.dtype)


def start_of(layer, x):
    return {
        "A": layer.lora_A.unique().numel() > 1,
        "B": bool((layer.lora_B == 0).all()),
        "same": torch.allclose(layer(x), layer.base(x)),
    }


def trainable(layer):
    return sorted(name for name, p in layer.named_parameters() if p.requires_grad)


def set_matrices(layer, a, b):
    with torch.no_grad():
        layer.lora_A.copy_(a)
        layer.lora_B.copy_(b)
    return [list(layer.lora_A.shape), list(layer.lora_B.shape)]


def matrices(layer):
    return [layer.lora_A.detach(), layer.lora_B.detach()]


def slopes_of(layer, x, weights):
    (layer(x) * weights).sum().backward()
    return [layer.lora_A.grad, layer.lora_B.grad]


def weight_of(layer):
    return layer.base.weight.detach()


def dtypes_of(layer):
    return [layer.lora_A.dtype, layer.lora_B.dtype]


def drops(layer, x):
    """With one input a row's update is dropped whole or doubled whole, where p is a half."""
    layer.eval()
    full, again = layer(x) - layer.base(x), layer(x) - layer.base(x)
    layer.train()
    ratio = (layer(x) - layer.base(x)) / full
    gone, doubled = (ratio.abs() < 1e-3).all(1), ((ratio - 2).abs() < 1e-3).all(1)
    return {
        "still": torch.equal(full, again),
        "whole": bool((gone | doubled).all() and gone.any() and doubled.any()),
    }


def builds_a_matrix(layer, x):
    from labs.grading.meter import Meter

    with Meter() as meter:
        layer(x)
    weight = layer.base.weight
    return meter.largest >= weight.numel() * weight.element_size()


def test_LoRALinear(check: Check):
    base, x = linear(7, 5, seed=21), inputs.normal(11, 7, seed=23)
    layer = check.call(base, 3, alpha=6.0, label="r = 3, alpha = 6")
    start = check.probe(start_of, x, target=layer)
    check.holds("A starts random.", start["A"], stage="value")
    check.holds("B starts at zero.", start["B"], stage="value")
    check.holds("At the start the layer gives what the base gives.", start["same"], stage="value")
    names = check.probe(trainable, target=layer)
    both = ["lora_A", "lora_B"]
    check.holds(
        "Only A and B are trainable.", names == both, stage="gradient", wanted=f"{both}", got=names
    )

    a, b = inputs.normal(3, 7, seed=24), inputs.normal(5, 3, seed=25)
    check.probe(set_matrices, a, b, target=layer)
    oracle = summed_ranks(base, a, b, 2.0)
    cases = [
        case("rows, B not zero", x),
        case("a batch of sequences", inputs.normal(2, 3, 7, seed=26)),
        case("one vector", inputs.normal(7, seed=27)),
    ]
    check.cases(cases, oracle, target=layer, gradient=["x"])
    g = inputs.normal(11, 5, seed=28)
    found = check.probe(slopes_of, x, g, target=layer)
    wanted = [2.0 * (g @ b).T @ x, 2.0 * g.T @ (x @ a.T)]
    check.equal("A and B get the gradients of the loss.", found, wanted, stage="gradient")

    bare, a5, b5 = (
        linear(7, 2, 31, bias=False),
        inputs.normal(5, 7, seed=32),
        inputs.normal(2, 5, seed=33),
    )
    stable = check.call(bare, 5, alpha=4.0, rslora=True, label="rsLoRA, a base without bias")
    check.probe(set_matrices, a5, b5, target=stable)
    check.cases([case("rsLoRA", x)], summed_ranks(bare, a5, b5, 4 / 5**0.5), target=stable)

    thin = check.call(linear(1, 5, seed=41), 3, alpha=6.0, dropout=0.5, label="dropout 0.5")
    check.probe(
        set_matrices, inputs.normal(3, 1, seed=42), inputs.normal(5, 3, seed=43), target=thin
    )
    told = check.probe(drops, torch.ones(64, 1), target=thin)
    check.holds("In evaluation nothing is dropped.", told["still"])
    check.holds(
        "In training an input of the update is dropped or scaled by 1 / (1 - p), and the base sees "
        "the whole input.",
        told["whole"],
    )

    merged = base.weight.detach() + 2.0 * b @ a
    for turn in ("once", "twice"):
        layer.call("merge")
        found = check.probe(weight_of, target=layer)
        check.equal(f"Merged {turn}, base.weight is W + s B A.", found, merged)
        check.cases([case(f"merged {turn}", x)], oracle, target=layer)
    check.equal("Merging keeps A and B.", check.probe(matrices, target=layer), [a, b])
    for turn in ("", " twice"):
        layer.call("unmerge")
        found = check.probe(weight_of, target=layer)
        check.equal(f"Merged and unmerged{turn}, base.weight is W.", found, base.weight.detach())
    check.cases([case("merged and unmerged", x)], oracle, target=layer)
    names = check.probe(trainable, target=layer)
    check.holds("After that only A and B are trainable.", names == both, got=names)

    # Whole numbers this small are exact in bfloat16, in whatever order they are added.
    def whole(*shape, seed, top=3):
        return inputs.integers(*shape, below=top + 1, start=-top, seed=seed).bfloat16()

    half = linear(7, 5, seed=51, values=whole).bfloat16()
    a, b, x = whole(3, 7, seed=53, top=1), whole(5, 3, seed=54, top=1), whole(11, 7, seed=55, top=2)
    layer = check.call(half, 3, alpha=6.0, label="a base in bfloat16")
    found = check.probe(dtypes_of, target=layer)
    kept = found == [torch.bfloat16] * 2
    check.holds("A and B have the dtype of the base's weight.", kept, stage="dtype", got=f"{found}")
    check.probe(set_matrices, a, b, target=layer)
    oracle = summed_ranks(half, a, b, 2.0)
    check.cases([case("bfloat16", x)], oracle, target=layer)
    layer.call("merge")
    check.cases([case("bfloat16, merged", x)], oracle, target=layer)
    layer.call("unmerge")
    found = check.probe(weight_of, target=layer)
    check.equal("In bfloat16 too merge and unmerge give W.", found, half.weight.detach())

    wide = check.call(linear(211, 199, seed=61), 2, alpha=2.0, label="199 x 211")
    large = check.probe(builds_a_matrix, inputs.normal(3, 211, seed=62), target=wide)
    check.holds("A forward pass builds nothing of the size of W.", not large, stage="cost")


# -- parameter_groups --------------------------------------------------------------------------


def llava():
    """A model with LLaVA's names: a frozen vision tower, a head tied to the embedding."""
    tower = {"patches": nn.Conv2d(3, 5, 2), "pre_layrnorm": nn.LayerNorm(5), "fc1": nn.Linear(5, 7)}
    layer = {
        "input_layernorm": nn.RMSNorm(11),
        "q_proj": nn.Linear(11, 11),
        "down_proj": nn.Linear(11, 11, bias=False),
    }
    body = {
        "vision_tower": nn.ModuleDict(tower).requires_grad_(False),
        "mm_projector": nn.Sequential(nn.Linear(7, 11), nn.GELU(), nn.Linear(11, 11)),
        "embed_tokens": nn.Embedding(13, 11),
        "layers": nn.ModuleList([nn.ModuleDict(layer)]),
        "norm": nn.RMSNorm(11),
    }
    head = nn.Linear(11, 13, bias=False)
    head.weight = body["embed_tokens"].weight
    return nn.ModuleDict({"model": nn.ModuleDict(body), "lm_head": head})


def experts():
    """A model in which `vision` is a part, and `vision_expert` belongs to the language model."""
    vision = {"proj": nn.Linear(3, 5), "ln_q": nn.LayerNorm(5), "groups": nn.GroupNorm(1, 5)}
    layer = {
        "vision_expert": nn.Linear(7, 7),
        "text_expert": nn.Linear(7, 7),
        "norm": nn.RMSNorm(7),
    }
    layer["text_expert"].weight.requires_grad_(False)
    merger = nn.ModuleDict({"ln": nn.LayerNorm(5), "mlp": nn.Linear(5, 7)})
    body = {"vision": nn.ModuleDict(vision), "merger": merger}
    body["layers"] = nn.ModuleList([nn.ModuleDict(layer)])
    return nn.ModuleDict({"model": nn.ModuleDict(body)})


def laid_out(answer, model, lr, weight_decay, rates):
    """{name: [rate, decay, how often]} of every parameter, and the number of filled groups."""
    groups = answer(model, lr, weight_decay, rates)
    groups = sorted(groups, key=lambda group: (group["lr"], group["weight_decay"]))
    rows = {name: [None, None, 0] for name, _ in model.named_parameters()}
    for group in groups:
        if isinstance(group["params"], Tensor):
            group["params"] = [group["params"]]
        for parameter in group["params"]:
            for name, own in model.named_parameters():
                if own is parameter:
                    rows[name] = [group["lr"], group["weight_decay"], rows[name][2] + 1]
    if all(times < 2 for _, _, times in rows.values()):
        torch.optim.AdamW([dict(group) for group in groups])
    return [rows, sum(len(group["params"]) > 0 for group in groups)]


def in_words(rate, decay, times):
    if times == 0:
        return "in no group"
    return f"lr {rate:g}, weight decay {decay:g}" + (f", {times} times" if times > 1 else "")


def test_parameter_groups(check: Check):
    # Which parameters are of which part, and which are norms or biases, written down by hand.
    first = {
        "model.mm_projector.0.weight": (2e-5, 0.1),
        "model.mm_projector.0.bias": (2e-5, 0.0),
        "model.mm_projector.2.weight": (2e-5, 0.1),
        "model.mm_projector.2.bias": (2e-5, 0.0),
        "model.embed_tokens.weight": (2e-4, 0.1),
        "model.layers.0.input_layernorm.weight": (2e-4, 0.0),
        "model.layers.0.q_proj.weight": (2e-4, 0.1),
        "model.layers.0.q_proj.bias": (2e-4, 0.0),
        "model.layers.0.down_proj.weight": (2e-4, 0.1),
        "model.norm.weight": (2e-4, 0.0),
    }
    second = {
        "model.vision.proj.weight": (2e-6, 0.05),
        "model.vision.proj.bias": (2e-6, 0.0),
        "model.vision.ln_q.weight": (2e-6, 0.0),
        "model.vision.ln_q.bias": (2e-6, 0.0),
        "model.vision.groups.weight": (2e-6, 0.0),
        "model.vision.groups.bias": (2e-6, 0.0),
        "model.merger.ln.weight": (1e-3, 0.0),
        "model.merger.ln.bias": (1e-3, 0.0),
        "model.merger.mlp.weight": (1e-3, 0.05),
        "model.merger.mlp.bias": (1e-3, 0.0),
        "model.layers.0.vision_expert.weight": (1e-5, 0.05),
        "model.layers.0.vision_expert.bias": (1e-5, 0.0),
        "model.layers.0.text_expert.bias": (1e-5, 0.0),
        "model.layers.0.norm.weight": (1e-5, 0.0),
    }
    seen = []
    for model, lr, decay, rates, trained in (
        (llava(), 2e-4, 0.1, {"mm_projector": 2e-5}, first),
        (experts(), 1e-5, 0.05, {"vision": 2e-6, "merger": 1e-3}, second),
    ):
        rows, groups = check.probe(laid_out, model, lr, decay, rates)
        seen.append((groups, 2 * (len(rates) + 1)))
        for name, _ in model.named_parameters():
            wanted = in_words(*trained[name], 1) if name in trained else "in no group"
            got = in_words(*rows[name])
            check.holds(
                f"{name} is {wanted}.", got == wanted, stage="value", wanted=wanted, got=got
            )
    for groups, most in seen:
        check.cost("There are at most two groups for each learning rate.", groups, at_most=most)


# -- image_loss --------------------------------------------------------------------------------


def small_lm(seed):
    """A language model of seeded numbers: 13 tokens, embeddings of 7, a state of 11."""
    lm = nn.ModuleDict(
        {
            "embed": nn.Embedding(13, 7),
            "mixer": nn.GRU(7, 11, batch_first=True),
            "head": nn.Linear(11, 13),
        }
    )
    with torch.no_grad():
        for i, parameter in enumerate(lm.parameters()):
            parameter.copy_(inputs.normal(*parameter.shape, seed=seed + i, scale=0.7))
    return lm


def captions(lengths, tokens, seed, pad=0):
    ids = inputs.integers(len(lengths), tokens, below=12, start=1, seed=seed)
    for row, length in enumerate(lengths):
        ids[row, length:] = pad
    return ids


def caption_by_caption(lm, features, token_ids, pad=0):
    """The oracle: one caption at a time, without padding or labels, read and asked step by step."""
    losses = []
    for b, row in enumerate(token_ids):
        caption = [int(i) for i in row if i != pad]
        state, places = None, [] if features is None else list(features[b])
        for entry in [*places, *caption]:
            is_word = isinstance(entry, int)
            if is_word and state is not None:
                logits = state[0] @ lm["head"].weight.T + lm["head"].bias
                losses.append(logits.logsumexp(-1) - logits[0, entry])
            vector = lm["embed"].weight[entry] if is_word else entry
            _, state = lm["mixer"](vector[None, None], state)
    return torch.stack(losses).mean()


def table_slope(patch, lm, features, token_ids):
    patch(lm, features, token_ids).backward()
    slope = lm["embed"].weight.grad
    return torch.zeros_like(lm["embed"].weight) if slope is None else slope


def test_image_loss(check: Check):
    lm = small_lm(seed=71)
    few, ids = inputs.normal(3, 5, 7, seed=81), captions([8, 3, 5], 8, seed=82)
    many, short = inputs.normal(2, 11, 7, seed=83), captions([2, 6], 6, seed=84)

    def shows_fault(run):
        wrong, right = run(lm, few, ids), caption_by_caption(lm, few, ids)
        control = torch.isclose(run(lm, None, ids), caption_by_caption(lm, None, ids))
        return abs(wrong - right) > 0.02 * right and control

    broken = check.exercise.broken
    patch = check.diagnosis("ids_as_features", "text part 104.93", broken, shows_fault)
    check.cases(
        [
            case("an image before each caption", lm, few, ids),
            case("images of more places", lm, many, short),
            case(
                "one place, another padding id",
                lm,
                few[:, :1],
                captions([4, 7, 2], 7, 85, 12),
                pad=12,
            ),
        ],
        caption_by_caption,
        target=patch,
        gradient=["features"],
    )
    control = [case("a healthy run: text only", lm, None, ids)]
    check.cases(control, caption_by_caption, target=patch)
    own = small_lm(seed=71)
    check.equal(
        "The embedding table gets the gradient of the caption's tokens.",
        check.probe(table_slope, lm, few, ids, target=patch),
        table_slope(caption_by_caption, own, few, ids),
        stage="gradient",
    )


# -- accumulation ------------------------------------------------------------------------------


def micro_batch(counts, tokens, seed, first=False):
    """(hidden, labels) with `counts[row]` labels at each row's end, or (first) from its start."""
    hidden = inputs.normal(len(counts), tokens, 7, seed=seed)
    labels = inputs.integers(len(counts), tokens, below=17, seed=seed + 1)
    for row, count in enumerate(counts):
        labels[row, slice(count, None) if first else slice(0, tokens - count)] = IGNORE
    return hidden, labels


def token_by_token(weight, micro_batches):
    """The oracle: gradient (softmax - one-hot) h^T of every labelled token, then one mean."""
    losses, slopes = [], []
    for hidden, labels in micro_batches:
        for b, t in (labels[:, 1:] != IGNORE).nonzero().tolist():
            h, label = hidden[b, t].double(), int(labels[b, t + 1])
            p = (weight.double() @ h).softmax(0)
            losses.append(-p[label].log())
            p[label] -= 1
            slopes.append(torch.outer(p, h))
    return {
        "loss": torch.stack(losses).mean().float(),
        "gradient": torch.stack(slopes).mean(0).float(),
    }


def kept_for_backward(run, weight, micro_batches):
    """The most bytes that autograd held at a time."""

    class Kept:
        now = peak = 0

        def __init__(self, tensor):
            self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
            Kept.now += self.size
            Kept.peak = max(Kept.peak, Kept.now)

        def __del__(self):
            Kept.now -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run(weight, micro_batches)
    return Kept.peak


def keeps_more_than(run, weight, micro_batches, limit):
    class Kept:
        now = peak = 0

        def __init__(self, tensor):
            self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
            Kept.now += self.size
            Kept.peak = max(Kept.peak, Kept.now)

        def __del__(self):
            Kept.now -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run(weight, micro_batches)
    return Kept.peak > limit


def test_accumulation(check: Check):
    weight = inputs.normal(17, 7, seed=91)
    uneven = [micro_batch(c, 13, seed=92 + 2 * i) for i, c in enumerate([[2], [11], [3], [7]])]
    even = [micro_batch([5], 13, seed=101 + 2 * i) for i in range(4)]
    odd = [micro_batch([3, 9], 11, 111), micro_batch([1, 4, 2], 7, 113), micro_batch([10], 13, 115)]
    empty = [micro_batch([0, 0], 5, seed=121), *odd[1:]]
    first = [micro_batch([13, 2], 13, seed=123, first=True), micro_batch([4], 7, 125, first=True)]

    def differs(run, batches):
        got, wanted = run(weight, batches)["gradient"], token_by_token(weight, batches)["gradient"]
        return (got - wanted).norm() > 0.1 * wanted.norm()

    def shows_fault(run):
        return differs(run, uneven) and not differs(run, even)

    broken = check.exercise.broken
    patch = check.diagnosis("mean_of_means", "2 31  3 20", broken, shows_fault)
    check.cases(
        [
            case("counts of 2, 11, 3 and 7", weight, uneven),
            case("a healthy run: equal counts", weight, even),
            case("rows and lengths differ too", weight, odd),
            case("a micro-batch without labels", weight, empty),
            case("a label on the first token", weight, first),
        ],
        token_by_token,
        target=patch,
    )
    limit = 2 * kept_for_backward(broken, weight, even)
    more = check.probe(keeps_more_than, weight, even, limit, target=patch)
    check.holds(
        "What is kept for the backward pass is that of one micro-batch, not of all.",
        not more,
        stage="cost",
    )


# -- adapter_size ------------------------------------------------------------------------------


def test_adapter_size(check: Check):
    # Every matrix written down by its shape, and counted.
    linears = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
    pairs = [shape for outputs, inputs_ in linears for shape in ((128, inputs_), (outputs, 128))]
    adapter = sum(math.prod(shape) for shape in pairs * 32)
    layer = [*linears, (4096,), (4096,)]
    model = sum(math.prod(s) for s in [*layer * 32, (4096,), (32000, 4096), (32000, 4096)])
    check.number(
        {
            "parameters": adapter,
            "file_mb": adapter * torch.bfloat16.itemsize / 1e6,
            "adamw_bytes": 2 * adapter * torch.float32.itemsize,
            "full_adamw_bytes": 2 * model * torch.float32.itemsize,
        }
    )
