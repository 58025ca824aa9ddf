"""Initialization by the theory of the model's own activations, and what it will do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sigprop.init.decisions import jobs_for
from sigprop.init.leaky import draw
from sigprop.init.plan import InitPlan
from sigprop.init.request import criterion_request, slopes_request

Target = TypeVar("Target", bound="nn.Module | Tensor")


def initialize(
    model: Target,
    activation: Any = None,
    *,
    gain: Any = None,
    kind: str = "forward",
    q: float = 1.0,
    q0: float | None = None,
    bias_std: float = 0.0,
    mode: str = "fan_in",
    distribution: str = "normal",
    generator: torch.Generator | None = None,
    example: Any = None,
    strict: bool = True,
    include: str | None = None,
    skip: str | None = None,
    frozen: bool = False,
) -> Target:
    """Draw weights with Var W = g²/fan, in place, so that the signal of any model stays at q.

    q is the second moment of the pre-activations: the mean square of what comes out of a weight
    layer, mean included. It is that of the interior: zero padding and masks lower it. m is the
    second moment of what a layer is fed with, made of weight outputs at q by the activations, sums,
    products, constant factors and dropout before it: E φ(√q z)² behind one activation. Three kinds:

    - ``kind="forward"``: g² m + σ_b² = q: every weight layer comes out at q. After sigmoid or
      softplus most of q is the mean, which all inputs share.
    - ``kind="critical"``: χ = g² E φ′² = 1 at its own fixed point q*, with this ``bias_std``; ``q``
      plays no part. Gradients neither grow nor vanish. Some activations have no such gain; where
      q* is unstable (GELU, SiLU, Mish), a warning says so.
    - ``kind="unit_variance"``: g² (m − mean²) + σ_b² = q, for normalizer-free nets, whose weights
      are centred; without that, q grows.

    The model is read as in :func:`sigprop.kaiming_leaky_init`: run once on ``example``, in its
    present mode (training or evaluation), or followed by torch.fx without one. Known are all rows
    of ``sigprop.activations.ACTIVATIONS`` as modules, functions and tensor methods, and any other
    elementwise expression of one signal, such as x·σ(x). For the leaky family, random slopes as
    they train, forward (without bias) and critical give the very weights of ``kaiming_leaky_init``.

    - The input layer has the gain of the activation it feeds, so that q¹ = g²·mean x². Only the
      leaky family keeps any q: elsewhere the net then starts off q. With an example, or with
      ``q0``, the mean square of the inputs, the input layer brings it to q.
    - Products of two signals (gates) enter where both stand at a known second moment: behind a
      normalization or an embedding, with ``q0``, or with an example. Pooling, attention and
      recurrent layers enter as measured on the example.
    - Behind a normalization m is what it returns. Straight before one, the gain sets only the
      effective learning rate.

    What cannot be held is said in a :class:`sigprop.init.SignalWarning`: a q that small errors
    leave (χ∥ > 1: forward at q = 1 in deep nets of GELU, SiLU), gradients that explode or vanish,
    pooling whose effect was not measured.

    Args:
        model: a model; with ``activation`` or ``gain`` also a single layer or a weight.
        activation: of every layer, instead of reading the model: a name, a record, a torch module
            or a vectorised callable. Or a dict from regular expressions, searched in layer names,
            to such: only these layers, the others being read. A tensor, a tuple or a dict of other
            things is taken for ``example``.
        gain: used as it is, > 0: one for every layer, or a dict as for ``activation`` (a small
            head: ``gain={"head": 0.01}``). It goes before ``activation``.
        kind: which gain.
        q: second moment of the pre-activations, > 0.
        q0: mean square of an entry of the inputs, > 0; not with ``kind="critical"``.
        bias_std: standard deviation of the biases, ≥ 0; 0: biases are zero.
        mode: ``"fan_in"`` or ``"fan_out"``, as in ``kaiming_leaky_init``.
        distribution: as in ``kaiming_leaky_init``; ``"mirrored"`` for the leaky family alone, with
            its own gain √2/|1+α|.
        generator: as in ``kaiming_leaky_init``.
        example: what to call the model with, on which it is run once: a tensor, a tuple of
            positional or a dict of keyword arguments.
        strict: as in ``kaiming_leaky_init``, like ``include``, ``skip`` and ``frozen``.
        include: which layers.
        skip: which not.
        frozen: whether frozen weights too.

    Returns:
        ``model`` itself. :func:`sigprop.init.plan` with ``kind=`` shows what will be done.

    Raises:
        TypeError: not a module or tensor; no activation; not numbers.
        ValueError: out of range; an example that is empty, all zero or not finite; a layer fed by
            something whose second moment is not known (softmax, attention, a gate without an
            example); a layer not called; no such gain (``NoSolution``); whatever
            ``kaiming_leaky_init`` refuses to write. Then nothing has been changed. The model's own
            errors on the example come through as they are.

    Source: he2015 (forward); schoenholz2017 (critical).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sigprop import initialize
        >>> model = nn.Sequential(nn.Linear(100, 400), nn.GELU(), nn.Linear(400, 10))
        >>> x = torch.randn(50, 100, generator=torch.Generator().manual_seed(1))
        >>> model = initialize(model, x, generator=torch.Generator().manual_seed(0))
        >>> [round(layer.weight.std().item() * layer.in_features**0.5, 1) for layer in model[::2]]
        [1.0, 1.5]
    """
    activation, example = _told_apart(activation, example)
    request = criterion_request(
        activation,
        gain,
        kind,
        q,
        q0,
        mode,
        distribution,
        bias_std,
        example=example,
        strict=strict,
        include=include,
        skip=skip,
        frozen=frozen,
    )
    return draw(model, request, generator)


def plan(
    module_or_tensor: nn.Module | Tensor,
    alpha: Any = None,
    *,
    gain: Any = None,
    mode: str = "fan_in",
    distribution: str = "normal",
    bias_std: float = 0.0,
    kind: str | None = None,
    q: float = 1.0,
    q0: float | None = None,
    activation: Any = None,
    example: Any = None,
    strict: bool = True,
    include: str | None = None,
    skip: str | None = None,
    frozen: bool = False,
) -> InitPlan:
    """Say what an initialization with the same arguments would do; change nothing.

    Without ``kind`` (and ``activation``) it is that of :func:`sigprop.kaiming_leaky_init`, with it
    that of :func:`sigprop.initialize`. An example (``example=``) is run once in the model's present
    mode. The arguments are those of the two, dicts by layer names included.

    Printed: a row for each layer that is set, then what is left alone, what cannot be held, and a
    count. ``records()`` has one row for each parameter, ``warnings`` what cannot be held.

    Raises:
        TypeError, ValueError: what the initialization would refuse, with the same words.

    Example:
        >>> from torch import nn
        >>> from sigprop.init import plan
        >>> model = nn.Sequential(nn.Linear(100, 400), nn.PReLU(), nn.Linear(400, 10))
        >>> print(plan(model))
        name  kind    shape    alpha     gain  fan_in  fan_out     std  reason
        0     Linear  400x100   0.25  1.37199     100      400  0.1372  fed by the input, ...
        2     Linear  10x400    0.25  1.37199     400       10  0.0686  fed by '1' (PReLU)
        left alone: 1 x slopes of a PReLU
        2 layers set, 1 parameter left alone.
        >>> model = nn.Sequential(nn.Linear(100, 400), nn.Tanh(), nn.Linear(400, 10))
        >>> print(plan(model, kind="forward"))
        name  kind    shape    activation     gain  fan_in  fan_out      std  reason
        0     Linear  400x100  tanh        1.59254     100      400   0.1593  fed by the input, ...
        2     Linear  10x400   tanh        1.59254     400       10  0.07963  fed by '1' (Tanh)
        2 layers set.
    """
    options = {
        "example": example,
        "strict": strict,
        "include": include,
        "skip": skip,
        "frozen": frozen,
    }
    if kind is None and activation is None:
        if q != 1.0 or q0 is not None:
            raise ValueError("q and q0 belong to sigprop.initialize; give kind= as well.")
        request = slopes_request(alpha, gain, mode, distribution, bias_std, **options)
    elif alpha is not None:
        raise ValueError(
            "alpha belongs to kaiming_leaky_init, kind and activation to initialize; give one of "
            "the two. To run the model on an input pass example=."
        )
    else:
        request = criterion_request(
            activation,
            gain,
            "forward" if kind is None else kind,
            q,
            q0,
            mode,
            distribution,
            bias_std,
            **options,
        )
    return jobs_for(module_or_tensor, request)[1]


def _told_apart(second: Any, example: Any) -> tuple[Any, Any]:
    """The second argument of ``initialize`` as an activation or as an example."""
    if not _is_example(second):
        return second, example
    if example is not None:
        raise TypeError("an example is given twice: in second place and as example=. Give it once.")
    return None, second


def _is_example(value: Any) -> bool:
    if isinstance(value, Tensor | tuple | list):
        return True
    if not isinstance(value, Mapping):
        return False
    return any(not isinstance(v, str) and not callable(v) for v in value.values())
