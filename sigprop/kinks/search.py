"""Every kink of a loss along a line, exactly: in weight space or in input space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.network import Maximum, PiecewiseLinear
from sigprop.checks import FloatArray, count, one_of, real_array, real_number
from sigprop.kinks.curve import Integers, LossCurve, follow
from sigprop.kinks.full import Gradients
from sigprop.kinks.line import MovingPiecewise, NetworkLine
from sigprop.kinks.parameters import Parameters
from sigprop.kinks.problem import read_problem
from sigprop.records import Row, counted, plain
from sigprop.results import Result, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPACES = ("weights", "inputs")


@dataclass(frozen=True)
class TotalVariation(Result):
    """How far a gradient travels along the line: a measure of roughness.

    Attributes:
        jumps: Σ‖jump‖ over the kinks, exact.
        smooth: the length of the way between the kinks, ∫‖d gradient/dt‖ dt, from below: that of
            the polygon through the continuous part at the nodes. It grows to the integral with
            more nodes.
    """

    jumps: float
    smooth: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.jumps + self.smooth

    @property
    def share(self) -> float:
        """The share of the jumps; NaN for a gradient that does not move."""
        return self.jumps / self.total if self.total > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class KinksAlongLine(Result):
    """The kinks of a loss along a line, and the loss between them.

    An *event* is a place t where at least one unit of one sample changes its piece; arrays of
    events are ordered by t. The loss is the mean over samples. Derivatives are with respect to t.

    Attributes:
        t: (events,).
        loss: on the left of each event, (events,).
        loss_jump: exactly 0 where the network is continuous, (events,).
        derivative_left: dL/dt just before, (events,).
        derivative_jump: what is added to it at the event, (events,).
        curvature_left: Gauss–Newton curvature along the line, f'ᵀHf', just before, (events,).
        curvature_jump: what is added to it, (events,).
        gradient_jump: norm of the jump of the full gradient, (events,); None if not asked for.
        event: for each kink, its event, (kinks,). A kink is one unit in one sample.
        sample: (kinks,).
        layer: (kinks,), layers of activations and maxima, from 1.
        unit: (kinks,).
        piece_left: the active piece (or member of a maximum) before, (kinks,).
        piece_right: and after, (kinks,).
        discontinuous: whether the unit itself jumps there, (kinks,).
        node_t: the ends and evenly spaced places between them, (nodes,).
        node_loss: (nodes,).
        node_derivative: dL/dt, just before where a node is an event, (nodes,).
        variation: total variation of dL/dt.
        gradient_variation: of the full gradient; None if not asked for.
        space: ``"weights"`` or ``"inputs"``.
        interval: the ends of t.
        samples: number of samples.
        undecided: pre-activations on an interval that rounding cannot tell from their threshold
            (an exact cancellation); they are taken to lie below it. 0 in a generic net.
    """

    t: FloatArray
    loss: FloatArray
    loss_jump: FloatArray
    derivative_left: FloatArray
    derivative_jump: FloatArray
    curvature_left: FloatArray
    curvature_jump: FloatArray
    gradient_jump: FloatArray | None
    event: Integers
    sample: Integers
    layer: Integers
    unit: Integers
    piece_left: Integers
    piece_right: Integers
    discontinuous: NDArray[np.bool_]
    node_t: FloatArray
    node_loss: FloatArray
    node_derivative: FloatArray
    variation: TotalVariation
    gradient_variation: TotalVariation | None
    space: str
    interval: tuple[float, float]
    samples: int
    undecided: int
    _curve: LossCurve = field(repr=False)
    _gradients: Gradients | None = field(repr=False)

    @property
    def derivative_right(self) -> FloatArray:
        """dL/dt just after each event."""
        return self.derivative_left + self.derivative_jump

    def network(self, t: float) -> PiecewiseLinear:
        """The network at t, as arrays."""
        return self._curve.line.network(real_number("t", t))

    def gradient(self, event: int, side: str = "left") -> dict[str, FloatArray]:
        """The full gradient of the loss just before or after an event.

        Args:
            event: index of the event.
            side: ``"left"`` or ``"right"``.

        Returns:
            One array per parameter, by name; in input space the entry ``"inputs"`` of shape
            (samples, inputs).

        Raises:
            IndexError: no such event.
            ValueError: an unknown side, or gradients were not asked for.
        """
        if self._gradients is None:
            raise ValueError("this line was followed without gradients; ask for gradients=True.")
        event = count("event", event, minimum=0)
        if event >= len(self.t):
            raise IndexError(f"there is no event {event}; this line has {len(self.t)}, from 0 on.")
        which: Any = one_of("side", side, ("left", "right"))
        return self._gradients.named(self._gradients.at(float(self.t[event]), which))

    def records(self) -> list[Row]:
        """One row per kink, with the jumps of its event, which ``units_at_event`` kinks share."""
        shared = np.bincount(self.event, minlength=len(self.t))
        rows = []
        for k, event in enumerate(self.event):
            row = {
                "t": self.t[event],
                "event": event,
                "units_at_event": shared[event],
                "sample": self.sample[k],
                "layer": self.layer[k],
                "unit": self.unit[k],
                "piece_left": self.piece_left[k],
                "piece_right": self.piece_right[k],
                "discontinuous": self.discontinuous[k],
                "loss": self.loss[event],
                "loss_jump": self.loss_jump[event],
                "derivative_left": self.derivative_left[event],
                "derivative_right": self.derivative_right[event],
                "derivative_jump": self.derivative_jump[event],
                "curvature_jump": self.curvature_jump[event],
            }
            if self.gradient_jump is not None:
                row["gradient_jump"] = self.gradient_jump[event]
            rows.append(plain(row))
        return rows

    def __str__(self) -> str:
        return (
            f"KinksAlongLine({counted(len(self.event), 'kink')} at "
            f"{counted(len(self.t), 'place')} of [{self.interval[0]:g}, {self.interval[1]:g}] in "
            f"the space of {self.space}, {counted(self.samples, 'sample')})"
        )

    def _shown(self) -> Shown:
        return Shown([str(self)], self.records())

    def _picture(self) -> Axes:
        from sigprop.plots import kinks

        return kinks(self)


def along(
    model: Any,
    loss: Any,
    direction: Any,
    t: Sequence[float] = (-1.0, 1.0),
    *,
    inputs: Any = None,
    targets: Any = None,
    space: str = "weights",
    gradients: bool = False,
    nodes: int = 257,
) -> KinksAlongLine:
    """Locate every kink of the loss on a line, and what jumps there.

    Along θ + t·v the pre-activations of layer l are polynomials of degree l in t between the kinks
    of the layers before. Their roots are isolated by the sign changes of their Bernstein
    coefficients and then solved for: none is missed, however close to another, until rounding
    hides it.

    Args:
        model: a :class:`sigprop.regions.PiecewiseLinear` (parameters ``weights.i``, ``biases.i``)
            or a ``torch.nn.Module`` (its parameters by name, slopes of PReLU too), in float64.
            Buffers, such as the statistics of batch normalization, stay as they are.
        loss: ``"mse"`` or ``"cross_entropy"``, as torch's with mean reduction (torch's own
            ``MSELoss`` and ``CrossEntropyLoss`` too), or a :class:`Loss`: value, gradient and
            Hessian of one sample's loss; or any of these with its data, :func:`on_data`.
        direction: of the line, at t = 1: a mapping of parameter names to arrays (what is left out
            stays), a sequence of one array per parameter, a flat vector, or another model of the
            same shape, which is then the point t = 1. In input space an array shaped like one
            input (all samples move alike) or like ``inputs``.
        t: the ends of the interval. Kinks exactly at an end are not counted.
        inputs: the samples, (samples, …), where the loss does not hold them.
        targets: one row a sample; classes for ``"cross_entropy"``.
        space: ``"weights"`` or ``"inputs"``: what moves.
        gradients: also the full gradients: their jumps, total variation, and
            :meth:`KinksAlongLine.gradient`.
        nodes: number of places, evenly spaced, at which the curves are given and the smooth part
            of the total variation is measured.

    Returns:
        Kinks, jumps, curves, total variation.

    Raises:
        TypeError: a model, loss or direction that is none of the above, or not real numbers.
        ValueError: a model that is not piecewise linear; one that does not move in proportion to t
            (thresholds that move, constrained slopes); non-finite or empty arrays, wrong shapes, a
            zero direction, an empty interval.

    Source: farouki2012 (Bernstein coefficients and their sign changes).

    Example:
        >>> import numpy as np
        >>> from sigprop.regions import PiecewiseLinear
        >>> net = PiecewiseLinear([[[1.0]], [[1.0]]], alpha=[0.1, 1.0])       # φ(w x)
        >>> move = {"weights.0": [[1.0]]}
        >>> found = along(net, "mse", move, (-3, 1), inputs=[[2.0]], targets=[1.0])
        >>> found.t, found.layer, found.derivative_jump                    # z = (1 + t)·2
        (array([-1.]), array([1]), array([-3.6]))
    """
    low, high = _interval(t)
    nodes = count("nodes", nodes, minimum=2)
    one_of("space", space, SPACES)
    problem = read_problem(model, loss, inputs, targets)
    opened = problem.model
    step = None
    if space == "inputs":
        line, step = NetworkLine.still(opened.net), _input_direction(direction, problem.points)
    else:
        line = opened.line(direction, gradients=gradients)
    curve = follow(line, problem.x, step, (low, high), problem.loss, problem.targets)
    parameters = opened.parameters if gradients and step is None else None
    return _result(curve, space, np.linspace(low, high, nodes), gradients, parameters)


def _interval(t: Any) -> tuple[float, float]:
    ends = real_array("t", t)
    if ends.shape != (2,) or not ends[0] < ends[1]:
        raise ValueError(f"t must be an interval (low, high) with low < high; got {t!r}.")
    return float(ends[0]), float(ends[1])


def _input_direction(direction: Any, points: FloatArray) -> FloatArray:
    step = real_array("direction", direction)
    if step.shape not in (points.shape, points.shape[1:]):
        raise ValueError(
            f"direction has shape {step.shape}; in input space it is shaped like one input, "
            f"{points.shape[1:]}, or like inputs, {points.shape}."
        )
    if not step.any():
        raise ValueError("direction is zero: nothing moves along it. Give a direction ≠ 0.")
    return np.broadcast_to(step, points.shape).reshape(len(points), -1).copy()


def _result(
    curve: LossCurve,
    space: str,
    node_t: FloatArray,
    wanted: bool,
    parameters: Parameters | None,
) -> KinksAlongLine:
    table = _kinks(curve)
    t, event = np.unique(table["t"], return_inverse=True)
    left, jump = curve.both_sides(t)
    broken = np.zeros(len(t), bool)
    broken[event[table["discontinuous"]]] = True
    jump[0, ~broken] = 0.0
    at_nodes, _ = curve.both_sides(node_t)
    before = np.searchsorted(t, node_t)  # events before each node
    summed = np.concatenate([[0.0], np.cumsum(jump[1])])[before]
    smooth = float(np.abs(np.diff(at_nodes[1] - summed)).sum())
    variation = TotalVariation(float(np.abs(jump[1]).sum()), smooth)
    full, norms, full_variation = None, None, None
    if wanted:
        full = Gradients(curve, parameters)
        norms, length = full.travel(t, event, table["sample"], node_t)
        full_variation = TotalVariation(float(norms.sum()), length)
    return KinksAlongLine(
        t=t,
        loss=left[0],
        loss_jump=jump[0],
        derivative_left=left[1],
        derivative_jump=jump[1],
        curvature_left=left[2],
        curvature_jump=jump[2],
        gradient_jump=norms,
        event=event,
        **{name: table[name] for name in COLUMNS},
        node_t=node_t,
        node_loss=at_nodes[0],
        node_derivative=at_nodes[1],
        variation=variation,
        gradient_variation=full_variation,
        space=space,
        interval=curve.interval,
        samples=len(curve.x),
        undecided=curve.undecided,
        _curve=curve,
        _gradients=full,
    )


COLUMNS = ("sample", "layer", "unit", "piece_left", "piece_right", "discontinuous")


def _kinks(curve: LossCurve) -> dict[str, Any]:
    """The table of kinks, ordered by t: where a piece differs from that of the interval before."""
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("t", *COLUMNS)}
    active = [i for i, s in enumerate(curve.line.steps) if isinstance(s, MovingPiecewise | Maximum)]
    for sample, part in enumerate(curve.parts):
        for number, i in enumerate(active):
            piece = part.pieces[i]
            interval, unit = np.nonzero(piece[1:] != piece[:-1])
            before, after = piece[interval, unit], piece[interval + 1, unit]
            t = part.low[interval + 1]
            columns["t"].append(t)
            columns["sample"].append(np.full(len(t), sample))
            columns["layer"].append(np.full(len(t), number + 1))
            columns["unit"].append(unit)
            columns["piece_left"].append(before.astype(np.intp))
            columns["piece_right"].append(after.astype(np.intp))
            columns["discontinuous"].append(_jumps(curve.line.steps[i], t, unit, before, after))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((joined["unit"], joined["layer"], joined["sample"], joined["t"]))
    return {name: column[order] for name, column in joined.items()}


def _jumps(
    step: Any, t: FloatArray, unit: Integers, before: NDArray[Any], after: NDArray[Any]
) -> NDArray[np.bool_]:
    """Whether the pieces before and after disagree at the threshold between them."""
    if isinstance(step, Maximum) or not len(t):
        return np.zeros(len(t), bool)
    threshold = step.thresholds[np.minimum(before, after), unit]
    sides, scale = [], np.zeros(len(t))
    for piece in (before, after):
        slope, offset = step.slopes[piece, unit], step.offsets[piece, unit]
        if step.slope_steps is not None:
            slope = slope + t * step.slope_steps[piece, unit]
        offset = offset + t * step.offset_steps[piece, unit]
        sides.append(slope * threshold + offset)
        scale += np.abs(slope * threshold) + np.abs(offset)
    return np.asarray(np.abs(sides[1] - sides[0]) > 8 * np.finfo(np.float64).eps * scale)
