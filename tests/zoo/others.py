"""Models that are peculiar in some other way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.entry import Entry, floats, image, tokens


class AutocastMLP(nn.Module):
    """The middle runs in bfloat16."""

    def __init__(self, width=32):
        super().__init__()
        self.inp = nn.Linear(16, width)
        self.body = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.conv = nn.Conv1d(1, 4, 3, padding=1)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        x = F.gelu(self.inp(x))
        with torch.autocast("cpu", torch.bfloat16):
            h = self.body(x)
            h = F.relu(self.conv(h.unsqueeze(1)))
        return self.out(h.float().mean(-1))


class HyperNetwork(nn.Module):
    """A context, given as data, makes the weights of the main net."""

    def __init__(self, inp=8, hidden=16, out=3, context=5):
        super().__init__()
        self.sizes = [inp * hidden, hidden, hidden * out, out]
        self.inp, self.hidden, self.out = inp, hidden, out
        self.trunk = nn.Sequential(nn.Linear(context, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.heads = nn.Linear(32, sum(self.sizes))

    def forward(self, x, context):
        w1, b1, w2, b2 = self.heads(self.trunk(context)).split(self.sizes, dim=-1)
        w1, w2 = w1.view(-1, self.inp, self.hidden), w2.view(-1, self.hidden, self.out)
        h = torch.relu(torch.bmm(x, w1) + b1.unsqueeze(1))
        return torch.baddbmm(b2.unsqueeze(1), h, w2)


class StaticHyperNetwork(nn.Module):
    """Two kernels are made from learned codes by two shared linear maps."""

    def __init__(self, width=12, code=8):
        super().__init__()
        self.width = width
        self.z = nn.ParameterList([nn.Parameter(torch.randn(code)) for _ in range(2)])
        self.w1 = nn.Parameter(torch.randn(code, width * code) * 0.3)
        self.w2 = nn.Parameter(torch.randn(code, width * 9) * 0.02)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.fc = nn.Linear(width, 10)

    def kernel(self, z):
        h = torch.matmul(z, self.w1).view(self.width, -1)
        return torch.matmul(h, self.w2).view(self.width, self.width, 3, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for z in self.z:
            x = F.relu(F.conv2d(x, self.kernel(z), padding=1))
        return self.fc(x.mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 16, 3, stride=2)
        self.table1, self.table2 = nn.Linear(6, 16), nn.Linear(16, 16)
        self.category = nn.Embedding(5, 8)
        self.head = nn.Sequential(nn.Linear(40, 24), nn.ELU(), nn.Linear(24, 2))

    def forward(self, *, picture, table, category):
        a = F.elu(self.conv2(F.elu(self.conv1(picture)))).amax(dim=(-2, -1))
        b = F.elu(self.table2(F.elu(self.table1(table))))
        return {"logits": self.head(torch.hstack([a, b, self.category(category)]))}


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()
        )
        self.fc = nn.Linear(16 * 5 * 5, 32)
        self.out = nn.Linear(32, 1)

    def forward_once(self, x):
        return torch.sigmoid(self.fc(self.cnn(x).flatten(1)))

    def forward(self, first, second):
        first, second = self.forward_once(first), self.forward_once(second)
        return self.out(torch.abs(first - second)), F.pairwise_distance(first, second)


class InPlaceWrites(nn.Module):
    """Slices, copy_, masked assignment and ``out=`` into a buffer."""

    def __init__(self, width=24):
        super().__init__()
        self.a, self.b = nn.Linear(8, width), nn.Linear(8, width)
        self.mid = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 4)
        self.width = width
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        with torch.no_grad():
            torch.mean(x, 0, out=self.mean)
        x = x - self.mean
        joined = torch.zeros(x.shape[0], 2 * self.width)
        joined[:, : self.width] = torch.relu(self.a(x))
        joined[:, self.width :].copy_(self.b(x))
        joined[joined < 0] = 0.0
        joined.mul_(0.5).add_(joined.detach(), alpha=0.1)
        h = torch.empty(x.shape[0], self.width)
        h.copy_(self.mid(joined))
        h.clamp_(min=0)
        return self.out(h)


class GatedProduct(nn.Module):
    """c(a(x) * b(x)), twice."""

    def __init__(self, width=24):
        super().__init__()
        self.a1, self.b1, self.c1 = nn.Linear(8, width), nn.Linear(8, width), nn.Linear(width, 8)
        self.a2, self.b2, self.c2 = nn.Linear(8, width), nn.Linear(8, width), nn.Linear(width, 3)

    def forward(self, x):
        x = x + self.c1(self.a1(x) * self.b1(x))
        return self.c2(self.a2(x) * self.b2(x))


class Maxout(nn.Module):
    def __init__(self, inp, out, pieces=3):
        super().__init__()
        self.out, self.pieces = out, pieces
        self.lin = nn.Linear(inp, out * pieces)

    def forward(self, x):
        m, _ = self.lin(x).view(*x.shape[:-1], self.out, self.pieces).max(-1)
        return m


class MaxFeatureMap(nn.Module):
    """Light CNN: the maximum of two halves of the channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 48, 3, padding=1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            a, b = torch.split(conv(x), conv.out_channels // 2, 1)
            x = F.max_pool2d(torch.max(a, b), 2)
        return self.fc(x.mean(dim=(-1, -2)))


def bn_mlp():
    layers: list[nn.Module] = []
    for inp, out in ((16, 32), (32, 32), (32, 24)):
        layers += [nn.Linear(inp, out), nn.ReLU(), nn.BatchNorm1d(out)]
    return nn.Sequential(*layers, nn.Linear(24, 4))


def snn():
    layers: list[nn.Module] = []
    for inp, out in ((16, 32), (32, 32), (32, 32)):
        layers += [nn.Linear(inp, out), nn.SELU(), nn.AlphaDropout(0.05)]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def squash(s):
    norm2 = (s**2).sum(-1, keepdim=True)
    return norm2 / (1 + norm2) * s / (norm2.sqrt() + 1e-8)


class CapsNet(nn.Module):
    def __init__(self, classes=4, routes=8 * 9):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2)
        self.primary = nn.Conv2d(16, 32, 2, stride=2)
        self.W = nn.Parameter(0.1 * torch.randn(1, routes, classes, 8, 4))
        self.decoder = nn.Sequential(
            nn.Linear(8 * classes, 32), nn.ReLU(True), nn.Linear(32, 256), nn.Sigmoid()
        )
        self.classes, self.routes = classes, routes

    def forward(self, x):
        x = F.relu(self.conv1(x), inplace=True)
        u = squash(self.primary(x).view(-1, 4, 8, 9).permute(0, 2, 3, 1).reshape(-1, 72, 4))
        u_hat = torch.matmul(self.W, u[:, :, None, :, None]).squeeze(-1)
        logits = torch.zeros_like(u_hat[..., :1])
        for i in range(3):
            c = F.softmax(logits, dim=2)
            v = squash((c * (u_hat if i == 2 else u_hat.detach())).sum(1, keepdim=True))
            if i < 2:
                logits = logits + (u_hat.detach() * v).sum(-1, keepdim=True)
        v = v.squeeze(1)
        lengths = v.norm(dim=-1)
        chosen = F.one_hot(lengths.argmax(1), self.classes).to(v.dtype)
        return lengths, self.decoder((v * chosen[:, :, None]).flatten(1))


