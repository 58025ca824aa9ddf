"""What reported numbers mean for training: which layers are ill, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from sigprop.checking import words
from sigprop.checking.findings import Finding
from sigprop.checking.limits import Limits
from sigprop.checks import count, real_number
from sigprop.records import Row

History = Sequence[Sequence[Row]]
"""The rows of the last reported steps, the newest last."""


LIMITS = Limits()
GROWN = LIMITS.warned * min(LIMITS.signal, LIMITS.gradient_explodes)
SHRUNK = LIMITS.warned * LIMITS.gradient_vanishes
"""Decades from which gains off g* are warned of, those at which ``check`` warns.

Biases hold a signal up whose gains are small; the gradient shrinks all the same.
"""


class MonitorWarning(UserWarning):
    """A layer passed a threshold of a monitor."""


@dataclass(frozen=True)
class Thresholds:
    """Where a monitor begins to speak.

    Attributes:
        window: reported steps that a state must last before it counts: silent units are dead,
            slopes do not move.
        dead_share: share of dead units in a layer, > 0.
        negative_share: below this share of z < 0 the slope gets nothing to learn from.
        slope_signal: below this share of the median over layers of mean |δ z 1{z<0}| the slope
            learns next to nothing.
        gain_ratio: gain over g* at or beyond this, or below its inverse; > 1. It is a note, and a
            warning where the gains of all layers together change squares by as many decades as
            :func:`sigprop.check` warns of.
        gradient_spread: largest over smallest mean square of the gradient among layers; > 1.

    Raises:
        TypeError, ValueError: not a number, or out of range.

    Example:
        >>> Thresholds(dead_share=0.5).dead_share
        0.5
    """

    window: int = 5
    dead_share: float = 0.25
    negative_share: float = 0.01
    slope_signal: float = 1e-3
    gain_ratio: float = 2.0
    gradient_spread: float = 1e6

    def __post_init__(self) -> None:
        count("window", self.window)
        real_number("dead_share", self.dead_share, above=0, maximum=1)
        real_number("negative_share", self.negative_share, minimum=0, maximum=1)
        real_number("slope_signal", self.slope_signal, minimum=0, maximum=1)
        real_number("gain_ratio", self.gain_ratio, above=1)
        real_number("gradient_spread", self.gradient_spread, above=1)


Check = Callable[[Row, History, Thresholds], Finding | None]


def findings(history: History, thresholds: Thresholds) -> list[Finding]:
    """All that is wrong in the newest report, in the order of the layers."""
    if not history:
        return []
    newest = history[-1]
    found = []
    for row in newest:
        past = [r for rows in history for r in rows if r["name"] == row["name"]]
        broken = _nonfinite(row, [past, newest], thresholds)
        if broken is not None:  # nothing else that is said of NaN would mean anything
            found.append(broken)
            continue
        for check in CHECKS:
            finding = check(row, [past, newest], thresholds)
            if finding is not None:
                found.append(finding)
    spread = _gradient_spread(newest, thresholds)
    return found if spread is None else [*found, spread]


def _nonfinite(row: Row, history: History, thresholds: Thresholds) -> Finding | None:
    wrong, grad = row["nonfinite"], row["grad_nonfinite"] or 0
    if not wrong and not grad:
        return None
    where = f"{wrong} of {row['entries']} pre-activations" if wrong else f"{grad} gradients"
    return Finding(
        row["name"],
        words.NON_FINITE,
        f"{where} are NaN or infinite",
        "Lower the learning rate, clip gradients, or look at the first layer that shows it; "
        "in float16 use a gradient scaler and give it to the monitor (loss_scale=).",
    )


def _dying(row: Row, history: History, thresholds: Thresholds) -> Finding | None:
    past, dead = history[0], row["dead_units"]
    if dead is None or len(past) < thresholds.window or not row["units"]:
        return None
    if dead < thresholds.dead_share * row["units"]:
        return None
    return Finding(
        row["name"],
        words.DYING,
        f"{dead} of {row['units']} units have not fired in the last {thresholds.window} reports "
        "and get no gradient",
        f"{words.REVIVE}, lower the learning rate, or start from sigprop.kaiming_leaky_init with "
        "biases at 0.",
    )


def _frozen(row: Row, history: History, thresholds: Thresholds) -> Finding | None:
    if row["slope_learns"] is not False:
        return None
    return Finding(
        row["name"],
        "slopes frozen",
        f"the slopes of {row['activation_name']!r} ask for no gradient",
        "If they are to learn, set requires_grad=True.",
        level="note",
    )


def _idle(row: Row, history: History, thresholds: Thresholds) -> Finding | None:
    past, newest = history
    if not row["slope_learns"] or row["slope_signal"] is None or len(past) < thresholds.window:
        return None
    recent = past[-thresholds.window :]
    others = [r["slope_signal"] for r in newest if r["slope_signal"] is not None]
    typical = median(others) if len(others) > 2 else 0.0
    few = all(r["negative_share"] < thresholds.negative_share for r in recent)
    weak = row["slope_signal"] <= thresholds.slope_signal * typical
    if not few and not weak:
        return None
    return Finding(
        row["name"],
        "slopes idle",
        f"{100 * row['negative_share']:.2g} % of the pre-activations are negative, "
        f"mean |δ z 1{{z<0}}| = {row['slope_signal']:.2g}",
        "Slopes learn only where z < 0: lower the bias of the layer or normalize before it; a "
        "fixed slope would do the same here.",
    )


def _unmoved(row: Row, history: History, thresholds: Thresholds) -> Finding | None:
    recent = history[0][-thresholds.window :]
    if not row["slope_learns"] or len(recent) < max(thresholds.window, 2):
        return None
    places = {(r["slope_mean"], r["slope_min"], r["slope_max"]) for r in recent}
    if len(places) > 1 or any(r["slope_grad_max"] is None for r in recent):
        return None
    if not all(r["slope_grad_max"] > 0 for r in recent):
        return None
    return Finding(
        row["name"],
        "slopes unmoved",
        f"they get a gradient but stand at {row['slope_mean']:.4g} through "
        f"{thresholds.window} reports",
        "Give them to the optimizer: sigprop.param_groups(model, weight_decay) lists them all.",
    )


def _out_of_range(row: Row, history: History, thresholds: Thresholds) -> Finding | None:
    if not row["slope_learns"] or not (row["slope_below_0"] or row["slope_above_1"]):
        return None
    return Finding(
        row["name"],
        "slopes out of [0, 1]",
        f"from {row['slope_min']:.3g} to {row['slope_max']:.3g}; "
        f"{100 * row['slope_below_0']:.3g} % below 0, {100 * row['slope_above_1']:.3g} % above 1",
        "Below 0 the activation is not monotone, above 1 it is steeper on the negative side. To "
        "keep them inside call sigprop.project_slopes(model) after each step, or use "
        "sigprop.nn.ConstrainedPReLU.",
    )


def _gain_off(row: Row, history: History, thresholds: Thresholds) -> Finding | None:
    ratio = row["gain_ratio"]
    if ratio is None or row["normalized"] or not math.isfinite(ratio):
        return None
    if 1 / thresholds.gain_ratio < ratio < thresholds.gain_ratio:
        return None
    change = "∞" if ratio > 1e150 else f"{ratio**2:.3g}"
    far = not -SHRUNK < _decades(history[1]) < GROWN
    return Finding(
        row["name"],
        "gain off g*",
        f"the weights have gain {row['gain']:.4g}, g* is {row['g_star']:.4g}: the signal's square "
        f"changes by a factor of {change} here",
        "At the start use sigprop.kaiming_leaky_init; later, more weight decay or a smaller "
        "learning rate hold back weights that grow, less weight decay those that shrink.",
        # heads grow in health, ends of branches may start small
        level="warning" if row["activation"] and far else "note",
    )


def _decades(rows: Sequence[Row]) -> float:
    """By how many decades the gains of all layers together change the signal's square."""
    ratios = [r["gain_ratio"] for r in rows if r["activation"] and not r["normalized"]]
    known = [ratio for ratio in ratios if ratio is not None and math.isfinite(ratio)]
    if 0 in known:
        return -math.inf
    return sum(2 * math.log10(ratio) for ratio in known)


def _gradient_spread(rows: Sequence[Row], thresholds: Thresholds) -> Finding | None:
    known = [row for row in rows if row["grad_second_moment"] is not None]
    known = [row for row in known if 0 < row["grad_second_moment"] < math.inf]
    if len(known) < 2:
        return None
    low = min(known, key=lambda row: float(row["grad_second_moment"]))
    high = max(known, key=lambda row: float(row["grad_second_moment"]))
    ratio = high["grad_second_moment"] / low["grad_second_moment"]
    if ratio < thresholds.gradient_spread:
        return None
    if known.index(low) < known.index(high):
        detail = f"its mean square is {ratio:.2g} times smaller than in {high['name']}"
        return Finding(low["name"], words.GRADIENT_VANISHES, detail, words.CRITICAL)
    detail = f"its mean square is {ratio:.2g} times larger than in {low['name']}"
    return Finding(high["name"], words.GRADIENT_EXPLODES, detail, words.CRITICAL)


CHECKS: tuple[Check, ...] = (
    _dying,
    _frozen,
    _idle,
    _unmoved,
    _out_of_range,
    _gain_off,
)
