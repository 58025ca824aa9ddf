"""The nets that ``validate`` tests: what is claimed of them, how they are built and run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sigprop.activations import Activation
from sigprop.checks import FloatArray, real_array, real_number
from sigprop.measurement.steps import NetSteps, steps_layer_by_layer, steps_of_net
from sigprop.nn.dtypes import DType, floating_dtype
from sigprop.nn.mlp import DeepMLP, activation_module, hidden_activation, layer_widths
from sigprop.theory.leaky import g_star, second_moment
from sigprop.validation.function_law import FunctionLaw
from sigprop.validation.inits import GivenInit, Init, read_init

Runner = Callable[[Tensor, Tensor, torch.Generator], NetSteps]
Look = Callable[[int, Tensor], None]
"""Shown the number of a layer, 1 … L, and its weight."""

LARGEST_LOG = 290 * math.log(10)
"""Largest |log| of a second moment in nets that cannot be rescaled."""
MARGIN_BITS = 12
"""Powers of two kept free below and above the root mean square of a signal in a floating type."""


@dataclass(frozen=True)
class NetPlan:
    """What is claimed of the nets and what initializes them.

    Attributes:
        record: the activation.
        slopes: its negative slope (0-d), or one per channel (1-D); None outside the leaky family.
        widths: outputs n_1 … n_L.
        gain: claimed gain of every weight layer.
        bias_std: claimed standard deviation of every bias.
        init: the initialization under test.
        distribution: the claimed law of the weights; None: only their variance is claimed.
        dtype: of weights and signals.
        device: where the nets run.
        foreign: whether the initialization is the user's, who may leave weights as they were.
    """

    record: Activation
    slopes: FloatArray | None
    widths: tuple[int, ...]
    gain: float
    bias_std: float
    init: Init
    distribution: str | None
    dtype: torch.dtype
    device: torch.device
    foreign: bool = False

    @property
    def homogeneous(self) -> bool:
        """Whether scaling the input scales every signal: the exact finite-width law needs it."""
        return self.slopes is not None and self.bias_std == 0

    @cached_property
    def law(self) -> FunctionLaw:
        """Moments of the activation over pairs of inputs."""
        return FunctionLaw(self.record)

    def log_q_path(self, log_q0: FloatArray) -> FloatArray:
        """Log mean-field second moment of every input at every layer, shape (L + 1, B).

        Raises:
            ValueError: it leaves the range of a double, in a net that cannot be rescaled.
        """
        weight, bias = 2 * math.log(self.gain), 2 * _log(self.bias_std)
        path = [log_q0, np.logaddexp(weight + log_q0, bias)]
        for _ in self.widths[1:]:
            self._check_size(path[-1])
            path.append(np.logaddexp(weight + self._log_square(path[-1]), bias))
        self._check_size(path[-1])
        return np.array(path)

    def _check_size(self, log_q: FloatArray) -> None:
        far = float(log_q[np.abs(log_q).argmax()])
        if not self.homogeneous and abs(far) > LARGEST_LOG:
            raise ValueError(
                f"the second moment of the signal is to be 1e{far / math.log(10):+.0f} somewhere. "
                "With biases or an activation outside the leaky family it must stay between 1e-290 "
                "and 1e290: scale x, change the gain, or take fewer layers."
            )

    def log_grad_path(self, sizes: Sequence[int], log_q: FloatArray) -> FloatArray:
        """Log mean-field second moment of the gradient over that at layer L, shape (L + 1,).

        Args:
            sizes: n_0 … n_L.
            log_q: log second moment at every layer, shape (L + 1,).
        """
        steps = np.full(len(self.widths), 2 * math.log(self.gain))
        steps += np.log(np.array(sizes[1:]) / np.array(sizes[:-1]))
        if len(steps) == 1:
            pass  # no activation between
        elif self.slopes is None:
            steps[1:] += np.log(self.law.slope_moment(np.exp(log_q[1:-1])))
        else:
            steps[1:] += math.log(float(second_moment(self.slopes, channel_axis=self._axis)))
        return np.concatenate((np.cumsum(steps[::-1])[::-1], [0.0]))

    @property
    def _axis(self) -> int | None:
        return 0 if self.slopes is not None and self.slopes.ndim == 1 else None

    def _log_square(self, log_q: FloatArray) -> FloatArray:
        if self.slopes is None:
            with np.errstate(divide="ignore", over="ignore"):
                return np.log(self.law.second_moment(np.exp(log_q)))
        return log_q + math.log(float(second_moment(self.slopes, channel_axis=self._axis)))


def plan_nets(
    alpha: ArrayLike | None,
    depth: int | None,
    width: int | Sequence[int],
    gain: float | None,
    bias_std: float,
    activation: Any,
    init: GivenInit | None,
    dtype: DType,
    device: torch.device | str | None,
    distribution: str | None = None,
) -> NetPlan:
    """Check what the user asks for and fill in the defaults.

    Raises:
        ValueError: out of range, of a wrong shape, or an unknown word.
        TypeError: not a number, not a floating-point dtype, or no law for this activation.
    """
    if activation is None:
        if alpha is None:
            raise ValueError("give alpha, the negative slope, or activation=, a name.")
        activation = "leaky_relu" if real_array("alpha", alpha).ndim == 0 else "prelu"
    record, slopes = hidden_activation(activation, alpha)
    if slopes is None and record.kind != "function":
        raise TypeError(f"validate knows no exact law for {record.name!r} ({record.kind}).")
    widths = tuple(layer_widths(width, depth))
    activation_module(record, slopes, widths[0], None, None)
    bias_std = real_number("bias_std", bias_std, minimum=0)
    if distribution not in (None, "normal"):
        raise ValueError(
            f"distribution={distribution!r}: the law of the weights is known for 'normal' alone; "
            "None tests their variance and measures the rest."
        )
    claimed = forward_gain(record, slopes) if gain is None else real_number("gain", gain, above=0)
    return NetPlan(
        record, slopes, widths, claimed, bias_std, read_init(init, claimed, bias_std), distribution,
        floating_dtype(dtype), find_device(device), foreign=init is not None,
    )  # fmt: skip


def forward_gain(record: Activation, slopes: FloatArray | None) -> float:
    """The gain that keeps a second moment of one; for the leaky family also the critical one.

    Args:
        record: the activation.
        slopes: its slopes if it is of the leaky family (see ``nn.mlp.hidden_activation``).

    Example:
        >>> round(forward_gain(*hidden_activation("gelu")), 6)
        1.53353
    """
    if slopes is not None:
        return float(g_star(slopes, channel_axis=0 if slopes.ndim == 1 else None))
    return float(1 / np.sqrt(FunctionLaw(record).second_moment(np.array(1.0))))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def find_device(device: torch.device | str | None) -> torch.device:
    """The device meant; None: CUDA if there is one, else CPU.

    Raises:
        ValueError: unknown, or not on this machine.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; try 'cpu' or 'cuda'.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no CUDA device here.")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported; use 'cpu' or 'cuda'.")
    return found


