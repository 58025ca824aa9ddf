"""``measure``: per layer the moments of the pre-activations and of their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from sigprop.checks import FloatArray
from sigprop.measurement.hooks import (
    MOMENTS,
    every_module_called,
    forward_hooks,
    gradient_moments,
    hookable,
    moments,
    sources,
    thawed,
    unit_axis,
    weight_layers,
)
from sigprop.reading.calling import (
    as_found,
    call,
    check_model,
    cotangent,
    described,
    flatten,
    scalar,
    some,
    unwrapped,
    with_gradient,
)
from sigprop.records import Row, table


@dataclass(frozen=True)
class LayerSignal:
    """What was seen at one call of one layer; moments are over the batch and all units.

    Attributes:
        name: qualified module name; ``#2`` and so on mark further calls of the same module, ``[1]``
            and so on further tensors of one call.
        kind: class of the module.
        shape: shape of its output, the pre-activations.
        mean: mean of the pre-activations.
        second_moment: mean of their squares, q̂.
        variance: mean square of their difference from the mean.
        negative_share: share of entries below zero.
        units: number of units (channels of a convolution).
        dead_units: units with no positive pre-activation on the data seen.
        nonfinite: entries that are NaN or infinite.
        grad_second_moment: mean square of the gradient with respect to the pre-activations; None if
            there was no backward pass or it did not reach this layer.
        grad_nonfinite: entries of that gradient that are NaN or infinite; None likewise.
        flag: ``"overflow"`` where an entry is not finite (or, in float64, its square is not),
            ``"underflow"`` where the root mean square is below the smallest normal number of the
            dtype, ``"zero"`` where every entry is zero, else ``""``; the gradient's own flag
            follows as ``"grad overflow"`` and so on.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    second_moment: float
    variance: float
    negative_share: float
    units: int
    dead_units: int
    nonfinite: int
    grad_second_moment: float | None
    grad_nonfinite: int | None
    flag: str


@dataclass(frozen=True)
class Signals:
    """The layers of one pass in the order of the data. Prints as a table.

    Attributes:
        layers: one :class:`LayerSignal` a call.
        not_called: watched layers that this input did not call, or whose weights the model uses
            without calling them (the output projection of ``nn.MultiheadAttention``).
    """

    layers: tuple[LayerSignal, ...]
    not_called: tuple[str, ...] = ()

    @property
    def q_hat(self) -> FloatArray:
        """Second moments of the pre-activations, shape (layers,)."""
        return np.array([layer.second_moment for layer in self.layers])

    @property
    def grad_hat(self) -> FloatArray:
        """Second moments of the gradients, shape (layers,); NaN where none was measured."""
        return np.array([layer.grad_second_moment for layer in self.layers], dtype=np.float64)

    def __iter__(self) -> Iterator[LayerSignal]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, key: int | str) -> LayerSignal:
        """A layer by position or by name."""
        if isinstance(key, int):
            return self.layers[key]
        for layer in self.layers:
            if layer.name == key:
                return layer
        raise KeyError(f"no layer {key!r}; measured: {', '.join(s.name for s in self.layers)}")

    def records(self) -> list[Row]:
        """One flat row a layer."""
        return [asdict(layer) for layer in self.layers]

    def __str__(self) -> str:
        columns = {
            "name": "",
            "mean": ".3g",
            "second_moment": ".4g",
            "variance": ".4g",
            "negative_share": ".3f",
            "dead_units": "",
            "units": "",
            "nonfinite": "",
        }
        if any(layer.grad_second_moment is not None for layer in self.layers):
            columns["grad_second_moment"] = ".4g"
        lines = [table(self.records(), columns | {"flag": ""})]
        if self.not_called:
            lines.append(f"not called: {', '.join(self.not_called)}")
        return "\n".join(lines)


