"""Perceptrons, recurrent networks, and networks for sequences, points and graphs."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(activation: type, width: int = 256, depth: int = 20, **options: float) -> nn.Module:
    """As torch draws it; with SELU by LeCun's law, without which it does not normalize itself."""
    sizes = [64] + depth * [width]
    layers: list[nn.Module] = []
    for inp, out in pairwise(sizes):
        layers += [nn.Linear(inp, out), activation(**options)]
    model = nn.Sequential(*layers, nn.Linear(width, 100))
    for module in model:
        if isinstance(module, nn.Linear) and activation is nn.SELU:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    return model


class Recurrent(nn.Module):
    """nn.LSTM or nn.GRU over embedded tokens, classified by its last step."""

    def __init__(self, kind: type, dim: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, dim)
        self.rnn = kind(dim, hidden, num_layers=2, batch_first=True)
        self.fc = nn.Linear(hidden, 20)

    def forward(self, ids: Tensor) -> Tensor:
        out, _ = self.rnn(self.embedding(ids))
        return self.fc(out[:, -1])


class LSTMByHand(nn.Module):
    """One cell, stepped in Python."""

    def __init__(self, dim: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = hidden
        self.i2h, self.h2h = nn.Linear(dim, 4 * hidden), nn.Linear(hidden, 4 * hidden)
        self.fc = nn.Linear(hidden, 20)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.size(0), self.hidden)
        for t in range(x.size(1)):
            gates = self.i2h(x[:, t]) + self.h2h(h)
            i, f, g, o = gates.chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.fc(h)


class TemporalBlock(nn.Module):
    def __init__(self, channels: int, out: int, dilation: int, kernel: int = 3) -> None:
        super().__init__()
        self.pad = (kernel - 1) * dilation
        self.conv1 = nn.Conv1d(channels, out, kernel, padding=self.pad, dilation=dilation)
        self.conv2 = nn.Conv1d(out, out, kernel, padding=self.pad, dilation=dilation)
        self.dropout = nn.Dropout(0.2)
        self.downsample = nn.Conv1d(channels, out, 1) if channels != out else None
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(F.relu(self.conv1(x)[:, :, : -self.pad].contiguous()))
        out = self.dropout(F.relu(self.conv2(out)[:, :, : -self.pad].contiguous()))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class TCN(nn.Module):
    """The authors': padded and cut dilated convolutions, weights of 0.01, without weight norm."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.network = nn.Sequential(
            TemporalBlock(8, width, 1), TemporalBlock(width, width, 2),
            TemporalBlock(width, width, 4), TemporalBlock(width, width, 8),
        )  # fmt: skip
        self.linear = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.network(x)[:, :, -1])


class WaveNet(nn.Module):
    """Gates tanh · sigmoid, residual and skip sums; torch's own draw."""

    def __init__(self, width: int = 64, layers: int = 6) -> None:
        super().__init__()
        self.front = nn.Conv1d(8, width, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=2 ** (i % 3)) for i in range(layers)
        )
        self.res = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.skip = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.end1, self.end2 = nn.Conv1d(width, width, 1), nn.Conv1d(width, 20, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.front(x), 0
        for gate, res, skip in zip(self.gates, self.res, self.skip, strict=True):
            filtered, gated = gate(F.pad(x, (gate.dilation[0], 0))).chunk(2, dim=1)
            h = torch.tanh(filtered) * torch.sigmoid(gated)
            total = total + skip(h)
            x = x + res(h)
        return self.end2(F.relu(self.end1(F.relu(total))))


class PointNet(nn.Module):
    """One net at each point, the maximum over all; torch's own draw."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 64, 128, 256)
        self.convs = nn.ModuleList(nn.Conv1d(i, o, 1) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(o) for o in sizes[1:])
        self.fc1, self.bn, self.fc2 = nn.Linear(256, 128), nn.BatchNorm1d(128), nn.Linear(128, 40)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        x = torch.max(x, 2)[0]
        return self.fc2(F.relu(self.bn(self.fc1(x))))


NODES = 200


def edges(count: int = 6 * NODES, seed: int = 0) -> Tensor:
    """A fixed random graph with a loop at each node: (from, to) by column."""
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randint(NODES, (2, count), generator=source)
    loops = torch.arange(NODES).expand(2, -1)
    return torch.cat([drawn, drawn.flip(0), loops], dim=1)


class GCN(nn.Module):
    """PyG's: Glorot uniform; messages weighed by 1/√(degree · degree)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        graph = edges()
        degree = torch.bincount(graph[1], minlength=NODES).float().rsqrt()
        self.register_buffer("graph", graph)
        self.register_buffer("share", degree[graph[0]] * degree[graph[1]])
        sizes = (32, width, width, width, 8)
        self.lins = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(o) for o in sizes[1:])
        for lin in self.lins:
            nn.init.xavier_uniform_(lin.weight)

    def forward(self, x: Tensor) -> Tensor:
        start, end = self.graph
        for i, (lin, bias) in enumerate(zip(self.lins, self.biases, strict=True)):
            h = lin(x)
            messages = h.index_select(0, start) * self.share[:, None]
            places = end[:, None].expand_as(messages)
            x = torch.zeros_like(h).scatter_add(0, places, messages) + bias
            if i + 1 < len(self.lins):
                x = F.relu(x)
        return x


class Siren(nn.Module):
    """Sines of 30 · (Wx + b), by the authors' law."""

    def __init__(self, width: int = 256, depth: int = 4, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega
        sizes = [2] + depth * [width]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.final = nn.Linear(width, 3)
        for i, layer in enumerate([*self.layers, self.final]):
            inp = layer.in_features
            limit = math.sqrt(6 / inp) / omega if i else 1 / inp
            nn.init.uniform_(layer.weight, -limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.final(x)


class NeuralODE(nn.Module):
    """Four steps of Euler through one and the same net."""

    def __init__(self, width: int = 128, steps: int = 4) -> None:
        super().__init__()
        self.inp, self.out, self.steps = nn.Linear(32, width), nn.Linear(width, 10), steps
        self.field = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for _ in range(self.steps):
            x = x + self.field(x) / self.steps
        return self.out(x)
