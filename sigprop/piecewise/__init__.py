"""From a torch model to the arrays whose linear regions and kinks are counted, exactly."""

from sigprop.piecewise.convert import to_network

__all__ = ["to_network"]
