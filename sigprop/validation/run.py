"""The main job: draw nets, run them forward and backward, set them against the exact law."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sigprop.checks import FloatArray, count, real_array
from sigprop.compare import judge
from sigprop.theory.batch import backward_log_variance, forward_log_variance
from sigprop.theory.finite_width import finite_width_law
from sigprop.validation.nets import (
    Init,
    NetPlan,
    layerwise_runner,
    needs_streaming,
    plan_nets,
    power_into_range,
    whole_runner,
)
from sigprop.validation.result import Curve, Validation
from sigprop.validation.tally import Tally


def validate(
    alpha: ArrayLike,
    depth: int | None = None,
    width: int | Sequence[int] = 512,
    *,
    seeds: int = 16,
    gain: float | None = None,
    x: ArrayLike | Tensor | None = None,
    in_features: int = 64,
    batch: int = 16,
    activation: str | None = None,
    init: Init | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    seed: int = 0,
    level: float = 0.01,
    layerwise: bool | None = None,
    progress: Callable[[], object] | None = None,
) -> Validation:
    """Test whether real nets obey the theory, forward and backward, as a calibrated statement.

    ``seeds`` nets (:class:`sigprop.DeepMLP`, zero biases) are initialized and run on one batch. The
    theory claims Var W = gain²/fan_in in every layer, the input layer included (so q¹ = gain²·mean
    x²), and E φ² = q(1+α²)/2. Tested, per layer and over all nets, are the normal scores of

    * *forward weights*: the batch mean of q̂ given what entered the layer, whose law under Gaussian
      weights is a weighted χ² that knows how the inputs of one net are correlated;
    * *backward weights*: the squared gradient off the span of what entered the layer, which is
      independent of the whole forward pass and has the same kind of law;
    * *forward* and *backward activations*: squares after and before the activation. Under the
      theory their difference flips sign with the weights of a unit, so that the sum of these
      differences over their root sum of squares is N(0, 1). The backward one is what is left of it
      beyond the forward one; it is exact for one input and good to O(1/width) for several.

    Args:
        alpha: negative slope, or one slope per channel (all hidden widths equal to its length).
        depth: number of weight layers; left out when ``width`` is a sequence.
        width: outputs of every weight layer, or the sequence n_1 … n_L.
        seeds: number of nets.
        gain: the claimed gain; None: ``g_star(alpha)``.
        x: inputs, shape (B, n_0), none of them all zero; None: ``batch`` standard normal ones.
        in_features: n_0 when ``x`` is None.
        batch: B when ``x`` is None.
        activation: a name of ``activations.ACTIVATIONS``; None: leaky ReLU, PReLU for an array.
        init: the initialization under test, ``init(module, generator)``; it must set every weight.
            Layer by layer it is called with one ``nn.Linear`` at a time. None:
            ``kaiming_leaky_init`` with alpha and gain.
        dtype: of weights and signals.
        device: None: CUDA if there is one, else CPU.
        seed: of everything random here; the weights of net i are a function of (seed, i) alone.
        level: below this p-value the theory is rejected.
        layerwise: hold one layer in memory at a time (same numbers); None: when the weights take
            more than half of the memory.
        progress: called after every net.

    Returns:
        The curves, the scores and the verdict.

    Raises:
        ValueError: a size below 1, gain ≤ 0, slopes or inputs that do not fit, more inputs than the
            widest layer has units, or a signal that no scale fits into ``dtype``.
        TypeError: not numbers.
        FloatingPointError: a net overflowed that should not have.

    Source:
        hanin2020 (law of the logarithm), hall1983, sidak1967.

    Example:
        >>> validate(0.2, depth=5, width=64, seeds=4, device="cpu").holds
        True
    """
    plan = plan_nets(alpha, depth, width, gain, activation, init, dtype, device)
    seed = count("seed", seed, minimum=0)
    inputs = _inputs(x, count("batch", batch), count("in_features", in_features), seed)
    sizes = (inputs.shape[1], *plan.widths)
    _check_batch(inputs, sizes)
    stream = needs_streaming(plan, sizes) if layerwise is None else layerwise
    entering, cotangent_scale = _scaled(plan, inputs, stream)
    runner = (layerwise_runner if stream else whole_runner)(plan, sizes)
    tally = Tally(plan)
    for net in range(count("seeds", seeds)):
        weights, cotangents = _generators(seed, net, plan.device)
        drawn = torch.randn(len(inputs), sizes[-1], generator=cotangents) * cotangent_scale
        tally.add(runner(entering, drawn.to(entering), weights))
        if progress is not None:
            progress()
    return _result(plan, tally, sizes, inputs, level, stream)


def _inputs(x: ArrayLike | Tensor | None, batch: int, features: int, seed: int) -> FloatArray:
    if x is None:
        return np.random.default_rng([seed, 0]).standard_normal((batch, features))
    values = real_array("x", x.detach().cpu().double().numpy() if isinstance(x, Tensor) else x)
    if values.ndim != 2:
        raise ValueError(
            f"x must have shape (inputs, features); got {values.shape}. Use x.reshape(len(x), -1)."
        )
    empty = np.flatnonzero(~values.any(axis=1))
    if empty.size:
        raise ValueError(f"input {empty[0]} of x is all zero and carries no signal; leave it out.")
    return values


def _check_batch(inputs: FloatArray, sizes: Sequence[int]) -> None:
    if len(inputs) >= max(sizes[:-1]):
        raise ValueError(
            f"x has {len(inputs)} inputs; the exact law of the gradient needs fewer inputs than a "
            f"layer has units (at most {max(sizes[:-1])} here). Use fewer, e.g. x[:16]."
        )


def _scaled(plan: NetPlan, inputs: FloatArray, stream: bool) -> tuple[Tensor, float]:
    """Inputs and cotangents multiplied by powers of two that keep every layer within the dtype."""
    forward = backward = 0
    if not stream:
        growth = plan.log_growth()
        squares = np.log(np.mean(inputs**2, axis=1))
        forward = power_into_range(np.add.outer(squares, np.cumsum(growth)).ravel(), plan.dtype)
        backward = power_into_range(
            _log_grad_path(plan, (inputs.shape[1], *plan.widths)), plan.dtype
        )
    entering = torch.as_tensor(inputs * 2.0**forward).to(plan.device, plan.dtype)
    if not bool(torch.isfinite(entering).all()) or not bool(entering.any(dim=1).all()):
        raise ValueError(f"x does not fit {plan.dtype}; scale it to a mean square near one.")
    return entering, 2.0**backward


def _log_grad_path(plan: NetPlan, sizes: Sequence[int]) -> FloatArray:
    """Log mean-field second moment of the gradient over that at layer L, shape (L + 1,)."""
    growth = plan.log_growth() + np.log(np.array([1, *sizes[1:]]) / np.array([1, *sizes[:-1]]))
    return np.concatenate((np.cumsum(growth[:0:-1])[::-1], [0.0]))


def _generators(
    seed: int, net: int, device: torch.device
) -> tuple[torch.Generator, torch.Generator]:
    """Where the weights (on the device) and the cotangent (on the CPU) of a net come from."""
    weights, cotangent = np.random.SeedSequence([seed, net]).generate_state(2, np.uint64)
    return (
        torch.Generator(device).manual_seed(int(weights >> 1)),
        torch.Generator().manual_seed(int(cotangent >> 1)),
    )


def _result(
    plan: NetPlan,
    tally: Tally,
    sizes: tuple[int, ...],
    inputs: FloatArray,
    level: float,
    stream: bool,
) -> Validation:
    scores = tally.scores()
    layers = range(len(sizes))
    units = {"weights": np.sqrt([1.0, *sizes[1:]]), "activations": np.sqrt(sizes)}
    verdict = judge(
        {name: (layers, score, units[name.split()[1]]) for name, score in scores.items()},
        level=level,
    )
    q, grad = _curves(plan, tally, sizes, inputs)
    gain_forward, gain_backward = tally.gains()
    slopes = plan.slopes
    return Validation(
        alpha=float(slopes) if slopes.ndim == 0 else tuple(slopes.tolist()),
        gain=plan.gain,
        widths=sizes,
        seeds=tally.nets,
        batch=len(inputs),
        dtype=str(plan.dtype).removeprefix("torch."),
        device=_device_name(plan.device),
        layerwise=stream,
        q=q,
        grad=grad,
        scores=scores,
        gain_forward=gain_forward,
        gain_backward=gain_backward,
        verdict=verdict,
    )


def _curves(
    plan: NetPlan, tally: Tally, sizes: tuple[int, ...], inputs: FloatArray
) -> tuple[Curve, Curve]:
    squares = np.mean(inputs**2, axis=1)
    log_q0 = float(np.log(squares).mean())
    unit = inputs / np.sqrt(squares * inputs.shape[1])[:, None]
    cosines = unit @ unit.T
    forward = finite_width_law(plan.widths, plan.gain, plan.slopes)
    backward = finite_width_law(
        plan.widths, plan.gain, plan.slopes, direction="backward", in_features=sizes[0]
    )
    rise, back = tally.mean_logs()
    q = Curve(
        mean_field=log_q0 + np.cumsum(plan.log_growth()),
        expected=log_q0 + forward.mean_log_q,
        std=np.sqrt(forward_log_variance(plan.widths, plan.slopes, cosines)),
        measured=log_q0 + rise,
        nets=tally.nets,
    )
    grad = Curve(
        mean_field=_log_grad_path(plan, sizes),
        expected=backward.mean_log_q,
        std=np.sqrt(backward_log_variance(plan.widths, plan.slopes, cosines, np.eye(len(inputs)))),
        measured=back,
        nets=tally.nets,
    )
    return q, grad


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
