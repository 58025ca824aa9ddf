"""Networks twice: as arrays, and as an independent torch function of the same numbers."""

from itertools import pairwise

import numpy as np
import torch
from scipy import sparse

from sigprop.arrangement.network import Add, Affine, Maximum, Piecewise, PiecewiseLinear, leaky

SLOPES = (-1.0, 0.0, 0.01, 0.1, 0.25, 0.5, 0.9, 1.0, 2.0)


def mlp(sizes, alpha, rng, bias=0.3):
    """Random weights, biases; the last layer is linear."""
    weights = [rng.standard_normal((o, i)) * np.sqrt(2 / i) for i, o in pairwise(sizes)]
    biases = [bias * rng.standard_normal(o) for o in sizes[1:]]
    return PiecewiseLinear(weights, biases, [alpha] * (len(sizes) - 2))


def numbers(net):
    """Weights and biases as torch leaves, in the order of the parameters."""
    found = []
    for step in net.steps:
        if isinstance(step, Affine):
            weight = step.weight if isinstance(step.weight, np.ndarray) else step.weight.toarray()
            found += [torch.tensor(weight), torch.tensor(step.bias)]
    return found


def run(net, leaves, x, slopes=None):
    """Outputs and pre-activations of the same network in torch, from the given numbers."""
    left, values, seen = list(leaves), [x], []
    for i, step in enumerate(net.steps):
        if isinstance(step, Affine):
            weight, bias = left.pop(0), left.pop(0)
            values.append(values[step.source] @ weight.T + bias)
        elif isinstance(step, Piecewise):
            z = values[step.source]
            seen.append(z)
            piece = sum((z > torch.tensor(th)).long() for th in step.thresholds)
            piece = torch.zeros_like(z).long() + piece
            slope = torch.tensor(step.slopes) if slopes is None or i not in slopes else slopes[i]
            offset = torch.tensor(step.offsets)
            values.append(slope.gather(0, piece) * z + offset.gather(0, piece))
        elif isinstance(step, Maximum):
            z = values[step.source]
            seen.append(z)
            groups = torch.tensor(step.groups)
            values.append(
                torch.where(groups >= 0, z[:, groups], torch.tensor(-np.inf)).max(-1).values
            )
        else:
            values.append(sum(values[s] for s in step.sources))
    return values[-1], seen


def active(net, seen):
    """Which piece or member every unit is on, (samples, units of all layers)."""
    steps = [step for step in net.steps if isinstance(step, Piecewise | Maximum)]
    found = []
    for step, z in zip(steps, seen, strict=True):
        z = z.detach().numpy()
        if isinstance(step, Piecewise):
            found.append((z[:, None] > step.thresholds).sum(axis=1))
        else:
            found.append(step.members(z).argmax(axis=-1))
    return np.concatenate(found, axis=1)


def mean_loss(name, f, y):
    if name == "mse":
        return torch.nn.functional.mse_loss(f, torch.as_tensor(y))
    return torch.nn.functional.cross_entropy(f, torch.as_tensor(y))


def convolution(channels, size, kernel, rng):
    """A valid 1-d convolution as a sparse matrix (dense kernel entries repeat)."""
    taken, made = channels
    taps = rng.standard_normal((made, taken, kernel)) / np.sqrt(taken * kernel)
    out = size - kernel + 1
    matrix = np.zeros((made, out, taken, size))
    for place in range(out):
        matrix[:, place, :, place : place + kernel] = taps
    return sparse.csr_array(matrix.reshape(made * out, taken * size))


def conv_residual(alpha, rng):
    """conv → leaky → linear → leaky → add the earlier value → max of pairs → linear."""
    conv = convolution((1, 2), 8, 3, rng)  # 8 → 2 × 6
    width = conv.shape[0]
    inner = rng.standard_normal((width, width)) / np.sqrt(width)
    groups = np.arange(width).reshape(-1, 2)
    last = rng.standard_normal((3, width // 2))
    steps = [
        Affine(conv, 0.2 * rng.standard_normal(width), 0),
        leaky(np.full(width, alpha), 1),
        Affine(inner, 0.2 * rng.standard_normal(width), 2),
        leaky(np.full(width, alpha), 3),
        Add((2, 4)),
        Maximum(groups, 5),
        Affine(last, 0.2 * rng.standard_normal(3), 6),
    ]
    return PiecewiseLinear.from_steps(8, steps)


def pieces_net(thresholds, slopes, offsets, rng, sizes=(3, 5, 4, 2)):
    """Layers of one activation with given pieces: hard tanh, phased ReLU, …"""
    steps = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        weight = rng.standard_normal((n_out, n_in)) * np.sqrt(2 / n_in)
        steps.append(Affine(weight, 0.3 * rng.standard_normal(n_out), len(steps)))
        if i < len(sizes) - 2:
            columns = [
                np.repeat(np.array(t, float)[:, None], n_out, axis=1)
                for t in (thresholds, slopes, offsets)
            ]
            steps.append(Piecewise(*columns, len(steps)))
    return PiecewiseLinear.from_steps(sizes[0], steps)
