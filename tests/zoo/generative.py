"""Generators, discriminators, autoencoders and flows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.entry import Entry, floats, image


class DCGANGenerator(nn.Module):
    def __init__(self, nz=16, ngf=8, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input):
        return self.main(input)


class DCGANDiscriminator(nn.Module):
    def __init__(self, ndf=8, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input):
        return self.main(input).view(-1, 1).squeeze(1)


class UnetSkipConnectionBlock(nn.Module):
    """pix2pix: X - down - submodule - up - X by cat; the in-place leaky ReLU changes X."""

    def __init__(self, outer_nc, inner_nc, input_nc=None, submodule=None, outermost=False):
        super().__init__()
        self.outermost = outermost
        innermost = submodule is None
        if input_nc is None:
            input_nc = outer_nc
        downconv = nn.Conv2d(input_nc, inner_nc, kernel_size=4, stride=2, padding=1, bias=False)
        downrelu = nn.LeakyReLU(0.2, True)
        downnorm = nn.BatchNorm2d(inner_nc)
        uprelu = nn.ReLU(True)
        upnorm = nn.BatchNorm2d(outer_nc)
        up_in = inner_nc if innermost else inner_nc * 2
        upconv = nn.ConvTranspose2d(
            up_in, outer_nc, kernel_size=4, stride=2, padding=1, bias=outermost
        )
        if outermost:
            model = [downconv, submodule, uprelu, upconv, nn.Tanh()]
        elif innermost:
            model = [downrelu, downconv, uprelu, upconv, upnorm]
        else:
            model = [downrelu, downconv, downnorm, submodule, uprelu, upconv, upnorm]
            model += [nn.Dropout(0.5)]
        self.model = nn.Sequential(*model)

    def forward(self, x):
        if self.outermost:
            return self.model(x)
        return torch.cat([x, self.model(x)], 1)


def pix2pix_generator(ngf=8):
    block = UnetSkipConnectionBlock(ngf * 4, ngf * 4)
    block = UnetSkipConnectionBlock(ngf * 2, ngf * 4, submodule=block)
    block = UnetSkipConnectionBlock(ngf, ngf * 2, submodule=block)
    return UnetSkipConnectionBlock(3, ngf, input_nc=3, submodule=block, outermost=True)


class PatchDiscriminator(nn.Module):
    def __init__(self, input_nc=6, ndf=8):
        super().__init__()
        sequence = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for n in (1, 2):
            stride = 2 if n == 1 else 1
            sequence += [
                nn.Conv2d(ndf * n, ndf * 2 * n, 4, stride, 1, bias=False),
                nn.InstanceNorm2d(ndf * 2 * n),
                nn.LeakyReLU(0.2, True),
            ]
        sequence += [nn.Conv2d(ndf * 4, 1, 4, 1, 1)]
        self.model = nn.Sequential(*sequence)

    def forward(self, real_a, fake_b):
        return self.model(torch.cat((real_a, fake_b), 1))


@dataclass
class VAEOutput:
    reconstruction: Tensor
    mu: Tensor
    logvar: Tensor


class VAE(nn.Module):
    def __init__(self, latent=8):
        super().__init__()
        self.enc1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.enc2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc_mu = nn.Linear(16 * 4 * 4, latent)
        self.fc_var = nn.Linear(16 * 4 * 4, latent)
        self.fc_dec = nn.Linear(latent, 16 * 4 * 4)
        self.dec1 = nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)
        self.dec2 = nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1)

    def reparametrize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return eps * std + mu

    def forward(self, x):
        h = F.relu(self.enc2(F.relu(self.enc1(x)))).flatten(start_dim=1)
        mu, logvar = self.fc_mu(h), self.fc_var(h)
        z = self.reparametrize(mu, logvar)
        h = F.relu(self.fc_dec(z)).view(-1, 16, 4, 4)
        h = self.dec2(F.relu(self.dec1(h)))
        return VAEOutput(torch.sigmoid(h), mu, logvar)


class VQVAE(nn.Module):
    """Nearest code by argmin of distances, straight-through."""

    def __init__(self, codes=16, dim=8):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, dim, 3, 1, 1)
        )
        self.codebook = nn.Embedding(codes, dim)
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, 16, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1)
        )

    def forward(self, x):
        z = self.encoder(x).permute(0, 2, 3, 1)
        codes = self.codebook.weight
        distances = (z.unsqueeze(-2) - codes).pow(2).sum(-1)
        quantized = F.embedding(distances.argmin(-1), codes)
        loss = F.mse_loss(quantized, z.detach()) + 0.25 * F.mse_loss(z, quantized.detach())
        quantized = z + (quantized - z).detach()
        return self.decoder(quantized.permute(0, 3, 1, 2)), loss


class TiedAutoencoder(nn.Module):
    """The decoder uses the encoder's weights transposed."""

    def __init__(self):
        super().__init__()
        self.enc1 = nn.Linear(32, 16)
        self.enc2 = nn.Linear(16, 8)
        self.dec_bias1 = nn.Parameter(torch.zeros(16))
        self.dec_bias2 = nn.Parameter(torch.zeros(32))

    def forward(self, x):
        h = torch.relu(self.enc1(x))
        h = torch.relu(self.enc2(h))
        h = torch.relu(F.linear(h, self.enc2.weight.t(), self.dec_bias1))
        return F.linear(h, self.enc1.weight.t(), self.dec_bias2)


