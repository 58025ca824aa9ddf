"""Mean-field theory of any activation: maps, fixed points, depth scales, phases and paths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, count, real_array, real_number
from sigprop.results import Result
from sigprop.theory import fixed_points
from sigprop.theory.fixed_points import HUGEST, MARGIN, NEUTRAL, FixedPoint, NetGrid
from sigprop.theory.log_kernel import kernel_of
from sigprop.theory.moments import resolved, variances
from sigprop.theory.path import Trajectory
from sigprop.theory.propagation import first_layer, last_layer, layers
from sigprop.theory.slopes import check_shapes

SMALLEST = float(np.finfo(float).tiny)
PHASES = ("ordered", "critical", "chaotic")


@dataclass(frozen=True, eq=False)
class DepthScales(Result):
    """Layers over which a signal changes; inf at criticality, NaN where there is no such scale.

    Attributes:
        depth_scale_q: ξ_q = −1/ln χ∥: layers in which the distance of q from q* falls by e.
        depth_scale_c: ξ_c = −1/ln χ(c*): the same for c.
        depth_scale_grad: ξ_grad = 1/|ln χ|: layers in which the squared gradient changes by e.
    """

    depth_scale_q: Any
    depth_scale_c: Any
    depth_scale_grad: Any


@dataclass(frozen=True, eq=False)
class Phase(Result):
    """``name`` is "ordered" (χ < 1), "critical" or "chaotic" (χ > 1); equal to that text.

    Attributes:
        name: the phase.
        chi: χ at q*.
        reason: in words.
    """

    name: str
    chi: float
    reason: str

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return self.name == (other.name if isinstance(other, Phase) else other)

    def __hash__(self) -> int:
        return hash(self.name)


class MeanField:
    """The infinitely wide net: weights of variance gain²/fan_in, biases of variance bias_std².

    ``gain`` and ``bias_std`` broadcast: an array of them is a grid of nets, and every method then
    returns arrays of the shape of the grid (with q and c broadcast against it).

    Args:
        activation: a name, a record, a torch module or class, or a vectorised callable.
        gain: g, from 1e-150 to 1e150.
        bias_std: σ_b, from 0 to 1e150.
        parameters: of an activation given by name: ``alpha=0.2`` (or ``negative_slope=``), …

    Raises:
        TypeError: not real numbers; no activation.
        ValueError: out of range, or shapes that do not broadcast.

    Source: poole2016; schoenholz2017.

    Example:
        >>> net = MeanField("tanh", gain=5 / 3)
        >>> point = net.fixed_point()
        >>> round(point.q_star, 5), round(point.chi, 4), str(net.phase())
        (1.17848, 1.2098, 'chaotic')
    """

    def __init__(
        self,
        activation: Any,
        gain: ArrayLike = 1.0,
        bias_std: ArrayLike = 0.0,
        **parameters: Any,
    ) -> None:
        self.gain = real_array("gain", gain, minimum=1 / HUGEST, maximum=HUGEST)
        self.bias_std = real_array("bias_std", bias_std, minimum=0, maximum=HUGEST)
        check_shapes(gain=self.gain, bias_std=self.bias_std)
        self.kernel = kernel_of(activation, **parameters)
        self.activation = self.kernel.activation
        self.shape = np.broadcast_shapes(self.gain.shape, self.bias_std.shape)

    def __repr__(self) -> str:
        gain, bias = (
            f"{v:g}" if v.ndim == 0 else f"<{v.shape}>" for v in (self.gain, self.bias_std)
        )
        return f"MeanField({self.activation.name!r}, gain={gain}, bias_std={bias})"

    # Maps

    @overload
    def variance_map(
        self, q: ArrayLike | None = ..., *, error: Literal[False] = ...
    ) -> FloatArray: ...
    @overload
    def variance_map(
        self, q: ArrayLike | None = ..., *, error: Literal[True]
    ) -> tuple[FloatArray, FloatArray]: ...
    def variance_map(
        self, q: ArrayLike | None = None, *, error: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Q' = g²·E φ(√q z)² + σ_b².

        Args:
            q: second moment(s) ≥ 0; None: q*.
            error: whether to return (value, bound on the error of the quadrature). Where a closed
                form is used the bound is 0.

        Example:
            >>> value, bound = MeanField("tanh", gain=2.0).variance_map(1.0, error=True)
            >>> round(float(value), 6), bool(bound < 1e-13)
            (1.577178, True)
        """
        return self._integral("second_moment", self._q(q), offset=self.bias_std**2, error=error)

    @overload
    def covariance_map(
        self, q1: ArrayLike, q2: ArrayLike, c: ArrayLike, *, error: Literal[False] = ...
    ) -> FloatArray: ...
    @overload
    def covariance_map(
        self, q1: ArrayLike, q2: ArrayLike, c: ArrayLike, *, error: Literal[True]
    ) -> tuple[FloatArray, FloatArray]: ...
    def covariance_map(
        self, q1: ArrayLike, q2: ArrayLike, c: ArrayLike, *, error: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """g²·E φ(u)φ(v) + σ_b² for u, v of second moments q1, q2 and correlation c.

        Args:
            q1: second moment(s) of u, ≥ 0.
            q2: second moment(s) of v, ≥ 0.
            c: correlation(s) in [−1, 1].
            error: as in :meth:`variance_map`.
        """
        q1, q2 = self._q(q1, "q1"), self._q(q2, "q2")
        c = self._c(c, q1=q1, q2=q2)
        return self._integral("covariance", q1, q2, c, offset=self.bias_std**2, error=error)

    def correlation_map(self, c: ArrayLike, q: ArrayLike | None = None) -> FloatArray:
        """The correlation of the next layer for two inputs of equal second moment q.

        Args:
            c: correlation(s) in [−1, 1].
            q: second moment(s) > 0; None: q*.
        """
        q = self._q(q)
        c = self._c(c, q=q)
        after = self.variance_map(q)
        if np.any(after == 0):
            raise ValueError(
                "q of the next layer is 0 (or below the smallest float), so that it has no "
                "correlation; give q > 0, a larger gain or a bias. trajectory() works in logs."
            )
        with np.errstate(over="ignore"), resolved(self.activation):
            lost = self.gain**2 * self.kernel.moments.deficit(q, 1 - c)
        return np.asarray(np.clip(1 - lost / after, -1.0, 1.0))[()]

    @overload
    def chi(
        self, q: ArrayLike | None = ..., c: ArrayLike = ..., *, error: Literal[False] = ...
    ) -> FloatArray: ...
    @overload
    def chi(
        self, q: ArrayLike | None = ..., c: ArrayLike = ..., *, error: Literal[True]
    ) -> tuple[FloatArray, FloatArray]: ...
    def chi(
        self, q: ArrayLike | None = None, c: ArrayLike = 1.0, *, error: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """χ = g²·E φ′(u)φ′(v) at correlation c; at c = 1 the growth of the squared gradient.

        It is the slope of the correlation map, times what one layer makes of q. A callable that
        jumps (``np.sign``) has the jumps in its φ′: χ is inf at c = ±1 and finite between. Its
        backpropagation sees only the slopes beside the jumps.

        Args:
            q: second moment(s) ≥ 0; None: q*, also where that is a limit (0 or inf).
            c: correlation(s) in [−1, 1].
            error: as in :meth:`variance_map`; it needs a q* in (0, inf), or q.
        """
        if q is None and not error and np.all(np.asarray(c) == 1):
            return np.asarray(self.fixed_point().chi + 0 * real_array("c", c))[()]
        q = self._q(q)
        c = self._c(c, q=q)
        if self.kernel.parts:
            return self._parting_chi(q, c, error=error)
        if np.all(c == 1):
            return self._integral("derivative_square", q, offset=0 * c, error=error)
        return self._integral("derivative_covariance", q, q, c, error=error)

    def _parting_chi(
        self, q: FloatArray, c: FloatArray, *, error: bool
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """χ of an activation that jumps: inf at c = ±1 and at q = 0."""
        q, c = np.broadcast_arrays(q, c)
        inner = (np.abs(c) < 1) & (q > 0)
        value, bound = np.full(q.shape, np.inf), np.zeros(q.shape)
        if inner.any():
            at = q[inner], q[inner], c[inner]
            smooth, off = self.kernel.moments.with_error("derivative_covariance", *at)
            value[inner] = smooth + self.kernel.moments.jumped_covariance(q[inner], c[inner])
            bound[inner] = off
        square = self.gain**2
        value = np.asarray(square * value)
        if not error:
            return value[()]
        return value[()], np.broadcast_to(square * bound, value.shape)[()]

    def chi_parallel(self, q: ArrayLike | None = None) -> FloatArray:
        """χ∥ = dq'/dq, the slope of the variance map.

        Args:
            q: second moment(s) ≥ 0; None: q*, also where that is a limit (0 or inf).
        """
        if q is None:
            return np.asarray(self.fixed_point().chi_parallel)[()]
        return np.asarray(self._integral("slope", self._q(q), error=False))

    # Fixed points

    def fixed_point(self, q0: float = 1.0) -> FixedPoint:
        """Where q and c settle for inputs of mean square q0, and why.

        There may be no finite q*, one that is only half-stable, or one for every start: these are
        results, with ``stability`` and ``reason``.

        Args:
            q0: mean square of the input, > 0 (q starts at g²·q0 + σ_b²).

        Source: poole2016; schoenholz2017.

        Example:
            >>> MeanField("swish", gain=1.718, bias_std=0.2).fixed_point().reason
            'q grows without bound: there is no finite fixed point above the start'
        """
        q0 = real_number("q0", q0, above=0)
        return self._default if q0 == 1 else self._settled(q0)

    @cached_property
    def _default(self) -> FixedPoint:
        return self._settled(1.0)

    def _settled(self, q0: float) -> FixedPoint:
        point = fixed_points.fixed_point(self._cells, q0)
        names = ("q_star", "c_star", "chi", "chi_parallel", "chi_c", "stability", "reason")
        shaped = {name: getattr(point, name).reshape(self.shape) for name in names}
        if self.shape == ():
            shaped = {name: value.item() for name, value in shaped.items()}
        return FixedPoint(**shaped)

    def depth_scales(self) -> DepthScales:
        """ξ_q, ξ_c and ξ_grad, in layers.

        Source: schoenholz2017.

        Example:
            >>> round(MeanField("relu", gain=1.0, bias_std=0.5).depth_scales().depth_scale_grad, 4)
            1.4427
        """
        point = self.fixed_point()
        finite = np.isfinite(point.q_star) & (np.asarray(point.stability) != NEUTRAL)
        parallel = np.where(finite, point.chi_parallel, np.nan)
        return DepthScales(_scale(parallel), _scale(point.chi_c), _scale(point.chi, both=True))

    def phase(self) -> Any:
        """The phase, with its reason; an array of names for a grid.

        Source: schoenholz2017.

        Example:
            >>> MeanField("relu", gain=1.0).phase() == "ordered"
            True
        """
        point = self.fixed_point()
        with np.errstate(invalid="ignore"):
            side = np.sign(np.where(np.abs(np.subtract(point.chi, 1)) < MARGIN, 0, point.chi - 1))
        names = np.array(PHASES)[(side + 1).astype(int)]
        if self.shape:
            return names
        effect = ("vanish", "keep their size", "explode")[int(side) + 1]
        reason = (
            f"chi = {point.chi:.6g} at q* = {point.q_star:.6g}: gradients {effect}; {point.reason}"
        )
        return Phase(str(names), point.chi, reason)

    # Paths

    def trajectory(self, depth: int, q0: float = 1.0, c0: float | None = None) -> Trajectory:
        """The path of q, and of the correlation of two inputs, through ``depth`` weight layers.

        Layer 0 is the input, of mean square q0. No activation precedes layer 1: q¹ = g²q0 + σ_b².
        q is carried in logs and c as 1 − c, so nothing overflows or cancels; at a grid the arrays
        are (depth + 1, *grid). ``chi`` is χ at the last layer. Two straight pieces follow
        ``theory.leaky.trajectory``; closed forms and tables are good to about 1e-11 a layer.

        Args:
            depth: number of weight layers, ≥ 1.
            q0: mean square of the input, > 0.
            c0: correlation of two inputs of equal q0, in [−1, 1]; None: one input.

        Raises:
            TypeError: not real numbers, or ``depth`` not an integer.
            ValueError: out of range.

        Source: poole2016; schoenholz2017.

        Example:
            >>> path = MeanField("tanh", gain=1.5, bias_std=0.3).trajectory(200, c0=0.6)
            >>> round(float(path.q[-1]), 6), round(float(path.c[-1]), 6)
            (0.960844, 0.766748)
        """
        depth, q0, c0 = self._path_arguments(depth, q0, c0)
        return layers(self._cells, self.shape, depth, q0, c0)

    def propagate(
        self, depth: int, q0: float = 1.0, c0: float | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Log q and 1 − c after ``depth`` weight layers, of any depth, without keeping the path.

        Nets at rest are dropped. From layer 2,000 on, slow ones advance by many layers at once
        (third order), so that a million layers cost no more than a few thousand. Closed forms then
        keep about 1e-7 of log q and log(1 − c); from tables, which cannot see changes of
        log(1 − c) below 3e-11 a layer, a net that is slow for ever keeps about 1e-5.

        Args and Raises: as :meth:`trajectory`.

        Example:
            >>> log_q, deficit = MeanField("gelu", [0.5, 5.0], 0.1).propagate(10**6, c0=0.5)
            >>> bool(np.isfinite(log_q).all()), deficit.tolist()
            (True, [0.0, ...])
        """
        depth, q0, c0 = self._path_arguments(depth, q0, c0)
        x, deficit = last_layer(self._cells, depth, *first_layer(self._cells, q0, c0))
        return x.reshape(self.shape)[()], None if c0 is None else deficit.reshape(self.shape)[()]

    def _path_arguments(
        self, depth: int, q0: float, c0: float | None
    ) -> tuple[int, float, float | None]:
        depth, q0 = count("depth", depth), real_number("q0", q0, above=0)
        return depth, q0, None if c0 is None else real_number("c0", c0, minimum=-1, maximum=1)

    @cached_property
    def _cells(self) -> NetGrid:
        gain, bias = np.broadcast_arrays(self.gain, self.bias_std)
        with np.errstate(divide="ignore"):
            return NetGrid(self.kernel, 2 * np.log(gain.ravel()), 2 * np.log(bias.ravel()))

    def _integral(
        self, name: str, *arguments: FloatArray, offset: Any = 0.0, error: bool
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """g² times an integral of ``GaussianMoments`` plus an offset, with its error if wanted."""
        moments, square, bound = self.kernel.moments, self.gain**2, None
        with np.errstate(over="ignore"), resolved(self.activation):
            if error:
                moment, bound = moments.with_error(name, *arguments)
            else:
                moment = getattr(moments, name)(*arguments)
            value = np.asarray(square * moment + offset)
        if np.any(np.isinf(value) & (np.isfinite(moment) | (name != "slope"))):
            raise ValueError(
                f"g^2 times the integral is beyond {np.finfo(float).max:.3g}, the largest float; "
                "give a smaller gain or q. fixed_point() and trajectory() work in logs."
            )
        if np.any((np.abs(value) < SMALLEST) & (np.asarray(moment) != 0)):
            raise ValueError(
                f"g^2 times the integral is below {SMALLEST:.3g}, where floats lose their digits; "
                "give a larger gain or q. fixed_point() and trajectory() work in logs."
            )
        if bound is None:
            return value[()]
        return value[()], np.broadcast_to(square * bound, value.shape)[()]

    def _q(self, q: ArrayLike | None, name: str = "q") -> FloatArray:
        if q is not None:
            q = variances(name, q)
            check_shapes(**{name: q, "gain": self.gain, "bias_std": self.bias_std})
            return q
        star = np.asarray(self.fixed_point().q_star)
        if not np.all(np.isfinite(star) & (star > 0)):
            reason = np.ravel(self.fixed_point().reason)[np.argmin(np.isfinite(star) & (star > 0))]
            raise ValueError(f"there is no q* in (0, inf) to stand for q: {reason}; give q.")
        return star

    def _c(self, c: ArrayLike, **others: FloatArray) -> FloatArray:
        c = real_array("c", c, minimum=-1, maximum=1)
        check_shapes(c=c, gain=self.gain, bias_std=self.bias_std, **others)
        return c


def _scale(chi: Any, *, both: bool = False) -> Any:
    """−1/ln χ, NaN where that is negative; its size if both signs are wanted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.asarray(np.divide(-1.0, np.log(np.abs(chi))))
    value = np.where(np.abs(np.subtract(chi, 1.0)) < MARGIN, math.inf, value)
    value = np.abs(value) if both else np.where(value >= 0, value, np.nan)
    return value.item() if value.ndim == 0 else value
