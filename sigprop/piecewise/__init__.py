"""From a torch model to the arrays whose linear regions and kinks are counted, exactly.

torch is loaded with the first torch model, not before: a network of arrays passes as it is.
"""

from typing import TYPE_CHECKING

from sigprop._lazy import lazy_names

if TYPE_CHECKING:
    from sigprop.piecewise.convert import Conversion, convert_model, to_network
    from sigprop.piecewise.given import as_network, as_network_of_points

__all__ = ["Conversion", "as_network", "as_network_of_points", "convert_model", "to_network"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Conversion": "sigprop.piecewise.convert",
        "as_network": "sigprop.piecewise.given",
        "as_network_of_points": "sigprop.piecewise.given",
        "convert_model": "sigprop.piecewise.convert",
        "to_network": "sigprop.piecewise.convert",
    },
)
