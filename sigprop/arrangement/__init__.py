"""The exact geometry of piecewise linear networks: how kinks cut a space into cells. No torch.

``network.py``: networks as arrays, :class:`PiecewiseLinear`. ``hyperplanes.py``: the form in which
they are cut. ``exact.py``, ``errors.py``: exact signs, and float64 with bounds. ``points.py``,
``crossings.py``, ``order.py``: the points at which a network is known, and their order along
segments. ``line.py``, ``plane.py``, ``polytopes.py``: cells on lines, in planes, in up to five
dimensions. ``pieces.py``: the pieces of the units on each cell. ``merging.py``, ``jump_faces.py``:
which cells carry one affine map. ``counting.py``, ``results.py``: the whole count.

The public calls are those of :mod:`sigprop.regions`.
"""

from sigprop.arrangement.network import PiecewiseLinear

__all__ = ["PiecewiseLinear"]
