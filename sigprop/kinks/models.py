"""Models that a line goes through: networks of arrays, and torch modules through the converter."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from sigprop.arrangement.network import Affine, Matrix, PiecewiseLinear, Step
from sigprop.checks import FloatArray
from sigprop.kinks.line import NetworkLine
from sigprop.kinks.parameters import (
    Integers,
    Parameters,
    Part,
    direction_arrays,
    of_network,
    places,
    step_arrays,
)
from sigprop.piecewise import as_network


class NetworkModel:
    """A network of arrays, its parameters, and lines through it."""

    def __init__(self, net: PiecewiseLinear) -> None:
        self.net = net
        self.parameters = of_network(net)

    def line(self, direction: Any) -> NetworkLine:
        """The line from this network at t = 0 along a direction, or to another network at t = 1."""
        if isinstance(direction, PiecewiseLinear):
            line = NetworkLine(self.net, direction)
            if not _moves(line):
                raise ValueError("direction is the same network: nothing moves along the line.")
            return line
        arrays = direction_arrays(direction, self.parameters.shapes)
        return NetworkLine(
            self.net, self._filled(arrays), self._filled([np.zeros_like(a) for a in arrays])
        )

    def _filled(self, arrays: Sequence[FloatArray]) -> PiecewiseLinear:
        left = iter(arrays)
        steps: list[Step] = []
        for step in self.net.steps:
            if isinstance(step, Affine):
                weight, bias = next(left), next(left)
                if not isinstance(step.weight, np.ndarray):
                    rows, columns = places(step.weight)
                    weight = sparse.csr_array((weight, (rows, columns)), shape=step.weight.shape)
                steps.append(Affine(weight, bias, step.source))
            else:
                steps.append(step)
        return PiecewiseLinear.from_steps(self.net.input_dim, steps)


def _moves(line: NetworkLine) -> bool:
    for step in line.steps:
        for name in ("weight_step", "slope_steps", "bias_step", "offset_steps"):
            change = getattr(step, name, None)
            if change is not None and (not isinstance(change, np.ndarray) or change.any()):
                return True
    return False


class ModuleModel:
    """A torch module, read through the converter; torch itself is not imported here."""

    def __init__(self, module: Any, example: FloatArray | None) -> None:
        self._module, self._example = copy.deepcopy(module).double(), example
        self._start = [_numbers(parameter) for parameter in self._parameters()]
        self.shapes = {name: tuple(p.shape) for name, p in self._module.named_parameters()}
        self.net = self._network(self._start)
        self._known: Parameters | None = None

    def _parameters(self) -> list[Any]:
        return [parameter for _, parameter in self._module.named_parameters()]

    def _network(self, arrays: Iterable[FloatArray]) -> PiecewiseLinear:
        for parameter, array in zip(self._parameters(), arrays, strict=True):
            parameter.data.copy_(parameter.data.new_tensor(array))
        net: PiecewiseLinear = as_network(self._module, self._example)
        return net

    def line(self, direction: Any) -> NetworkLine:
        """The line from this module at t = 0 along a direction, or to another module at t = 1."""
        if hasattr(direction, "named_parameters"):
            ends = {name: _numbers(p) for name, p in direction.named_parameters()}
            shapes = {name: array.shape for name, array in ends.items()}
            if shapes != self.shapes:
                raise ValueError(
                    f"the models at the ends of the line have different parameters: {self.shapes} "
                    f"and {shapes}."
                )
            direction = {
                name: ends[name] - start
                for name, start in zip(self.shapes, self._start, strict=True)
            }
        arrays = direction_arrays(direction, self.shapes)
        largest = max(float(np.abs(array).max(initial=0.0)) for array in arrays)
        scale = 2.0 ** np.ceil(np.log2(largest) + 1)  # no slope is 1 on the way: all kinks stay
        try:
            moves = [
                (s, a) if a.any() else (s, None) for s, a in zip(self._start, arrays, strict=True)
            ]
            zero = self._network(s if a is None else 0 * a for s, a in moves)
            moved = self._network(s if a is None else a / scale for s, a in moves)
            line = NetworkLine(self.net, moved, zero, scale)
            _check_affine(line, self._network(s if a is None else s + a for s, a in moves))
        except ValueError as error:
            raise ValueError(
                f"this direction is no straight line of piecewise linear networks: {error} Leave "
                "the parameters of that part out of the direction."
            ) from error
        return line

    @property
    def parameters(self) -> Parameters:
        """How the numbers of the steps depend on the module's parameters.

        Raises:
            ValueError: not linearly, or a number depends on two entries of one parameter.
        """
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> Parameters:
        """From three networks for each parameter: at 0, ½, and codes that name its entries."""
        parts, rows, columns, values = [], [], [], []
        first, entry = 0, 0
        for which, start in enumerate(self._start):
            bits = 2.0 ** np.ceil(np.log2(start.size + 2))
            codes = (np.arange(start.size).reshape(start.shape) + 1) / bits
            probes = (np.zeros_like(start), np.full_like(start, 0.5), codes)
            nets = [self._with(which, probe).steps for probe in probes]
            for i, steps in enumerate(zip(*nets, strict=True)):
                for kind, (half, coded) in _differences(i, *steps).items():
                    place, share, seen = _aligned(half, coded)
                    index = np.rint(seen / share * 0.5 * bits - 1).astype(np.intp)
                    if np.any((index < 0) | (index >= start.size)):
                        raise ValueError(_mixed(i, kind))
                    parts.append(Part(i, kind, *place, len(share)))
                    rows.append(entry + np.arange(len(share)))
                    columns.append(first + index)
                    values.append(2 * share)
                    entry += len(share)
            first += start.size
        places_ = (np.concatenate(rows), np.concatenate(columns))
        matrix = sparse.csr_array((np.concatenate(values), places_), shape=(entry, first))
        made = Parameters(self.shapes, parts, matrix)
        self._check_read(made, matrix)
        return made

    def _with(self, which: int, probe: FloatArray) -> PiecewiseLinear:
        """The network with one parameter replaced."""
        try:
            return self._network([*self._start[:which], probe, *self._start[which + 1 :]])
        except ValueError as error:
            name = list(self.shapes)[which]
            raise ValueError(
                f"the network is not affine in {name!r}; its gradient cannot be read off: {error} "
                "Derivatives along a direction do not need it: leave gradients=False."
            ) from error

    def _check_read(self, made: Parameters, matrix: sparse.csr_array) -> None:
        """The dependence found must say how the network changes between any two places."""
        rng = np.random.default_rng(0)
        ends = [
            [start + rng.uniform(0.1, 0.3, start.shape) for start in self._start] for _ in range(2)
        ]
        flat = [np.concatenate([array.ravel() for array in arrays]) for arrays in ends]
        change = matrix @ (flat[1] - flat[0])
        pairs = zip(*(self._network(arrays).steps for arrays in ends), strict=True)
        starts = np.cumsum([0, *(part.size for part in made.parts)])
        for i, (one, two) in enumerate(pairs):
            before, after = step_arrays(one), step_arrays(two)
            for kind, array in before.items():
                shape = array.shape if len(array.shape) == 2 else (1, *array.shape)
                total = sparse.csr_array(shape)
                for part, at in zip(made.parts, starts[:-1], strict=True):
                    if (part.step, part.kind) == (i, kind):
                        row = 0 * part.rows if kind == "bias" else part.rows
                        place = (row, part.columns)
                        entries = change[at : at + part.size]
                        total = total + sparse.csr_array((entries, place), shape=total.shape)
                wanted = after[kind] - array
                if wanted.ndim == 1:
                    wanted = wanted[None]
                size = max(1e-3, float(abs(wanted).max()))
                if abs(sparse.csr_array(total - sparse.csr_array(wanted))).max() > 1e-9 * size:
                    raise ValueError(_mixed(i, kind))


def _mixed(i: int, kind: str) -> str:
    return (
        f"a {kind} of step {i} is not a multiple of one entry of each parameter, so the gradient "
        "with respect to the parameters cannot be read off the network. Derivatives along a "
        "direction do not need it: leave gradients=False."
    )


def _numbers(parameter: Any) -> FloatArray:
    return np.array(parameter.detach().cpu().double().numpy())


def _differences(i: int, still: Step, half: Step, coded: Step) -> dict[str, tuple[Matrix, Matrix]]:
    base, one, two = step_arrays(still), step_arrays(half), step_arrays(coded)
    if any(part.shape != base[kind].shape for kind, part in [*one.items(), *two.items()]):
        raise ValueError(_mixed(i, "threshold"))
    return {kind: (one[kind] - base[kind], two[kind] - base[kind]) for kind in base}


def _aligned(one: Matrix, two: Matrix) -> tuple[tuple[Integers, Integers], FloatArray, FloatArray]:
    """Where the first is not zero, with both values there; a vector has its place in both."""
    if one.ndim == 1:
        (place,) = np.nonzero(one)
        return (place, place), np.asarray(one)[place], np.asarray(two)[place]
    first = sparse.csr_array(one)
    first.eliminate_zeros()
    rows, columns = places(first)
    seen = sparse.csr_array(two)[rows, columns] if len(rows) else np.zeros(0)
    return (rows, columns), first.tocoo().data, np.asarray(seen).ravel()


def _check_affine(line: NetworkLine, end: PiecewiseLinear) -> None:
    """Raise unless the networks between the ends are the module with its parameters in between."""
    for i, (step, wanted) in enumerate(zip(line.network(1.0).steps, end.steps, strict=True)):
        found, expected = step_arrays(step), step_arrays(wanted)
        for kind, array in expected.items():
            if array.shape != found[kind].shape:
                continue  # a slope of exactly 1 at the end
            gap, size = abs(array - found[kind]).max(), abs(array).max()
            if gap > 1e-9 * max(size, float(np.finfo(np.float64).tiny)):
                raise ValueError(
                    f"a {kind} of step {i} does not move in proportion to t "
                    f"(it is off by {gap:.2g})."
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
