"""Initialization by the theory of the model's own activations, and what it will do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sigprop.checks import torch_names
from sigprop.init.aim import Aim
from sigprop.init.drawing import Report, draw, jobs_for
from sigprop.init.plan import InitPlan
from sigprop.init.request import Request, aim_request, criterion_request, slopes_request

Target = TypeVar("Target", bound="nn.Module | Tensor")


@torch_names
def initialize(
    model: Target,
    activation: Any = None,
    *,
    target: str | None = None,
    residual: float | str | None = math.e,
    data: bool = False,
    report: Report | None = None,
    gain: Any = None,
    kind: str | None = None,
    q: float = 1.0,
    q0: float | None = None,
    bias_std: float | None = None,
    mode: str | None = None,
    distribution: str | None = None,
    generator: torch.Generator | None = None,
    example: Any = None,
    strict: bool = True,
    include: str | None = None,
    skip: str | None = None,
    frozen: bool = False,
) -> Target:
    """Draw weights, in place, so that the signal of any model stays at q, by the theory.

    With an example of its input every standard deviation comes from what *really* enters a weight,
    as the prediction (:func:`sigprop.predict`) says: padding, pooling, dropout, sums, gates, norms
    and constants count, layer by layer. ``target=`` says what is to hold; it needs an example:

    - ``"forward"`` (the default with an example): each weight layer comes out at q. A warning
      says where small errors (χ∥^L) or gradients (χ^L) change by more than ten times then.
    - ``"critical"``: at a level q that is as large as |log χ(q)|·L ≤ ¼ lets it be, at most ``q``;
      orthogonal weights, and biases that take the mean of smooth activations away. Signal and
      gradient hold through hundreds of layers. The price: the net is nearly linear at the start.
      A chain of the leaky family gets mirrored weights instead where they fit.
    - ``"edge"``: σ_w² E φ′² = 1, and biases that keep q. Refused where their variance would be
      negative, or q is not stable (χ∥ > 1).

    What learns better (``analyses/deep_learning``, short runs): chains of 50 and 100 layers without
    norms learn from ``"critical"`` weights, where torch's default, Kaiming, LSUV and ``"forward"``
    weights hardly begin; GELU by Adam, hardly by SGD. Residual nets learn alike from all of ours. A
    ViT learns better from ``"forward"`` weights, and at least as well from LSUV's.

    Residual streams are found in the graph. With ``residual=e`` a stream of N blocks grows by e
    from end to end: each branch comes out at e^(1/N) − 1 of the stream before it. Where an
    activation acts on the sum (post-activation) the branch is solved for, and the growth holds
    forward only. ``"depth"``: branches at q/N (1/√N in the weights, GPT-2's 1/√(2 layers));
    ``"skipinit"``: zero; ``"fixup"``: zero, and the others by N^(−1/(2m−2)); None: as all others.
    Embeddings, norms and own scales are left alone; a table that is also an output layer is set by
    what it puts out.

    ``data=True`` then scales the weights on the example: each layer at its level and each branch
    end at its share in one pass, one common factor a stream by another. Biases that hold a level or
    take a mean away are scaled with their weights. At the edge of chaos q then holds within a few
    percent; the gradient scatters by as much as without (a factor of 2 to 4 at 50 layers of 128).

    Without an example, or with ``kind=``, ``activation=``, ``gain=``, ``q0=``, ``bias_std=`` or
    ``mode=``, gains Var W = g²/fan come from the graph and the activations alone. q is then the
    second moment of the pre-activations in the interior: zero padding and masks lower it. m is the
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
        target: what is to hold, by the prediction.
        residual: growth of a residual stream, > 1, or one of the words above; with a target.
        data: whether to scale on the example; with a target.
        report: is given the plan, with what was done, in the end: ``report=print``.
        gain: used as it is, > 0: one for every layer, or a dict as for ``activation`` (a small
            head: ``gain={"head": 0.01}``). It goes before ``activation``.
        kind: which gain, by the graph alone; ``"forward"`` without an example.
        q: second moment of the pre-activations, > 0.
        q0: mean square of an entry of the inputs, > 0; not with ``kind="critical"``.
        bias_std: standard deviation of the biases, ≥ 0; 0: biases are zero.
        mode: ``"fan_in"`` or ``"fan_out"``, as in ``kaiming_leaky_init``.
        distribution: as in ``kaiming_leaky_init``; ``"mirrored"`` for the leaky family alone, with
            its own gain √2/|1+α|. None: ``"normal"``, of target ``"critical"`` as said above.
        generator: as in ``kaiming_leaky_init``.
        example: what to call the model with, on which it is run: a tensor, a tuple of positional
            or a dict of keyword arguments; with a target also shapes, as
            :func:`sigprop.predict` takes them.
        strict: as in ``kaiming_leaky_init``, like ``include``, ``skip`` and ``frozen``.
        include: which layers.
        skip: which not.
        frozen: whether frozen weights too.

    Returns:
        ``model`` itself. :func:`sigprop.init.plan` with the same arguments shows what will be done;
        to it give ``example=`` by name, and ``target="forward"`` (without an example
        ``kind="forward"``) where you give neither here.

    Raises:
        TypeError: not a module or tensor; no activation; not numbers.
        ValueError: out of range; an example that is empty, all zero or not finite; a layer fed by
            something whose second moment is not known (softmax, attention, a gate without an
            example); a layer not called; no such gain or level (``NoSolution``); a target without
            an example or with arguments of the other way; whatever ``kaiming_leaky_init`` refuses
            to write; a model that does not run on the example, with its own error and what to do.
            Then nothing has been changed.

    Source: he2015 (forward); schoenholz2017 (critical); mishkin2016 (data).

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
    request = _request(
        target, residual, data, activation, gain, kind, q, q0, mode, distribution, bias_std,
        example=example, strict=strict, include=include, skip=skip, frozen=frozen,
    )  # fmt: skip
    return draw(model, request, generator, report=report)


def _request(
    target: str | None,
    residual: Any,
    data: Any,
    activation: Any,
    gain: Any,
    kind: str | None,
    q: float,
    q0: float | None,
    mode: str | None,
    distribution: str | None,
    bias_std: float | None,
    **options: Any,
) -> Request:
    """A request by the prediction where that is asked for or can be had, else by the graph."""
    others = {"kind": kind, "activation": activation, "gain": gain, "q0": q0, "mode": mode,
              "bias_std": bias_std}  # fmt: skip
    given = [name for name, value in others.items() if value is not None]
    if target is None and options["example"] is not None and not given:
        target = "forward"
    if target is not None:
        if given:
            raise ValueError(
                f"target={target!r} is decided by the prediction, and {given[0]}= by the graph "
                "alone; give one of the two."
            )
        aim = Aim.of(target, residual, data, free=distribution is None)
        return aim_request(aim, q, distribution, **options)
    if data is not False or residual != math.e:
        name = "data" if data is not False else "residual"
        raise ValueError(f"{name}= goes with a target, and that with an example: target='forward'.")
    return criterion_request(
        activation,
        gain,
        "forward" if kind is None else kind,
        q,
        q0,
        "fan_in" if mode is None else mode,
        "normal" if distribution is None else distribution,
        0.0 if bias_std is None else bias_std,
        **options,
    )


@torch_names
def plan(
    module_or_tensor: nn.Module | Tensor,
    alpha: Any = None,
    *,
    target: str | None = None,
    residual: float | str | None = math.e,
    data: bool = False,
    gain: Any = None,
    mode: str | None = None,
    distribution: str | None = None,
    bias_std: float | None = None,
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

    With ``target``, ``kind`` or ``activation`` it is that of :func:`sigprop.initialize`, else that
    of :func:`sigprop.kaiming_leaky_init`. What ``data=True`` does is known once it is
    done. An example (``example=``) is run once in the model's present mode. The arguments are those
    of the two, dicts by layer names included.

    Where a normalization follows a layer, the plan says that its gain sets only the effective
    learning rate, and that with batch norm torch's default weights learn faster at the same rate
    (numbers: :func:`sigprop.kaiming_leaky_init`).

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
    if kind is None and activation is None and target is None:
        if q != 1.0 or q0 is not None:
            raise ValueError(
                "q and q0 belong to sigprop.initialize; give kind= as well, or target=."
            )
        if data is not False or residual != math.e:
            raise ValueError("data and residual belong to a target; give target= as well.")
        request = slopes_request(
            alpha,
            gain,
            "fan_in" if mode is None else mode,
            "normal" if distribution is None else distribution,
            0.0 if bias_std is None else bias_std,
            **options,
        )
    elif alpha is not None:
        raise ValueError(
            "alpha belongs to kaiming_leaky_init, kind and activation to initialize; give one of "
            "the two. To run the model on an input pass example=."
        )
    else:
        request = _request(
            target, residual, data, activation, gain, kind, q, q0, mode, distribution, bias_std,
            **options,
        )  # fmt: skip
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
