"""A deep fully connected net: the plain ``nn.Module`` that theory is compared with."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sigprop.activations import LEAKY_FAMILY, Activation, as_activation, leaky_slopes
from sigprop.checks import FloatArray, count
from sigprop.nn.dtypes import DType, floating_dtype


class DeepMLP(nn.Module):
    """A fully connected net of ``depth`` weight layers with an activation between any two.

    The forward pass is z¹ = W¹x + b¹, zˡ = Wˡφ(zˡ⁻¹) + bˡ; the output is the last pre-activation
    zᴸ, with no activation after it. Weights start as torch's own default; call
    :func:`sigprop.kaiming_leaky_init` on the net to initialize it by the theory.

    Args:
        in_features: number of inputs n_0.
        width: outputs of every weight layer, or a sequence n_1 … n_L.
        depth: number of weight layers L; may be left out when ``width`` is a sequence.
        activation: a name, a torch module or class of the table of activations, or a record
            (``sigprop.activation(...)``), as :func:`sigprop.activations.as_activation` reads them.
        alpha: of a name: the parameter so called, such as the negative slope. For ``"prelu"``
            also one slope per channel (all hidden widths equal to its length). None: its default
            (0.01 for leaky ReLU, 0.25 for PReLU).
        out_features: outputs of the last layer, if other than ``width`` says.
        bias: whether the weight layers have biases.
        device: as for any torch module.
        dtype: as for any torch module; also by name, ``"bfloat16"``.

    Attributes:
        layers: the weight layers (``nn.Linear``), in the order of the data.
        activations: the L − 1 activation modules between them.

    Raises:
        ValueError: a size below 1, an unknown activation, slopes that do not fit.

    Example:
        >>> DeepMLP(in_features=8, width=16, depth=3, activation="leaky_relu", alpha=0.2)(
        ...     torch.zeros(5, 8)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        in_features: int,
        width: int | Sequence[int],
        depth: int | None = None,
        activation: Any = "leaky_relu",
        alpha: ArrayLike | None = None,
        *,
        out_features: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        dtype = floating_dtype(dtype)
        widths = layer_widths(width, depth)
        if out_features is not None:
            widths[-1] = count("out_features", out_features)
        sizes = [count("in_features", in_features), *widths]
        record, slopes = hidden_activation(activation, alpha)
        self._per_channel = slopes is not None and slopes.ndim == 1
        self.layers = nn.ModuleList(
            nn.Linear(n_in, n_out, bias=bias, device=device, dtype=dtype)
            for n_in, n_out in pairwise(sizes)
        )
        self.activations = nn.ModuleList(
            activation_module(record, slopes, n, device, dtype) for n in widths[:-1]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the last pre-activation, of shape (…, n_L), for an input of shape (…, n_0)."""
        if self._per_channel and isinstance(x, Tensor) and x.dim() != 2:
            # torch's PReLU takes axis 1 for the channels; ours are last.
            z = self.forward(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
            return z.reshape(*x.shape[:-1], z.shape[-1])
        return deque(self.passes(x), maxlen=1)[0][1]

    def passes(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What enters each weight layer, and what leaves it, for an input of shape (B, n_0)."""
        for layer, act in zip(self.layers, [*self.activations, None], strict=True):
            z: Tensor = layer(x)
            yield x, z
            x = z if act is None else act(z)


def layer_widths(width: int | Sequence[int], depth: int | None) -> list[int]:
    """The outputs n_1 … n_L of the weight layers from a width and a depth, or a sequence of widths.

    Raises:
        ValueError: no layer, a width below 1, or a depth that disagrees with the sequence.

    Example:
        >>> layer_widths(4, 3), layer_widths([4, 8], None)
        ([4, 4, 4], [4, 8])
    """
    if isinstance(width, np.ndarray):
        width = width.tolist()
    if isinstance(width, Sequence):
        widths = [count(f"width[{index}]", n) for index, n in enumerate(width)]
        if not widths:
            raise ValueError("width is an empty sequence; give one width per weight layer.")
        if depth is not None and count("depth", depth) != len(widths):
            raise ValueError(
                f"depth={depth} disagrees with the {len(widths)} widths given; leave depth out."
            )
        return widths
    if depth is None:
        raise ValueError("depth is missing; give depth, or a sequence of widths.")
    return [count("width", width)] * count("depth", depth)


def hidden_activation(
    activation: Any, alpha: ArrayLike | None = None
) -> tuple[Activation, FloatArray | None]:
    """The record of a net's activation, and its slopes if it is of the leaky family.

    Raises:
        ValueError: unknown, or a slope that the activation does not have.
        TypeError: no activation, or no parameter ``alpha``.

    Example:
        >>> record, slopes = hidden_activation("leaky_relu", 0.2)
        >>> record.name, float(slopes), hidden_activation("gelu")[1]
        ('leaky_relu', 0.2, None)
    """
    parameters: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    record = as_activation(activation, **parameters)
    return record, leaky_slopes(record) if record.row in LEAKY_FAMILY else None


def activation_module(
    record: Activation,
    slopes: FloatArray | None,
    channels: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """A torch module of the activation for a layer of ``channels`` units.

    Raises:
        ValueError: slopes that do not fit the activation or the layer.
        TypeError: no torch module is known, or it is not one of as many units out as in.
    """
    if slopes is not None and slopes.ndim == 1 and slopes.size != channels:
        raise ValueError(
            f"alpha of shape {slopes.shape} does not fit a hidden layer of {channels} channels; "
            "give one slope, or one per channel with all hidden widths equal."
        )
    if record.kind == "maxout":
        raise TypeError("maxout has several pre-activations a unit; DeepMLP has one.")
    if not record.torch_path:
        raise TypeError(
            f"no torch module is known for activation {record.name!r}; DeepMLP takes those of "
            "sigprop.activations.ACTIVATIONS, by name or as modules."
        )
    module = record.module().to(device=device, dtype=dtype)
    if isinstance(module, nn.PReLU) and slopes is not None:
        with torch.no_grad():  # to all digits of the dtype
            module.weight.copy_(torch.as_tensor(slopes).reshape(-1))
    return module
