"""What jumps in a whole model where one unit of one sample sits on its kink, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.network import Maximum
from sigprop.checks import FloatArray, count
from sigprop.kinks.backward import PiecesPass
from sigprop.kinks.line import MovingPiecewise, NetworkLine
from sigprop.kinks.parameters import Parameters
from sigprop.kinks.problem import read_problem
from sigprop.records import Row, plain
from sigprop.results import Result

ON_KINK = 1e-9
"""A unit is on its kink if its pre-activation is this close to it, next to its layer's largest."""


@dataclass(frozen=True, eq=False)
class ModelJump(Result):
    """The jumps at one kink, from z below to z above the threshold, and what they are made of.

    With a = φ(z) the unit's activation, the Jacobian of the outputs is J = R + φ'(z) u gᵀ, where
    only the slope φ' jumps, from s₋ (α) to s₊ (1). Hence

        [∇L] = (s₊ − s₋)(u·ℓ') g,
        [G]  = (s₊ − s₋)(RᵀHu gᵀ + g uᵀHR) + (s₊² − s₋²)(uᵀHu) g gᵀ.

    Attributes:
        slope_below: s₋.
        slope_above: s₊.
        unit_gradient: g = ∂z/∂θ, flat, (parameters,).
        sensitivity: u = ∂f/∂a, (outputs,).
        loss_gradient: ℓ' = ∂L/∂f, (outputs,), divided by the number of samples.
        hessian: H = ∂²L/∂f², (outputs, outputs), divided likewise.
        jacobian: R = ∂f/∂θ without the paths through the unit, (outputs, parameters).
        shapes: name → shape of the parameters, in the order of the flat vectors.
    """

    slope_below: float
    slope_above: float
    unit_gradient: FloatArray
    sensitivity: FloatArray
    loss_gradient: FloatArray
    hessian: FloatArray
    jacobian: FloatArray
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def gradient_flat(self) -> FloatArray:
        """The jump of the gradient, (parameters,)."""
        size = float(self.sensitivity @ self.loss_gradient)
        return (self.slope_above - self.slope_below) * size * self.unit_gradient

    @property
    def gradient(self) -> dict[str, FloatArray]:
        """The jump of the gradient by parameter."""
        return Parameters(self.shapes, ()).split(self.gradient_flat)

    @property
    def own(self) -> NDArray[np.bool_]:
        """The unit's own incoming block, (parameters,): those that act through the unit alone."""
        return np.asarray((self.unit_gradient != 0) & ~self.jacobian.any(axis=0))

    def gauss_newton(self, rows: Any = None, columns: Any = None) -> FloatArray:
        """A block of the jump of the Gauss–Newton matrix.

        Args:
            rows: a parameter's name, a boolean mask or indices of flat parameters; None: all.
            columns: the same; None: all.

        Raises:
            ValueError: an unknown name.
        """
        one, two = self._parts(rows, columns)
        return one + two

    def _parts(self, rows: Any, columns: Any) -> tuple[FloatArray, FloatArray]:
        """The parts in (s₊ − s₋) and in (s₊² − s₋²)."""
        r, c = self._chosen(rows), self._chosen(columns)
        seen = self.hessian @ self.sensitivity
        through = seen @ self.jacobian
        g = self.unit_gradient
        linear = np.outer(through[r], g[c]) + np.outer(g[r], through[c])
        square = float(self.sensitivity @ seen) * np.outer(g[r], g[c])
        step = self.slope_above - self.slope_below
        return step * linear, step * (self.slope_above + self.slope_below) * square

    def _chosen(self, which: Any) -> Any:
        if which is None:
            return slice(None)
        if not isinstance(which, str):
            return which
        if which not in self.shapes:
            raise ValueError(
                f"there is no parameter {which!r}; the parameters are {', '.join(self.shapes)}."
            )
        places = np.arange(len(self.unit_gradient), dtype=np.float64)
        return Parameters(self.shapes, ()).split(places)[which].ravel().astype(np.intp)

    @property
    def gauss_newton_trace(self) -> float:
        """The jump of the trace; of either sign."""
        seen, g, step = (
            self.hessian @ self.sensitivity,
            self.unit_gradient,
            self.slope_above - self.slope_below,
        )
        through = 2 * float(seen @ self.jacobian @ g)
        square = (self.slope_above + self.slope_below) * float(self.sensitivity @ seen)
        return step * (through + square * float(g @ g))

    @property
    def point_mass(self) -> float:
        """The full Hessian has on top the point mass (s₊ − s₋)(u·ℓ') δ(z) g gᵀ: its factor."""
        return (self.slope_above - self.slope_below) * float(self.sensitivity @ self.loss_gradient)

    def records(self) -> list[Row]:
        """One row per pair of blocks: ``own`` (the unit's incoming block) and every parameter.

        ``gradient`` is the norm of the jump in the first block; ``linear`` and ``square`` are the
        Frobenius norms of the parts of [G] in (s₊ − s₋) and in (s₊² − s₋²), ``jump`` that of both.
        """
        blocks: dict[str, Any] = {"own": self.own}
        for name in self.shapes:
            rest = np.zeros(len(self.own), bool)
            rest[self._chosen(name)] = True
            blocks[name] = rest & ~self.own
        rows = []
        for first, row in blocks.items():
            for second, column in blocks.items():
                if row.any() and column.any():
                    one, two = self._parts(row, column)
                    sizes = (np.linalg.norm(part) for part in (one, two, one + two))
                    gradient = np.linalg.norm(self.gradient_flat[row])
                    named = zip(("linear", "square", "jump"), sizes, strict=True)
                    rows.append(
                        plain(
                            {"rows": first, "columns": second, "gradient": gradient, **dict(named)}
                        )
                    )
        return rows


