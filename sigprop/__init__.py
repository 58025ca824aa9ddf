"""sigprop: signal-propagation theory, initialization and measurement for deep networks.

Names resolve lazily (PEP 562): ``import sigprop`` loads neither torch, scipy nor matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sigprop._lazy import lazy_names

if TYPE_CHECKING:
    from sigprop import (
        checking,
        init,
        kinks,
        measurement,
        monitoring,
        nn,
        plots,
        prediction,
        references,
        regions,
        theory,
    )
    from sigprop.activations import activation
    from sigprop.checking import check
    from sigprop.init import init_slopes, initialize, kaiming_leaky_init
    from sigprop.measurement import measure
    from sigprop.monitoring import monitor
    from sigprop.nn import DeepMLP
    from sigprop.prediction import predict
    from sigprop.slopes import constrain_slopes, param_groups, project_slopes
    from sigprop.theory.critical import critical_gain, edge_of_chaos
    from sigprop.theory.explain import explain_gain
    from sigprop.theory.finite_width import finite_width_law, sample_trajectories
    from sigprop.theory.gains import gain, tailored_slope
    from sigprop.theory.leaky import chi, correlation_map, g_star, trajectory, variance_map
    from sigprop.theory.mean_field import MeanField
    from sigprop.validation import validate, validate_many

__version__ = "0.1.0"

_HOME: dict[str, str] = {
    "MeanField": "sigprop.theory.mean_field",
    "activation": "sigprop.activations",
    "critical_gain": "sigprop.theory.critical",
    "edge_of_chaos": "sigprop.theory.critical",
    "explain_gain": "sigprop.theory.explain",
    "gain": "sigprop.theory.gains",
    "tailored_slope": "sigprop.theory.gains",
    "chi": "sigprop.theory.leaky",
    "correlation_map": "sigprop.theory.leaky",
    "g_star": "sigprop.theory.leaky",
    "trajectory": "sigprop.theory.leaky",
    "variance_map": "sigprop.theory.leaky",
    "finite_width_law": "sigprop.theory.finite_width",
    "sample_trajectories": "sigprop.theory.finite_width",
    "DeepMLP": "sigprop.nn",
    "check": "sigprop.checking",
    "init_slopes": "sigprop.init",
    "initialize": "sigprop.init",
    "kaiming_leaky_init": "sigprop.init",
    "measure": "sigprop.measurement",
    "monitor": "sigprop.monitoring",
    "predict": "sigprop.prediction",
    "constrain_slopes": "sigprop.slopes",
    "param_groups": "sigprop.slopes",
    "project_slopes": "sigprop.slopes",
    "validate": "sigprop.validation",
    "validate_many": "sigprop.validation",
}
_ROOMS = (
    "checking", "init", "kinks", "measurement", "monitoring", "nn", "plots", "prediction",
    "references", "regions", "theory",
)  # fmt: skip

__all__ = [
    "DeepMLP",
    "MeanField",
    "activation",
    "check",
    "checking",
    "chi",
    "constrain_slopes",
    "correlation_map",
    "critical_gain",
    "edge_of_chaos",
    "explain_gain",
    "finite_width_law",
    "g_star",
    "gain",
    "init",
    "init_slopes",
    "initialize",
    "kaiming_leaky_init",
    "kinks",
    "measure",
    "measurement",
    "monitor",
    "monitoring",
    "nn",
    "param_groups",
    "plots",
    "predict",
    "prediction",
    "project_slopes",
    "references",
    "regions",
    "sample_trajectories",
    "tailored_slope",
    "theory",
    "trajectory",
    "validate",
    "validate_many",
    "variance_map",
]


__getattr__, __dir__ = lazy_names(__name__, _HOME, _ROOMS)
