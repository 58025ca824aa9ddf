"""Units made of straight pieces that torch lacks: phased, random, constrained, maxout."""

import math

import torch
from torch import Tensor, nn

from sigprop.checks import count, one_of, real_number
from sigprop.nn.dtypes import DType, floating_dtype


class PhasedReLU(nn.Module):
    """x above 0, αx on [−β/α, 0], 0 below: leaky ReLU cut off where it reaches −β.

    β = 0 is ReLU, β → ∞ leaky ReLU. At the edge e = −β/α it jumps by −β. β acts only through the
    place of that jump, so plain backpropagation gives it no gradient. With ``edge_width`` w > 0 it
    gets that of a stated smoothing, in which the step at e is a ramp of half-width w:

        φ_w(x) = αx·S((x − e)/2w), S(t) = t + ½ kept in [0, 1];
        ∂φ_w/∂β = x/2w and ∂φ_w/∂α = x·S − (β/α)·x/2w where |x − e| < w.

    The output and the gradient with respect to x stay those of φ itself. Averaged over inputs whose
    density p and whose gradient from above g are smooth on the scale w, β's gradient is that of the
    expected loss, −(β/α)·g(e)·p(e). A small w is faithful and noisy (a share ≈ 2w·p(e) of inputs
    counts), a large one the reverse.

    Args:
        alpha: start value of α, > 0.
        beta: start value of β, ≥ 0.
        edge_width: w of the gradient of the edge; 0: the edge has no gradient.
        learnable: whether α and β are parameters (else buffers).
        device: as for any torch module.
        dtype: as for any torch module; also by name, ``"bfloat16"``.

    Source: phased.

    Example:
        >>> PhasedReLU(alpha=0.5, beta=1.0)(torch.tensor([-3.0, -2.0, -1.0, 2.0])).tolist()
        [0.0, -1.0, -0.5, 2.0]
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        alpha: float = 0.25,
        beta: float = 1.0,
        *,
        edge_width: float = 0.1,
        learnable: bool = True,
        device: torch.device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.edge_width = real_number("edge_width", edge_width, minimum=0)
        starts = {
            "alpha": real_number("alpha", alpha, above=0),
            "beta": real_number("beta", beta, minimum=0),
        }
        kind = floating_dtype(dtype) or torch.get_default_dtype()
        for name, value in starts.items():
            start = torch.tensor(value, device=device, dtype=kind)
            if learnable:
                setattr(self, name, nn.Parameter(start))
            else:
                self.register_buffer(name, start)

    def forward(self, x: Tensor) -> Tensor:
        """Return φ(x), elementwise."""
        edge = -self.beta / self.alpha
        zero = torch.zeros_like(x)
        inside = (x >= edge.detach()) & (self.beta > 0)
        out = torch.where(x > 0, x, torch.where(inside, self.alpha * x, zero))
        if self.edge_width > 0:
            at = x.detach()
            near = (at - edge.detach()).abs() < self.edge_width
            ramp = (torch.where(near, at, zero) - edge) / (2 * self.edge_width)
            weight = torch.where(near & (at <= 0), self.alpha.detach() * at, zero)
            out = out + weight * (ramp - ramp.detach())  # zero, with the gradient of the edge
        return out

    def extra_repr(self) -> str:
        """Return the edge's width."""
        return f"edge_width={self.edge_width:g}"


