"""Piecewise linear networks as arrays: the input of every count in this package. No torch here.

A network is a list of steps. Value 0 is the input; step i makes value i + 1 from earlier values.
Four kinds of step say everything that a feed-forward piecewise linear network does:
:class:`Affine`, :class:`Piecewise` (ReLU, leaky, hard-tanh, …), :class:`Maximum` (max pooling,
maxout) and :class:`Add`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from sigprop.checks import real_array

Array: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = Array | sparse.csr_array


@dataclass(frozen=True, eq=False)
class Affine:
    """y = W x + b.

    Attributes:
        weight: (out, in), dense or a ``scipy.sparse.csr_array``.
        bias: (out,).
        source: index of the value x.
    """

    weight: Matrix
    bias: Array
    source: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of the values it takes."""
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Piecewise:
    """An affine function of one variable on each piece, unit by unit.

    Unit j has the pieces ``slopes[p, j]·z + offsets[p, j]``, where p counts the thresholds of the
    unit below z. Thresholds that change nothing are not kept, so every one is a kink or a jump.

    Attributes:
        thresholds: (pieces − 1, units), ascending in each column, +inf where a unit has fewer.
        slopes: (pieces, units).
        offsets: (pieces, units).
        source: index of the value z.
        closed: (pieces − 1, units), whether on a threshold itself the piece above it holds, which
            matters where the function jumps; None: nowhere.
    """

    thresholds: Array
    slopes: Array
    offsets: Array
    source: int
    closed: NDArray[np.bool_] | None = None
    jumps: NDArray[np.bool_] = field(init=False)
    """(pieces − 1, units): whether the function is discontinuous at a threshold."""
    _leaky: bool = field(init=False)

    def __post_init__(self) -> None:
        closed = np.zeros(self.thresholds.shape, bool) if self.closed is None else self.closed
        thresholds, slopes, offsets, closed = _without_idle(
            self.thresholds, self.slopes, self.offsets, closed
        )
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "slopes", slopes)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "jumps", _jumps(thresholds, slopes, offsets))
        object.__setattr__(self, "closed", closed & self.jumps)
        simple = len(thresholds) <= 1 and not offsets.any()
        object.__setattr__(self, "_leaky", simple and not thresholds[np.isfinite(thresholds)].any())

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of the values it takes."""
        return (self.source,)

    @property
    def continuous(self) -> bool:
        """Whether no unit jumps."""
        return not self.jumps.any()

    def pieces(self, z: Array, w: Array | None = None) -> NDArray[np.int8]:
        """The piece of each entry of z (points, units); see ``closed`` for those on a threshold."""
        found = np.zeros(z.shape, np.int8)
        for threshold, closed in zip(self.thresholds, self.closed_rows, strict=True):
            finite = np.isfinite(threshold)
            at = np.where(finite, threshold, 0.0)
            at = at if w is None else at * w[:, None]
            found += finite & ((z > at) | (closed & (z == at)))
        return found

    @property
    def closed_rows(self) -> NDArray[np.bool_]:
        """``closed`` as an array."""
        assert self.closed is not None  # set when the step is made
        return self.closed

    def __call__(self, z: Array, w: Array | None = None) -> Array:
        """Φ(z) for z (points, units); w (points,) scales thresholds and offsets, default 1."""
        if self._leaky:
            below = self.slopes[0]
            above = self.slopes[-1]  # the same where a unit has no kink: slope 1, or one piece
            if len(self.slopes) == 1:
                return np.asarray(z * below)
            kinked = np.isfinite(self.thresholds[0])
            above = np.where(kinked, above, below)
            if np.all(above == 1.0) and np.all(below <= 1.0):
                return np.asarray(np.maximum(z, z * below) if below.any() else np.maximum(z, 0.0))
            return np.asarray(np.where(z > 0.0, above, below) * z)
        return self.on_pieces(z, self.pieces(z, w), w)

    def on_pieces(self, z: Array, pieces: NDArray[np.int8], w: Array | None) -> Array:
        """Φ(z) continued from the given pieces."""
        slope = np.take_along_axis(self.slopes, pieces.astype(np.intp), 0)
        offset = np.take_along_axis(self.offsets, pieces.astype(np.intp), 0)
        return np.asarray(slope * z + (offset if w is None else offset * w[:, None]))


@dataclass(frozen=True, eq=False)
class Maximum:
    """y_m = max of z over the members of group m: max pooling, maxout.

    Attributes:
        groups: (groups, largest size) indices into z, −1 where a group has fewer members.
        source: index of the value z.
    """

    groups: NDArray[np.intp]
    source: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of the values it takes."""
        return (self.source,)

    def members(self, z: Array) -> Array:
        """Entries of z by group, (…, groups, size), −inf where a group has no such member."""
        return np.where(self.groups >= 0, z[..., self.groups], -np.inf)

    def __call__(self, z: Array) -> Array:
        """The maxima of z (points, in), (points, groups)."""
        return np.asarray(self.members(z).max(axis=-1))


