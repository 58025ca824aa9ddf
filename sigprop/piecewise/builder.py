"""Puts together the steps of a network while the data is followed through a model.

A :class:`SignalTensor` is a tensor of the model: which entry of which value of the network each of
its entries is. Reshaping and moving entries therefore costs no step and no rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from torch import Tensor

from sigprop.arrangement.network import (
    Add,
    Affine,
    Array,
    Matrix,
    Maximum,
    Piecewise,
    PiecewiseLinear,
    Step,
)
from sigprop.checks import real_array
from sigprop.piecewise.constants import NOWHERE, Numbers, Origin, as_numbers

Index = NDArray[np.intp]
Sources: TypeAlias = Mapping[str, Numbers]
"""The numbers of a step by kind, with their origins: ``"weight"`` and ``"bias"``; ``"slope"``,
``"offset"`` and ``"threshold"`` as they were written down, before thresholds that change nothing
are taken out; ``"other"``: parameters that enter unfollowed."""


Entries: TypeAlias = ArrayLike | Numbers


class RefusalError(ValueError):
    """Why a step of a model has no exact form; the message is completed with the step's name."""


class SharedMemory:
    """The memory of a tensor: views share it, so writing in place spoils them."""

    def __init__(self) -> None:
        self.written_by = ""


@dataclass(frozen=True, eq=False)
class SignalTensor:
    """A tensor that depends on the input.

    Attributes:
        value: the value of the network that its entries are taken from.
        index: of the tensor's shape: which entry of the value each is; −1: the number zero.
        storage: shared with the tensors that see the same memory.
        scaled_from: (x, c, d) if it is c·x + d, entry by entry.
    """

    value: int
    index: Index
    storage: SharedMemory = field(default_factory=SharedMemory)
    scaled_from: tuple[SignalTensor, Numbers, Numbers] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self.index.shape


