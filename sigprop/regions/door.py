"""The one door from this room to torch: it opens only for a torch model."""

from __future__ import annotations

import sys
from typing import Any

from sigprop.regions.network import PiecewiseLinear


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
        from sigprop.piecewise import to_network

        return to_network(net, example)
    raise TypeError(
        "a network is a regions.PiecewiseLinear(weights, biases, slopes) or a torch.nn.Module; got "
        f"{f'the class {net.__name__}' if isinstance(net, type) else type(net).__name__}."
    )