@dataclass(frozen=True, eq=False)
class Add:
    """y = Σ of earlier values of one width: a residual sum."""

    sources: tuple[int, ...]


Step: TypeAlias = Affine | Piecewise | Maximum | Add


class PiecewiseLinear:
    """A feed-forward network that is affine on each of finitely many convex pieces.

    z¹ = W¹x + b¹, hˡ = φ(zˡ), zˡ⁺¹ = Wˡ⁺¹hˡ + bˡ⁺¹, with φ(z) = z for z > 0 and αz below. Every
    layer is activated: a unit of slope 1 is linear, so a linear read-out has slope 1 (or is left
    out of ``alpha``, one entry fewer than there are weights).

    Args:
        weights: (out, in) per layer, arrays or scipy sparse arrays.
        biases: (out,) per layer, or None for zeros; one None for all.
        alpha: the negative slope: a number, one per layer, or per layer one for each unit. Any
            finite number, negative and above 1 too.

    Raises:
        TypeError: weights that are not numbers.
        ValueError: shapes that do not chain, non-finite entries, or a wrong number of slopes.

    Example:
        >>> import numpy as np
        >>> net = PiecewiseLinear([np.eye(2), np.ones((1, 2))], [None, [-1.0]], alpha=[0.1, 1.0])
        >>> net
        PiecewiseLinear(2-2-1, 2 kinked units)
        >>> net(np.array([[1.0, -10.0]]))
        array([[-1.]])
    """

    def __init__(
        self,
        weights: Sequence[ArrayLike | sparse.sparray | sparse.spmatrix],
        biases: Sequence[ArrayLike | None] | None = None,
        alpha: float | Sequence[ArrayLike] | NDArray[Any] = 0.0,
    ) -> None:
        if isinstance(weights, np.ndarray) and weights.ndim == 2:
            raise ValueError("weights is a list of matrices, one per layer; for one layer: [W].")
        matrices = [_matrix(weight, f"weights[{i}]") for i, weight in enumerate(weights)]
        if not matrices:
            raise ValueError("weights is empty; give at least one (out, in) matrix.")
        if biases is None:
            biases = [None] * len(matrices)
        if len(biases) != len(matrices):
            raise ValueError(
                f"{len(matrices)} weights but {len(biases)} biases; give one per layer, None for "
                "zeros."
            )
        by_layer = _slopes(alpha, [matrix.shape[0] for matrix in matrices])
        steps: list[Step] = []
        for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            if i and matrix.shape[1] != matrices[i - 1].shape[0]:
                raise ValueError(
                    f"weights[{i}] takes {matrix.shape[1]} inputs but weights[{i - 1}] gives "
                    f"{matrices[i - 1].shape[0]}; shapes are (out, in) and must chain."
                )
            steps.append(Affine(matrix, _bias(bias, matrix.shape[0], f"biases[{i}]"), len(steps)))
            if i < len(by_layer):
                steps.append(leaky(by_layer[i], len(steps)))
        self._set(matrices[0].shape[1], steps)

    @classmethod
    def from_steps(cls, input_dim: int, steps: Sequence[Step]) -> PiecewiseLinear:
        """A network from its steps; the last one's value is the output.

        Raises:
            ValueError: no steps, a step that takes a later value, or widths that do not fit.
        """
        net = cls.__new__(cls)
        net._set(input_dim, list(steps))
        return net

    def _set(self, input_dim: int, steps: list[Step]) -> None:
        if not steps:
            raise ValueError("a network needs at least one step.")
        self.input_dim = int(input_dim)
        self.steps = tuple(_owned(step) for step in steps)
        self.widths = _widths(self.input_dim, self.steps)

    @property
    def continuous(self) -> bool:
        """Whether no unit jumps (PhasedReLU does)."""
        return all(step.continuous for step in self.steps if isinstance(step, Piecewise))

    @property
    def kinks(self) -> int:
        """Number of thresholds of all activations, and of members of maxima beyond the first."""
        total = 0
        for step in self.steps:
            if isinstance(step, Piecewise):
                total += int(np.isfinite(step.thresholds).sum())
            elif isinstance(step, Maximum):
                total += int(((step.groups >= 0).sum(axis=1) - 1).sum())
        return total

    def last_use(self) -> list[int]:
        """For each value, the index of the last step that takes it (−1: none)."""
        last = [-1] * (len(self.steps) + 1)
        for i, step in enumerate(self.steps):
            for source in step.sources:
                last[source] = i
        return last

    def __call__(self, x: ArrayLike) -> Array:
        """The outputs for inputs (points, input_dim), in float64."""
        values = [np.atleast_2d(np.asarray(x, np.float64))]
        if values[0].shape[1] != self.input_dim:
            raise ValueError(f"inputs have {values[0].shape[1]} entries, not {self.input_dim}.")
        for step in self.steps:
            values.append(apply(step, values))
        return values[-1]

    def __repr__(self) -> str:
        shown = [self.input_dim] + [
            width for width, step in zip(self.widths[1:], self.steps, strict=True)
            if isinstance(step, Affine | Maximum)
        ]  # fmt: skip
        return f"PiecewiseLinear({'-'.join(map(str, shown))}, {self.kinks} kinked units)"