def measure(
    model: nn.Module,
    x: Any,
    *,
    backward: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
    layers: Callable[[str, nn.Module], bool] | None = None,
    generator: torch.Generator | None = None,
) -> Signals:
    """Measure the signal in a network: one forward pass and, if asked, one backward pass.

    Hooks are attached for the pass alone and come off on any exit; buffers (running statistics) and
    torch's random state are given back as they were; parameters' ``.grad`` is not touched. Each
    tensor is reduced at once on its device in float64; the numbers come to the host together, in
    one synchronisation. Activations that overwrite a layer's output do not spoil it.

    What a module computes inside itself is not seen: compiled and data-parallel wrappers are taken
    off and the model inside is run module by module, but layers that are never called as modules
    are only listed, as ``not_called``; under reentrant checkpointing no gradient is seen.

    Args:
        model: any module; it runs in the mode (train or eval) it is in.
        x: what to call it with: a tensor, a tuple of positional or a dict of keyword arguments;
            anything else, a named tuple too, is the one argument.
        backward: measure the gradient with respect to the pre-activations, for a random cotangent:
            the scalar Σ uᵢ·outputᵢ with uᵢ ~ N(0, 1).
        loss: function from the model's output to a scalar; its gradient is measured instead of a
            random cotangent's (implies ``backward``).
        layers: which modules to watch, ``(qualified name, module) -> bool``; default: the weight
            layers (linear, convolutions, transposed convolutions).
        generator: where the random cotangent is drawn from; None: a CPU generator with seed 0.

    Returns:
        One :class:`LayerSignal` for each call of each watched layer.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no layer to watch, none was called, a lazy module without shapes yet, a loss
            that is not a scalar, or a backward pass of nothing.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))
        >>> [layer.name for layer in measure(net, torch.ones(3, 4), backward=True)]
        ['0', '2']
    """
    _check_arguments(model, loss, layers, generator)
    backward = backward or loss is not None
    model = unwrapped(model)
    watched = _watched(model, layers)
    pass_ = _Pass()
    leaves: list[Tensor] = []
    # Under inference_mode no graph can be built, so a backward pass steps out of it.
    mode = torch.inference_mode(False) if backward else nullcontext()
    with mode, as_found(model, flatten(x)), every_module_called():
        inputs = with_gradient(x, leaves) if backward else x
        # With integer inputs alone the gradient needs parameters to start from.
        with (
            thawed(model.parameters() if backward and not leaves else ()),
            torch.set_grad_enabled(backward),
            pass_.attached(watched),
        ):
            output = call(model, inputs)
            if backward:
                _run_backward(output, leaves, pass_, loss, generator)
        return pass_.signals(watched)