class Builder:
    """The steps of a network so far, and what can be added to them.

    Args:
        shape: of one input with a batch axis of one before it.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.input = SignalTensor(0, np.arange(math.prod(shape)).reshape(shape))
        self._widths = [self.input.index.size]
        self._steps: list[Step] = []
        self._sources: list[Sources] = []
        self._origins: dict[int, tuple[Any, Origin]] = {}
        self._touched: set[str] = set()
        self.lost: set[str] = set()
        """Names of parameters of which it cannot be told where they enter."""

    # Constants

    def note(self, tensor: Tensor, origin: Origin) -> Tensor:
        """Remember where a constant comes from."""
        self._origins[id(tensor)] = tensor, origin
        return tensor

    def origin(self, value: Any) -> Origin:
        """Where a constant comes from."""
        if isinstance(value, Numbers):
            return value.origin
        return self._origins[id(value)][1] if id(value) in self._origins else NOWHERE

    def begin(self) -> None:
        """Begin with the next step of the model."""
        self._touched.clear()

    def touch(self, values: Iterable[Any]) -> None:
        """Note that the steps made now depend on constants in a way that is not followed."""
        for value in values:
            self._touched.update(self.origin(value).parameters)

    def lose(self, values: Iterable[Any]) -> None:
        """Note that it cannot be told what depends on these constants from now on."""
        self.lost |= {name for value in values for name in self.origin(value).parameters}

    def constant(self, name: str, value: Any) -> Numbers:
        """A constant in float64 with its origin; refused where it is not finite and real."""
        if isinstance(value, Numbers):
            return value
        if isinstance(value, SignalTensor):
            raise RefusalError(f"takes {name} from a signal, which is not piecewise linear")
        if isinstance(value, Tensor) and value.numel() == 0:
            return Numbers(np.zeros(tuple(value.shape)))
        try:
            return Numbers(real_array(name, value), self.origin(value))
        except ValueError as error:
            raise RefusalError(f"cannot be read: {error}".rstrip(".")) from None

    def numbers(self, name: str, value: Any) -> Array:
        """A constant as an array, where how its step depends on it is not followed."""
        self.touch([value])
        found: Array = self.constant(name, value).values
        return found

    # The network

    def network(self, output: SignalTensor) -> tuple[PiecewiseLinear, list[Sources]]:
        """The network that ends in a signal, without the steps that do not lead there.

        Returns:
            The network, and the numbers of each of its steps with their origins.
        """
        last = self.flat(output)
        if last == 0:  # nothing was computed: the identity
            every = np.arange(self._widths[0])
            last = self._affine(_selected(every, len(every)), 0)
        needed = {last}
        for i in range(len(self._steps), 0, -1):
            if i in needed:
                needed.update(self._steps[i - 1].sources)
        new = {value: place for place, value in enumerate(sorted(needed | {0}))}
        steps = [
            _with_sources(step, [new[source] for source in step.sources])
            for i, step in enumerate(self._steps, 1)
            if i in needed
        ]
        sources = [known for i, known in enumerate(self._sources, 1) if i in needed]
        return PiecewiseLinear.from_steps(self._widths[0], steps), sources

    def flat(self, x: SignalTensor) -> int:
        """The value whose entries are those of x in order; one is made if there is none."""
        index, width = x.index.ravel(), self._widths[x.value]
        if len(index) == width and np.array_equal(index, np.arange(width)):
            return x.value
        return self._affine(_selected(index, width), x.value)

    def affine(
        self, x: SignalTensor, weight: Numbers, bias: Numbers | None, shape: Sequence[int]
    ) -> SignalTensor:
        """W x + b in the given shape; the entries of W are kept as they are."""
        index, width = x.index.ravel(), self._widths[x.value]
        kept = index[index >= 0]
        if len(np.unique(kept)) != len(kept):  # adding up entries would round: select first
            return self._made(self._affine(weight, self.flat(x), bias), shape)
        if len(index) != width or not np.array_equal(index, np.arange(width)):
            weight = weight.arranged(partial(_onto, index=index, width=width))
        return self._made(self._affine(weight, x.value, bias), shape)

    def scaled(self, x: SignalTensor, factor: Entries, shift: Entries) -> SignalTensor:
        """c·x + d, entry by entry; c and d have the shape of x or broadcast to it."""
        c, d = (
            as_numbers(each).arranged(lambda values: np.broadcast_to(values, x.shape))
            for each in (factor, shift)
        )
        moves = c.origin.parameters or d.origin.parameters
        if not moves and np.all(c.values == 1.0) and not d.values.any():
            return x
        made = self.affine(x, c.arranged(_diagonal), d.arranged(np.ravel), x.shape)
        return replace(made, scaled_from=(x, c, d))

    def total(self, signals: Sequence[SignalTensor]) -> SignalTensor:
        """The sum of signals of one shape."""
        if len(signals) == 1:
            return signals[0]
        sources = tuple(self.flat(x) for x in signals)
        return self._made(self._put(Add(sources), self._widths[sources[0]]), signals[0].shape)

    def piecewise(
        self,
        x: SignalTensor,
        thresholds: Sequence[Entries],
        slopes: Sequence[Entries],
        offsets: Sequence[Entries] | None = None,
        closed: Sequence[bool] | None = None,
    ) -> SignalTensor:
        """An activation by its pieces, from below; every entry broadcasts to the shape of x.

        ``closed`` says of each threshold whether the piece above holds on it; only jumps need it.
        """

        def rows(entries: Sequence[Entries]) -> Numbers:
            table = Numbers(np.empty((len(entries), x.index.size)))
            for p, entry in enumerate(entries):
                placed = partial(_in_row, row=p, shape=table.values.shape, of=x.shape)
                own = as_numbers(entry)
                table.values[p] = np.broadcast_to(own.values, x.shape).ravel()
                table = Numbers(table.values, table.origin | own.origin.arranged(placed))
            return table

        edges, gradients = rows(thresholds), rows(slopes)
        shifts = rows(offsets if offsets is not None else [0.0] * len(slopes))
        finite = np.where(edges.values == np.inf, 0.0, edges.values)
        for values in (gradients.values, shifts.values, finite):
            _check_finite(values)
        above = None if closed is None else np.outer(closed, np.ones(x.index.size, bool))
        step = Piecewise(edges.values, gradients.values, shifts.values, self.flat(x), above)
        sources = {"slope": gradients, "offset": shifts, "threshold": edges}
        return self._made(self._put(step, x.index.size, sources), x.shape)

    def maximum(self, x: SignalTensor, groups: Index, shape: Sequence[int]) -> SignalTensor:
        """The largest entry of each group of entries of x (indices into it, −1: none)."""
        index = x.index.ravel()
        _, first, place = np.unique(index, return_index=True, return_inverse=True)
        groups = np.where(groups >= 0, first[place][groups], -1)
        groups = np.sort(groups, axis=1)[:, ::-1]
        twice = np.zeros(groups.shape, bool)  # a member that stands twice would tie everywhere
        twice[:, 1:] = groups[:, 1:] == groups[:, :-1]
        groups = np.sort(np.where(twice, -1, groups), axis=1)[:, ::-1]
        groups = groups[:, (groups >= 0).any(axis=0)]
        if np.all(index >= 0):
            source = x.value
            groups = np.where(groups >= 0, index[groups], -1)
        else:
            source = self.flat(x)
        groups = np.ascontiguousarray(groups, np.intp)
        return self._made(self._put(Maximum(groups, source), len(groups)), shape)

    def moved(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> SignalTensor:
        """The one signal that a function as :meth:`rearranged` takes it makes."""
        made = self.rearranged(function, *args, **kwargs)
        if not isinstance(made, SignalTensor):
            raise RefusalError("makes something else than one tensor that depends on the input")
        return made

    def rearranged(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function makes that only moves, copies and drops entries, or fills in zeros.

        It is run on tensors of entry numbers (from 1, in float64) in place of every signal and
        every floating-point constant; what comes out says where each entry came from.
        """
        sources: list[SignalTensor | Tensor] = []
        starts = [1]

        def numbered(thing: Any) -> Any:
            if isinstance(thing, list | tuple):
                return type(thing)([numbered(entry) for entry in thing])
            if isinstance(thing, Tensor) and not thing.is_floating_point():
                self.touch([thing])  # entries that are chosen by it
            signal = isinstance(thing, SignalTensor)
            if not signal and not (isinstance(thing, Tensor) and thing.is_floating_point()):
                return thing
            size = math.prod(thing.shape)
            sources.append(thing)
            starts.append(starts[-1] + size)
            first = starts[-2]
            return torch.arange(first, first + size, dtype=torch.float64).reshape(thing.shape)

        result = function(*numbered(args), **{key: numbered(v) for key, v in kwargs.items()})
        return self._renumbered(result, sources, np.array(starts))

    def _renumbered(self, result: Any, sources: list[SignalTensor | Tensor], starts: Index) -> Any:
        if isinstance(result, list | tuple):
            return tuple(self._renumbered(entry, sources, starts) for entry in result)
        if not isinstance(result, Tensor):
            return result
        shape = tuple(result.shape)
        found = np.asarray(result.numpy(), np.float64).ravel()
        numbers = found.astype(np.intp)
        if not np.array_equal(numbers, found) or numbers.min(initial=0) < 0:
            raise RefusalError("does not only move entries")
        whose = np.searchsorted(starts, numbers, side="right") - 1  # −1: zeros
        parts: list[SignalTensor] = []
        constant = Numbers(np.zeros(len(numbers)))
        met = [i for i in range(len(sources)) if np.any(whose == i)]
        for i in met:
            source = sources[i]
            place = np.where(whose == i, numbers - starts[i], 0)
            if isinstance(source, SignalTensor):
                taken = np.where(whose == i, source.index.ravel()[place], -1)
                parts.append(SignalTensor(source.value, taken.reshape(shape)))
            else:
                taken_here = partial(_taken, place=place, kept=whose == i)
                own = Numbers(source.numpy(), self.origin(source))
                constant = constant + own.arranged(taken_here)
        constant = constant.arranged(lambda values: values.reshape(shape))
        if not parts:
            return self.note(torch.from_numpy(constant.values), constant.origin)
        if len(parts) == 1 and not constant.values.any() and not constant.origin.parameters:
            return replace(parts[0], storage=self._shared(sources))
        return self.scaled(self.total(parts), 1.0, constant)

    @staticmethod
    def _shared(sources: list[SignalTensor | Tensor]) -> SharedMemory:
        signals = [source for source in sources if isinstance(source, SignalTensor)]
        return signals[0].storage if len(signals) == 1 else SharedMemory()

    def _affine(self, weight: Numbers, source: int, bias: Numbers | None = None) -> int:
        matrix = weight.values
        shift = Numbers(np.zeros(matrix.shape[0])) if bias is None else bias
        _check_finite(np.asarray(matrix.data if sparse.issparse(matrix) else matrix))
        _check_finite(shift.values)
        step = Affine(matrix, np.array(shift.values), source)
        return self._put(step, matrix.shape[0], {"weight": weight, "bias": shift})

    def _made(self, value: int, shape: Sequence[int]) -> SignalTensor:
        return SignalTensor(value, np.arange(self._widths[value]).reshape(tuple(shape)))

    def _put(self, step: Step, width: int, numbers: Mapping[str, Numbers] | None = None) -> int:
        other = Numbers(np.zeros(0), Origin((), frozenset(self._touched)))
        self._sources.append({**(numbers or {}), "other": other})
        self._steps.append(step)
        self._widths.append(width)
        return len(self._steps)


