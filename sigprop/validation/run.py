"""The main job: draw nets, run them forward and backward, set them against the exact law."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sigprop.checks import FloatArray, Progress, count, real_array, real_number, torch_names
from sigprop.nn.dtypes import DType
from sigprop.theory.batch import backward_log_variance, forward_log_variance
from sigprop.theory.finite_width import finite_width_law
from sigprop.theory.leaky import g_star
from sigprop.validation.inits import GivenInit
from sigprop.validation.judge import judge
from sigprop.validation.nets import (
    NetPlan,
    layerwise_runner,
    needs_streaming,
    plan_nets,
    power_into_range,
    whole_runner,
)
from sigprop.validation.result import Curve, Validation
from sigprop.validation.scores import ScoreSums
from sigprop.validation.weight_law import WEIGHT_FAMILIES, WeightSums

SEEDS = 16
"""Nets of one kind, if nothing else is asked for."""


@torch_names
def validate(
    alpha: ArrayLike | None = None,
    depth: int | None = None,
    width: int | Sequence[int] = 512,
    *,
    seeds: int = SEEDS,
    gain: float | None = None,
    bias_std: float = 0.0,
    x: ArrayLike | Tensor | None = None,
    in_features: int = 64,
    batch: int = 16,
    activation: Any = None,
    init: GivenInit | None = None,
    distribution: str | None = None,
    dtype: DType = torch.float32,
    device: torch.device | str | None = None,
    seed: int = 0,
    level: float = 0.01,
    layerwise: bool | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Test whether real nets obey the theory, forward and backward, as a calibrated statement.

    ``seeds`` nets (:class:`sigprop.DeepMLP`) are initialized and run on one batch. The theory
    claims Var W = gain²/fan_in and Var b = bias_std² in every layer, the input layer included (so
    q¹ = gain²·mean x² + bias_std²), and E φ² = V(q), for the leaky family q(1+α²)/2. Tested, per
    layer and over all nets, are normal scores. They are independent if the theory holds, and the
    p-value comes from the exact law of the worst of them: over right nets it is uniform.

    * *forward weights*: the batch mean of q̂ given what entered the layer, whose law under Gaussian
      weights is a weighted χ² that knows how the inputs of one net are correlated;
    * *backward weights*: the squared gradient off the span of what entered the layer, which is
      independent of the whole forward pass and has the same kind of law;
    * *forward* and *backward activations*: the module is run at z and at −z, which are equally
      likely, in the dtype of the net, so that rounding is in both. Half the difference of the
      squares changes sign with the weights of a unit: the sum of these over their root sum of
      squares is N(0, 1). A slope that is not the claimed one adds what no rounding explains. The
      backward score is what is left beyond the forward one; it is exact for one input and good to
      O(1/width) for several. Of other activations mean φ² over units is tested, forward: what is
      left of it beyond mean z², which the forward weights test.
    * with ``distribution="normal"``, *row norms*, *fourth moment*, *row directions*, *shared
      weights* and *order*: see ``validation/weight_law.py``.

    Without ``distribution`` nothing is asked of the weights but their variance. Uniform, orthogonal
    or sparse weights of the right variance pass; of other laws than the normal one the curves are
    measured and good to O(1/width), and the scores are as good as the central limit theorem.
    What a result has tested, and what not, is in its text and in ``notes``.

    Args:
        alpha: negative slope, or one slope per channel (all hidden widths equal to its length);
            for other activations their parameter of that name, if any.
        depth: number of weight layers; left out when ``width`` is a sequence.
        width: outputs of every weight layer, or the sequence n_1 … n_L.
        seeds: number of nets.
        gain: the claimed gain; None: the forward gain 1/√(E φ²) at q = 1, for the leaky family
            ``g_star(alpha)``.
        bias_std: the claimed standard deviation of the biases.
        x: inputs, shape (B, n_0), none of them all zero; None: ``batch`` standard normal ones.
        in_features: n_0 when ``x`` is None.
        batch: B when ``x`` is None.
        activation: a function of one pre-activation: a name, a torch module or class, or a record;
            None: leaky ReLU, or PReLU if ``alpha`` is an array.
        init: the initialization under test, ``init(module, generator)``; it must set every weight.
            Layer by layer it is called with one ``nn.Linear`` at a time. Or a function of
            ``torch.nn.init`` with its own arguments, by name or by itself: ``"kaiming_normal"``,
            ``nn.init.orthogonal_``; biases are then as claimed. None: ``kaiming_leaky_init`` with
            alpha and gain.
        distribution: the claimed law of the weights, in the word of ``kaiming_leaky_init``:
            ``"normal"`` tests that they are independent normal numbers, and names the kind of
            those that are not, or says that it is unknown. None: only their variance is claimed.
        dtype: of weights and signals, also by name: ``"bfloat16"``.
        device: None: CUDA if there is one, else CPU.
        seed: of everything random here; the weights of net i are a function of (seed, i) alone.
        level: below this p-value the theory is rejected; between 0 and 1.
        layerwise: hold one layer in memory at a time (same numbers); None: when the weights take
            more than half of the memory.
        progress: called after every net with (nets done, nets in all).

    Returns:
        The curves, the scores and the verdict.

    Raises:
        ValueError: a size below 1, gain ≤ 0, slopes or inputs that do not fit, more inputs than the
            widest layer has units, too few units for any score, a level outside (0, 1), a law of
            weights that is not known, or a signal that no scale fits into ``dtype``.
        TypeError: not numbers.
        FloatingPointError: a net overflowed that should not have.

    Source:
        hanin2020 (law of the logarithm), hall1983, sidak1967.

    Example:
        >>> validate(0.2, depth=5, width=64, seeds=4, device="cpu").holds
        True
    """
    level = real_number("level", level, above=0, below=1)
    plan = plan_nets(
        alpha, depth, width, gain, bias_std, activation, init, dtype, device, distribution
    )
    seed = count("seed", seed, minimum=0)
    inputs = _inputs(x, count("batch", batch), count("in_features", in_features), seed)
    sizes = (inputs.shape[1], *plan.widths)
    _check_batch(inputs, sizes)
    stream = needs_streaming(plan, sizes) if layerwise is None else layerwise
    entering, cotangent_scale = _scaled(plan, inputs, stream)
    sums = ScoreSums(plan, inputs.shape[1])
    weights_seen = WeightSums(sizes) if plan.distribution else None
    look = None if weights_seen is None else weights_seen.add
    runner = (layerwise_runner if stream else whole_runner)(plan, sizes, look)
    seeds = count("seeds", seeds)
    for net in range(seeds):
        weights, cotangents = _generators(seed, net, plan.device)
        drawn = torch.randn(len(inputs), sizes[-1], generator=cotangents) * cotangent_scale
        sums.add(runner(entering, drawn.to(entering), weights))
        if weights_seen is not None:
            weights_seen.end_net()
        if progress is not None:
            progress(net + 1, seeds)
    return _result(plan, sums, weights_seen, sizes, inputs, level, stream)


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
    """Inputs and cotangents; of homogeneous nets multiplied by powers of two to fit the dtype."""
    forward = backward = 0
    path = plan.log_q_path(_log_squares(inputs)[0])
    if plan.homogeneous and stream:  # the layers behind the first are scaled on the way
        forward = power_into_range(path[:2], plan.dtype)
    elif plan.homogeneous:
        forward = power_into_range(path, plan.dtype)
        sizes = (inputs.shape[1], *plan.widths)
        backward = power_into_range(plan.log_grad_path(sizes, path.mean(axis=1)), plan.dtype)
    with np.errstate(over="ignore", under="ignore"):
        entering = torch.as_tensor(np.ldexp(inputs, forward)).to(plan.device, plan.dtype)
    if not bool(torch.isfinite(entering).all()) or not bool(entering.any(dim=1).all()):
        raise ValueError(f"x does not fit {plan.dtype}; scale it to a mean square near one.")
    return entering, 2.0**backward