def whole_runner(plan: NetPlan, sizes: Sequence[int], look: Look | None = None) -> Runner:
    """Runs nets that fit in memory: one module, initialized anew for every net."""
    # Built without torch's default initialization, which costs as much as ours.
    model = DeepMLP(sizes[0], sizes[1:], activation=plan.record, device="meta", dtype=plan.dtype)
    model.to_empty(device=plan.device)
    with torch.no_grad():
        for name, parameter in model.named_parameters() if plan.foreign else ():
            parameter.fill_(0.0 if name.endswith("bias") else math.nan)
    model.activations = nn.ModuleList(_activations(plan, sizes))

    def run(x: Tensor, cotangent: Tensor, generator: torch.Generator) -> NetSteps:
        plan.init(model, generator)
        if look is not None:
            for index in range(len(model.layers)):
                look(index + 1, model.get_parameter(f"layers.{index}.weight"))
        steps = steps_of_net(model, x, cotangent, mirrored=plan.slopes is not None)
        if np.isnan(steps.log_q[-1]).any():  # as one NaN anywhere makes it
            _check_set(model)
        return steps

    return run


def _check_set(model: nn.Module) -> None:
    """Refuse weights that an initialization has left as they were, NaN, wholly or in part.

    Raises:
        ValueError: naming them.
    """
    unset = [name for name, tensor in model.named_parameters() if bool(tensor.sum().isnan())]
    if unset:
        raise ValueError(
            f"init must set every weight of the module it is given; it left {', '.join(unset[:3])}"
            f"{' and others' if len(unset) > 3 else ''} as it was, or set NaN."
        )


