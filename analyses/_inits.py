"""Tools that initialize a whole model, what a signal does in it afterwards, and what they cost.

Each tool is a row of ``TOOLS`` and changes a model in place. AnyInit stands there where it is
installed (``pip install anyinit``).
"""

from __future__ import annotations

import copy
import importlib.util
import math
import time
import tracemalloc
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from analyses._init_nets import Residual
from analyses._streams import Streams
from sigprop import initialize

WEIGHTS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)  # fmt: skip
CAP = 100.0
"""Decades at which a signal counts as lost."""
OURS = "ours critical + data"
"""The tool that is ranked against the others."""


@dataclass(frozen=True)
class Task:
    """What a tool is told.

    Attributes:
        x: a batch to look at.
        nonlinearity: as ``torch.nn.init.calculate_gain`` calls it, and its slope.
        seed: of the weights.
    """

    x: Tensor
    nonlinearity: tuple[str, float]
    seed: int

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Tool:
    """A way to initialize a model in place.

    Attributes:
        name: unique.
        apply: does it.
        data: whether it scales weights by what it measures.
        quadratic: whether it runs the model once a layer.
    """

    name: str
    apply: Callable[[nn.Module, Task], Any]
    data: bool
    quadratic: bool = False


def kaiming(model: nn.Module, task: Task) -> None:
    """The loop that people write: ``kaiming_normal_`` for every linear map, biases 0."""
    kind, slope = task.nonlinearity
    source = task.generator
    for module in model.modules():
        if isinstance(module, WEIGHTS):
            nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity=kind, generator=source)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def lsuv(model: nn.Module, task: Task) -> None:
    """Layer-sequential unit variance: orthonormal weights, then each layer's output to variance 1.

    The paper takes the layers in turn, dividing a layer's weights by the standard deviation of its
    output on a batch until that is 1. Biases being zero, one division does it, and what the layers
    behind see is what this layer then puts out: all layers are set in one pass. A module that is
    called again keeps what its first call gave it.

    Source: mishkin2016 (algorithm 1).
    """
    source, done = task.generator, set()
    for module in model.modules():
        if isinstance(module, WEIGHTS):
            nn.init.orthogonal_(module.weight, generator=source)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def scaled(module: nn.Module, _: Any, out: Tensor) -> Tensor:
        if module in done:
            return out
        done.add(module)
        std = out.std()
        module.weight.div_(std)
        return out / std

    hooks = [m.register_forward_hook(scaled) for m in model.modules() if isinstance(m, WEIGHTS)]
    try:
        with torch.no_grad():
            model(task.x)
    finally:
        for hook in hooks:
            hook.remove()


def _anyinit(model: nn.Module, task: Task, mode: str) -> None:
    import anyinit

    shape = task.x if mode == "empirical" or not task.x.is_floating_point() else tuple(task.x.shape)
    anyinit.initialize(model, mode, shape, seed=task.seed)


def _ours(target: str, data: bool) -> Callable[[nn.Module, Task], Any]:
    def apply(model: nn.Module, task: Task) -> Any:
        return initialize(model, task.x, target=target, data=data, generator=task.generator)

    return apply


def _tools() -> tuple[Tool, ...]:
    rows = [
        Tool("default", lambda model, task: None, False),
        Tool("Kaiming loop", kaiming, False),
        Tool("LSUV", lsuv, True),
    ]
    if importlib.util.find_spec("anyinit") is not None:
        rows += [
            Tool("AnyInit", lambda model, task: _anyinit(model, task, "analytic"), False),
            Tool(
                "AnyInit + data",
                lambda model, task: _anyinit(model, task, "empirical"),
                True,
                quadratic=True,
            ),
        ]
    rows += [
        Tool("ours forward", _ours("forward", False), False),
        Tool("ours critical", _ours("critical", False), False),
        Tool(OURS, _ours("critical", True), True),
    ]
    return tuple(rows)


TOOLS = {tool.name: tool for tool in _tools()}


# What the signal does