def _generators(
    seed: int, net: int, device: torch.device
) -> tuple[torch.Generator, torch.Generator]:
    """Where the weights (on the device) and the cotangent (on the CPU) of a net come from."""
    weights, cotangent = np.random.SeedSequence([seed, net]).generate_state(2, np.uint64)
    return (
        torch.Generator(device).manual_seed(int(weights) >> 1),
        torch.Generator().manual_seed(int(cotangent) >> 1),
    )


def _result(
    plan: NetPlan,
    sums: ScoreSums,
    weights_seen: WeightSums | None,
    sizes: tuple[int, ...],
    inputs: FloatArray,
    level: float,
    stream: bool,
) -> Validation:
    layers = range(len(sizes))
    entries = np.sqrt([1.0, *(n_in * n_out for n_in, n_out in pairwise(sizes))])
    units = {"weights": np.sqrt([1.0, *sizes[1:]]), "activations": np.sqrt(sizes)}
    scores = sums.scores()
    asked = {name: (layers, score, units[name.split()[1]]) for name, score in scores.items()}
    if weights_seen is not None:
        scores |= weights_seen.scores()
        asked |= {name: (layers, scores[name], entries) for name in WEIGHT_FAMILIES}
    if all(np.isnan(score).all() for score in scores.values()):
        raise ValueError(
            f"too few units to test anything: seeds={sums.nets}, {len(plan.widths)} layers of at "
            f"most {max(plan.widths)} units, {len(inputs)} inputs. Use more seeds, wider layers or "
            "one input (batch=1); " + "; ".join(sums.untested())
        )
    verdict = judge(asked, level=level)
    q, grad = _curves(plan, sums, sizes, inputs)
    gain_forward, gain_backward = sums.gains()
    slopes = plan.slopes
    alpha = plan.record.parameters.get("alpha") if slopes is None else slopes.tolist()
    return Validation(
        activation=plan.record.name,
        alpha=tuple(alpha) if isinstance(alpha, list) else alpha,
        critical_gain=None if slopes is None else _critical(slopes),
        gain=plan.gain,
        bias_std=plan.bias_std,
        widths=sizes,
        seeds=sums.nets,
        batch=len(inputs),
        dtype=str(plan.dtype).removeprefix("torch."),
        device=_device_name(plan.device),
        layerwise=stream,
        distribution=plan.distribution,
        q=q,
        grad=grad,
        scores=scores,
        gain_forward=gain_forward,
        gain_backward=gain_backward,
        verdict=verdict,
        weight_kinds=() if weights_seen is None else tuple(sorted(weights_seen.kinds.items())),
        notes=sums.untested(),
    )


