"""Models that a line goes through: networks of arrays, and torch modules through the converter.

Which entry of which parameter each number of a module's network is, the conversion has written
down (:class:`sigprop.piecewise.Conversion`): lines and gradients are read off that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sigprop.arrangement.network import Affine, Matrix, Piecewise, PiecewiseLinear, Step
from sigprop.checks import FloatArray
from sigprop.kinks.line import (
    MovingAffine,
    MovingPiecewise,
    MovingStep,
    NetworkLine,
    moving_or_none,
    still,
)
from sigprop.kinks.parameters import (
    Integers,
    Parameters,
    Part,
    direction_arrays,
    of_network,
    places,
)

if TYPE_CHECKING:
    from sigprop.piecewise.builder import Sources
    from sigprop.piecewise.constants import Numbers

KINDS = ("weight", "bias", "slope", "offset")


class NetworkModel:
    """A network of arrays, its parameters, and lines through it."""

    def __init__(self, net: PiecewiseLinear) -> None:
        self.net = net
        self.parameters = of_network(net)

    def line(self, direction: Any, *, gradients: bool = False) -> NetworkLine:
        """The line from this network at t = 0 along a direction, or to another network at t = 1."""
        if isinstance(direction, PiecewiseLinear):
            line = NetworkLine.between(self.net, direction)
            if not _moves(line):
                raise ValueError("direction is the same network: nothing moves along the line.")
            return line
        left = iter(direction_arrays(direction, self.parameters.shapes))
        steps = [
            _moved(step, next(left), next(left)) if isinstance(step, Affine) else still(step)
            for step in self.net.steps
        ]
        return NetworkLine(self.net.input_dim, self.net.widths, steps)

    def still(self) -> NetworkLine:
        """This network, where nothing moves."""
        return NetworkLine.still(self.net)


def _moved(step: Affine, weight: FloatArray, bias: FloatArray) -> MovingAffine:
    change: Matrix = weight
    if not isinstance(step.weight, np.ndarray):
        change = sparse.csr_array((weight, places(step.weight)), shape=step.weight.shape)
    return MovingAffine(step.weight, moving_or_none(change), step.bias, bias, step.source)


def _moves(line: NetworkLine) -> bool:
    for step in line.steps:
        for name in ("weight_step", "slope_steps", "bias_step", "offset_steps"):
            change = getattr(step, name, None)
            if change is not None and (not isinstance(change, np.ndarray) or change.any()):
                return True
    return False


class _NoLineError(Exception):
    """Why the networks do not move in proportion to t."""


class ModuleModel:
    """A torch module, read through the converter; torch itself is not imported here."""

    def __init__(self, module: Any, example: FloatArray | None) -> None:
        from sigprop.piecewise import convert_model

        self._start = _arrays(module)
        self.shapes = {name: array.shape for name, array in self._start.items()}
        self._read = convert_model(module, example)
        self.net = self._read.network
        self._known: Parameters | None = None

    def line(self, direction: Any, *, gradients: bool = False) -> NetworkLine:
        """The line from this module at t = 0 along a direction, or to another module at t = 1.

        Args:
            direction: as in :func:`sigprop.kinks.along`.
            gradients: whether units whose slopes are equal keep their kink where a parameter sets
                a slope: its gradient has one.
        """
        if hasattr(direction, "named_parameters"):
            ends = _arrays(direction)
            shapes = {name: array.shape for name, array in ends.items()}
            if shapes != self.shapes:
                raise ValueError(
                    f"the models at the ends of the line have different parameters: {self.shapes} "
                    f"and {shapes}."
                )
            direction = {name: ends[name] - start for name, start in self._start.items()}
        arrays = direction_arrays(direction, self.shapes)
        moves = {name: a for name, a in zip(self.shapes, arrays, strict=True) if a.any()}
        try:
            return self._line(moves, gradients)
        except _NoLineError as error:
            raise ValueError(
                f"this direction is no straight line of piecewise linear networks: {error} Leave "
                "the parameters of that part out of the direction."
            ) from error

    def still(self) -> NetworkLine:
        """This module, where nothing moves; kinks as for gradients."""
        return self._line({}, True)

    def _line(self, moves: Mapping[str, FloatArray], gradients: bool) -> NetworkLine:
        for name in self._read.lost & moves.keys():
            raise _NoLineError(f"{name!r} becomes a number of Python, which cannot be followed.")
        pairs = zip(self.net.steps, self._read.sources, strict=True)
        steps = [_moving(i, *pair, moves, gradients) for i, pair in enumerate(pairs)]
        return NetworkLine(self.net.input_dim, self.net.widths, steps)

    @property
    def parameters(self) -> Parameters:
        """How the numbers of the steps depend on the module's parameters.

        Raises:
            ValueError: not as sums of entries times constants.
        """
        if self._known is None:
            self._known = self._of_sources()
        return self._known

    def _of_sources(self) -> Parameters:
        parts, columns, values = [], [], []
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        first = dict(zip(self.shapes, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        for name in sorted(self._read.lost):
            raise ValueError(_unread("a number", name))
        for i, numbers in enumerate(self._read.sources):
            for kind, each in numbers.items():
                wrong = each.origin.parameters if kind == "threshold" else each.origin.otherwise
                for name in sorted(wrong):
                    raise ValueError(_unread(f"{_called(kind)} of step {i}", name))
                for name, rows, cols, index, factor in _entries(each) if kind in KINDS else ():
                    dense = kind == "weight" and isinstance(each.values, np.ndarray)
                    whole = dense and len(index) == each.values.size
                    parts.append(Part(i, kind, rows, cols, len(index), whole))
                    columns.append(first[name] + index)
                    values.append(factor)
        if not parts:
            raise ValueError("no parameter of the module enters its output; there is no gradient.")
        entries = np.concatenate(columns)
        place = (np.arange(len(entries)), entries)
        shape = (len(entries), sum(sizes))
        matrix = sparse.csr_array((np.concatenate(values), place), shape=shape)
        return Parameters(self.shapes, parts, matrix)


def _arrays(module: Any) -> dict[str, FloatArray]:
    """The parameters of a module in float64."""
    return {
        name: np.array(parameter.detach().cpu().double().numpy())
        for name, parameter in module.named_parameters()
    }


def _entries(
    numbers: Numbers,
) -> Iterator[tuple[str, Integers, Integers, Integers, FloatArray]]:
    """By part of an array: the parameter; rows, columns, indices and factors of its entries."""
    for part in numbers.origin.parts:
        index, factor = part.index(), part.factor()
        if isinstance(index, np.ndarray):
            place = np.nonzero(index)
            rows, columns = (place[0], place[-1])
            yield part.parameter, rows, columns, index[place].astype(np.intp) - 1, factor[place]
            continue
        assert not isinstance(factor, np.ndarray)
        rows, columns = places(index)
        same = np.array_equal(index.indptr, factor.indptr)
        same = same and np.array_equal(index.indices, factor.indices)
        found = factor.data if same else np.asarray(factor[rows, columns]).ravel()
        at = index.data.astype(np.intp) - 1
        some = at >= 0
        yield part.parameter, rows[some], columns[some], at[some], found[some]


def _change(numbers: Numbers, moves: Mapping[str, FloatArray]) -> Matrix:
    """By how much an array changes per t."""
    shape = numbers.values.shape
    if isinstance(numbers.values, np.ndarray):
        made = np.zeros(shape)
        for name, rows, columns, index, factor in _entries(numbers):
            if name in moves:
                place = (rows, columns) if len(shape) == 2 else rows
                made[place] += factor * moves[name].ravel()[index]
        return made
    total = sparse.csr_array(shape)
    for name, rows, columns, index, factor in _entries(numbers):
        if name in moves:
            change = factor * moves[name].ravel()[index]
            total = total + sparse.csr_array((change, (rows, columns)), shape=shape)
    return total


def _moving(
    i: int, step: Step, numbers: Sources, moves: Mapping[str, FloatArray], gradients: bool
) -> MovingStep:
    for kind, each in numbers.items():
        wrong = each.origin.parameters if kind == "threshold" else each.origin.otherwise
        for name in sorted(moves.keys() & set(wrong)):
            raise _NoLineError(
                f"{_called(kind)} of step {i} does not move in proportion to t "
                f"(it is computed from {name!r})."
                if kind != "threshold"
                else f"a threshold of step {i} moves along this line (it depends on {name!r}); "
                "kinks are located exactly where thresholds stay put."
            )
    if isinstance(step, Affine):
        weight, bias = (_change(numbers[kind], moves) for kind in ("weight", "bias"))
        assert isinstance(bias, np.ndarray)
        return MovingAffine(step.weight, moving_or_none(weight), step.bias, bias, step.source)
    if isinstance(step, Piecewise):
        return _moving_units(step, numbers, moves, gradients)
    return still(step)


def _moving_units(
    step: Piecewise, numbers: Sources, moves: Mapping[str, FloatArray], gradients: bool
) -> MovingStep:
    """Units as they were written down, wherever a kink that is not there now may matter."""
    slopes, offsets = numbers["slope"], numbers["offset"]
    if not (slopes.origin.parameters or offsets.origin.parameters):
        return still(step)
    thresholds = numbers["threshold"].values
    rise, shift = _change(slopes, moves), _change(offsets, moves)
    assert isinstance(rise, np.ndarray) and isinstance(shift, np.ndarray)
    if len(thresholds) == 1:
        kept = (np.diff(slopes.values, axis=0) != 0) | (np.diff(offsets.values, axis=0) != 0)
        kept |= (np.diff(rise, axis=0) != 0) | (np.diff(shift, axis=0) != 0)
        if gradients:
            for each in (slopes, offsets):
                for _, _, units, _, _ in _entries(each):
                    kept[:, units] = True
        thresholds = np.where(kept, thresholds, np.inf)
    return MovingPiecewise(
        thresholds, slopes.values, rise if rise.any() else None, offsets.values, shift, step.source
    )


def _called(kind: str) -> str:
    return {"other": "a number", "offset": "an offset"}.get(kind, f"a {kind}")


def _unread(what: str, name: str) -> str:
    return (
        f"{what} is computed from {name!r} otherwise than as a sum of entries times constants, so "
        "the gradient with respect to the parameters cannot be read off the network. Derivatives "
        "along a direction do not need it: leave gradients=False."
    )


def open_model(model: Any, example: FloatArray | None = None) -> NetworkModel | ModuleModel:
    """A network of arrays or a torch module, ready for lines and gradients.

    Raises:
        TypeError: neither.
        ValueError: a module that is not piecewise linear, named with the reason.
    """
    if isinstance(model, PiecewiseLinear):
        return NetworkModel(model)
    if hasattr(model, "named_parameters"):
        return ModuleModel(model, example)
    raise TypeError(
        f"model must be a regions.PiecewiseLinear or a torch.nn.Module; got {type(model).__name__}."
    )
