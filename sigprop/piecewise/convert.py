"""Follows the data through a torch model and writes down, step by step, the network that it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, fx, nn

from sigprop.arrangement.network import PiecewiseLinear
from sigprop.piecewise import layers, maxima, units  # noqa: F401  (they fill the table)
from sigprop.piecewise.arithmetic import linear_in_one
from sigprop.piecewise.builder import Builder, RefusalError, Signal, Storage
from sigprop.piecewise.masks import Mask
from sigprop.piecewise.maxima import Extremes
from sigprop.piecewise.modules import in_float64, rule
from sigprop.piecewise.table import OPERATIONS, leaves
from sigprop.piecewise.trial import check_values, find_shape, try_out
from sigprop.reading.calling import attributes_kept, unwrapped
from sigprop.reading.tracer import Tracer


def _words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


MOVES = _words(
    """
    broadcast_to cat channel_shuffle chunk clone concat concatenate contiguous diagonal dstack
    expand expand_as flatten flip gather getitem hsplit hstack index_select moveaxis movedim narrow
    permute pixel_shuffle pixel_unshuffle ravel repeat repeat_interleave reshape reshape_as roll
    select split split_with_sizes squeeze stack swapaxes swapdims t take tensor_split tile transpose
    tril triu unbind unflatten unfold unsqueeze view view_as vstack where
    """
)
_FRESH = _words(
    """
    cat channel_shuffle clone concat concatenate dstack flip gather hstack index_select
    pixel_shuffle pixel_unshuffle repeat repeat_interleave roll stack take tile tril triu vstack
    """
)
"""Moves that copy; the others may share the memory of what they take."""
_SAME = _words("bfloat16 cpu cuda detach double float half requires_grad_ to type type_as")
_MATRIX = _words("bmm cumsum diff dot einsum fold inner kron mm mv tensordot trace")
_SHAPES = _words(
    """
    _assert _assert_is_none dim empty_like full_like is_floating_point len ndimension new_empty
    new_full new_ones new_zeros numel ones_like size zeros_like
    """
)
_FACTS = ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad")
_RANDOM = ("rand", "bernoulli", "normal", "multinomial", "poisson", "uniform", "exponential")
_MASKS = _words("bitwise_not invert logical_not masked_fill mul multiply where")
_COMPARISONS = _words("eq ne sign heaviside isnan")
_FUNCTION_HOMES = ("torch", "_operator", "math", "builtins")
ADVICE = (
    "Linear regions belong to networks of affine layers, ReLU-like units and maxima, in evaluation "
    "mode; give another model, or the weights as arrays: regions.PiecewiseLinear(weights, biases, "
    "slopes)."
)


def to_network(
    model: nn.Module,
    example_input: ArrayLike | Tensor | None = None,
    *,
    input_shape: int | tuple[int, ...] | None = None,
) -> PiecewiseLinear:
    """The network that a torch model is, as arrays in float64.

    Every entry of a linear or convolutional weight is taken as it is, bit for bit, so the result is
    the model in exact arithmetic; ``network(x)`` equals ``model.double()(x)`` to rounding. Batch
    normalization becomes a scale γ/√(σ² + ε) and a shift β − μγ/√(σ² + ε), means the entries 1/n
    and divisions by c the entries 1/c, each rounded to float64. The value at a jump (PhasedReLU,
    threshold, hardshrink) is torch's. Casts between floating-point types are taken
    as the identity. Hooks are not run; the model is left as it was.

    Exact forms are known for linear, convolutional and transposed convolutional layers with any
    padding, batch norm in evaluation, average and adaptive pooling, sums, products with constants,
    everything that moves entries, the ReLU family, clamps, max pooling and maxout, as modules and
    as functions. Where a forward is the user's own, the result is tried against the model on two
    inputs before it is returned, if a copy of the model runs in float64: torch.fx does not see
    everything that Python can do.

    Args:
        model: any module whose ``forward`` torch.fx can follow, in evaluation mode where that
            matters, with one input and one output tensor.
        example_input: one input, without a batch axis; only its shape counts.
        input_shape: that shape itself, or a number of features. If neither is given, the features
            that the first layer takes, where that is an ``nn.Linear``.

    Raises:
        TypeError: not a module; an example or weights that are not real floating-point numbers.
        ValueError: something in the model has no exact piecewise linear form (named, with the
            reason), an unknown input shape, non-finite weights, several inputs or outputs.

    Example:
        >>> net = to_network(nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Linear(8, 2)))
        >>> net
        PiecewiseLinear(3-8-2, 8 kinked units)
        >>> to_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), input_shape=(1, 8, 8))
        PiecewiseLinear(64-72, 72 kinked units)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"to_network takes a torch.nn.Module; got {type(model).__name__}.")
    check_values(model)
    whole = nn.Sequential(model) if rule(model) is not None else model
    with _followed(whole) as (inside, graph):
        shape = find_shape(example_input, input_shape, inside, graph)
        build = Builder((1, *shape))
        output = _Walk(build, inside, graph).output()
        network = build.network(output)
    try_out(network, model, shape, output.shape, ADVICE)
    return network


