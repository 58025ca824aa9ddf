"""What the analyses of training share: data to learn from, and nets that learn side by side.

Nets of one architecture are stacked along a first axis and run by one call (``torch.func``): their
losses are added, so that each gets exactly the gradient it would get alone.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sigprop.data import digits, mnist
from sigprop.validation.nets import find_device


@dataclass(frozen=True)
class Data:
    """Images to learn from and images to be asked, of mean zero and mean square one.

    Shapes (images, pixels) and (images,); pixels have the mean and scale of those learnt from.
    """

    x: Tensor
    y: Tensor
    x_asked: Tensor
    y_asked: Tensor


def load_data(seed: int, learn: int = 1300, *, per_pixel: bool = True, folder: str = "") -> Data:
    """Real handwritten digits, split at random (or MNIST's, split as it is, from its folder).

    Args:
        seed: of the split, or of the choice of ``learn`` images from MNIST's.
        learn: images to learn from.
        per_pixel: whether each pixel's own mean is taken away, or the mean over all of them.
        folder: of MNIST's four IDX files; "": the 1,797 digits of scikit-learn.
    """
    rng = np.random.default_rng(seed)
    images, labels = mnist(folder, "train") if folder else digits()
    order = rng.permutation(len(labels))
    chosen, rest = order[:learn], order[learn:]
    asked = mnist(folder, "test") if folder else (images[rest], labels[rest])
    images, labels = images[chosen], labels[chosen]
    centre = images.mean(axis=0) if per_pixel else images.mean()
    scale = math.sqrt(np.mean((images - centre) ** 2))
    x, x_asked = ((part - centre) / scale for part in (images, asked[0]))
    device = find_device(None)
    return Data(
        *(
            torch.as_tensor(part, dtype=kind).to(device)
            for part, kind in (
                (x, torch.float32),
                (labels, torch.int64),
                (x_asked, torch.float32),
                (asked[1], torch.int64),
            )
        )
    )


class Stack:
    """Nets of one architecture as one function of (nets, batch, …) → (nets, batch, outputs).

    Attributes:
        weights: name → parameters of all nets, the net first.
        buffers: name → buffers of all nets, the net first.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        weights, buffers = stack_module_state(list(nets))
        self.net = copy.deepcopy(nets[0])
        for name, module in nets[0].named_modules():
            if type(module) is nn.RReLU:
                self.net.set_submodule(name, _RandomSlopes(module.lower, module.upper))
        self.weights: dict[str, Tensor] = {
            name: value.detach().requires_grad_() for name, value in weights.items()
        }
        self.buffers: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in buffers.items()
        }

    def __call__(self, x: Tensor) -> Tensor:
        """Run net i on x[i]; dropout and random slopes are drawn for each net by itself."""

        def run(weights: dict[str, Tensor], buffers: dict[str, Tensor], part: Tensor) -> Tensor:
            return functional_call(self.net, (weights, buffers), (part,))

        return vmap(run, randomness="different")(self.weights, self.buffers, x)

    def finite(self) -> np.ndarray:
        """Whether every weight of a net is a finite number, shape (nets,)."""
        parts = [
            weight.detach().isfinite().reshape(len(weight), -1).all(1)
            for weight in self.weights.values()
        ]
        return torch.stack(parts).all(dim=0).cpu().numpy()


class _RandomSlopes(nn.RReLU):
    """torch's RReLU by operations that can run for many nets at once."""

    def forward(self, x: Tensor) -> Tensor:
        slope: Tensor | float = (self.lower + self.upper) / 2
        if self.training:
            slope = self.lower + (self.upper - self.lower) * torch.rand_like(x)
        return torch.where(x > 0, x, slope * x)


def train(
    nets: Stack,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    rates: Tensor | float,
    *,
    momentum: float = 0.0,
    adam: bool = False,
    after: Callable[[int], None] | None = None,
) -> Tensor:
    """Descent on the cross-entropy of every net; the losses, shape (steps, nets).

    Args:
        nets: changed in place.
        batch: step → images (nets, batch, …) and labels (nets, batch).
        steps: number of steps.
        rates: learning rate, one or one a net.
        momentum: of the gradient, as in ``torch.optim.SGD``.
        adam: whether by ``torch.optim.Adam`` at its own settings instead.
        after: called after every step with its number.
    """
    weights = list(nets.weights.values())
    rates = torch.as_tensor(rates, device=weights[0].device)
    directions = _adam(weights) if adam else _momentum(weights, momentum)
    losses = []
    with _no_tiny_numbers():
        for step in range(steps):
            x, y = batch(step)
            loss = cross_entropy(nets(x), y)
            gradients = torch.autograd.grad(loss.sum(), weights)
            with torch.no_grad():
                for weight, direction in zip(weights, directions(gradients), strict=True):
                    rate = rates.reshape(-1, *[1] * (weight.dim() - 1)) if rates.dim() else rates
                    weight.sub_(rate * direction)
            losses.append(loss.detach())
            if after is not None:
                after(step)
    return torch.stack(losses)


Directions = Callable[[Sequence[Tensor]], Iterator[Tensor]]


def _momentum(weights: Sequence[Tensor], momentum: float) -> Directions:
    speeds = [torch.zeros_like(weight) for weight in weights]

    def step(gradients: Sequence[Tensor]) -> Iterator[Tensor]:
        for speed, gradient in zip(speeds, gradients, strict=True):
            yield speed.mul_(momentum).add_(gradient)

    return step


def _adam(weights: Sequence[Tensor]) -> Directions:
    means = [torch.zeros_like(weight) for weight in weights]
    squares = [torch.zeros_like(weight) for weight in weights]
    steps = itertools.count(1)

    def step(gradients: Sequence[Tensor]) -> Iterator[Tensor]:
        number = next(steps)
        first, second = 1 - 0.9**number, math.sqrt(1 - 0.999**number)
        for mean, square, gradient in zip(means, squares, gradients, strict=True):
            mean.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            yield mean / (square.sqrt().div_(second).add_(1e-8)).mul_(first)

    return step


def cross_entropy(answers: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of every net: (nets, …, classes) and (nets, …) → (nets,)."""
    losses = nn.functional.cross_entropy(answers.movedim(-1, 1), y, reduction="none")
    return losses.flatten(1).mean(dim=1)


@torch.no_grad()
def accuracy(nets: Stack, x: Tensor, y: Tensor) -> np.ndarray:
    """Share of right answers of every net in evaluation, shape (nets,)."""
    was = nets.net.training
    nets.net.eval()
    with _no_tiny_numbers():
        right = nets(x).argmax(dim=-1) == y
    nets.net.train(was)
    return right.double().flatten(1).mean(dim=1).cpu().numpy()


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Let torch's own generator (dropout, random slopes) start at a seed, and put it back after."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


@contextmanager
def _no_tiny_numbers() -> Iterator[None]:
    """Denormal numbers, which make a CPU slow and teach no net anything, count as zero."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
