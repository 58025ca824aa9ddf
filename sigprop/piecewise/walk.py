"""Follows the data through what torch.fx sees of a model, step by step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from sigprop.arrangement.network import Array
from sigprop.piecewise import layers
from sigprop.piecewise.arithmetic import add, linear_in_one
from sigprop.piecewise.builder import Builder, RefusalError, SharedMemory, SignalTensor
from sigprop.piecewise.constants import NOWHERE, Numbers, Origin, joined
from sigprop.piecewise.masks import Mask
from sigprop.piecewise.maxima import Extremes
from sigprop.piecewise.modules import Holdings
from sigprop.piecewise.table import HANDLERS, leaves, ordered, replaced, rows
from sigprop.reading.calling import kind_of
from sigprop.reading.layers import home_of_forward, is_whole
from sigprop.reading.operations import Operation, find, of_module
from sigprop.reading.tracer import Tracer, called, path_of, writes

MOVES = rows(
    """
    broadcast_tensors broadcast_to cat channel_shuffle chunk clone contiguous data diagonal dstack
    expand expand_as flatten flip gather getitem hsplit hstack index_select mT moveaxis movedim
    narrow permute pixel_shuffle pixel_unshuffle ravel repeat repeat_interleave reshape reshape_as
    roll select split split_with_sizes squeeze stack swapaxes swapdims t T take tensor_split tile
    transpose tril triu unbind unflatten unfold unsqueeze view view_as vstack where
    """
)
_FRESH = rows(
    """
    cat channel_shuffle clone dstack flip gather hstack index_select pixel_shuffle pixel_unshuffle
    repeat repeat_interleave roll stack take tile tril triu vstack
    """
)
"""Moves that copy; the others may share the memory of what they take."""
_SAME = rows("bfloat16 cpu cuda detach double float half positive requires_grad_ to type type_as")
_PRODUCTS = rows("matmul addmm cumsum diff einsum fold kron tensordot trace")
_SHAPES = rows(
    """
    dim ndimension ndim size shape numel nelement dtype device is_cuda is_floating_point
    requires_grad empty_like full_like new_empty new_full new_ones new_zeros ones_like zeros_like
    """
)
_OTHERS = (len, torch._assert)
"""Functions that are in no row and ask for the shape alone."""
_RANDOM = rows(
    """
    bernoulli binomial cauchy exponential geometric log_normal multinomial normal poisson
    randint_like randn_like rand_like random sample uniform
    """
)
_MASKS = rows("bitwise_not invert logical_not masked_fill mul where")
_COMPARED = rows("eq ne sign heaviside isnan")
_WHOLE = rows("int long short bool floor round ceil trunc embedding")
_TERMS = {"add": 2, "sub": 2, "mul": 2, "div": 2, "neg": 1}
"""Rows whose results are followed in constants, and how many of these they take."""
_STEPPED_INTO = ("weight", "activation", "passage", "dropout", "pooling")


class WalkTracer(Tracer):
    """Sees into torch's layers; modules that are one step, or have no form, are single steps."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one step."""
        if is_whole(m) or isinstance(m, parametrize.ParametrizationList):
            return True
        row = of_module(m)
        if row is None:
            return is_torchs(m)
        return row.kind not in _STEPPED_INTO or hasattr(m, "_check_input_dim")


def is_torchs(module: nn.Module) -> bool:
    """Whether its forward is one of torch's own layers."""
    containers = nn.Sequential | nn.ModuleList | nn.ModuleDict
    return home_of_forward(module).startswith("torch.nn.") and not isinstance(module, containers)


