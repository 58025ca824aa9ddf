"""What a gain does to an activation, in words and numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sigprop.checks import real_number
from sigprop.results import Result, Shown
from sigprop.theory.critical import solve_critical
from sigprop.theory.fixed_points import HUGEST, NoSolution
from sigprop.theory.gains import gain as gain_of
from sigprop.theory.mean_field import MeanField

if TYPE_CHECKING:
    from sigprop.records import Row


@dataclass(frozen=True)
class GainReport(Result):
    """What one gain does; prints as a paragraph.

    Attributes:
        activation: its name.
        gain: the gain explained.
        bias_std: σ_b.
        q_star: where q settles from inputs of mean square 1; 0 or inf if it does not.
        stability: of that point.
        c_star: where the correlation of two inputs settles; NaN if it stays where it starts.
        chi: growth of the squared gradient per layer at q*.
        chi_parallel: slope of the variance map at q*.
        phase: "ordered", "critical" or "chaotic".
        depth_scale_q: layers in which the distance of q from q* falls by e.
        depth_scale_c: layers in which the distance of c from c* falls by e.
        depth_scale_grad: layers in which the squared gradient changes by e.
        survives: layers in which the squared gradient changes by less than a thousand.
        forward_gain: the gain that keeps q = 1; NaN if there is none.
        critical_gain: the gain with χ = 1; NaN if there is none.
        unit_variance_gain: the gain that keeps unit variance about the mean; NaN if there is none.
        critical_reason: whether q settles at the critical gain.
        reason: how q settles.
    """

    activation: str
    gain: float
    bias_std: float
    q_star: float
    stability: str
    c_star: float
    chi: float
    chi_parallel: float
    phase: str
    depth_scale_q: float
    depth_scale_c: float
    depth_scale_grad: float
    survives: float
    forward_gain: float
    critical_gain: float
    unit_variance_gain: float
    critical_reason: str
    reason: str

    def _shown(self) -> Shown:
        effect = {"ordered": "vanish", "critical": "keep their size", "chaotic": "explode"}
        bias = f", bias_std {self.bias_std:g}" if self.bias_std else ""
        correlation = (
            "The correlation of two inputs stays about where it starts."
            if math.isnan(self.c_star)
            else f"The correlation of two inputs settles at {self.c_star:.6g}."
        )
        deep = (
            "at any depth"
            if math.isinf(self.survives)
            else f"by a factor of 1000 in {self.survives:.3g} layers"
        )
        change = "do not change" if math.isinf(self.survives) else "change"
        return Shown([
            f"{self.activation} with gain {self.gain:.6g}{bias}: {self.phase}.",
            f"q settles at {self.q_star:.6g} ({self.reason}).",
            f"There chi = {self.chi:.6g}: gradients {effect[self.phase]}; their squares {change} "
            f"{deep}.",
            correlation,
            f"Gains to compare: forward {self.forward_gain:.6g} (keeps q = 1), critical "
            f"{self.critical_gain:.6g} (chi = 1; {self.critical_reason}), unit variance "
            f"{self.unit_variance_gain:.6g}.",
        ])  # fmt: skip

    def records(self) -> list[Row]:
        """One flat row."""
        return [asdict(self)]


def explain_gain(
    activation: Any, gain: float, *, bias_std: float = 0.0, **parameters: Any
) -> GainReport:
    """Where q settles under this gain, what gradients do there, and how deep a net it bears.

    Args:
        activation: a name, a record, a torch module, or a vectorised callable.
        gain: g > 0.
        bias_std: σ_b ≥ 0.
        parameters: of an activation given by name: ``alpha=0.2`` (or ``negative_slope=``), …

    Raises:
        TypeError: not real numbers; no activation.
        ValueError: out of range.

    Source: poole2016; schoenholz2017.

    Example:
        >>> print(explain_gain("tanh", 5 / 3))
        tanh with gain 1.66667: chaotic.
        q settles at 1.17848 (q is pulled to q* from both sides).
        There chi = 1.20983: gradients explode; their squares change by a factor of 1000 in 36.3
        layers.
        The correlation of two inputs settles at 0.
        Gains to compare: forward 1.59254 (keeps q = 1), critical 1 (chi = 1; stable: q is pulled
        to q* = 0, slower than geometrically (chi = chi_parallel = 1)), unit variance 1.59254.
    """
    gain = real_number("gain", gain, above=0)
    bias_std = real_number("bias_std", bias_std, minimum=0, maximum=HUGEST)
    net = MeanField(activation, gain, bias_std, **parameters)
    act = net.kernel.given
    point, scales = net.fixed_point(), net.depth_scales()
    critical = solve_critical(act, bias_std=bias_std)
    return GainReport(
        activation=net.activation.name,
        gain=gain,
        bias_std=bias_std,
        q_star=point.q_star,
        stability=point.stability,
        c_star=point.c_star,
        chi=point.chi,
        chi_parallel=point.chi_parallel,
        phase=net.phase().name,
        depth_scale_q=float(scales.depth_scale_q),
        depth_scale_c=float(scales.depth_scale_c),
        depth_scale_grad=float(scales.depth_scale_grad),
        survives=float(scales.depth_scale_grad) * math.log(1000),
        forward_gain=_or_nan(act, "forward", bias_std),
        critical_gain=critical.gain,
        unit_variance_gain=_or_nan(act, "unit_variance", bias_std),
        critical_reason=critical.reason,
        reason=point.reason,
    )


def _or_nan(activation: Any, kind: str, bias_std: float) -> float:
    try:
        return gain_of(activation, kind=kind, bias_std=bias_std)
    except NoSolution:
        return math.nan