@dataclass(frozen=True)
class Signal:
    """From one place of a model to a later one, in decades.

    Attributes:
        forward: log₁₀ of E z² at the last place over that at the first.
        backward: log₁₀ of E ‖g‖² at the first place over that at the last, g the gradient of a
            random projection of the output: where both places have one size, the ratio of E g².
        shares: largest over smallest share of a residual branch, E branch² / E stream² at its sum;
            None: there is no branch.
    """

    forward: float
    backward: float
    shares: float | None


def signal(model: nn.Module, x: Tensor, first: str, last: str, seed: int = 0) -> Signal:
    """What a signal does on its way through a model, in float64; the model is left as it is.

    Args:
        model: to run.
        x: a batch.
        first: name of a module, whose output is the first place.
        last: of another, whose output is the last.
        seed: of the projection.
    """
    model = copy.deepcopy(model).double()
    kept: dict[Any, Tensor] = {}
    shares: list[float] = []

    def keeper(key: Any) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_: nn.Module, __: Any, out: Tensor) -> None:
            kept[key] = out

        return keep

    def share(module: Residual, inputs: tuple[Tensor], _: Tensor) -> None:
        branch, stream = kept[module].detach(), inputs[0].detach()
        shares.append(float(branch.square().mean() / stream.square().mean()))

    for module in model.modules():
        if isinstance(module, Residual):
            module.branch.register_forward_hook(keeper(module))
            module.register_forward_hook(share)
    for name in (first, last):
        model.get_submodule(name).register_forward_hook(keeper(name))
    out = model(x.double() if x.is_floating_point() else x)
    source = torch.Generator().manual_seed(Streams.of(seed).cotangents)  # not that of weights
    projection = torch.randn(out.shape, generator=source).double()
    gradients = torch.autograd.grad((out * projection).sum(), [kept[first], kept[last]])
    forward = _decades(*(kept[name].detach().square().mean() for name in (last, first)))
    backward = _decades(*(gradient.square().sum() for gradient in gradients))
    return Signal(forward, backward, max(shares) / max(min(shares), 1e-300) if shares else None)


def _decades(above: Tensor, below: Tensor) -> float:
    value = math.log10(above) - math.log10(below) if above > 0 and below > 0 else -CAP
    return min(max(value, -CAP), CAP) if math.isfinite(value) else CAP


def error(found: Signal, forward: float, backward: float | None) -> float:
    """The score of a draw: the worse of |log₁₀| of both directions against their targets.

    Args:
        found: the signal.
        forward: factor that E z² should grow by, > 0.
        backward: that E ‖g‖² should grow by; None: not asked for.

    Example:
        >>> error(Signal(0.5, -0.1, None), 10.0, 1.0)
        0.5
    """
    errors = [abs(found.forward - math.log10(forward))]
    if backward is not None:
        errors.append(abs(found.backward - math.log10(backward)))
    return max(errors)


# What a tool costs


class _Live(TorchDispatchMode):
    """Follows the bytes of the storages that torch makes, and of what Python and numpy hold."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._met(leaf.untyped_storage())
        self.peak = max(self.peak, self.live + tracemalloc.get_traced_memory()[0])
        return out

    def _met(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if size and key not in self.known:
            self.known.add(key)
            self.live += size
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def memory(tool: Tool, model: nn.Module, task: Task) -> float:
    """Bytes that a tool holds at most, beyond the model, as a multiple of the model's weights."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    with _Live():  # torch imports some of itself when it is first followed
        torch.zeros(1)
    live = _Live()
    live.known |= {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    live.known |= {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    live.known.add(task.x.untyped_storage().data_ptr())
    tracemalloc.start()
    try:
        with live, quietly():
            tool.apply(model, task)
        held, most = tracemalloc.get_traced_memory()
        peak = max(live.peak, live.live + held, most)
    finally:
        tracemalloc.stop()
    return peak / weights


def seconds(tool: Tool, model: nn.Module, task: Task) -> float:
    """Seconds of the processor that a tool takes."""
    with quietly():
        start = time.process_time()
        tool.apply(model, task)
        return time.process_time() - start


class quietly(warnings.catch_warnings):
    """Tools warn of what they cannot hold; here that is measured."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
