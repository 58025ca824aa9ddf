"""The network that a user gives, in either form. No torch here until a torch model is given."""

from __future__ import annotations

import sys
from typing import Any

from sigprop.arrangement.network import Array, PiecewiseLinear


def as_network(net: Any, example: Any = None) -> PiecewiseLinear:
    """The network that a user has, whatever form it has.

    Args:
        net: a :class:`PiecewiseLinear`, or a ``torch.nn.Module``, which is then read by
            :func:`sigprop.piecewise.to_network`.
        example: one input of a module, without a batch axis, such as the origin of a plane: only
            its shape counts. None: the features of a first ``nn.Linear``.

    Raises:
        TypeError: neither of the two.
        ValueError: a module that is not piecewise linear, or whose input shape is unknown.

    Example:
        >>> import numpy as np
        >>> as_network(PiecewiseLinear([np.ones((3, 2))]))
        PiecewiseLinear(2-3, 3 kinked units)
    """
    if isinstance(net, PiecewiseLinear):
        return net
    torch = sys.modules.get("torch")  # a module can only be where torch is loaded
    if torch is not None and isinstance(net, torch.nn.Module):
        from sigprop.piecewise.convert import to_network

        return to_network(net, example)
    raise TypeError(
        "a network is a regions.PiecewiseLinear(weights, biases, alpha) or a torch.nn.Module; got "
        f"{f'the class {net.__name__}' if isinstance(net, type) else type(net).__name__}."
    )


def as_network_of_points(net: Any, points: Array) -> tuple[PiecewiseLinear, bool]:
    """The network, and whether the points are a batch of inputs rather than one input.

    Points of shape (lines, input_dim) are a batch. Others are one input where their size says so or
    the module takes them as one, and a batch where the module takes each of them.

    Args:
        net: as for :func:`as_network`.
        points: one input, or a batch of them along the first axis.

    Raises:
        TypeError: neither a network nor a module.
        ValueError: a module that is not piecewise linear, or points that it does not take.

    Example:
        >>> import numpy as np
        >>> net = PiecewiseLinear([np.ones((3, 2))])
        >>> [as_network_of_points(net, np.ones(shape))[1] for shape in ((2,), (5, 2), (1, 2))]
        [False, True, True]
    """
    if isinstance(net, PiecewiseLinear):
        batch = _is_batch(points, net.input_dim)
        if batch is None:
            raise ValueError(
                f"points have shape {points.shape}; the network takes {net.input_dim} numbers: "
                f"give one point ({net.input_dim},) or a batch (lines, {net.input_dim})."
            )
        return net, batch
    try:
        found = as_network(net)  # a module that says how many features it takes
        batch = _is_batch(points, found.input_dim)
        if batch is not None:
            return found, batch
    except ValueError:
        pass
    try:
        return as_network(net, points), False
    except ValueError:
        if points.ndim < 2:
            raise
        try:
            return as_network(net, points[0]), True
        except ValueError:
            pass
        raise


def _is_batch(points: Array, input_dim: int) -> bool | None:
    """Whether points of this many features each are several; None where they do not fit."""
    if points.ndim == 2 and points.shape[1] == input_dim:
        return True
    if points.size == input_dim:
        return False
    return True if points.ndim > 1 and points.shape[0] * input_dim == points.size else None
