"""How numbers are drawn into a weight: laws by their standard deviation, a stated generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TRUNCATED_STD = math.sqrt(
    1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
)  # of N(0,1) cut at ±2: 0.87962566103423978


@dataclass(frozen=True)
class Mirror:
    """Where a mirrored weight repeats itself with the opposite sign.

    Attributes:
        rows: [W; −W]: the layer feeds an activation.
        columns: [W, −W]: the layer is fed by one.
        scale: relative size of each column of W, one number or one per column.
    """

    rows: bool = True
    columns: bool = True
    scale: tuple[float, ...] = (1.0,)

    @property
    def description(self) -> str:
        """The same in words."""
        names = {(True, True): "both ways", (True, False): "rows", (False, True): "columns"}
        return names.get((self.rows, self.columns), "not")


class Law(NamedTuple):
    """What is drawn: distribution, root mean square of an entry, and the structure of the weight.

    Attributes:
        distribution: a key of :data:`DISTRIBUTIONS`.
        std: root mean square of an entry of the weight.
        groups: blocks along the first dimension drawn apart (grouped convolutions).
        mirror: for ``"mirrored"``.
    """

    distribution: str
    std: float
    groups: int = 1
    mirror: Mirror = Mirror()


def fill(weight: Tensor, law: Law, generator: torch.Generator | None) -> None:
    """Draw into a weight, in place: on the generator's device, in float64 or float32, then cast.

    A CPU generator (None: torch's own) draws on the CPU wherever the weight is, so that one seed
    gives one network; a weight that is float32 or float64, contiguous and on that device is drawn
    into straight. Called where autograd is off.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
    straight = weight.dtype is dtype and weight.device == device and weight.is_contiguous()
    drawn = weight if straight else torch.empty(weight.shape, dtype=dtype, device=device)
    DISTRIBUTIONS[law.distribution](drawn, law, generator)
    if not straight:
        weight.copy_(drawn)


def haar(
    rows: int,
    columns: int,
    generator: torch.Generator | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """A Haar (semi-)orthogonal matrix: QR of a Gaussian one, signs fixed; short side orthonormal.

    Source: saxe2014; mezzadri2007.

    Example:
        >>> q = haar(3, 5, torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> bool(torch.allclose(q @ q.T, torch.eye(3, dtype=torch.float64)))
        True
    """
    size = (max(rows, columns), min(rows, columns))
    gaussian = torch.empty(size, dtype=dtype, device=device).normal_(generator=generator)
    q, r = torch.linalg.qr(gaussian)
    q *= torch.where(r.diagonal() < 0, -1.0, 1.0)
    short: Tensor = q if rows >= columns else q.T
    return short


def _normal(weight: Tensor, law: Law, generator: torch.Generator | None) -> None:
    weight.normal_(0.0, law.std, generator=generator)


def _uniform(weight: Tensor, law: Law, generator: torch.Generator | None) -> None:
    bound = math.sqrt(3) * law.std
    weight.uniform_(-bound, bound, generator=generator)


def _truncated_normal(weight: Tensor, law: Law, generator: torch.Generator | None) -> None:
    inside = math.erf(math.sqrt(2))
    sigma = law.std / TRUNCATED_STD
    weight.uniform_(-inside, inside, generator=generator).erfinv_()
    weight.mul_(math.sqrt(2) * sigma).clamp_(-2 * sigma, 2 * sigma)


def _orthogonal(weight: Tensor, law: Law, generator: torch.Generator | None) -> None:
    for block in weight.chunk(law.groups):
        rows, columns = block.shape[0], block[0].numel()
        q = haar(rows, columns, generator, dtype=weight.dtype, device=weight.device)
        block.copy_((q * (law.std * math.sqrt(max(rows, columns)))).reshape(block.shape))


def _mirrored(weight: Tensor, law: Law, generator: torch.Generator | None) -> None:
    mirror, taps = law.mirror, math.prod(weight.shape[2:])
    rows = weight.shape[0] // (2 if mirror.rows else 1)
    columns = weight.shape[1] // (2 if mirror.columns else 1)
    q = haar(rows, columns, generator, dtype=weight.dtype, device=weight.device)
    block = q * (law.std * math.sqrt(taps * max(rows, columns)))
    scale = torch.tensor(mirror.scale, dtype=torch.float64)
    scale = (scale / scale.square().mean().sqrt()).to(block)
    block = block * scale.repeat_interleave(columns // len(scale))
    if mirror.columns:
        block = torch.cat([block, -block], 1)
    if mirror.rows:
        block = torch.cat([block, -block], 0)
    weight.zero_()
    centre = weight
    for size in weight.shape[2:]:
        centre = centre.select(2, size // 2)
    centre.copy_(block)


Sampler = Callable[[Tensor, Law, torch.Generator | None], None]

DISTRIBUTIONS: Mapping[str, Sampler] = {
    "normal": _normal,
    "uniform": _uniform,
    "truncated_normal": _truncated_normal,
    "orthogonal": _orthogonal,
    "mirrored": _mirrored,
}
