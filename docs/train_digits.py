"""A net of 12 layers learns real digits: from torch's default weights, then from the theory's."""

import torch
from torch import nn

import sigprop
from sigprop.data import digits

torch.manual_seed(0)  # for the weights and the batches
images, labels = (torch.as_tensor(values) for values in digits())  # 1,797 of 8 × 8 pixels
learn, asked = (images[:1437].float(), labels[:1437]), (images[1437:].float(), labels[1437:])
hidden = [part for _ in range(10) for part in (nn.Linear(64, 64), nn.PReLU())]
net = nn.Sequential(nn.Linear(64, 64), nn.PReLU(), *hidden, nn.Linear(64, 10))


def train(net: nn.Module, steps: int = 300) -> None:
    """Train by SGD, watched; print what the monitor saw and how many new digits are right."""
    groups = sigprop.param_groups(net, weight_decay=1e-4)  # slopes do not decay
    optimizer = torch.optim.SGD(groups, lr=0.004, momentum=0.9)
    with sigprop.monitor(net, every=150) as mon:
        for _ in range(steps + 1):
            pick = torch.randint(len(learn[1]), (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(learn[0][pick]), learn[1][pick]).backward()
            optimizer.step()
    right = (net(asked[0]).argmax(1) == asked[1]).float().mean()
    print(mon, f"{right:.0%} of {len(asked[1])} new digits are right.", sep="\n")


print("BEFORE", sigprop.check(net, learn[0][:256]), sep="\n")  # torch's default weights
train(net)
print("PLAN", sigprop.init.plan(net), sep="\n")  # what will be set, and why
sigprop.kaiming_leaky_init(net)  # in place; the slopes have hardly moved
print("AFTER", sigprop.check(net, learn[0][:256]), sep="\n")
train(net)
