"""The public names of the room, each at its home; ``__init__.py`` reads them here."""

from sigprop.piecewise.convert import Conversion as Conversion
from sigprop.piecewise.convert import convert_model as convert_model
from sigprop.piecewise.convert import to_network as to_network
from sigprop.piecewise.given import as_network as as_network
from sigprop.piecewise.given import as_network_of_points as as_network_of_points