class Coupling(nn.Module):
    def __init__(self, dim, hidden, mask):
        super().__init__()
        self.register_buffer("mask", mask)
        self.scale_net = self.make(dim, hidden)
        self.translate_net = self.make(dim, hidden)
        self.scale = nn.Parameter(torch.ones(dim))

    @staticmethod
    def make(dim, hidden):
        return nn.Sequential(
            nn.Linear(dim, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, dim),
        )

    def forward(self, x):
        masked = x * self.mask
        s = torch.tanh(self.scale_net(masked)) * self.scale
        t = self.translate_net(masked)
        y = masked + (1 - self.mask) * (x * torch.exp(s) + t)
        return y, ((1 - self.mask) * s).sum(-1)


class RealNVP(nn.Module):
    def __init__(self, dim=8, hidden=24, depth=4):
        super().__init__()
        masks = [(torch.arange(dim) % 2 == i % 2).float() for i in range(depth)]
        self.layers = nn.ModuleList(Coupling(dim, hidden, mask) for mask in masks)

    def forward(self, x):
        log_det = torch.zeros_like(x[:, 0])
        for layer in self.layers:
            x, ld = layer(x)
            log_det += ld
        log_prob = -0.5 * x.pow(2).sum(-1) + log_det
        return x, log_det, log_prob


ENTRIES = (
    Entry("dcgan_generator", DCGANGenerator, lambda: (floats(2, 16, 1, 1),), 4, True,
          "transposed convolutions from a 1x1 input"),
    Entry("dcgan_discriminator", DCGANDiscriminator, image(), 4, True, "leaky 0.2 in place"),
    Entry("pix2pix_generator", pix2pix_generator, image(), 8, True,
          "nested skips; the in-place leaky ReLU rewrites what the cat holds"),
    Entry("pix2pix_discriminator", PatchDiscriminator,
          lambda: (floats(2, 3, 32, 32), floats(2, 3, 32, 32, seed=1)), 4, True,
          "two images by cat, instance norm"),
    Entry("vae", VAE, image(1, 16), 7, True, "randn_like; a dataclass out"),
    Entry("vqvae", VQVAE, image(3, 16), 4, True, "argmin, detach, straight-through"),
    Entry("tied_autoencoder", TiedAutoencoder, lambda: (floats(4, 32),), 2, True,
          "each weight used twice, once transposed"),
    Entry("realnvp", RealNVP, lambda: (floats(4, 8),), 24, True,
          "masks, tanh scales, exp; three outputs; log_det +="),
)  # fmt: skip
