"""Graphs, points and coordinates."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.entry import Entry, floats


class GraphConvolution(nn.Module):
    """pygcn: the weight is (in, out) and uniform by the width out."""

    def __init__(self, inp, out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inp, out))
        self.bias = nn.Parameter(torch.empty(out))
        stdv = 1.0 / math.sqrt(out)
        self.weight.data.uniform_(-stdv, stdv)
        self.bias.data.uniform_(-stdv, stdv)

    def forward(self, x, edge_index, norm):
        support = torch.mm(x, self.weight)
        row, col = edge_index
        out = torch.zeros_like(support)
        out.index_add_(0, col, support[row] * norm.unsqueeze(-1))
        return out + self.bias


class GCN(nn.Module):
    def __init__(self, inp=8, hidden=16, classes=4):
        super().__init__()
        self.gc1 = GraphConvolution(inp, hidden)
        self.gc2 = GraphConvolution(hidden, hidden)
        self.gc3 = GraphConvolution(hidden, classes)

    def forward(self, x, edge_index):
        row, col = edge_index[0], edge_index[1]
        degree = torch.zeros_like(x[:, 0]).index_add(0, col, torch.ones_like(col, dtype=x.dtype))
        scale = degree.clamp(min=1).rsqrt()
        norm = scale[row] * scale[col]
        x = F.relu(self.gc1(x, edge_index, norm))
        x = F.dropout(x, 0.5, training=self.training)
        x = F.relu(self.gc2(x, edge_index, norm))
        return F.log_softmax(self.gc3(x, edge_index, norm), dim=1)


class GIN(nn.Module):
    def __init__(self, inp=8, hidden=16, classes=4, depth=3):
        super().__init__()
        self.mlps = nn.ModuleList()
        self.eps = nn.ParameterList()
        for i in range(depth):
            self.mlps.append(
                nn.Sequential(
                    nn.Linear(inp if i == 0 else hidden, hidden),
                    nn.BatchNorm1d(hidden),
                    nn.ReLU(),
                    nn.Linear(hidden, hidden),
                )
            )
            self.eps.append(nn.Parameter(torch.zeros(1)))
        self.readout = nn.Linear(hidden * depth, classes)

    def forward(self, x, edge_index, batch):
        src, dst = edge_index[0], edge_index[1]
        pooled = []
        for eps, mlp in zip(self.eps, self.mlps, strict=True):
            messages = x.index_select(0, src)
            index = dst.unsqueeze(-1).expand_as(messages)
            summed = torch.zeros_like(x).scatter_add_(0, index, messages)
            x = F.relu(mlp((1 + eps) * x + summed))
            graph = batch.unsqueeze(-1).expand_as(x)
            pooled.append(x.new_zeros(2, x.size(1)).scatter_add(0, graph, x))
        return self.readout(torch.cat(pooled, dim=1))


class MessagePassing(nn.Module):
    """Messages by an MLP of both ends and the edge, updates by a GRU cell, mean by counts."""

    def __init__(self, inp=8, edge=3, hidden=16):
        super().__init__()
        self.embed = nn.Linear(inp, hidden)
        self.message = nn.Sequential(
            nn.Linear(2 * hidden + edge, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.update = nn.GRUCell(hidden, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x, edge_index, edge_attr):
        src, dst = edge_index
        h = self.embed(x)
        for _ in range(3):
            m = self.message(torch.cat([h[src], h[dst], edge_attr], dim=-1))
            total = torch.zeros_like(h).index_add(0, dst, m)
            count = torch.bincount(dst, minlength=h.size(0)).clamp(min=1)
            h = self.update(total / count.unsqueeze(1), h)
        return self.out(h.sum(0))


class TNet(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.k = k
        self.conv1, self.conv2 = nn.Conv1d(k, 16, 1), nn.Conv1d(16, 32, 1)
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, k * k)
        self.bn1, self.bn2 = nn.BatchNorm1d(16), nn.BatchNorm1d(32)
        self.register_buffer("iden", torch.eye(k).flatten())

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = torch.max(x, 2, keepdim=True)[0]
        x = x.view(-1, 32)
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        x = x + self.iden
        return x.view(-1, self.k, self.k)


class PointNet(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.stn = TNet()
        self.conv1, self.conv2 = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 32, 1)
        self.conv3 = nn.Conv1d(32, 64, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm1d(16), nn.BatchNorm1d(32), nn.BatchNorm1d(64)
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, classes)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        trans = self.stn(x)
        x = torch.bmm(x.transpose(2, 1), trans).transpose(2, 1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x, _ = torch.max(x, dim=2)
        x = F.relu(self.dropout(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1), trans


class NeRF(nn.Module):
    def __init__(self, width=32, depth=4, skips=(2,), freqs=4, view_freqs=2):
        super().__init__()
        self.freqs, self.view_freqs, self.skips = freqs, view_freqs, skips
        inp, views = 3 * (1 + 2 * freqs), 3 * (1 + 2 * view_freqs)
        self.pts_linears = nn.ModuleList(
            [nn.Linear(inp, width)]
            + [
                nn.Linear(width + inp if i in skips else width, width)
                for i in range(1, depth)
            ]
        )  # fmt: skip
        self.views_linears = nn.ModuleList([nn.Linear(views + width, width // 2)])
        self.feature_linear = nn.Linear(width, width)
        self.alpha_linear = nn.Linear(width, 1)
        self.rgb_linear = nn.Linear(width // 2, 3)

    @staticmethod
    def embed(x, freqs):
        fns = [x]
        for freq in 2.0 ** torch.linspace(0.0, freqs - 1, freqs):
            for p_fn in (torch.sin, torch.cos):
                fns.append(p_fn(x * freq))
        return torch.cat(fns, -1)

    def forward(self, points, views):
        input_pts, input_views = self.embed(points, self.freqs), self.embed(views, self.view_freqs)
        h = input_pts
        for i, layer in enumerate(self.pts_linears):
            if i in self.skips:
                h = torch.cat([input_pts, h], -1)
            h = layer(h)
            h = F.relu(h)
        alpha = self.alpha_linear(h)
        feature = self.feature_linear(h)
        h = torch.cat([feature, input_views], -1)
        for layer in self.views_linears:
            h = F.relu(layer(h))
        rgb = self.rgb_linear(h)
        return torch.cat([rgb, alpha], -1)


class SineLayer(nn.Module):
    def __init__(self, inp, out, is_first=False, omega_0=30):
        super().__init__()
        self.omega_0, self.is_first = omega_0, is_first
        self.linear = nn.Linear(inp, out)
        with torch.no_grad():
            bound = 1 / inp if is_first else math.sqrt(6 / inp) / omega_0
            self.linear.weight.uniform_(-bound, bound)

    def forward(self, input):
        return torch.sin(self.omega_0 * self.linear(input))


class Siren(nn.Module):
    def __init__(self, inp=2, hidden=32, depth=3, out=3):
        super().__init__()
        layers: list[nn.Module] = [SineLayer(inp, hidden, is_first=True)]
        layers += [SineLayer(hidden, hidden) for _ in range(depth - 1)]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, out))

    def forward(self, coords):
        coords = coords.clone().detach().requires_grad_(True)
        return self.net(coords), coords


class FourierFeatures(nn.Module):
    """A fixed random matrix as a buffer: x @ B.T, then sines and cosines."""

    def __init__(self, inp=2, features=16, hidden=32):
        super().__init__()
        self.register_buffer("B", torch.randn(features, inp) * 10)
        self.mlp = nn.Sequential(
            nn.Linear(2 * features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 3),
            nn.Sigmoid(),
        )

    def forward(self, x):
        x_proj = (2.0 * math.pi * x) @ self.B.T
        return self.mlp(torch.cat([torch.sin(x_proj), torch.cos(x_proj)], -1))


class DeepONet(nn.Module):
    def __init__(self, sensors=20, width=32):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Linear(sensors, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, width),
        )  # fmt: skip
        self.trunk = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, width), nn.Tanh(),
        )  # fmt: skip
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, u, y):
        return torch.einsum("bi,pi->bp", self.branch(u), self.trunk(y)) + self.b


class SpectralConv2d(nn.Module):
    def __init__(self, inp, out, modes):
        super().__init__()
        self.out, self.modes = out, modes
        scale = 1 / (inp * out)
        shape = (inp, out, modes, modes)
        self.weights1 = nn.Parameter(scale * torch.rand(*shape, dtype=torch.cfloat))
        self.weights2 = nn.Parameter(scale * torch.rand(*shape, dtype=torch.cfloat))

    def forward(self, x):
        m = self.modes
        x_ft = torch.fft.rfft2(x)
        out_ft = torch.zeros(
            x.shape[0], self.out, x.size(-2), x.size(-1) // 2 + 1, dtype=torch.cfloat
        )
        out_ft[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", x_ft[:, :, :m, :m], self.weights1)
        out_ft[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", x_ft[:, :, -m:, :m], self.weights2)
        return torch.fft.irfft2(out_ft, s=(x.size(-2), x.size(-1)))


class FNO(nn.Module):
    def __init__(self, width=12, modes=4, depth=3):
        super().__init__()
        self.p = nn.Linear(3, width)
        self.convs = nn.ModuleList(SpectralConv2d(width, width, modes) for _ in range(depth))
        self.ws = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.q1, self.q2 = nn.Linear(width, 32), nn.Linear(32, 1)

    def forward(self, a):
        n = a.shape[1]
        axis = torch.linspace(0, 1, n)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        x = torch.cat((a, grid.expand(a.shape[0], -1, -1, -1)), dim=-1)
        x = self.p(x).permute(0, 3, 1, 2)
        for conv, w in zip(self.convs, self.ws, strict=True):
            x = F.gelu(conv(x) + w(x))
        return self.q2(F.gelu(self.q1(x.permute(0, 2, 3, 1))))


def edges():
    generator = torch.Generator().manual_seed(2)
    return torch.randint(12, (2, 30), generator=generator)


ENTRIES = (
    Entry("gcn", GCN, lambda: (floats(12, 8), edges()), 3, True,
          "mm with (in, out) parameters; index_add_ into zeros"),
    Entry("gin", GIN, lambda: (floats(12, 8), edges(), torch.arange(12) // 6), 7, True,
          "scatter_add; (1 + eps) x; pooled per graph"),
    Entry("message_passing", MessagePassing,
          lambda: (floats(12, 8), edges(), floats(30, 3, seed=1)), 4, True,
          "the same layers three times; GRU cell (not counted)"),
    Entry("pointnet", PointNet, lambda: (floats(4, 3, 20),), 9, True,
          "bmm with a predicted matrix; max over points"),
    Entry("nerf", NeRF, lambda: (floats(16, 3), floats(16, 3, seed=1)), 8, True,
          "sines and cosines of the raw input by cat; raw skip cat; several heads"),
    Entry("siren", Siren, lambda: (floats(16, 2),), 4, True, "sin(30 ...); input detached"),
    Entry("fourier_features", FourierFeatures, lambda: (floats(16, 2),), 3, True,
          "product with a buffer (not counted)"),
    Entry("deeponet", DeepONet, lambda: (floats(3, 20), floats(7, 1, seed=1)), 6, True,
          "einsum of two nets' outputs"),
    Entry("fno", FNO, lambda: (floats(2, 16, 16, 1),), 12, False,
          "complex weights by einsum, written into slices of zeros; fft"),
)  # fmt: skip