class DLRM(nn.Module):
    def __init__(self, dim=8, tables=(10, 20, 15)):
        super().__init__()
        self.emb_l = nn.ModuleList(nn.EmbeddingBag(n, dim, mode="sum") for n in tables)
        self.bot_l = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, dim), nn.ReLU())
        pairs = torch.tril_indices(len(tables) + 1, len(tables) + 1, offset=-1)
        self.register_buffer("pairs", pairs)
        self.top_l = nn.Sequential(
            nn.Linear(dim + pairs.shape[1], 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid()
        )

    def forward(self, dense, sparse):
        x = self.bot_l(dense)
        ly = [emb(sparse[:, i : i + 1]) for i, emb in enumerate(self.emb_l)]
        (batch_size, d) = x.shape
        T = torch.cat([x, *ly], dim=1).view((batch_size, -1, d))
        Z = torch.bmm(T, torch.transpose(T, 1, 2))
        flat = Z[:, self.pairs[0], self.pairs[1]]
        return self.top_l(torch.cat([x, flat], dim=1))


class Dueling(nn.Module):
    """Pixels as bytes; v + a - a.mean()."""

    def __init__(self, actions=4):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 16, 4, stride=2), nn.Conv2d(16, 16, 3, stride=2)
        self.value1, self.value2 = nn.Linear(144, 32), nn.Linear(32, 1)
        self.advantage1, self.advantage2 = nn.Linear(144, 32), nn.Linear(32, actions)

    def forward(self, pixels):
        x = pixels.float() / 255.0
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = x.reshape(x.size(0), -1)
        v = self.value2(F.relu(self.value1(x)))
        a = self.advantage2(F.relu(self.advantage1(x)))
        return v + a - a.mean(dim=1, keepdim=True)


class NeuralODE(nn.Module):
    """The same field at each step of Runge and Kutta, time by cat."""

    def __init__(self, width=16, steps=3):
        super().__init__()
        self.steps = steps
        self.inp = nn.Linear(4, width)
        self.f1, self.f2 = nn.Linear(width + 1, 32), nn.Linear(32, width)
        self.out = nn.Linear(width, 2)

    def field(self, t, y):
        tt = torch.full_like(y[:, :1], t)
        return self.f2(F.softplus(self.f1(torch.cat([tt, y], 1))))

    def forward(self, x):
        y, h = self.inp(x), 1 / self.steps
        for i in range(self.steps):
            t = i * h
            k1 = self.field(t, y)
            k2 = self.field(t + h / 2, y + h / 2 * k1)
            y = y + h * k2
        return self.out(y)