def layerwise_runner(plan: NetPlan, sizes: Sequence[int], look: Look | None = None) -> Runner:
    """Runs nets of any size: one weight layer exists at a time and is drawn twice from its seed."""
    layers: dict[tuple[int, int], nn.Linear] = {}
    activations = _activations(plan, sizes)

    def run(x: Tensor, cotangent: Tensor, generator: torch.Generator) -> NetSteps:
        states: list[Tensor] = []

        def make_layer(index: int) -> nn.Linear:
            shape = (sizes[index], sizes[index + 1])
            if shape not in layers:
                empty = nn.Linear(*shape, device="meta", dtype=plan.dtype)
                layers[shape] = empty.to_empty(device=plan.device)
                nn.init.zeros_(layers[shape].bias)
            first = index == len(states)
            if first:
                states.append(generator.get_state())
            else:
                generator.set_state(states[index])
            if plan.foreign:
                with torch.no_grad():
                    layers[shape].weight.fill_(math.nan)
            plan.init(layers[shape], generator)
            if plan.foreign:
                _check_set(layers[shape])
            if first and look is not None:
                look(index + 1, layers[shape].weight)
            return layers[shape]

        return steps_layer_by_layer(
            make_layer,
            activations,
            x,
            cotangent,
            homogeneous=plan.homogeneous,
            mirrored=plan.slopes is not None,
        )

    return run


def _activations(plan: NetPlan, sizes: Sequence[int]) -> list[nn.Module]:
    """Those between the layers; layers of one width share theirs, which nothing tells apart."""
    made = {
        n: activation_module(plan.record, plan.slopes, n, plan.device, plan.dtype)
        for n in set(sizes[1:-1])
    }
    return [made[n] for n in sizes[1:-1]]


def needs_streaming(plan: NetPlan, sizes: Sequence[int]) -> bool:
    """Whether the weights take more than half of the memory: free on CUDA, physical on a CPU."""
    numbers = sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    if plan.device.type == "cuda":
        memory, _ = torch.cuda.mem_get_info(plan.device)
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return numbers * plan.dtype.itemsize > memory / 2


def power_into_range(log_path: FloatArray, dtype: torch.dtype) -> int:
    """The power of two by which to multiply a signal so that its whole path fits a dtype.

    Exact for a positively homogeneous net. Zero if the path fits as it is.

    Args:
        log_path: predicted log of the second moment, layer by layer.
        dtype: floating type of the signal.

    Raises:
        ValueError: no power makes it fit.

    Example:
        >>> power_into_range(np.array([0.0, -200.0]), torch.float32)
        73
    """
    limits = torch.finfo(dtype)
    lowest = math.log2(limits.tiny) + MARGIN_BITS
    highest = math.log2(limits.max) - MARGIN_BITS
    root = log_path / (2 * math.log(2))
    low, high = float(root.min()), float(root.max())
    if low >= lowest and high <= highest:
        return 0
    if high - low > highest - lowest:
        raise ValueError(
            f"the predicted signal runs from 2^{low:.0f} to 2^{high:.0f}, more than {dtype} can "
            "hold; use layerwise=True (no limit in depth), inputs of similar size, or "
            "dtype=torch.float64."
        )
    return round((lowest + highest - low - high) / 2)
