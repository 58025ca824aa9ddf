"""``measure``: per layer the moments of the pre-activations and of their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.checks import FloatArray
from sigprop.measurement.backward import NEEDS_ITS_OWN_GRAPH, REENTRANT, sources, thawed
from sigprop.measurement.hooks import ONE_AT_A_TIME, every_module_called
from sigprop.measurement.layer_statistics import FIELDS, LayerStatistics, Observation, to_host
from sigprop.measurement.observed_pass import ObservedPass
from sigprop.measurement.observer import Observer, Watch
from sigprop.reading.calling import (
    as_found,
    call,
    check_model,
    cloned,
    cotangent,
    described,
    flatten,
    loss_of,
    named_modules,
    some,
    unwrapped,
    with_gradient,
)
from sigprop.reading.failures import errors_named
from sigprop.reading.layers import WEIGHT_LAYERS
from sigprop.reading.random_states import own_generator
from sigprop.records import Row
from sigprop.results import Result, Shown


@dataclass(frozen=True)
class LayerSignal(Result):
    """What was seen at one call of one layer; moments are over the batch and all units.

    Attributes:
        name: qualified module name, or that of the module and the function called in it
            (``block.matmul``), as in the graph that ``reading.record`` writes; ``#2`` and so on
            mark further calls, ``[1]`` and so on further tensors of one call.
        kind: class of the module or name of the function.
        activation: kind of the activation that its output enters at once, "" if none.
        shape: shape of its output, the pre-activations. A bias added after a function of its own
            (``relu(x @ W + b)``) is not in it; one that the layer adds is.
        mean: mean of the pre-activations.
        second_moment: mean of their squares, q̂.
        variance: mean square of their difference from the mean.
        negative_share: share of entries below zero; NaN if some are not finite.
        units: number of units (channels of a convolution).
        silent_units: units with no positive pre-activation on the data seen.
        dead_units: silent units whose activation is constant below zero, so that they get no
            gradient; None where the activation is not known.
        nonfinite: entries that are NaN or infinite.
        grad_second_moment: mean square of the gradient with respect to the pre-activations; None if
            there was no backward pass or it did not reach this layer.
        grad_nonfinite: entries of that gradient that are NaN or infinite; None likewise.
        flag: ``"overflow"`` where an entry is not finite (or, in float64, its square is not),
            ``"underflow"`` where the root mean square is below the smallest normal number of the
            dtype, ``"zero"`` where every entry is zero, else ``""``; the gradient's own flag
            follows as ``"grad overflow"`` and so on.
        parameters: that its weight is computed from, by name, joined by ", "; "" where it is no
            weight, or one whose making autograd does not know.
    """

    name: str
    kind: str
    activation: str
    shape: tuple[int, ...]
    mean: float
    second_moment: float
    variance: float
    negative_share: float
    units: int
    silent_units: int
    dead_units: int | None
    nonfinite: int
    grad_second_moment: float | None
    grad_nonfinite: int | None
    flag: str
    parameters: str = ""


@dataclass(frozen=True)
class Signals(Result):
    """The layers of one pass in the order of the data. Prints as a table.

    Attributes:
        layers: one :class:`LayerSignal` a call.
        not_called: watched modules that this input did not call; of weight layers those whose
            weight was not used either.
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
            if not -len(self.layers) <= key < len(self.layers):
                raise IndexError(f"no layer {key}: {len(self.layers)} were measured.")
            return self.layers[key]
        for layer in self.layers:
            if layer.name == key:
                return layer
        raise KeyError(f"no layer {key!r}; measured: {', '.join(s.name for s in self.layers)}")

    def records(self) -> list[Row]:
        """One flat row a layer."""
        return [asdict(layer) for layer in self.layers]

    def _shown(self) -> Shown:
        columns = {
            "name": "",
            "mean": ".3g",
            "second_moment": ".4g",
            "variance": ".4g",
            "negative_share": ".3f",
            "silent_units": "",
            "units": "",
            "nonfinite": "",
        }
        if any(layer.dead_units is not None for layer in self.layers):
            columns["dead_units"] = ""
        if any(layer.grad_second_moment is not None for layer in self.layers):
            columns["grad_second_moment"] = ".4g"
        missed = [f"not called: {', '.join(self.not_called)}"] if self.not_called else []
        return Shown((), self.records(), columns | {"flag": ""}, missed)


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

    Every linear map of the signal by a weight is seen, as a layer or as a function (``x @ W``, the
    packed projections of attention). Hooks are attached for the pass alone and come off on any
    exit; buffers (running statistics) and torch's random state are given back as they were;
    parameters' ``.grad`` is not touched. Each tensor is reduced at once on its device, in float64
    (float32 on the host: to 1e-7); the numbers come to the host together, in one synchronisation.
    Activations that overwrite a layer's output do not spoil it. Several threads may measure; they
    wait for each other.

    What one piece of C++ computes inside itself (recurrent and scripted modules) is not seen:
    compiled and data-parallel wrappers are taken off and the model inside is run module by module.
    Under reentrant checkpointing no gradient is seen, and torch's own backward pass is run, with
    the ``.grad`` of parameters put back after it.

    Args:
        model: any module; it runs in the mode (train or eval) it is in.
        x: what to call it with: a tensor, a tuple of positional or a dict of keyword arguments;
            anything else, a named tuple too, is the one argument.
        backward: measure the gradient with respect to the pre-activations, for a random cotangent:
            the scalar Σ uᵢ·outputᵢ with uᵢ ~ N(0, 1).
        loss: function from the model's output to a scalar; its gradient is measured instead of a
            random cotangent's (implies ``backward``).
        layers: which modules to watch, ``(qualified name, module) -> bool``: what they return is
            measured. Default: every weight that is used (linear, convolutions, transposed
            convolutions, functions of the signal and of parameters).
        generator: where the random cotangent is drawn from; None: one on the CPU, always the
            same, whose numbers are none of ``torch.manual_seed(0)``.

    Returns:
        One :class:`LayerSignal` for each call of each weight, or of each watched module.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no module to watch, nothing was seen, a lazy module without shapes yet, a loss
            that is not a scalar, or a backward pass of nothing; the model does not run on ``x``
            (then also TypeError): the message has its own error and what to do.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))
        >>> [layer.name for layer in measure(net, torch.ones(3, 4), backward=True)]
        ['0', '2']
    """
    _check_arguments(model, loss, layers, generator)
    model = unwrapped(model)
    asked = _Measurement(model, layers, bool(backward) or loss is not None, loss, generator)
    with ONE_AT_A_TIME, errors_named(model, x):
        while True:
            try:
                return asked.run(x)
            except RuntimeError as error:
                if not asked.learns_from(str(error)):
                    raise


class _Measurement:
    """One call of :func:`measure`."""

    def __init__(
        self,
        model: nn.Module,
        layers: Callable[[str, nn.Module], bool] | None,
        backward: bool,
        loss: Callable[[Any], Tensor] | None,
        generator: torch.Generator | None,
    ) -> None:
        self.model, self.backward, self.loss, self.generator = model, backward, loss, generator
        lazy = [name for name, tensor in _named_tensors(model) if is_lazy(tensor)]
        if lazy:
            raise ValueError(
                f"{type(model).__name__} is lazy: {some(lazy)} have no shape yet; run the model "
                "once, then measure it."
            )
        modules = dict(named_modules(model))
        chosen = layers or (lambda _name, module: isinstance(module, WEIGHT_LAYERS))
        self.watched = {name: m for name, m in modules.items() if chosen(name, m)}
        self.all_weights = layers is None
        if layers is not None and not self.watched:
            raise ValueError(
                f"{type(model).__name__} has no module for which layers(name, module) is true, so "
                f"there is nothing to measure; {_CHOOSE}"
            )
        outputs = frozenset() if self.all_weights else frozenset(self.watched.values())
        self.watch = Watch(
            lambda _name: self.all_weights, lambda _name: False, outputs, training=False
        )
        self.own_graph = self.reentrant = False

    def learns_from(self, error: str) -> bool:
        """Whether torch's error says how the model wants to be run, and that was not known."""
        before = self.own_graph, self.reentrant
        self.own_graph |= any(words in error for words in NEEDS_ITS_OWN_GRAPH)
        self.reentrant |= REENTRANT in error
        return before != (self.own_graph, self.reentrant)

    def run(self, x: Any) -> Signals:
        """Measure once.

        A model that differentiates by its input itself gets a leaf that asks for nothing, and
        gradients are on whatever is asked.
        """
        leaves: list[Tensor] = []
        on = self.backward or self.own_graph
        seen = Observation()
        # Under inference_mode no graph can be built, so a backward pass steps out of it.
        mode = torch.inference_mode(False) if on else nullcontext()
        with mode, as_found(self.model.modules(), flatten(x)), every_module_called():
            inputs = with_gradient(x, leaves) if self.backward and not self.own_graph else cloned(x)
            # With integer inputs alone the gradient needs parameters to start from.
            frozen = self.model.parameters() if on and not leaves else ()
            with thawed(frozen), torch.set_grad_enabled(on):
                try:
                    observed = ObservedPass(self.model, seen, self.watch)
                    with observed.watching(inputs, inside=False) as observer:
                        output = call(self.model, inputs)
                    if self.backward:
                        self._run_backward(output, leaves, observer, seen)
                    else:
                        seen.forget_gradients()
                finally:
                    seen.close()
                    leaves.clear()
            return self._signals(seen, observer)

    def _run_backward(
        self, output: Any, leaves: list[Tensor], observer: Observer, seen: Observation
    ) -> None:
        loss, source = self.loss, self.generator or own_generator(0)
        targets = list(flatten(output)) if loss is None else [loss_of(loss, output)]
        targets = [t for t in targets if t.is_floating_point() and t.requires_grad]
        start = sources(leaves, observer.edges)
        if not targets or not start:
            what = f"the model's output ({described(output)})" if loss is None else "the loss"
            raise ValueError(
                f"there is no gradient to measure: {what} is not a real tensor that depends, "
                "through operations torch can differentiate, on a floating-point input or a "
                "parameter."
            )
        cotangents = [cotangent(t, source) for t in targets] if loss is None else None
        observer.edges.clear()
        seen.forget_gradients()
        if self.reentrant:
            self._run_whole_backward(targets, cotangents)
        else:
            torch.autograd.grad(targets, start, cotangents, allow_unused=True)

    def _run_whole_backward(self, targets: list[Tensor], cotangents: list[Tensor] | None) -> None:
        """The backward pass that reentrant checkpoints ask for; ``.grad`` is put back after it."""
        kept = [(parameter, parameter.grad) for parameter in self.model.parameters()]
        try:
            for parameter, _ in kept:
                parameter.grad = None
            torch.autograd.backward(targets, cotangents)
        finally:
            for parameter, grad in kept:
                parameter.grad = grad

    def _signals(self, seen: Observation, observer: Observer) -> Signals:
        layers = [layer for layer in seen.layers.values() if layer.forward is not None]
        if not layers:
            raise ValueError(self._nothing_seen(observer))
        rows = to_host(
            layer.packed(seen.runs, seen.slopes.get(layer.activation_name)) for layer in layers
        )
        return Signals(
            tuple(_layer_signal(*pair, seen) for pair in zip(layers, rows, strict=True)),
            not_called=tuple(
                name for name, m in self.watched.items() if self._is_unused(name, m, observer)
            ),
        )

    def _is_unused(self, name: str, module: nn.Module, observer: Observer) -> bool:
        used = self.all_weights and id(module._parameters.get("weight")) in observer.used
        return name not in observer.called and not used

    def _nothing_seen(self, observer: Observer) -> str:
        if not self.watched:
            return (
                f"{type(self.model).__name__} has no weight layer (linear or convolution), so "
                f"there is nothing to measure; {_CHOOSE}"
            )
        called = [name for name in self.watched if name in observer.called]
        if not called:
            return (
                f"the model called none of the watched layers ({some(self.watched)}) on this "
                f"input, so there is nothing to measure; {_CHOOSE}"
            )
        return (
            f"the watched layers ({some(called)}) returned no real floating-point numbers on "
            "this input: only empty, integer or complex tensors, or none at all."
        )