class Walk:
    """What every step of a traced model makes, in order.

    Args:
        build: takes the steps of the network down.
        model: the model.
        graph: what torch.fx sees in it.
        names: name of each parameter by its id.
        advice: what errors end with.
    """

    def __init__(
        self,
        build: Builder,
        model: nn.Module,
        graph: fx.Graph,
        names: Mapping[int, str],
        advice: str,
    ) -> None:
        self.build, self.model, self.graph, self.advice = build, model, graph, advice
        self.holdings = Holdings(build, names)
        self.made: dict[fx.Node, Any] = {}
        self.name = type(model).__name__

    def output(self) -> SignalTensor:
        """The signal that the model returns."""
        inputs = []
        for step in self.graph.nodes:
            if step.op == "placeholder":
                self.made[step] = self.build.input
                inputs += [str(step.target)] if step.users else []
                if len(inputs) > 1:
                    raise ValueError(
                        f"{self.name} takes several inputs ({', '.join(inputs)}); "
                        f"regions are counted in the space of one. {self.advice}"
                    )
            elif step.op == "output":
                return self._returned(step)
            else:
                self.build.begin()
                self.made[step] = self._step(step)
        raise ValueError(f"{self.name} returns nothing.")

    def _returned(self, step: fx.Node) -> SignalTensor:
        value = fx.map_arg(step.args[0], self._read)
        if not isinstance(value, SignalTensor):
            found = "several outputs" if isinstance(value, tuple | list | dict) else "no signal"
            raise ValueError(
                f"{self.name} returns {found}; a network has one output tensor that depends on "
                "its input."
            )
        return value

    def _read(self, step: fx.Node) -> Any:
        value = self.made[step]
        for leaf in leaves(value):
            if isinstance(leaf, SignalTensor) and leaf.storage.written_by:
                raise RefusalError(
                    f"reads {step.name}, whose memory {leaf.storage.written_by} has overwritten in "
                    "place; write it out of place"
                )
        return value

    def _step(self, step: fx.Node) -> Any:
        if step.op == "get_attr":
            where, kind = step.name, "get_attr"
        else:
            where, kind = self._place(step)
        try:
            if step.op == "get_attr":
                home, _, name = str(step.target).rpartition(".")
                return self.holdings.held(self.model.get_submodule(home), name)
            args: Any
            words: Any
            args, words = fx.map_arg((step.args, dict(step.kwargs)), self._read)
            given = leaves([args, words])
            signals = [leaf for leaf in given if isinstance(leaf, SignalTensor | Mask)]
            if any(isinstance(leaf, Extremes) for leaf in given):
                return args[0].take(args[1])
            if step.op == "call_module":
                return self._module(step, args, words, signals)
            return self._function(step, args, words, signals)
        except RefusalError as error:
            raise ValueError(
                f"cannot read {self.name} exactly: {where!r} ({kind}) {error}. {self.advice}"
            ) from None
        except (RuntimeError, IndexError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"cannot read {self.name} exactly: {where!r} ({kind}) fails on an input of shape "
                f"{self.build.input.shape[1:]} (one input, without a batch axis): {reason}."
            ) from error

    def _place(self, step: fx.Node) -> tuple[str, str]:
        """Where a step is and what: the layer that it belongs to, or its function."""
        path = str(step.target) if step.op == "call_module" else path_of(step)
        module = self.model.get_submodule(path)
        if step.op == "call_module" or is_torchs(module):
            return path, kind_of(module)
        return step.name, function_name(*called(step)[:1])

    def _module(
        self, step: fx.Node, args: Any, words: Any, signals: list[SignalTensor | Mask]
    ) -> Any:
        module = self.model.get_submodule(str(step.target))
        if not signals:
            return self.holdings.computed(module, args, words)
        form = self.holdings.form(module)
        if form is None:
            raise RefusalError(_reason(of_module(module)))
        if len(args) != 1 or words or not isinstance(args[0], SignalTensor):
            raise RefusalError("is called with other arguments than one signal")
        return form(module, args[0])

    def _function(
        self, step: fx.Node, args: Any, words: Any, signals: list[SignalTensor | Mask]
    ) -> Any:
        function, _ = called(step)
        row = find(function)
        if row in _RANDOM:
            raise RefusalError("draws random numbers")
        if not signals:
            return self._of_constants(step, row, args, words)
        if row in _SHAPES or function in _OTHERS:
            return _called(step, *fx.node.map_aggregate((args, words), _blank))
        result = self._formed(step, row, args, words)
        if (writes(function, words) and row not in _SAME) or words.get("inplace") is True:
            return self._written(step, result)
        return result

    def _formed(self, step: fx.Node, row: Operation | None, args: Any, words: Any) -> Any:
        masked = any(isinstance(leaf, Mask) for leaf in leaves([args, words]))
        if masked and row not in _SAME | _MASKS:
            raise RefusalError("uses the answer of a comparison, which jumps, as a number")
        if row in _SAME:
            types = [a for a in (*args, *words.values()) if isinstance(a, torch.dtype)]
            if not all(kind.is_floating_point for kind in types):
                raise RefusalError("casts to whole numbers, which has no end of pieces")
            return args[0]
        if row in MOVES and not masked:
            result = self.build.rearranged(lambda *a, **k: _called(step, a, k), *args, **words)
            if row in _FRESH:
                return fx.node.map_aggregate(result, _in_fresh_memory)
            return result
        if row in _PRODUCTS:
            return self._product(step, row, args, words)
        form = HANDLERS.get(row) if row is not None else None
        if form is None:
            raise RefusalError(_reason(row))
        args, words = ordered(called(step)[0], args, words)
        try:
            bound = inspect.signature(form).bind(self.build, *args, **words)
        except TypeError as error:
            raise RefusalError(f"is called in a way that is not read here ({error})") from None
        return form(*bound.args, **bound.kwargs)

    def _product(self, step: fx.Node, row: Operation, args: Any, words: Any) -> Any:
        if row.name == "addmm" and len(args) == 3 and not words:
            return add(self.build, self._multiplied(torch.matmul, args[1:], {}), args[0])
        if row.name == "matmul":
            return self._multiplied(lambda *a, **k: _called(step, a, k), args, words)
        return linear_in_one(self.build, lambda *a, **k: _called(step, a, k), *args, **words)

    def _multiplied(self, function: Any, args: Any, words: Any) -> SignalTensor:
        if isinstance(args[0], SignalTensor) and len(args) == 2:
            weight = args[1]
            if isinstance(weight, Tensor) and weight.dim() == 2:
                turned = self.build.constant("weight", weight).arranged(np.transpose)
                return layers.linear(self.build, args[0], turned)
        return linear_in_one(self.build, function, *args, **words)

    def _of_constants(self, step: fx.Node, row: Operation | None, args: Any, words: Any) -> Any:
        """What a function makes of constants, and where that comes from."""
        given = [leaf for leaf in leaves([args, words]) if self.build.origin(leaf).parameters]
        result = _called(step, args, words)
        if not given or row in _SHAPES or called(step)[0] in _OTHERS:
            return result
        made = leaves(result)
        if writes(called(step)[0], words) or not all(isinstance(leaf, Tensor) for leaf in made):
            self.build.lose(given)
            return result
        for place, leaf in enumerate(made):
            origin = self._carried(step, row, args, words, place, given, leaf)
            self.build.note(leaf, origin)
        return result

    def _carried(
        self,
        step: fx.Node,
        row: Operation | None,
        args: Any,
        words: Any,
        place: int,
        given: list[Tensor],
        made: Tensor,
    ) -> Origin:
        """Where one of the tensors that a function made of constants comes from.

        Args:
            step: the call.
            row: of its operation.
            args: its arguments.
            words: its keyword arguments.
            place: which of the tensors it is.
            given: the constants that depend on parameters.
            made: the tensor.
        """
        origins = [self.build.origin(each) for each in given]
        if not made.is_floating_point():
            return joined(origins)
        if row in _SAME and len(given) == 1:
            return origins[0]
        if row in MOVES:
            found = NOWHERE
            for each, origin in zip(given, origins, strict=True):
                found |= origin.arranged(_moving(step, args, words, place, each))
            return found
        if row is not None and row.name in _TERMS and not words.keys() - {"alpha"}:
            found_args, found_words = ordered(called(step)[0], args, words)
            terms = [self._term(each) for each in found_args]
            if len(terms) == _TERMS[row.name]:
                alpha = Numbers(np.asarray(float(found_words.get("alpha", 1.0))))
                return _calculated(row.name, terms, alpha)
        return joined(origins)

    def _term(self, value: Any) -> Numbers:
        """A constant of a sum or a product, whatever it holds."""
        values = torch.as_tensor(value).detach().double().numpy()
        return Numbers(values, self.build.origin(value))

    def _written(self, step: fx.Node, result: Any) -> Any:
        """Give the name of what was overwritten in place its new content, and spoil its views."""
        target = step.args[0] if step.args else None
        if not isinstance(target, fx.Node) or not isinstance(result, SignalTensor):
            raise RefusalError("writes in place in a way that is not read here")
        before = self.made[target]
        if not isinstance(before, SignalTensor) or before.shape != result.shape:
            raise RefusalError("writes in place into a constant")
        if result.storage is before.storage:  # nothing changed
            return result
        before.storage.written_by = step.name
        for other, value in self.made.items():
            if value is before:
                self.made[other] = result
        return result


