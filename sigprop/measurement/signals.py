"""``measure``: per layer the moments of the pre-activations and of the gradient with respect to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.checks import FloatArray
from sigprop.measurement.hooks import as_found, forward_hooks, moments, unit_axis, weight_layers
from sigprop.records import Row, table


@dataclass(frozen=True)
class LayerSignal:
    """What was seen at one call of one layer; moments are over the batch and all units.

    Attributes:
        name: qualified module name; ``#2`` and so on mark further calls of the same module.
        kind: class of the module.
        shape: shape of its output, the pre-activations.
        mean: mean of the pre-activations.
        second_moment: mean of their squares, q̂.
        variance: ``second_moment − mean²``.
        negative_share: share of entries below zero.
        units: number of units (channels of a convolution).
        dead_units: units with no positive pre-activation on the data seen.
        nonfinite: entries that are NaN or infinite.
        grad_second_moment: mean square of the gradient with respect to the pre-activations; None if
            there was no backward pass or it did not reach this layer.
        grad_nonfinite: entries of that gradient that are NaN or infinite; None likewise.
        flag: ``"overflow"`` where an entry is not finite, ``"underflow"`` where the root mean square
            is below the smallest normal number of the dtype, ``"zero"`` where every entry is zero,
            else ``""``; the gradient's own flag follows as ``"grad overflow"`` and so on.
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
    """

    layers: tuple[LayerSignal, ...]

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
        return table(self.records(), columns | {"flag": ""})


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
    one synchronisation.

    Args:
        model: any module; it runs in the mode (train or eval) it is in.
        x: what to call it with: a tensor, a tuple of positional or a dict of keyword arguments.
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
        ValueError: no layer to watch, none was called, or a backward pass of nothing.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))
        >>> [layer.name for layer in measure(net, torch.ones(3, 4), backward=True)]
        ['0', '2']
    """
    backward = backward or loss is not None
    watched = _watched(model, layers)
    pass_ = _Pass()
    with as_found(model), torch.set_grad_enabled(backward), forward_hooks(watched, pass_.see):
        inputs = _with_gradient(x) if backward else x
        output = _call(model, inputs)
        if backward:
            _run_backward(model, inputs, output, loss, generator)
    return pass_.signals()


class _Pass:
    """The statistics of one pass, on the device until :meth:`signals`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, nn.Module, torch.Size, torch.dtype, int]] = []
        self.forward: list[Tensor] = []
        self.gradient: dict[int, Tensor] = {}
        self.calls: dict[str, int] = {}

    def see(self, name: str, module: nn.Module, output: Any) -> None:
        tensors = [tensor for tensor in _flatten(output) if tensor.is_floating_point()]
        for tensor in tensors:
            if tensor.numel() == 0:
                continue
            self.calls[name] = self.calls.get(name, 0) + 1
            label = name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"
            axis = unit_axis(module, tensor) if tensor.dim() else None
            index = len(self.seen)
            units = tensor.shape[axis] if axis is not None else 1
            self.seen.append((label, module, tensor.shape, tensor.dtype, units))
            self.forward.append(moments(tensor, axis))
            if tensor.requires_grad:
                tensor.register_hook(lambda grad, index=index: self._see_gradient(index, grad))

    def _see_gradient(self, index: int, grad: Tensor) -> None:
        self.gradient[index] = moments(grad)

    def signals(self) -> Signals:
        if not self.seen:
            raise ValueError("none of the watched layers was called with this input.")
        order = sorted(self.gradient)
        device = self.forward[0].device
        rows = [*self.forward, *(self.gradient[index] for index in order)]
        host = torch.stack([row.to(device) for row in rows]).cpu().numpy()
        gradients = dict(zip(order, host[len(self.seen) :], strict=True))
        return Signals(
            tuple(
                _layer_signal(*seen, host[index], gradients.get(index))
                for index, seen in enumerate(self.seen)
            )
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
    total, squares, negative, nonfinite, dead = forward
    mean, second = float(total / size), float(squares / size)
    flags = [_flag(second, int(nonfinite), dtype)]
    if gradient is not None:
        flag = _flag(float(gradient[1] / size), int(gradient[3]), dtype)
        flags.append(f"grad {flag}" if flag else "")
    return LayerSignal(
        name=name,
        kind=type(module).__name__,
        shape=tuple(shape),
        mean=mean,
        second_moment=second,
        variance=max(second - mean**2, 0.0) if np.isfinite(second) else float("nan"),
        negative_share=float(negative / size),
        units=units,
        dead_units=int(dead),
        nonfinite=int(nonfinite),
        grad_second_moment=None if gradient is None else float(gradient[1] / size),
        grad_nonfinite=None if gradient is None else int(gradient[3]),
        flag=", ".join(filter(None, flags)),
    )


def _flag(second_moment: float, nonfinite: int, dtype: torch.dtype) -> str:
    if nonfinite or not np.isfinite(second_moment):
        return "overflow"
    if second_moment == 0:
        return "zero"
    return "underflow" if np.sqrt(second_moment) < torch.finfo(dtype).tiny else ""


def _watched(
    model: nn.Module, layers: Callable[[str, nn.Module], bool] | None
) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
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


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _with_gradient(x: Any) -> Any:
    """The same inputs, floating-point tensors detached and asking for a gradient."""
    if isinstance(x, Tensor):
        return x.detach().requires_grad_() if x.is_floating_point() else x
    if isinstance(x, Mapping):
        return {key: _with_gradient(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        values = [_with_gradient(value) for value in x]
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    return x


def _run_backward(
    model: nn.Module,
    inputs: Any,
    output: Any,
    loss: Callable[[Any], Tensor] | None,
    generator: torch.Generator | None,
) -> None:
    targets = list(_flatten(output)) if loss is None else [_scalar(loss(output))]
    targets = [t for t in targets if t.is_floating_point() and t.requires_grad]
    leaves: Sequence[Tensor] = [t for t in _flatten(inputs) if t.requires_grad]
    if not leaves:
        leaves = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not targets or not leaves:
        raise ValueError(
            "there is no gradient to measure: the output depends on no floating-point input and on "
            "no parameter that requires a gradient."
        )
    source = generator or torch.Generator().manual_seed(0)
    cotangents = [_cotangent(t, source) for t in targets] if loss is None else None
    torch.autograd.grad(targets, leaves, cotangents, allow_unused=True)


def _scalar(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a scalar tensor; got {shape}.")
    return value


def _cotangent(output: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(output.shape, generator=generator, device=generator.device)
    return drawn.to(output)


def _flatten(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings (dataclass-like outputs too)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _flatten(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _flatten(entry)
    elif hasattr(value, "__dataclass_fields__"):
        for entry in vars(value).values():
            yield from _flatten(entry)
