"""What a user's type checker sees of the public names: checked by ``mypy``, not run.

A name that mypy did not know, or took for Any, would make an ignore of a misspelled one needless;
``warn_unused_ignores`` reports that.
"""

from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray

import sigprop
from sigprop import MeanField, gain, theory


def typed() -> None:
    """Right calls and their types, and misspelled names that mypy has to find."""
    assert_type(gain("leaky_relu", 0.2), float)
    assert_type(sigprop.validate(0.2, 5, dtype="bfloat16", init="kaiming_normal").holds, bool)
    assert_type(sigprop.DeepMLP(3, 4, 2, torch.nn.Tanh(), dtype="float64"), sigprop.DeepMLP)
    assert_type(theory.solve_critical("tanh", bias_std=0.1).gain, float)
    assert_type(MeanField("leaky_relu", alpha=0.2).chi(1.0), NDArray[np.float64])
    _ = sigprop.gian  # type: ignore[attr-defined]
    _ = theory.critical_gian  # type: ignore[attr-defined]
    _ = sigprop.regions.in_boxes  # type: ignore[attr-defined]
    _ = sigprop.plots.phase_diagramm  # type: ignore[attr-defined]