def _curves(
    plan: NetPlan, sums: ScoreSums, sizes: tuple[int, ...], inputs: FloatArray
) -> tuple[Curve, Curve]:
    log_squares, cosines = _log_squares(inputs)
    log_q0 = float(log_squares.mean())
    path = plan.log_q_path(log_squares)
    mean_field = path.mean(axis=1)
    grad_mean_field = plan.log_grad_path(sizes, mean_field)
    rise, back = sums.mean_logs()
    if plan.homogeneous and plan.slopes is not None:
        law = partial(finite_width_law, plan.widths, plan.gain, plan.slopes)
        expected = log_q0 + law().mean_log_q
        grad_expected = law(direction="backward", in_features=sizes[0]).mean_log_q
        variance = forward_log_variance(plan.widths, plan.slopes, cosines)
        independent = np.eye(len(inputs))
        grad_variance = backward_log_variance(plan.widths, plan.slopes, cosines, independent)
    else:
        shift, variance = plan.law.log_moments(
            np.exp(path), cosines, plan.widths, plan.gain, plan.bias_std
        )
        expected, grad_expected = mean_field + shift, grad_mean_field
        grad_variance = np.full_like(variance, np.nan)
    return (
        Curve(mean_field, expected, np.sqrt(variance), log_q0 + rise, sums.nets),
        Curve(grad_mean_field, grad_expected, np.sqrt(grad_variance), back, sums.nets),
    )


def _log_squares(inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log mean square of every input, and their cosines; at any size of a double."""
    peak = np.abs(inputs).max(axis=1, keepdims=True)
    unit = inputs / peak
    squares = np.mean(unit**2, axis=1)
    unit = unit / np.sqrt(squares * inputs.shape[1])[:, None]
    return 2 * np.log(peak[:, 0]) + np.log(squares), unit @ unit.T


def _critical(slopes: FloatArray) -> float:
    return float(g_star(slopes, channel_axis=0 if slopes.ndim == 1 else None))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