def _calculated(name: str, terms: list[Numbers], alpha: Numbers) -> Origin:
    """The origin of a sum, a product or a quotient of constants."""
    x, y = terms[0], terms[-1]
    if name == "neg":
        return (-x).origin
    if name == "div":
        with np.errstate(all="ignore"):
            return (x * Numbers(1.0 / y.values, y.origin.bent())).origin
    if name == "mul":
        return (x * y).origin
    return (x + (alpha if name == "add" else -alpha) * y).origin


def function_name(function: Any) -> str:
    """The name of an operation; one that is in no row has its home before it."""
    row = find(function)
    if row is not None:
        return row.name
    home = (getattr(function, "__module__", None) or "").split(".")[0]
    name = str(getattr(function, "__name__", function))
    return name if home in ("", "torch", "_operator", "math", "builtins") else f"{home}.{name}"


def _moving(step: fx.Node, args: Any, words: Any, place: int, which: Tensor) -> Any:
    """What a move makes of other numbers in place of one constant, zeros in place of the others."""

    def moved(values: Array) -> Array:
        put: Any = (args, words)
        for leaf in leaves([args, words]):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                new = torch.from_numpy(np.array(values)) if leaf is which else leaf * 0
                put = replaced(put, leaf, new)
        found: Array = leaves(_called(step, *put))[place].numpy()
        return found

    return moved


def _called(step: fx.Node, args: Any, words: Any) -> Any:
    if step.op == "call_method":
        return getattr(args[0], str(step.target))(*args[1:], **words)
    return step.target(*args, **words)  # type: ignore[operator]


def _blank(value: Any) -> Any:
    return (
        torch.zeros(value.shape, dtype=torch.float64) if isinstance(value, SignalTensor) else value
    )


def _in_fresh_memory(value: Any) -> Any:
    return replace(value, storage=SharedMemory()) if isinstance(value, SignalTensor) else value


def _reason(row: Operation | None) -> str:
    if row in _COMPARED:
        return "compares a signal in a way that is not read here; write it with > and torch.where"
    if row in _WHOLE:
        return "takes or makes whole numbers"
    return "is not piecewise linear, or has no exact form here"