class RandomLeakyReLU(nn.Module):
    """Leaky ReLU whose slope is drawn from U(lower, upper), one per forward pass while training.

    In evaluation the slope is the mean. A slope per element is ``torch.nn.RReLU``.

    Args:
        lower: smallest slope.
        upper: largest slope.
        generator: source of the slopes, on the device of the data; None: torch's own.

    Attributes:
        slope: the slope of the last pass: the law of that pass is leaky ReLU's with it.

    Source: xu2015.

    Example:
        >>> RandomLeakyReLU(0.1, 0.3).eval()(torch.tensor([-1.0, 2.0])).tolist()
        [-0.2..., 2.0]
    """

    slope: Tensor

    def __init__(
        self,
        lower: float = 1 / 8,
        upper: float = 1 / 3,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.lower = real_number("lower", lower)
        self.upper = real_number("upper", upper, minimum=self.lower)
        self.generator = generator
        self.register_buffer("slope", torch.tensor((lower + upper) / 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x where x > 0, slope·x elsewhere."""
        if self.training:
            share = torch.rand((), generator=self.generator, device=x.device, dtype=x.dtype)
            slope = self.lower + (self.upper - self.lower) * share
        else:
            slope = torch.full((), (self.lower + self.upper) / 2, device=x.device, dtype=x.dtype)
        self.slope = slope
        return torch.where(x > 0, x, slope * x)

    def __getstate__(self) -> dict[str, object]:
        """Leave the generator behind: it does not pickle, and a copy must not share draws."""
        return {**self.__dict__, "generator": None}

    def extra_repr(self) -> str:
        """Return the interval."""
        return f"lower={self.lower:g}, upper={self.upper:g}"


class ConstrainedPReLU(nn.Module):
    """PReLU whose slopes stay in [lower, upper].

    Args:
        num_parameters: 1, or the number of channels (axis 1, as in ``torch.nn.PReLU``).
        init: start value of the slopes, inside the interval.
        lower: smallest slope.
        upper: largest slope; may be ``math.inf``.
        method: ``"parametrization"``: slope = lower + (upper − lower)·σ(w), or lower + softplus(w)
            if upper is infinite; the ends are never reached, and the gradient fades near them.
            ``"projection"``: slope = w kept in the interval, with the gradient of w passed straight
            through; call :meth:`project_` after each step of the optimizer, so that w itself stays.
        device: as for any torch module.
        dtype: as for any torch module; also by name, ``"bfloat16"``.

    Source: he2015.

    Example:
        >>> layer = ConstrainedPReLU(3, lower=0.0, upper=1.0)
        >>> layer.slopes().tolist()
        [0.25, 0.25, 0.25]
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        *,
        lower: float = 0.0,
        upper: float = math.inf,
        method: str = "parametrization",
        device: torch.device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.num_parameters = count("num_parameters", num_parameters)
        self.lower = real_number("lower", lower)
        self.upper = real_number("upper", upper, above=self.lower, allow_infinite=True)
        self.projects = one_of("method", method, ("parametrization", "projection")) == "projection"
        init = real_number("init", init, minimum=self.lower, maximum=self.upper)
        if not self.projects and init in (self.lower, self.upper):
            raise ValueError(
                f"init must be inside ({lower:g}, {upper:g}); got {init:g}. "
                "Use method='projection' to start at an end."
            )
        start = init if self.projects else self._raw(init)
        self.weight = nn.Parameter(
            torch.full((self.num_parameters,), start, device=device, dtype=floating_dtype(dtype))
        )

    def _raw(self, slope: float) -> float:
        if math.isinf(self.upper):
            gap = slope - self.lower  # the inverse of softplus
            return gap + math.log(-math.expm1(-gap))
        return math.log(slope - self.lower) - math.log(self.upper - slope)

    def slopes(self) -> Tensor:
        """The slopes in use, one per channel, with their gradient."""
        if self.projects:
            kept = self.weight.detach().clamp(self.lower, self.upper)
            return kept + (self.weight - self.weight.detach())
        if self.upper == math.inf:  # isinf fails in TorchScript of old torch
            return self.lower + nn.functional.softplus(self.weight)
        return self.lower + (self.upper - self.lower) * torch.sigmoid(self.weight)

    @torch.no_grad()
    def set_slopes(self, values: Tensor) -> None:
        """Set the slopes, one or one per channel, in place.

        Raises:
            ValueError: outside the interval; at an end of it, which a parametrization never
                reaches.
        """
        raw, low, high, ends = values.flatten().tolist(), self.lower, self.upper, self.projects
        if not all(low <= s <= high and (ends or low < s < high) for s in raw):
            raise ValueError(
                f"the slopes of ConstrainedPReLU must be inside {'[' if ends else '('}{low:g}, "
                f"{high:g}{']' if ends else ')'}; got {min(raw):g} to {max(raw):g}. Choose a wider "
                "interval"
                + ("." if ends else ", or method='projection', which lets slopes stand at an end.")
            )
        raw = raw if ends else [self._raw(slope) for slope in raw]
        self.weight.copy_(torch.tensor(raw, dtype=torch.float64))

    @torch.no_grad()
    def project_(self, min: float = -math.inf, max: float = math.inf) -> None:
        """Put w back into the interval, and into [min, max], in place.

        Nothing to do for a parametrization.
        """
        if self.projects:
            self.weight.clamp_(self.lower, self.upper).clamp_(min, max)

    def forward(self, x: Tensor) -> Tensor:
        """Return x where x > 0, its channel's slope times x elsewhere."""
        return nn.functional.prelu(x, self.slopes())

    def extra_repr(self) -> str:
        """Return the interval and the way it is kept."""
        way = "projection" if self.projects else "parametrization"
        return f"{self.num_parameters}, [{self.lower:g}, {self.upper:g}], {way}"


class MaxoutActivation(nn.Module):
    """The largest of each k neighbours: (…, k·units) → (…, units). One of a tie takes the gradient.

    Args:
        k: number of maps per unit.
        dim: the axis of the k·units numbers: −1 after ``Linear``, 1 after a convolution.

    Source: goodfellow2013.

    Example:
        >>> MaxoutActivation(2)(torch.tensor([[1.0, 3.0, -2.0, -5.0]])).tolist()
        [[3.0, -2.0]]
    """

    def __init__(self, k: int = 2, *, dim: int = -1) -> None:
        super().__init__()
        self.k, self.dim = count("k", k), int(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest of each k neighbours along the axis."""
        size = x.shape[self.dim]
        if size % self.k != 0:
            raise ValueError(f"axis {self.dim} has {size} entries, not a multiple of k = {self.k}.")
        at = self.dim if self.dim >= 0 else x.dim() + self.dim
        return torch.unflatten(x, at, (size // self.k, self.k)).max(dim=at + 1).values

    def extra_repr(self) -> str:
        """Return k and the axis."""
        return f"k={self.k}, dim={self.dim}"