class MAMLNet(nn.Module):
    """All weights in one ParameterList, applied functionally by index."""

    def __init__(self):
        super().__init__()
        self.vars = nn.ParameterList()
        for inp, out in ((1, 8), (8, 16), (16, 16)):
            w = nn.Parameter(torch.ones(out, inp, 3, 3))
            nn.init.kaiming_normal_(w)
            self.vars.append(w)
            self.vars.append(nn.Parameter(torch.zeros(out)))
            self.vars.extend([nn.Parameter(torch.ones(out)), nn.Parameter(torch.zeros(out))])
        self.vars.append(nn.Parameter(torch.randn(5, 16) * 0.25))
        self.vars.append(nn.Parameter(torch.zeros(5)))

    def forward(self, x, vars=None):
        if vars is None:
            vars = self.vars
        idx = 0
        for _ in range(3):
            w, b, scale, shift = vars[idx], vars[idx + 1], vars[idx + 2], vars[idx + 3]
            idx += 4
            x = F.conv2d(x, w, b, stride=2, padding=1)
            x = F.relu(x, inplace=True)
            x = F.batch_norm(x, None, None, weight=scale, bias=shift, training=True)
        return F.linear(x.mean((2, 3)), vars[idx], vars[idx + 1])


class SpatialTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.MaxPool2d(2, stride=2), nn.ReLU(True),
            nn.Conv2d(8, 8, 3), nn.MaxPool2d(2, stride=2), nn.ReLU(True),
        )  # fmt: skip
        self.fc_loc = nn.Sequential(nn.Linear(72, 16), nn.ReLU(True), nn.Linear(16, 6))
        self.fc_loc[2].weight.data.zero_()
        self.fc_loc[2].bias.data.copy_(torch.tensor([1, 0, 0, 0, 1, 0], dtype=torch.float))
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 16, 3)
        self.conv2_drop = nn.Dropout2d()
        self.fc1, self.fc2 = nn.Linear(144, 32), nn.Linear(32, 10)

    def stn(self, x):
        xs = self.localization(x)
        theta = self.fc_loc(xs.view(-1, 72)).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    def forward(self, x):
        x = self.stn(x)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = x.view(-1, 144)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


def two_inputs():
    return {
        "picture": floats(2, 3, 16, 16),
        "table": floats(2, 6, seed=1),
        "category": tokens(2, below=5),
    }


def vectors():
    return (floats(4, 16),)


ENTRIES = (
    Entry("autocast_mlp", AutocastMLP, vectors, 5, False,
          "the middle in bfloat16; fx follows and loses the context, in silence"),
    Entry("hypernetwork", HyperNetwork, lambda: (floats(2, 6, 8), floats(2, 5, seed=1)), 3, True,
          "bmm and baddbmm by weights made from data (not counted)"),
    Entry("static_hypernetwork", StaticHyperNetwork, image(size=16), 4, True,
          "stem, fc and two kernels made of parameters alone by w1 and w2 (which are two as well)"),
    Entry("two_inputs", TwoInputs, two_inputs, 6, True, "keyword-only inputs, dict out, ELU"),
    Entry("siamese", Siamese, lambda: (floats(2, 1, 16, 16), floats(2, 1, 16, 16, seed=1)), 4,
          True, "one trunk called twice; pairwise distance"),
    Entry("in_place_writes", InPlaceWrites, lambda: (floats(4, 8),), 4, False,
          "slices and copy_ into zeros and empty; out= a buffer; assignment by mask"),
    Entry("gated_product", GatedProduct, lambda: (floats(4, 8),), 6, True, "c(a(x) * b(x))"),
    Entry("maxout", lambda: nn.Sequential(Maxout(16, 24), Maxout(24, 24), nn.Linear(24, 4)),
          vectors, 3, False, "maximum of three linear maps by view(*x.shape[:-1], ...) and max"),
    Entry("max_feature_map", MaxFeatureMap, image(size=16), 3, True, "torch.max of two halves"),
    Entry("bn_mlp", bn_mlp, vectors, 4, True, "norm after the activation"),
    Entry("snn", snn, vectors, 4, True, "SELU and alpha dropout"),
    Entry("capsnet", CapsNet, image(1, 16), 5, True,
          "a parameter of five axes by matmul; routing; argmax mask"),
    Entry("dlrm", DLRM, lambda: (floats(4, 6), tokens(4, 3, below=10)), 4, True,
          "embedding bags; products of all pairs"),
    Entry("dueling_dqn", Dueling, lambda: (tokens(2, 4, 16, 16, below=256).byte(),), 6, True,
          "bytes in"),
    Entry("neural_ode", NeuralODE, lambda: (floats(4, 4),), 4, True, "the same field six times"),
    Entry("maml_net", MAMLNet, image(1, 16), 4, False,
          "a ParameterList by index; fx takes vars=None for an input and follows that, in silence"),
    Entry("spatial_transformer", SpatialTransformer, image(1, 20), 8, True,
          "grid_sample by a predicted grid; a layer whose weight is 0"),
)  # fmt: skip
