"""Which module of a model runs now: in a forward pass, in backward, in a recomputation.

Hooks tell where a forward pass stands. Backward runs nodes, not modules; but autograd numbers its
nodes in the order in which they were made, so remembering at which number the running module
changed is enough to say whose node it is. Imports only torch.
"""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import nn

_LAST = (1 << 63) - 1  # AccumulateGrad's nodes carry a sequence number above all others


def _unknown(*_):
    return None


# Not in every version of PyTorch; without them backward's memory belongs to no module.
_current_node = getattr(torch._C, "_current_autograd_node", _unknown)
_sequence_number = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)
# The running backward pass, or -1 outside of any.
graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)


class Modules:
    """The modules of the models that are followed, and the one that runs."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._models: list[nn.Module] = []  # kept, so that the ids stay their modules' own
        self._stack: list[tuple[str, int]] = []  # (module, graph task it runs in or -1)
        self._boundaries: list[int] = []  # sequence numbers at which the running module changed
        self._owners: list[str] = []

    def learn(self, model: nn.Module, prefix: str = "") -> None:
        """Learn the names of a model's modules."""
        for name, module in model.named_modules(prefix=prefix):
            self._names[id(module)] = name
        self._models.append(model)

    def __contains__(self, module: nn.Module) -> bool:
        return id(module) in self._names

    @property
    def running(self) -> str:
        """The module that runs now; in backward the one whose forward made the running node."""
        task = graph_task()
        if self._stack and (task == -1 or self._stack[-1][1] == task):
            return self._stack[-1][0]
        if task == -1:
            return ""
        node = _current_node()
        number = _LAST if node is None else node._sequence_nr()
        place = bisect_right(self._boundaries, number)
        return self._owners[place - 1] if place > 0 and number < _LAST else ""

    @property
    def outside(self) -> bool:
        """Whether no followed module is in its forward pass."""
        return not self._stack

    @property
    def in_backward(self) -> bool:
        """Whether backward runs, and not a forward pass that it recomputes."""
        task = graph_task()
        recomputes = bool(self._stack) and self._stack[-1][1] == task
        return task != -1 and not recomputes

    def starts(self, module: nn.Module) -> None:
        """A module's forward pass begins."""
        name = self._names.get(id(module))
        if name is not None:
            self._stack.append((name, graph_task()))
            self._changed()

    def ends(self, module: nn.Module) -> None:
        """A module's forward pass is over."""
        name = self._names.get(id(module))
        if name is None:
            return
        # An exception may have left deeper modules on the stack.
        while self._stack:
            if self._stack.pop()[0] == name:
                break
        self._changed()

    def forget_graph(self) -> None:
        """No graph outlives this moment: old numbers are not asked for again."""
        self._boundaries.clear()
        self._owners.clear()

    def forget_stack(self) -> None:
        """Nothing runs any more, whatever an exception has left behind."""
        self._stack.clear()

    def _changed(self) -> None:
        if not torch.is_grad_enabled():
            return
        number = _sequence_number()
        owner = self._stack[-1][0] if self._stack else ""
        if self._boundaries and self._boundaries[-1] >= number:
            self._owners[-1] = owner
        else:
            self._boundaries.append(number)
            self._owners.append(owner)