class _Pass:
    """The statistics of one pass, on the device until :meth:`signals`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, nn.Module, torch.Size, torch.dtype, int]] = []
        self.forward: list[Tensor] = []
        self.gradient: dict[int, Tensor] = {}
        self.calls: dict[str, int] = {}
        self.edges: list[GradientEdge] = []
        self.running_backward = False
        self._handles: list[RemovableHandle] = []

    @contextmanager
    def attached(self, watched: dict[str, nn.Module]) -> Iterator[None]:
        """See every call inside; on any exit take the hooks off modules and tensors."""
        try:
            with forward_hooks(watched, self._see):
                yield
        finally:
            for handle in self._handles:
                handle.remove()
            self.edges.clear()

    def _see(self, name: str, module: nn.Module, output: Any) -> None:
        if self.running_backward:
            return  # recomputed by checkpointing: the same call again
        self.calls[name] = self.calls.get(name, 0) + 1
        label = name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"
        tensors = [t for t in flatten(output) if t.is_floating_point() and t.numel()]
        for position, tensor in enumerate(tensors):
            axis = unit_axis(module, tensor) if tensor.dim() else None
            index = len(self.seen)
            units = tensor.shape[axis] if axis is not None else 1
            full_label = f"{label}[{position}]" if position else label
            self.seen.append((full_label, module, tensor.shape, tensor.dtype, units))
            self.forward.append(moments(tensor, axis))
            if tensor.requires_grad:
                self._await_gradient(index, hookable(module, tensor))

    def _await_gradient(self, index: int, tensor: Tensor) -> None:
        def see(gradient: Tensor) -> None:
            self.gradient[index] = gradient_moments(gradient)

        handle: RemovableHandle = tensor.register_hook(see)  # type: ignore[no-untyped-call]
        self._handles.append(handle)
        self.edges.append(get_gradient_edge(tensor))

    def signals(self, watched: dict[str, nn.Module]) -> Signals:
        if not self.seen:
            raise ValueError(self._nothing_seen(watched))
        order = sorted(self.gradient)
        device = self.forward[0].device
        rows = [*self.forward, *(self.gradient[index] for index in order)]
        host = torch.stack([row.to(device) for row in rows]).cpu().numpy()
        gradients = dict(zip(order, host[len(self.seen) :], strict=True))
        return Signals(
            tuple(
                _layer_signal(*seen, host[index], gradients.get(index))
                for index, seen in enumerate(self.seen)
            ),
            not_called=tuple(name for name in watched if name not in self.calls),
        )

    def _nothing_seen(self, watched: dict[str, nn.Module]) -> str:
        if not self.calls:
            return (
                f"the model called none of the watched layers ({some(watched)}) on this input, so "
                "there is nothing to measure; choose modules with layers=lambda name, module: ..."
            )
        return (
            f"the watched layers ({some(self.calls)}) returned no real floating-point numbers on "
            "this input: only empty, integer or complex tensors, or none at all."
        )


def _layer_signal(
    name: str,
    module: nn.Module,
    shape: torch.Size,
    dtype: torch.dtype,
    units: int,
    forward: FloatArray,
    gradient: FloatArray | None,
) -> LayerSignal:
    size = shape.numel()
    seen = dict(zip(MOMENTS, forward.tolist(), strict=True))
    mean, second = seen["sum"] / size, seen["sum_of_squares"] / size
    flags = [_flag(mean, second, seen["nonfinite"], dtype)]
    back = None if gradient is None else dict(zip(MOMENTS, gradient.tolist(), strict=True))
    if back is not None:
        flag = _flag(back["sum"], back["sum_of_squares"] / size, back["nonfinite"], dtype)
        flags.append(f"grad {flag}" if flag else "")
    return LayerSignal(
        name=name,
        kind=type(module).__name__,
        shape=tuple(shape),
        mean=mean,
        second_moment=second,
        variance=_variance(mean, second, seen["about_shift"] / size, seen["shift"]),
        negative_share=seen["negative"] / size,
        units=units,
        dead_units=int(seen["dead_units"]),
        nonfinite=int(seen["nonfinite"]),
        grad_second_moment=None if back is None else back["sum_of_squares"] / size,
        grad_nonfinite=None if back is None else int(back["nonfinite"]),
        flag=", ".join(filter(None, flags)),
    )


def _variance(mean: float, second: float, about_shift: float, shift: float) -> float:
    """The difference of the moments; of those about the shift where it would lose more digits.

    What is left below the rounding of either is no variance.
    """
    if not math.isfinite(second):
        return math.nan
    direct = second - mean * mean
    if direct > 1e-4 * second:
        return direct
    shifted = about_shift - (mean - shift) ** 2
    return shifted if shifted > 4e-15 * about_shift else 0.0


def _flag(total: float, second_moment: float, nonfinite: float, dtype: torch.dtype) -> str:
    if nonfinite or not math.isfinite(second_moment):
        return "overflow"
    if second_moment == 0 and total == 0:
        return "zero"
    return "underflow" if math.sqrt(second_moment) < torch.finfo(dtype).tiny else ""


def _check_arguments(model: Any, loss: Any, layers: Any, generator: Any) -> None:
    check_model(model)
    if loss is not None and not callable(loss):
        raise TypeError(
            "loss must be a function from the model's output to a scalar tensor; "
            f"got {described(loss)}."
        )
    if layers is not None and not callable(layers):
        raise TypeError(
            "layers must be a function (qualified name, module) -> bool; "
            f"got {described(layers)}. For names, pass layers=lambda name, module: name in names."
        )
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            f"generator must be a torch.Generator or None; got {generator!r}. "
            "For a seed, pass torch.Generator().manual_seed(seed)."
        )


def _watched(
    model: nn.Module, layers: Callable[[str, nn.Module], bool] | None
) -> dict[str, nn.Module]:
    lazy = [name for name, tensor in _named_tensors(model) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"{type(model).__name__} is lazy: {some(lazy)} have no shape yet; run the model once, "
            "then measure it."
        )
    if layers is None:
        watched = weight_layers(model)
        missing = "no weight layer (linear or convolution)"
    else:
        watched = {name: module for name, module in model.named_modules() if layers(name, module)}
        missing = "no module for which layers(name, module) is true"
    if not watched:
        raise ValueError(
            f"{type(model).__name__} has {missing}, so there is nothing to measure; choose modules "
            "with layers=lambda name, module: ..."
        )
    return watched


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _run_backward(
    output: Any,
    leaves: list[Tensor],
    pass_: _Pass,
    loss: Callable[[Any], Tensor] | None,
    generator: torch.Generator | None,
) -> None:
    pass_.running_backward = True
    targets = list(flatten(output)) if loss is None else [scalar(loss(output))]
    targets = [t for t in targets if t.is_floating_point() and t.requires_grad]
    start = sources(leaves, pass_.edges)
    if not targets or not start:
        what = f"the model's output ({described(output)})" if loss is None else "the loss"
        raise ValueError(
            f"there is no gradient to measure: {what} is not a real tensor that depends, through "
            "operations torch can differentiate, on a floating-point input or a parameter."
        )
    source = torch.Generator().manual_seed(0) if generator is None else generator
    cotangents = [cotangent(t, source) for t in targets] if loss is None else None
    torch.autograd.grad(targets, start, cotangents, allow_unused=True)