@contextmanager
def _followed(model: nn.Module) -> Iterator[tuple[nn.Module, fx.Graph]]:
    """The model without its wrappers and what torch.fx sees in it; afterwards it is as it was.

    Raises:
        ValueError: ``forward`` cannot be followed; the message carries torch.fx's reason.
    """
    model = unwrapped(model)
    with attributes_kept(model):
        try:
            graph = _Tracer().trace(model)
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"cannot follow the data through {type(model).__name__} with torch.fx: {reason}. "
                f"{ADVICE}"
            ) from error
        yield model, graph


class _Tracer(Tracer):
    """Modules that have a rule are single steps; so are torch's others, to be refused by name."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if rule(m) is not None:
            return True
        containers = nn.Sequential | nn.ModuleList | nn.ModuleDict
        home = type(m).forward.__module__ if "forward" not in vars(m) else ""
        return home.startswith("torch.nn.") and not isinstance(m, containers)


class _Walk:
    """What every step of a traced model makes, in order."""

    def __init__(self, build: Builder, model: nn.Module, graph: fx.Graph) -> None:
        self.build, self.model, self.graph = build, model, graph
        self.made: dict[fx.Node, Any] = {}
        self.name = type(model).__name__

    def output(self) -> Signal:
        """The signal that the model returns."""
        inputs = []
        for step in self.graph.nodes:
            if step.op == "placeholder":
                self.made[step] = self.build.input
                inputs += [str(step.target)] if step.users else []
                if len(inputs) > 1:
                    raise ValueError(
                        f"{self.name} takes several inputs ({', '.join(inputs)}); "
                        f"regions are counted in the space of one. {ADVICE}"
                    )
            elif step.op == "output":
                return self._returned(step)
            else:
                self.made[step] = self._step(step)
        raise ValueError(f"{self.name} returns nothing.")

    def _returned(self, step: fx.Node) -> Signal:
        value = fx.map_arg(step.args[0], self._read)
        if not isinstance(value, Signal):
            found = "several outputs" if isinstance(value, tuple | list | dict) else "no signal"
            raise ValueError(
                f"{self.name} returns {found}; a network has one output tensor that depends on "
                "its input."
            )
        return value

    def _read(self, step: fx.Node) -> Any:
        value = self.made[step]
        for leaf in leaves(value):
            if isinstance(leaf, Signal) and leaf.storage.written_by:
                raise RefusalError(
                    f"reads {step.name}, whose memory {leaf.storage.written_by} has overwritten in "
                    "place; write it out of place"
                )
        return value

    def _step(self, step: fx.Node) -> Any:
        where = str(step.target) if step.op == "call_module" else step.name
        kind = function_name(step) if step.op != "call_module" else ""
        if step.op == "call_module":
            kind = type(self.model.get_submodule(where)).__name__
        try:
            if step.op == "get_attr":
                return self._held(step)
            args: Any
            words: Any
            args, words = fx.map_arg((step.args, dict(step.kwargs)), self._read)
            signals = [leaf for leaf in leaves([args, words]) if isinstance(leaf, Signal | Mask)]
            if any(isinstance(leaf, Extremes) for leaf in leaves([args, words])):
                return args[0].take(args[1])
            if step.op == "call_module":
                return self._module(step, args, words, signals)
            return self._function(step, args, words, signals)
        except RefusalError as error:
            raise ValueError(
                f"cannot read {self.name} exactly: {where!r} ({kind}) {error}. {ADVICE}"
            ) from None
        except (RuntimeError, IndexError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"cannot read {self.name} exactly: {where!r} ({kind}) fails on an input of shape "
                f"{self.build.input.shape[1:]} (one input, without a batch axis): {reason}."
            ) from error

    def _held(self, step: fx.Node) -> Any:
        home, _, name = str(step.target).rpartition(".")
        value = getattr(self.model.get_submodule(home), name)
        return _in_float64(value) if isinstance(value, Tensor) else value

    def _module(self, step: fx.Node, args: Any, words: Any, signals: list[Signal | Mask]) -> Any:
        module = self.model.get_submodule(str(step.target))
        if not signals:
            return in_float64(module)(*args, **words)
        form = rule(module)
        if form is None or len(args) != 1 or words or not isinstance(args[0], Signal):
            if form is not None:
                raise RefusalError("is called with other arguments than one signal")
            raise RefusalError(_reason(type(module).__name__))
        result = form(self.build, module, args[0])
        return self._written(step, result) if getattr(module, "inplace", False) else result

    def _function(self, step: fx.Node, args: Any, words: Any, signals: list[Signal | Mask]) -> Any:
        name = function_name(step)
        plain = name[:-1] if name.endswith("_") and not name.startswith("_") else name
        if any(part in name for part in _RANDOM):
            raise RefusalError("draws random numbers")
        if not signals:
            return _called(step, args, words)
        if name in _SHAPES or (name == "getattr" and args[1] in _FACTS):
            return _called(step, *fx.node.map_aggregate((args, words), _blank))
        result = self._formed(step, plain, args, words)
        if (name != plain and name != "requires_grad_") or words.get("inplace") is True:
            return self._written(step, result)
        return result

    def _formed(self, step: fx.Node, name: str, args: Any, words: Any) -> Any:
        masked = any(isinstance(leaf, Mask) for leaf in leaves([args, words]))
        if masked and name not in _SAME | _MASKS:
            raise RefusalError("uses the answer of a comparison, which jumps, as a number")
        moved = name in MOVES or (name == "getattr" and args[1] in ("T", "mT", "data"))
        if name in _SAME or name == "requires_grad":
            types = [a for a in (*args, *words.values()) if isinstance(a, torch.dtype)]
            if not all(kind.is_floating_point for kind in types):
                raise RefusalError("casts to whole numbers, which has no end of pieces")
            return args[0]
        if moved and not masked:
            result = self.build.rearranged(lambda *a, **k: _called(step, a, k), *args, **words)
            if name in _FRESH:
                return fx.node.map_aggregate(result, _in_fresh_memory)
            return result
        if name in ("matmul", "mm", "addmm") or name in _MATRIX:
            return self._product(step, name, args, words)
        form = OPERATIONS.get(name)
        if form is None:
            raise RefusalError(_reason(name))
        try:
            bound = inspect.signature(form).bind(self.build, *args, **words)
        except TypeError as error:
            raise RefusalError(f"is called in a way that is not read here ({error})") from None
        return form(*bound.args, **bound.kwargs)

    def _product(self, step: fx.Node, name: str, args: Any, words: Any) -> Any:
        if name == "addmm" and len(args) == 3 and not words:
            product = self._product(step, "mm", args[1:], {})
            return OPERATIONS["add"](self.build, product, args[0])
        if name in ("matmul", "mm") and isinstance(args[0], Signal) and len(args) == 2:
            weight = args[1]
            if isinstance(weight, Tensor) and weight.dim() == 2:
                return layers.linear(self.build, args[0], weight.T)
        function = torch.mm if name == "mm" else lambda *a, **k: _called(step, a, k)
        return linear_in_one(self.build, function, *args, **words)

    def _written(self, step: fx.Node, result: Any) -> Any:
        """Give the name of what was overwritten in place its new content, and spoil its views."""
        target = step.args[0] if step.args else None
        if not isinstance(target, fx.Node) or not isinstance(result, Signal):
            raise RefusalError("writes in place in a way that is not read here")
        before = self.made[target]
        if not isinstance(before, Signal) or before.shape != result.shape:
            raise RefusalError("writes in place into a constant")
        if result.storage is before.storage:  # nothing changed
            return result
        before.storage.written_by = step.name
        for other, value in self.made.items():
            if value is before:
                self.made[other] = result
        return result


def function_name(step: fx.Node) -> str:
    """The name of a function or method; one from outside torch has its home before it."""
    if step.op == "call_method":
        return str(step.target)
    home = (getattr(step.target, "__module__", None) or "").split(".")[0]
    name = str(getattr(step.target, "__name__", step.target))
    known = home in _FUNCTION_HOMES or name == "stochastic_depth"
    return name if known else f"{home}.{name}"


def _called(step: fx.Node, args: Any, words: Any) -> Any:
    if step.op == "call_method":
        return getattr(args[0], str(step.target))(*args[1:], **words)
    return step.target(*args, **words)  # type: ignore[operator]


def _blank(value: Any) -> Any:
    return torch.zeros(value.shape, dtype=torch.float64) if isinstance(value, Signal) else value


def _in_fresh_memory(value: Any) -> Any:
    return replace(value, storage=Storage()) if isinstance(value, Signal) else value


def _in_float64(value: Tensor) -> Tensor:
    value = value.detach().cpu().clone()
    return value.double() if value.is_floating_point() else value


def _reason(name: str) -> str:
    if name in _COMPARISONS:
        return "compares a signal in a way that is not read here; write it with > and torch.where"
    if name in ("int", "long", "short", "bool", "floor", "round", "ceil", "trunc", "Embedding"):
        return "takes or makes whole numbers"
    return "is not piecewise linear, or has no exact form here"
