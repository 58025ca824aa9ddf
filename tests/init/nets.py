"""What the tests on whole nets share."""

import torch
from torch import nn


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Blocks(nn.Module):
    def __init__(self, step, blocks, width=128, layers=2):
        super().__init__()
        self.maps = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(layers)) for _ in range(blocks)
        )
        self.step = step

    def forward(self, x):
        for maps in self.maps:
            x = self.step(x, *maps)
        return x


def outputs_of_weights(model, x) -> list[float]:
    found: list[float] = []
    handles = [
        m.register_forward_hook(lambda m, i, o: found.append(o.detach().square().mean().item()))
        for m in model.modules()
        if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found