def _with_sources(step: Step, sources: list[int]) -> Step:
    if isinstance(step, Add):
        return Add(tuple(sources))
    return replace(step, source=sources[0])


def _selected(index: Index, width: int) -> Numbers:
    """The matrix that takes entry index[k] to place k, nothing where it is −1."""
    kept = index >= 0
    ends = np.concatenate([[0], np.cumsum(kept)])
    shape = (len(index), width)
    return Numbers(sparse.csr_array((np.ones(ends[-1]), index[kept], ends), shape=shape))


def _diagonal(values: Array) -> Matrix:
    """The diagonal matrix of numbers, zeros stored too."""
    size = values.size
    places = (values.ravel(), np.arange(size), np.arange(size + 1))
    return sparse.csr_array(places, shape=(size, size))


def _in_row(values: Array, row: int, shape: tuple[int, ...], of: tuple[int, ...]) -> Array:
    """A table of zeros with numbers that broadcast to the shape of a signal in one row."""
    table = np.zeros(shape)
    table[row] = np.broadcast_to(values, of).ravel()
    return table


def _taken(values: Array, place: Index, kept: NDArray[np.bool_]) -> Array:
    """The entries at some places, zero where none is taken."""
    return np.where(kept, values.ravel()[place], 0.0)


def _onto(weight: Matrix, index: Index, width: int) -> Matrix:
    """The matrix that takes the value of which a signal takes the entries ``index``, each once."""
    if not sparse.issparse(weight) and len(index) == width and np.all(index >= 0):
        dense = np.empty((weight.shape[0], width))
        dense[:, index] = weight
        return dense
    entries = sparse.coo_array(weight)
    columns = index[entries.col]
    kept = columns >= 0
    return sparse.csr_array(
        (entries.data[kept], (entries.row[kept], columns[kept])), shape=(weight.shape[0], width)
    )


def _check_finite(numbers: Array) -> None:
    if not np.isfinite(numbers).all():
        raise RefusalError("has weights or constants that are NaN or infinite")