_CHOOSE = "choose modules with layers=lambda name, module: ..."


def _layer_signal(layer: LayerStatistics, fields: list[float], seen: Observation) -> LayerSignal:
    size, values = layer.entries, dict(zip(FIELDS, fields, strict=True))
    mean, second = values["sum"] / size, values["squares"] / size
    flags = [_flag(mean, second, values["nonfinite"], layer.dtype)]
    _, entries = layer.gradient(seen.runs)
    grad = values["grad_squares"] / entries if entries else None
    if grad is not None:
        flag = _flag(values["grad_sum"], grad, values["grad_nonfinite"], layer.dtype)
        flags.append(f"grad {flag}" if flag else "")
    return LayerSignal(
        name=layer.name,
        kind=layer.kind,
        activation=layer.activation,
        shape=layer.shape,
        mean=mean,
        second_moment=second,
        variance=_variance(mean, second, values["about_shift"] / size, values["shift"]),
        negative_share=math.nan if values["nonfinite"] else values["negative"] / size,
        units=layer.units,
        silent_units=int(values["silent"]),
        dead_units=None if layer.dies is None else int(values["dead"]),
        nonfinite=int(values["nonfinite"]),
        grad_second_moment=grad,
        grad_nonfinite=int(values["grad_nonfinite"]) if entries else None,
        flag=", ".join(filter(None, flags)),
        parameters=", ".join(layer.parameters),
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


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
