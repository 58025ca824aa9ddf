"""Signal-propagation theory: plain float64 in, plain float64 out. Never torch.

The leaky theory loads numpy only; what rests on quadrature is loaded when first asked for.
"""

import importlib
import typing

from sigprop.theory.finite_width import (
    FiniteWidthLaw,
    born_dead_probability,
    finite_width_law,
    lognormal_law,
    sample_trajectories,
    step_log_moments,
)
from sigprop.theory.leaky import (
    Trajectory,
    chi,
    correlation_angle_map,
    correlation_deficit_map,
    correlation_map,
    excess,
    fourth_moment,
    g_star,
    mean_output,
    second_moment,
    slow_convergence,
    trajectory,
    unit_variance_gain,
    variance_map,
    variance_output,
)

if typing.TYPE_CHECKING:
    from sigprop.theory.critical import (
        CriticalPoint,
        EdgeOfChaos,
        critical_gain,
        edge_of_chaos,
        half_stable_points,
        solve_critical,
    )
    from sigprop.theory.explain import GainReport, explain_gain
    from sigprop.theory.fixed_points import FixedPoint, NoSolution
    from sigprop.theory.gains import gain, tailored_slope
    from sigprop.theory.mean_field import DepthScales, MeanField, Phase

_LAZY = {
    "CriticalPoint": "critical",
    "DepthScales": "mean_field",
    "EdgeOfChaos": "critical",
    "FixedPoint": "fixed_points",
    "GainReport": "explain",
    "MeanField": "mean_field",
    "NoSolution": "fixed_points",
    "Phase": "mean_field",
    "critical_gain": "critical",
    "edge_of_chaos": "critical",
    "explain_gain": "explain",
    "gain": "gains",
    "half_stable_points": "critical",
    "solve_critical": "critical",
    "tailored_slope": "gains",
}

__all__ = [
    "CriticalPoint",
    "DepthScales",
    "EdgeOfChaos",
    "FiniteWidthLaw",
    "FixedPoint",
    "GainReport",
    "MeanField",
    "NoSolution",
    "Phase",
    "Trajectory",
    "born_dead_probability",
    "chi",
    "correlation_angle_map",
    "correlation_deficit_map",
    "correlation_map",
    "critical_gain",
    "edge_of_chaos",
    "excess",
    "explain_gain",
    "finite_width_law",
    "fourth_moment",
    "g_star",
    "gain",
    "half_stable_points",
    "lognormal_law",
    "mean_output",
    "sample_trajectories",
    "second_moment",
    "slow_convergence",
    "solve_critical",
    "step_log_moments",
    "tailored_slope",
    "trajectory",
    "unit_variance_gain",
    "variance_map",
    "variance_output",
]


def __getattr__(name: str) -> typing.Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"sigprop.theory.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'sigprop.theory' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
