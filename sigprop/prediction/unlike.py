"""Inputs of few features, whose samples are of unlike length: told apart by it.

What a weight makes of a long sample is large in all of its units, so over samples it is no normal
number: of one standard normal feature z = w x has kurtosis 9. Behind tanh or sin such layers come
out at three quarters of what normal numbers would give.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sigprop.theory.network import SignalState
from sigprop.theory.network.axes import Axis
from sigprop.theory.network.state import from_values_in

UNLIKE = 0.25
"""Variance of |x|² over samples, over the square of its mean, from which they are told apart: it is
2/n of n normal features."""
CLASSES = 32
"""Samples that are each a class; of more, those of about one length are one, in half as many."""


class Unlike:
    """The inputs of one model that samples of unlike length enter by, their samples in one order.

    Args:
        tensors: the inputs with values.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.lengths: dict[int, Tensor] = {}
        self.known: set[int] = set()
        for tensor in tensors:
            if _is_unlike(tensor):
                self.known.add(id(tensor))
                own = _lengths(tensor)
                own = own / own.mean()
                before = self.lengths.get(len(own))
                self.lengths[len(own)] = own if before is None else before + own

    def state(self, tensor: Tensor) -> SignalState | None:
        """The moments of an input by classes of samples; None: they are as one.

        Args:
            tensor: an input.
        """
        if id(tensor) not in self.known:
            return None
        count = tensor.shape[0]
        order = torch.argsort(self.lengths[count])
        values = tensor.detach().double().cpu()[order].numpy()
        parts = np.array_split(np.arange(count), count if count <= CLASSES else CLASSES // 2)
        samples = Axis(tuple(map(len, parts)))
        if tensor.shape[1] == 1:
            return replace(from_values_in(values[:, 0], [samples]), dims=((samples,), ()))
        return from_values_in(values, [samples, Axis.exchangeable(tensor.shape[1])])


def _lengths(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu().square().mean(1)


def _is_unlike(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point() or tensor.dim() != 2 or len(tensor) < 4:
        return False
    own = _lengths(tensor)
    return bool(own.var(correction=0) > UNLIKE * own.mean() ** 2)
