"""The reference: the policy as it was, in the same weights. Chapter 5."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from labs.models.adapters import BottleneckAdapter
from labs.models.lora import LoRALinear
from labs.models.parts import part_of


class Reference:
    """`with reference(): ...` runs the model as it stood when the run began.

    With adapters the frozen weights *are* the reference, and they are held once: the adapter is
    switched off. What trains beside it (a connector, or everything in full training) is kept as it
    was, and changes places with the live values for as long as the block lasts: a second copy of
    what trains, and of nothing else.
    """

    def __init__(self, model: nn.Module, names: set[str], peft_model: nn.Module | None = None):
        self.model, self.peft_model = model, peft_model
        own = dict(model.named_parameters())
        others = sorted(name for name in names if part_of(name) != "lora")
        self.first: dict[str, Tensor] = {name: own[name].detach().clone() for name in others}
        self.live: dict[str, nn.Parameter] = {name: own[name] for name in others}

    @property
    def bytes_held(self) -> int:
        """What the reference costs beyond the policy."""
        return sum(t.numel() * t.element_size() for t in self.first.values())

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.peft_model is not None:
                stack.enter_context(self.peft_model.disable_adapter())
            else:
                stack.enter_context(adapters_off(self.model))
            self._swap()
            stack.callback(self._swap)
            yield

    def _swap(self) -> None:
        for name, parameter in self.live.items():
            parameter.data, self.first[name] = self.first[name], parameter.data


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within it our LoRA layers and bottleneck adapters are the frozen layers that they wrap."""
    layers = [m for m in model.modules() if isinstance(m, LoRALinear | BottleneckAdapter)]
    for layer in layers:
        layer.forward = layer.base.forward  # on the instance: it hides the class's
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def parameter_bytes(*modules: nn.Module) -> int:
    """Bytes of all parameters, each storage counted once however many modules share it."""
    seen = {}
    for module in modules:
        for parameter in module.parameters():
            seen[parameter.untyped_storage().data_ptr()] = parameter.untyped_storage().nbytes()
    return sum(seen.values())
