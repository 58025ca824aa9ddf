"""Initialization by the theory of the model's own activations, and what it will do."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sigprop.activations import as_activation
from sigprop.checks import one_of, real_number
from sigprop.init.aims import Aim
from sigprop.init.distributions import DISTRIBUTIONS
from sigprop.init.leaky import Alpha, draw, slopes_request
from sigprop.init.plan import InitPlan, Request, jobs_for
from sigprop.theory.gains import KINDS

Target = TypeVar("Target", bound="nn.Module | Tensor")


def initialize(
    model: Target,
    activation: Any = None,
    *,
    kind: str = "forward",
    q: float = 1.0,
    q0: float | None = None,
    bias_std: float = 0.0,
    mode: str = "fan_in",
    distribution: str = "normal",
    generator: torch.Generator | None = None,
) -> Target:
    """Draw weights with Var W = g²/fan, in place; g is the gain of the activation feeding a layer.

    Three different numbers, for u = √q z, z ~ N(0, 1):

    - ``kind="forward"``: g² E φ(u)² + σ_b² = q. A layer whose input stands at second moment q
      leaves it there. It is the second moment that is kept, mean included: after sigmoid or
      softplus most of it is the mean, which all inputs share.
    - ``kind="critical"``: χ = g² E φ′² = 1 at its own fixed point q*, with this ``bias_std``; ``q``
      plays no part. Gradients neither grow nor vanish. Some activations have no such gain; where
      q* is unstable (GELU, SiLU, Mish), theory warns.
    - ``kind="unit_variance"``: g² Var φ(u) + σ_b² = q, for normalizer-free nets, whose weights are
      centred; without that, q grows.

    The model is followed (torch.fx) as in :func:`sigprop.kaiming_leaky_init`. Known are all rows of
    ``sigprop.activations.ACTIVATIONS`` as modules (of torch and ``sigprop.nn``), functions and
    tensor methods, and any other elementwise expression of one signal, such as x·σ(x). For the
    leaky family, random slopes as they train, forward (without bias) and critical give the very
    weights of ``kaiming_leaky_init``.

    - A layer fed by another with no activation between has gain 1 (forward without bias).
    - The input layer has the gain of the activation it feeds, so that q¹ = g²·mean x². Only the
      leaky family keeps any q: elsewhere the net then starts off q. Give ``q0``, the mean square of
      the inputs, for an input layer with which q¹ = q.
    - q is held as well as it is stable: where the slope of the variance map χ∥ at q is above 1
      (forward at q = 1: GELU, SiLU, Mish, hard-swish), small errors grow with depth.
    - Branches that join must agree in their gains; the growth that adding brings, and constant
      factors after an activation, are not corrected. Normalization is passed through (q is 1 after
      it).

    Args:
        model: a model; with ``activation`` also a single layer or a weight.
        activation: of every layer, instead of reading the model: a name, a record, a torch module
            or a vectorised callable.
        kind: which gain.
        q: second moment of the pre-activations, > 0.
        q0: mean square of an entry of the inputs, > 0; not with ``kind="critical"``.
        bias_std: standard deviation of the biases, ≥ 0; 0: biases are zero.
        mode: ``"fan_in"`` or ``"fan_out"``, as in ``kaiming_leaky_init``.
        distribution: as in ``kaiming_leaky_init``; ``"mirrored"`` for the leaky family alone, with
            its own gain √2/|1+α|.
        generator: as in ``kaiming_leaky_init``.

    Returns:
        ``model`` itself. :func:`sigprop.init.plan` with ``kind=`` shows what will be done.

    Raises:
        TypeError: not a module or tensor; no activation; not numbers.
        ValueError: out of range; a layer fed by something that is no activation (softmax,
            attention, a gate such as GLU), or by branches of different gains; a layer not called;
            no such gain (``NoSolution``); whatever ``kaiming_leaky_init`` refuses to write. Then
            nothing has been changed.

    Source: he2015 (forward); schoenholz2017 (critical).

    Example:
        >>> model = nn.Sequential(nn.Linear(100, 400), nn.GELU(), nn.Linear(400, 10))
        >>> model = initialize(model, q0=1.0, generator=torch.Generator().manual_seed(0))
        >>> [round(layer.weight.std().item() * layer.in_features**0.5, 1) for layer in model[::2]]
        [1.0, 1.5]
    """
    request = _aimed_request(activation, kind, q, q0, bias_std, mode, distribution)
    return draw(model, request, generator)


def plan(
    module_or_tensor: nn.Module | Tensor,
    alpha: Alpha = None,
    *,
    gain: float | None = None,
    mode: str = "fan_in",
    distribution: str = "normal",
    bias_std: float = 0.0,
    kind: str | None = None,
    q: float = 1.0,
    q0: float | None = None,
    activation: Any = None,
) -> InitPlan:
    """Say what an initialization with the same arguments would do; change nothing.

    Without ``kind`` (and ``activation``) it is that of :func:`sigprop.kaiming_leaky_init`, with it
    that of :func:`sigprop.initialize`.

    Raises:
        TypeError, ValueError: what the initialization would refuse, with the same words.

    Example:
        >>> model = nn.Sequential(nn.Linear(100, 400), nn.PReLU(), nn.Linear(400, 10))
        >>> print(plan(model))
        name      kind       shape    alpha     gain  fan_in  fan_out     std  reason
        0         Linear     400x100   0.25  1.37199     100      400  0.1372  fed by the input, ...
        2         Linear     10x400    0.25  1.37199     400       10  0.0686  fed by '1' (PReLU)
        1.weight  untouched  1            -        -       -        -       -  slopes of a PReLU
        >>> model = nn.Sequential(nn.Linear(100, 400), nn.Tanh(), nn.Linear(400, 10))
        >>> print(plan(model, kind="forward"))
        name  kind    shape    activation     gain  fan_in  fan_out      std  reason
        0     Linear  400x100  tanh        1.59254     100      400   0.1593  fed by the input, ...
        2     Linear  10x400   tanh        1.59254     400       10  0.07963  fed by '1' (Tanh)
    """
    if kind is None and activation is None:
        if q != 1.0 or q0 is not None:
            raise ValueError("q and q0 belong to sigprop.initialize; give kind= as well.")
        request = slopes_request(alpha, gain, mode, distribution, bias_std)
    elif alpha is not None or gain is not None:
        raise ValueError(
            "alpha and gain belong to kaiming_leaky_init, kind and activation to initialize; "
            "give one of the two."
        )
    else:
        aim = "forward" if kind is None else kind
        request = _aimed_request(activation, aim, q, q0, bias_std, mode, distribution)
    jobs, untouched = jobs_for(module_or_tensor, request)
    return InitPlan(tuple(dict.fromkeys(job.layer for job in jobs)), untouched)


def _aimed_request(
    activation: Any,
    kind: str,
    q: float,
    q0: float | None,
    bias_std: float,
    mode: str,
    distribution: str,
) -> Request:
    kind = one_of("kind", kind, KINDS)
    distribution = one_of("distribution", distribution, DISTRIBUTIONS)
    bias_std = real_number("bias_std", bias_std, minimum=0)
    if distribution == "mirrored" and kind == "unit_variance":
        raise ValueError(
            "distribution 'mirrored' has a gain of its own, √2/|1+α|, and not that of kind "
            "'unit_variance'. Use another distribution."
        )
    if q0 is not None:
        q0 = real_number("q0", q0, above=0)
        if kind == "critical" or activation is not None or distribution == "mirrored":
            raise ValueError(
                "q0 sets the input layer of a model that is read so that q¹ = q; that makes no "
                "sense with kind 'critical' (it has its own q*), activation= or 'mirrored'."
            )
    aim = Aim(
        kind,
        real_number("q", q, above=0),
        bias_std,
        q0,
        None if activation is None else as_activation(activation),
    )
    mode = one_of("mode", mode, ("fan_in", "fan_out"))
    return Request(None, None, mode, distribution, bias_std, aim)
