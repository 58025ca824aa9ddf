"""From activation regions to linear regions: neighbours with the same affine map become one.

Whether two affine maps are the same is asked in a finite field. Every float64 is an integer times a
power of two, so the whole network can be run modulo a prime without rounding, backwards from a
random direction of the output: what arrives at the coordinates names the map. Equal maps have equal
names. Different maps share one with probability below 2⁻⁵⁷: three primes of 19 bits or more, each
with a direction of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sigprop.arrangement.crossings import Indices
from sigprop.arrangement.exact import Dyadic
from sigprop.arrangement.hyperplanes import PairMaximum, Primitive
from sigprop.arrangement.network import Add, Affine, Array, Piecewise
from sigprop.arrangement.pieces import Pattern

PRIMES = (1048573, 1048571, 1048559)
"""The largest primes below 2**20: a sum of 8192 products stays below 2**53, exact in float64."""
TERMS = 8192
BLOCK = 4096


def same_map(
    steps: Sequence[Primitive], frame: Dyadic, patterns: Mapping[int, Pattern], pairs: Indices
) -> NDArray[np.bool_]:
    """Whether neighbouring cells carry the same affine map, (pairs,).

    Args:
        steps: primitive steps; the last value is the output.
        frame: (input_dim, coordinates).
        patterns: by step, (cells, units) the piece of each unit; at least one step.
        pairs: (pairs, 2) cells.
    """
    same = np.ones(len(pairs), bool)
    for k, prime in enumerate(PRIMES):
        left = np.nonzero(same)[0]  # after the first prime, few: cells that do merge
        cells, place = np.unique(pairs[left], return_inverse=True)
        field = _Field(steps, frame, prime, seed=k)
        blocks = [cells[start : start + BLOCK] for start in range(0, len(cells), BLOCK)]
        names = [field.backward({i: rows[some] for i, rows in patterns.items()}) for some in blocks]
        if names:
            one, other = np.concatenate(names)[place.reshape(-1, 2)].swapaxes(0, 1)
            same[left] = (one == other).all(axis=1)
    return same


def map_labels(
    steps: Sequence[Primitive], frame: Dyadic, patterns: Mapping[int, Pattern], cells: int
) -> Indices:
    """(cells,) numbers that are equal where cells carry the same affine map."""
    names = []
    for k, prime in enumerate(PRIMES):
        field = _Field(steps, frame, prime, seed=k)
        blocks = [slice(start, start + BLOCK) for start in range(0, cells, BLOCK)]
        made = [field.backward({i: rows[some] for i, rows in patterns.items()}) for some in blocks]
        names.append(np.concatenate(made))
    label = np.unique(np.concatenate(names, axis=1), axis=0, return_inverse=True)[1]
    return np.asarray(label, np.intp).ravel()


def components(cells: int, pairs: Indices) -> Indices:
    """The connected component of each cell, numbered from 0."""
    ones = np.ones(len(pairs), np.int8)
    first, second = pairs.T.astype(np.int32)  # csgraph of old scipy is wrong on longer integers
    graph = sparse.coo_array((ones, (first, second)), shape=(cells, cells))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1], np.intp)


class _Field:
    """The network modulo a prime: numbers are floats that hold integers in [0, prime)."""

    def __init__(self, steps: Sequence[Primitive], frame: Dyadic, prime: int, seed: int) -> None:
        self._steps, self._prime = steps, prime
        self._frame = self._of_dyadic(frame)
        self._numbers: list[dict[str, Any]] = [self._converted(step) for step in steps]
        self._widths = _widths(steps, len(self._frame))
        rng = np.random.default_rng(seed)
        self._direction = rng.integers(1, prime, self._widths[-1]).astype(np.float64)

    def backward(self, patterns: Mapping[int, Pattern]) -> Array:
        """Direction · map on each cell, (cells, coordinates)."""
        cells = len(next(iter(patterns.values())))
        grads: dict[int, Array] = {
            len(self._steps): np.broadcast_to(self._direction, (cells, self._widths[-1]))
        }
        total = np.zeros((cells, self._frame.shape[1]))
        for i in reversed(range(len(self._steps))):
            grad = grads.pop(i + 1, None)
            if grad is None:
                continue
            total[:, -1] += self._constant(i, grad, patterns.get(i))
            for source, share in self._pulled(i, grad, patterns.get(i)):
                if source == 0 and isinstance(self._steps[i], Affine):
                    total += share
                elif source in grads:
                    grads[source] = np.fmod(grads[source] + share, self._prime)
                else:
                    grads[source] = share
            total = np.fmod(total, self._prime)
        if 0 in grads:
            total += self._product(grads[0], self._frame)
        return np.fmod(total, self._prime)

    def _constant(self, i: int, grad: Array, pattern: Pattern | None) -> Any:
        """What the bias or the offsets of a step add to the last coordinate."""
        step, own = self._steps[i], self._numbers[i]
        if isinstance(step, Affine):
            return self._product(grad, own["bias"][:, None])[:, 0] if own["bias"].any() else 0.0
        if isinstance(step, Piecewise) and own["offsets"].any():
            offsets = self._chosen(own["offsets"], pattern, grad.shape)
            return np.fmod(grad * offsets, self._prime).sum(axis=1)
        return 0.0

    def _pulled(self, i: int, grad: Array, pattern: Pattern | None) -> list[tuple[int, Array]]:
        """What a step hands back to each value it takes; a first layer, to the coordinates."""
        step, own = self._steps[i], self._numbers[i]
        if isinstance(step, Affine):
            if step.source == 0:
                if "onto" not in own:
                    own["onto"] = self._product(own["weight"], self._frame)
                return [(0, self._product(grad, own["onto"]))]
            return [(step.source, self._product(grad, own["weight"]))]
        if isinstance(step, Add):
            return [(source, grad) for source in step.sources]
        if isinstance(step, PairMaximum):
            first = np.ones(grad.shape, bool) if pattern is None else pattern > 0
            width, cells = self._widths[step.source], len(grad)
            at = np.where(first, step.first, step.second) + width * np.arange(cells)[:, None]
            sums = np.bincount(at.ravel(), grad.ravel(), cells * width).reshape(cells, width)
            return [(step.source, np.fmod(sums, self._prime))]
        slopes = self._chosen(own["slopes"], pattern, grad.shape)
        made = grad * slopes
        return [(step.source, made if own["plain"] else np.fmod(made, self._prime))]

    def _chosen(self, rows: Array, pattern: Pattern | None, shape: tuple[int, ...]) -> Array:
        """Of each unit the entry of its piece."""
        if pattern is None:
            return np.broadcast_to(rows[0], shape)
        if len(rows) == 2:
            return np.asarray(np.where(pattern > 0, rows[1], rows[0]))
        return np.take_along_axis(rows, pattern.astype(np.intp), 0)

    def _product(self, left: Any, right: Any) -> Array:
        """Left @ right modulo the prime, without rounding."""
        inner = left.shape[1]
        made = np.zeros((left.shape[0], right.shape[1]))
        for start in range(0, inner, TERMS):
            some = slice(start, start + TERMS)
            made += np.fmod(np.asarray(left[:, some] @ right[some]), self._prime)
        return np.fmod(made, self._prime) if inner > TERMS else made

    def _converted(self, step: Primitive) -> dict[str, Any]:
        """The numbers of a step modulo the prime."""
        if isinstance(step, Affine):
            weight: Any = step.weight
            if sparse.issparse(weight):
                weight = weight.copy()
                weight.data = self._of(weight.data)
            else:
                weight = self._of(weight)
            return {"weight": weight, "bias": self._of(step.bias)}
        if isinstance(step, Piecewise):
            plain = bool(np.isin(step.slopes, (0.0, 1.0)).all())
            slopes, offsets = self._of(step.slopes), self._of(step.offsets)
            return {"slopes": slopes, "offsets": offsets, "plain": plain}
        return {}

    def _of(self, numbers: Array) -> Array:
        """Floats modulo the prime: mantissa times a power of two, which has an inverse."""
        mantissas, exponents = np.frexp(numbers)
        whole = (mantissas * 2.0**53).astype(np.int64) % self._prime
        shifts, which = np.unique(exponents.ravel() - 53, return_inverse=True)
        powers = np.array([pow(2, int(shift), self._prime) for shift in shifts], np.int64)
        return (whole * powers[which].reshape(whole.shape) % self._prime).astype(np.float64)

    def _of_dyadic(self, numbers: Dyadic) -> Array:
        power = pow(2, numbers.exponent, self._prime)
        return np.asarray(numbers.integers * power % self._prime, np.float64)


def _widths(steps: Sequence[Primitive], input_dim: int) -> list[int]:
    """The width of every value."""
    widths = [input_dim]
    for step in steps:
        if isinstance(step, Affine):
            widths.append(int(step.weight.shape[0]))
        elif isinstance(step, PairMaximum):
            widths.append(len(step.first))
        else:
            widths.append(widths[step.sources[0]])
    return widths
