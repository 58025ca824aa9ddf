"""Linear regions of piecewise linear networks: bounds, exact counts, expectations."""

from sigprop.regions.network import PiecewiseLinear

__all__ = ["PiecewiseLinear"]
