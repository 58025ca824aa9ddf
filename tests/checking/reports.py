"""Reports for the tests of how they look: real numbers of real models, findings by hand."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from sigprop.checking import CheckReport, Finding, LayerCheck
from sigprop.measurement import measure_nodes
from sigprop.prediction import predict
from tests.zoo.language import GPT2


def report_of(model, x, *, findings=(), block=r"(?!)", law="torch default", **p_values):
    """Predicted and measured at each weight; ``block`` finds the name of a block in that of a node.

    A block is named by its last node, where it joins the stream.
    """
    example = x if isinstance(x, tuple) else (x,)
    prediction, seen = predict(model, example), measure_nodes(model, *example)
    ends = {}
    for node in prediction:
        if (found := re.match(block, node.name)) is not None:
            ends[found.group()] = node.name
    layers = []
    for name, used in seen.reading.weights.items():
        node, weight = prediction[name], seen.graph.by_name[name].weight
        inside = re.match(block, name)
        layers.append(LayerCheck(
            name, node.operation, tuple(weight.shape), ends[inside.group()] if inside else "",
            node.q, seen[name].q, node.gradient, seen[name].gradient, node.weight_gradient,
            seen.parameters.get(next(iter(used.parameters), "")), law,
            math.sqrt(weight.fans[0] * float(used.value.double().square().mean())),
        ))  # fmt: skip
    p = {"p_scale": 0.43, "p_direction": 0.12, "p_backward": 0.77} | p_values
    kind = type(model).__name__
    return CheckReport(tuple(layers), tuple(findings), *p.values(), 0.01, prediction, seen, kind)


def named(report, **p_values):
    """The same report with p-values at some layers: ``named(report, p_scale={"fc": 1e-9})``."""
    layers = [
        replace(layer, **{p: by[layer.name] for p, by in p_values.items() if layer.name in by})
        for layer in report.layers
    ]
    return replace(report, layers=tuple(layers))


def mlp(depth=5, width=64, seed=0):
    torch.manual_seed(seed)
    sizes = [32, *[width] * (depth - 1), 10]
    parts = []
    for fan_in, out in pairwise(sizes):
        parts += [nn.Linear(fan_in, out), nn.ReLU()]
    for part in parts[::2]:
        nn.init.kaiming_normal_(part.weight)
        nn.init.zeros_(part.bias)
    return nn.Sequential(*parts[:-1])


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class ResNet(nn.Module):
    """Pre-activation blocks without normalization."""

    def __init__(self, blocks=50, channels=16, seed=0, std=None):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels, 10)
        for block in self.blocks:
            nn.init.kaiming_normal_(block.conv1.weight)
            if std is None:
                nn.init.kaiming_normal_(block.conv2.weight)
            else:
                nn.init.normal_(block.conv2.weight, std=std)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def image(batch=4, size=8):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def rows(batch=64, features=32):
    return torch.randn(batch, features, generator=torch.Generator().manual_seed(0))


def exploding():
    """A pre-activation net of 50 blocks whose stream doubles at each."""
    found = Finding(
        "blocks", "the signal explodes",
        "each of 50 blocks makes the residual stream 2.0 times as large: 1e15 times at the end",
        "Make the last weight of each block smaller: sigprop.initialize(model, x).", "unhealthy",
    )  # fmt: skip
    return report_of(
        ResNet(), image(), findings=[found], block=r"blocks\.\d+", law="Kaiming normal"
    )


def language(depth=12, dim=64, context=32):
    """A small GPT-2 with a dead layer a third down, one that is too large, and notes."""
    dead, loud = depth // 3, (depth + 1) // 2
    torch.manual_seed(0)
    model = GPT2(depth=depth, dim=dim, context=context)
    with torch.no_grad():
        model.transformer.h[loud].c_fc.weight.mul_(6)
        model.transformer.h[dead].c_fc.bias.fill_(-9)
    x = torch.randint(40, (8, context), generator=torch.Generator().manual_seed(0))
    findings = [
        Finding(f"transformer.h.{dead}.c_fc", "units are dead", "all units of the GELU behind it "
                "never fire on this batch", "Set its bias to 0.", "unhealthy"),
        Finding(f"transformer.h.{loud}.c_fc", "weights off their law", "6.0 times as large as the "
                "others of its class (p < 1e-15)", "Draw this layer again: "
                f"sigprop.initialize(model, x, include='transformer.h.{loud}.c_fc').", "warning"),
        *(Finding(f"transformer.h.{i}", "attention is uniform", f"entropy {0.96 + i / 1000:.3f} of "
                  "log n", "Nothing: this is how attention starts.", "note") for i in range(depth)),
    ]  # fmt: skip
    report = report_of(model, x, findings=findings, block=r"transformer\.h\.\d+", law="N(0, 0.02)",
                       p_scale=1e-300)  # fmt: skip
    (sick,) = (row.name for row in report.layers if f"h.{loud}.c_fc" in row.name)
    return named(report, p_scale={sick: 1e-300})
