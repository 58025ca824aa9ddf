"""Signal-propagation theory: plain float64 in, plain float64 out. Never torch.

Names are loaded when first asked for; the leaky theory loads numpy only.
"""

from typing import TYPE_CHECKING

from sigprop._lazy import lazy_names

if TYPE_CHECKING:
    from sigprop.theory.batch_norm import (
        batch_norm_growth,
        normalized_slopes,
        output_std,
        slope_and_scale,
        slopes_determinant,
        slopes_jacobian,
    )
    from sigprop.theory.critical import (
        CriticalPoint,
        EdgeOfChaos,
        critical_gain,
        edge_of_chaos,
        half_stable_points,
        solve_critical,
    )
    from sigprop.theory.explain import GainReport, explain_gain
    from sigprop.theory.finite_width import (
        FiniteWidthLaw,
        born_dead_probability,
        finite_width_law,
        lognormal_law,
        sample_trajectories,
    )
    from sigprop.theory.fixed_points import FixedPoint, NoSolution
    from sigprop.theory.gains import gain, tailored_slope
    from sigprop.theory.leaky import (
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
    from sigprop.theory.mean_field import DepthScales, MeanField, Phase
    from sigprop.theory.path import Trajectory
    from sigprop.theory.step import step_log_moments

_NAMES = {
    "batch_norm": (
        "batch_norm_growth normalized_slopes output_std slope_and_scale slopes_determinant "
        "slopes_jacobian"
    ),
    "critical": (
        "CriticalPoint EdgeOfChaos critical_gain edge_of_chaos half_stable_points solve_critical"
    ),
    "explain": "GainReport explain_gain",
    "finite_width": (
        "FiniteWidthLaw born_dead_probability finite_width_law lognormal_law sample_trajectories"
    ),
    "fixed_points": "FixedPoint NoSolution",
    "gains": "gain tailored_slope",
    "leaky": (
        "chi correlation_angle_map correlation_deficit_map correlation_map excess "
        "fourth_moment g_star mean_output second_moment slow_convergence trajectory "
        "unit_variance_gain variance_map variance_output"
    ),
    "mean_field": "DepthScales MeanField Phase",
    "path": "Trajectory",
    "step": "step_log_moments",
}
_HOME = {name: f"sigprop.theory.{home}" for home, names in _NAMES.items() for name in names.split()}

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
    "batch_norm_growth",
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
    "normalized_slopes",
    "output_std",
    "sample_trajectories",
    "second_moment",
    "slope_and_scale",
    "slopes_determinant",
    "slopes_jacobian",
    "slow_convergence",
    "solve_critical",
    "step_log_moments",
    "tailored_slope",
    "trajectory",
    "unit_variance_gain",
    "variance_map",
    "variance_output",
]


__getattr__, __dir__ = lazy_names(__name__, _HOME)