def apply(
    step: Step, values: Sequence[Array] | Mapping[int, Array], w: Array | None = None
) -> Array:
    """The value that a step makes (points, width); w is the weight of homogeneous points."""
    taken = [values[source] for source in step.sources]
    if isinstance(step, Affine):
        made = np.asarray(taken[0] @ step.weight.T)
        made += step.bias if w is None else w[:, None] * step.bias
        return made
    if isinstance(step, Piecewise):
        return step(taken[0], w)
    if isinstance(step, Maximum):
        return step(taken[0])
    return np.asarray(sum(taken[1:], taken[0]))


def leaky(slopes: Array, source: int) -> Piecewise:
    """Units of slope 1 above zero and the given slopes below."""
    zeros = np.zeros((1, len(slopes)))
    return Piecewise(
        zeros, np.stack([slopes, np.ones_like(slopes)]), np.zeros((2, len(slopes))), source
    )


def _without_idle(
    thresholds: Array, slopes: Array, offsets: Array, closed: NDArray[np.bool_]
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """The same function with the thresholds that change nothing taken out, column by column."""
    kept = np.isfinite(thresholds)
    kept &= (slopes[1:] != slopes[:-1]) | (offsets[1:] != offsets[:-1])
    if kept.all():
        return thresholds, slopes, offsets, closed
    most = int(kept.sum(axis=0).max(initial=0))
    units = slopes.shape[1]
    order = np.argsort(~kept, axis=0, kind="stable")[:most]
    found = np.take_along_axis(np.where(kept, thresholds, np.inf), order, 0)
    above = np.take_along_axis(slopes[1:], order, 0)
    offset = np.take_along_axis(offsets[1:], order, 0)
    for row in range(most):  # padding repeats the last piece
        idle = ~np.isfinite(found[row])
        above[row, idle] = (above[row - 1] if row else slopes[0])[idle]
        offset[row, idle] = (offset[row - 1] if row else offsets[0])[idle]
    return (
        found.reshape(most, units),
        np.concatenate([slopes[:1], above]),
        np.concatenate([offsets[:1], offset]),
        np.take_along_axis(closed, order, 0),
    )


def _jumps(thresholds: Array, slopes: Array, offsets: Array) -> NDArray[np.bool_]:
    """Where the two pieces at a threshold disagree by more than the rounding of their offsets."""
    finite = np.isfinite(thresholds)
    at = np.where(finite, thresholds, 0.0)
    below, above = slopes[:-1] * at + offsets[:-1], slopes[1:] * at + offsets[1:]
    scale = np.abs(slopes[:-1] * at) + np.abs(slopes[1:] * at)
    scale += np.abs(offsets[:-1]) + np.abs(offsets[1:])
    return np.asarray(finite & (np.abs(above - below) > 4 * np.finfo(np.float64).eps * scale))


def _widths(input_dim: int, steps: Sequence[Step]) -> tuple[int, ...]:
    widths = [input_dim]
    for i, step in enumerate(steps):
        if not all(0 <= source <= i for source in step.sources):
            raise ValueError(
                f"step {i} takes value {step.sources}; only 0 … {i} are made before it."
            )
        entering = [widths[source] for source in step.sources]
        if isinstance(step, Affine):
            wanted, made = step.weight.shape[1], step.weight.shape[0]
        elif isinstance(step, Piecewise):
            wanted = made = step.slopes.shape[1]
        elif isinstance(step, Maximum):
            wanted, made = max(entering[0], int(step.groups.max()) + 1), len(step.groups)
        else:
            wanted = made = entering[0]
        if any(width != wanted for width in entering):
            raise ValueError(
                f"step {i} ({type(step).__name__}) takes width {wanted} but gets {entering}."
            )
        widths.append(made)
    return tuple(widths)


def _owned(step: Step) -> Step:
    """The step with numbers of its own: what becomes of the arrays given changes no count."""
    if isinstance(step, Affine):
        return replace(step, weight=step.weight.copy(), bias=step.bias.copy())
    if isinstance(step, Piecewise):
        names = ("thresholds", "slopes", "offsets")
        return replace(step, **{name: getattr(step, name).copy() for name in names})
    return step


def _matrix(weight: Any, name: str) -> Matrix:
    if sparse.issparse(weight):
        matrix = sparse.csr_array(weight, dtype=np.float64)
        if matrix.nnz:
            real_array(name, matrix.data)
        found: Matrix = matrix
    else:
        found = np.ascontiguousarray(real_array(name, weight))
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{name} must be a non-empty (out, in) matrix; got shape {found.shape}.")
    return found


def _bias(bias: Any, width: int, name: str) -> Array:
    if bias is None:
        return np.zeros(width)
    found = real_array(name, bias)
    if found.shape != (width,):
        raise ValueError(f"{name} must have shape ({width},), one per unit; got {found.shape}.")
    return found


def _slopes(alpha: Any, widths: Sequence[int]) -> list[Array]:
    """The slopes of each activated layer, one per unit."""
    if not isinstance(alpha, list | tuple) and np.ndim(alpha) == 0:
        alpha = [alpha] * len(widths)
    if len(alpha) not in (len(widths), len(widths) - 1):
        raise ValueError(
            f"alpha has {len(alpha)} slopes for {len(widths)} layers; give a number, one entry "
            "per layer, or one fewer when the last layer is linear. An entry is a number, or one "
            "per unit."
        )
    found = []
    for i, (entry, width) in enumerate(zip(alpha, widths, strict=False)):
        layer = real_array(f"alpha[{i}]", entry)
        if layer.shape not in ((), (1,), (width,)):
            raise ValueError(
                f"alpha[{i}] has shape {layer.shape}; the layer has {width} units: give a number "
                f"or ({width},)."
            )
        found.append(np.broadcast_to(layer, (width,)).copy())
    return found
