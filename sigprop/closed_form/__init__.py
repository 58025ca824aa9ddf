"""The known Gaussian integrals of activations, by family, each with its source.

u, v are centred Gaussians with variances q1, q2 and correlation c. All functions broadcast, work in
float64 and neither overflow nor cancel for q from 1e-12 to 1e6 and c up to ±1; each family states
what it knows in a :class:`Kernels`. What is None there is left to quadrature.
"""

from sigprop.closed_form.kernels import Kernels
from sigprop.closed_form.maxout import maxout_kernels
from sigprop.closed_form.rectifiers import (
    RELU_SQUARED,
    both_positive,
    clip_kernels,
    half_product,
    leaky_kernels,
    phased_kernels,
)
from sigprop.closed_form.smooth import ERF, GELU, SIN
from sigprop.closed_form.steps import step_kernels

__all__ = [
    "ERF",
    "GELU",
    "Kernels",
    "RELU_SQUARED",
    "SIN",
    "both_positive",
    "clip_kernels",
    "half_product",
    "leaky_kernels",
    "maxout_kernels",
    "phased_kernels",
    "step_kernels",
]
