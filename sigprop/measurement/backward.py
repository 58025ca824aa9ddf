"""Which backward pass a gradient is of: the one that reaches the parameters counts.

Every run of autograd has a number. A gradient of the input alone (a gradient penalty's inner one,
a residual of a differential equation, an adversarial step by ``torch.autograd.grad``) reaches no
parameter; one whose ``.grad`` was set to None again (an adversarial step by ``backward`` and
``zero_grad``) was thrown away. Neither enters what is reported. Where no run reaches the ``.grad``
of a parameter (training by ``autograd.grad``), all count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import TensorWeakRef

NEEDS_ITS_OWN_GRAPH = (
    "you can only change requires_grad flags of leaf variables",
    "does not require grad and does not have a grad_fn",
    "Setting requires_grad=True on inference tensor",
)
"""What torch says where a forward pass differentiates by its own input."""
REENTRANT = "compatible with .grad()"
"""What torch says where a part of the model runs a backward pass of its own inside."""


def current_pass() -> int:
    """The number of the run of autograd that is under way; −1: none is."""
    return int(torch._C._current_graph_task_id())


class BackwardPasses:
    """The runs of autograd while some layers were looked at.

    Attributes:
        reached: those that added to the gradient of a parameter and were not thrown away.
        second_order: whether a gradient was met that is itself to be differentiated.
    """

    def __init__(self) -> None:
        self.reached: set[int] = set()
        self.second_order = False
        self._grads: dict[int, tuple[TensorWeakRef, set[int]]] = {}
        self._parameters: set[int] = set()
        self._handles: list[RemovableHandle] = []
        self._lock = threading.Lock()

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Be told when a run reaches one of these; those told of before are not watched twice."""
        for parameter in parameters:
            if parameter.requires_grad and parameter.is_leaf and not self._is_watched(parameter):
                register: Any = parameter.register_post_accumulate_grad_hook
                self._handles.append(register(self._see))

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._parameters.clear()

    def counts(self, number: int) -> bool:
        """Whether what a run brought counts; all do where none reached a parameter."""
        return not self.reached or number in self.reached

    def see(self, delta: Tensor) -> int:
        """The run that a gradient is of."""
        self.second_order = self.second_order or delta.requires_grad
        return current_pass()

    def _is_watched(self, parameter: nn.Parameter) -> bool:
        known = id(parameter) in self._parameters
        self._parameters.add(id(parameter))
        return known

    def _see(self, parameter: Tensor) -> None:
        grad, number = parameter.grad, current_pass()
        if grad is None:  # an optimizer inside the backward pass has taken it
            with self._lock:
                self.reached.add(number)
            return
        with self._lock:
            before, runs = self._grads.get(id(parameter), (None, set()))
            # A gradient that stands anew, and was not added to one put there by hand.
            fresh = not grad.requires_grad and grad._version == 0
            if before is not None and before() is not grad and fresh and number not in runs:
                self.reached -= runs
                runs = set()
            self.reached.add(number)
            self._grads[id(parameter)] = TensorWeakRef(grad), {*runs, number}


@contextmanager
def thawed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let frozen floating-point parameters ask for a gradient inside; freeze them again after."""
    frozen = [p for p in parameters if p.is_floating_point() and not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def sources(leaves: list[Tensor], watched: list[GradientEdge]) -> list[GradientEdge]:
    """What to differentiate by so that the backward pass meets every watched tensor.

    The leaves, and every watched tensor (in order of the data) that depends neither on them nor on
    a watched one already taken. No parameter: their gradients cost as much again.
    """
    chosen = [get_gradient_edge(leaf) for leaf in leaves]
    met: dict[Node, bool] = {edge.node: True for edge in chosen}
    for edge in watched:
        if not _reaches(edge.node, met):
            chosen.append(edge)
            met[edge.node] = True
    return chosen


def _reaches(node: Node, met: dict[Node, bool]) -> bool:
    """Whether a node is or leads to one known to be met; remembers it for all on the way."""
    stack = [node]
    while stack:
        top = stack[-1]
        below = [] if top in met else [n for n, _ in top.next_functions if n is not None]
        unknown = [n for n in below if n not in met]
        if unknown:
            stack += unknown
            continue
        met.setdefault(top, any(met[n] for n in below))
        stack.pop()
    return met[node]
