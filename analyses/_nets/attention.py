"""Transformers for images, and the mixers that came after them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analyses._nets import laws


class Mlp(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """timm's: one layer for queries, keys and values; softmax spelt out or as one function."""

    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.scale, self.fused = heads, (dim // heads) ** -0.5, fused
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads, fused)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """timm's ViT-S (mean over tokens), or DeiT with a class token; narrower."""

    def __init__(self, token: bool, dim: int = 128, heads: int = 4, depth: int = 6) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 1e-6) if token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, 64 + token, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, not token) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 100)
        laws.truncated(self, convolutions=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x.mean(dim=1) if self.cls_token is None else x[:, 0])


class WindowAttention(nn.Module):
    """Of Swin: a table of biases by relative position, a mask where windows were rolled."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        axis = torch.arange(window)
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
        apart = (places[:, :, None] - places[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", apart[..., 0] * (2 * window - 1) + apart[..., 1])
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        logits = q @ k.transpose(-2, -1) + bias.unsqueeze(0)
        if mask is not None:
            logits = logits.view(-1, len(mask), self.heads, n, n) + mask[:, None]
            logits = logits.view(b, self.heads, n, n)
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


def windows(x: Tensor, size: int) -> Tensor:
    """(batch, height, width, channels) → (windows, places in one, channels)."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def unwindowed(x: Tensor, size: int, side: int) -> Tensor:
    """The way back."""
    x = x.view(-1, side // size, side // size, size, size, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, x.shape[-1])


class SwinBlock(nn.Module):
    def __init__(self, dim: int, side: int, heads: int, shift: int, window: int = 4) -> None:
        super().__init__()
        self.side, self.window, self.shift = side, window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = WindowAttention(dim, window, heads), Mlp(dim, 4 * dim)
        self.register_buffer("mask", self.zones() if shift else None)

    def zones(self) -> Tensor:
        """What must not see each other: places that rolled in from the other side."""
        axis = torch.arange(self.side)
        zone = (axis >= self.side - self.window).long() + (axis >= self.side - self.shift).long()
        numbers = windows((3 * zone[:, None] + zone)[None, :, :, None], self.window)[..., 0]
        return torch.where(numbers[:, None] == numbers[:, :, None], 0.0, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        if self.shift:
            h = torch.roll(h, (-self.shift, -self.shift), dims=(1, 2))
        h = unwindowed(self.attn(windows(h, self.window), self.mask), self.window, self.side)
        if self.shift:
            h = torch.roll(h, (self.shift, self.shift), dims=(1, 2))
        x = x + h
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    """Four neighbours become one with twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class Swin(nn.Module):
    """torchvision's, narrower, on 16 × 16 patches of 2 × 2 pixels."""

    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 2, stride=2)
        self.patch_norm = nn.LayerNorm(dim)
        self.features = nn.Sequential(
            SwinBlock(dim, 16, 2, 0), SwinBlock(dim, 16, 2, 2), Merging(dim),
            SwinBlock(2 * dim, 8, 4, 0), SwinBlock(2 * dim, 8, 4, 2),
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(2 * dim), nn.Linear(2 * dim, 100)
        laws.truncated(self, convolutions=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.patch_norm(self.patch(x).permute(0, 2, 3, 1)))
        return self.head(self.norm(x).mean(dim=(1, 2)))


class MixerBlock(nn.Module):
    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(dim), Mlp(tokens, dim // 2)
        self.norm2, self.mlp_channels = nn.LayerNorm(dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Affine(nn.Module):
    """A factor and a shift for each channel in place of a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class ResBlock(nn.Module):
    """ResMLP's, with layer scales of 1e-4."""

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Affine(dim), Affine(dim)
        self.linear_tokens, self.mlp = nn.Linear(tokens, tokens), Mlp(dim, 4 * dim)
        self.ls1 = nn.Parameter(1e-4 * torch.ones(dim))
        self.ls2 = nn.Parameter(1e-4 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.ls1 * h
        return x + self.ls2 * self.mlp(self.norm2(x))


class Mixer(nn.Module):
    """timm's MLP-Mixer and ResMLP; the classifier, which timm sets to 0, is left out."""

    def __init__(self, block: type, norm: type, dim: int = 128, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 4, stride=4)
        self.blocks = nn.Sequential(*(block(dim, 64) for _ in range(depth)))
        self.norm = norm(dim)
        laws.mixer(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x).flatten(2).transpose(1, 2))
        return self.norm(x).mean(dim=1)