def jumps(
    model: Any,
    loss: Any,
    layer: int,
    unit: int,
    *,
    inputs: Any = None,
    targets: Any = None,
    sample: int = 0,
) -> ModelJump:
    """Gradient and Gauss–Newton jumps of the mean loss of a model with one unit on its kink.

    Args:
        model: a :class:`sigprop.regions.PiecewiseLinear` or a ``torch.nn.Module``. It must have the
            unit on a kink, as ``along(...).network(t)`` has at an event.
        loss: as in :func:`along`.
        layer: which layer of activations, from 1.
        unit: which unit of it, from 0 (flat index after a convolution).
        inputs: the samples, (samples, …), where the loss does not hold them.
        targets: one row a sample.
        sample: which sample has the unit on its kink.

    Returns:
        The jumps and their parts. Other units of the sample stay on the side they are on.

    Raises:
        TypeError: as in :func:`along`.
        ValueError: as in :func:`along`; a maximum instead of an activation; a unit without a kink,
            or not on it, or whose kink is a discontinuity.
        IndexError: no such layer, unit or sample.

    Source: derived here; checked against automatic differentiation in the tests.

    Example:
        >>> from sigprop.regions import PiecewiseLinear
        >>> net = PiecewiseLinear([[[1.0, -1.0]], [[2.0]]], alpha=[0.1, 1.0])   # 2 φ(x₁ − x₂)
        >>> found = jumps(net, "mse", 1, 0, inputs=[[3.0, 3.0]], targets=[-1.0])
        >>> found.gradient["weights.0"]                     # (1 − α) ℓ' v x
        array([[10.8, 10.8]])
        >>> found.gauss_newton("weights.0", "weights.0")    # (1 − α²) ℓ'' v² x xᵀ
        array([[71.28, 71.28], [71.28, 71.28]])
    """
    problem = read_problem(model, loss, inputs, targets)
    opened, x, measure, rows = problem.model, problem.x, problem.loss, problem.targets
    sample = _index("sample", sample, len(x))
    line = opened.still()
    i = _activation(line, layer)
    unit = _index("unit", unit, line.widths[i + 1])
    outputs = line.widths[-1]
    seen = PiecesPass(line, np.zeros(1), x[sample : sample + 1])
    below, above = _sides(line, i, unit, seen)
    y = None if rows is None else rows[sample : sample + 1]
    f = seen.outputs
    many = PiecesPass(line, np.zeros(outputs), np.repeat(x[sample : sample + 1], outputs, axis=0))
    through = many.backward(np.eye(outputs), cut=(i, unit))
    step = line.steps[i]
    assert isinstance(step, MovingPiecewise)
    seed = np.zeros((1, line.widths[i]))
    seed[0, unit] = 1.0
    g = opened.parameters.gradient(seen, seen.backward(seed, at=step.source))[0]
    return ModelJump(
        slope_below=below,
        slope_above=above,
        unit_gradient=g,
        sensitivity=through[i + 1][:, unit],
        loss_gradient=measure.gradient(f, y)[0] / len(x),
        hessian=np.array(measure.hessian(f, y)[0]) / len(x),
        jacobian=opened.parameters.gradient(many, through),
        shapes=opened.parameters.shapes,
    )


def _index(name: str, value: int, size: int) -> int:
    found = count(name, value, minimum=0)
    if found >= size:
        raise IndexError(f"{name} {found} of {size}; allowed: 0 … {size - 1}.")
    return found


def _activation(line: NetworkLine, layer: int) -> int:
    active = [i for i, s in enumerate(line.steps) if isinstance(s, MovingPiecewise | Maximum)]
    number = count("layer", layer)
    if number > len(active):
        raise IndexError(f"layer {number} of {len(active)}; layers of activations count from 1.")
    if isinstance(line.steps[active[number - 1]], Maximum):
        raise ValueError(
            f"layer {number} is a maximum; closed forms are for activations. kinks.along locates "
            "the kinks of maxima and measures what jumps there."
        )
    return active[number - 1]


def _sides(line: NetworkLine, i: int, unit: int, seen: PiecesPass) -> tuple[float, float]:
    """The slopes on either side of the threshold that the unit sits on."""
    step = line.steps[i]
    assert isinstance(step, MovingPiecewise)
    z = float(seen.values[step.source][0, unit])
    thresholds = step.thresholds[:, unit]
    slopes, offsets = step.slopes[:, unit], step.offsets[:, unit]
    bends = np.isfinite(thresholds) & ((np.diff(slopes) != 0) | (np.diff(offsets) != 0))
    if not bends.any():
        raise ValueError(f"unit {unit} is linear: it has no kink.")
    row = int(np.argmin(np.where(bends, np.abs(thresholds - z), np.inf)))
    threshold = float(thresholds[row])
    scale = max(float(np.abs(seen.values[step.source]).max()), abs(threshold))
    if abs(z - threshold) > ON_KINK * scale:
        raise ValueError(
            f"unit {unit} has the pre-activation {z:g}, not on its kink at {threshold:g}. Find "
            "kinks with kinks.along and pass the network there: along(...).network(t)."
        )
    below, above = slopes[row], slopes[row + 1]
    gap = (above - below) * threshold + offsets[row + 1] - offsets[row]
    if abs(gap) > 1e-12 * max(abs(threshold), float(np.abs(offsets).max())):
        raise ValueError(
            f"unit {unit} jumps by {gap:g} at its threshold: there the loss is not continuous and "
            "has no closed form here. kinks.along reports such jumps."
        )
    return float(below), float(above)
