"""Transformers for tokens."""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analyses._nets import laws

VOCABULARY = 500
LENGTH = 32


class Conv1D(nn.Module):
    """transformers' linear layer of GPT-2: the weight is (in, out)."""

    def __init__(self, out: int, inp: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inp, out) * std)
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return out.view(*x.size()[:-1], -1)


class GPT2Block(nn.Module):
    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.heads, last = heads, 0.02 / math.sqrt(2 * depth)
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.c_attn, self.c_proj = Conv1D(3 * dim, dim), Conv1D(dim, dim, last)
        self.c_fc, self.mlp_proj = Conv1D(4 * dim, dim), Conv1D(dim, 4 * dim, last)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("causal", torch.tril(torch.ones(LENGTH, LENGTH)).bool())

    def attend(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(c, dim=2)
        )
        logits = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
        logits = logits.masked_fill(~self.causal[:t, :t], float("-inf"))
        y = self.dropout(logits.softmax(-1)) @ v
        return self.dropout(self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.ln_1(x))
        return x + self.dropout(self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")))


class GPT2(nn.Module):
    """transformers', narrower; the output shares the table of the input."""

    def __init__(self, dim: int = 128, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, dim), nn.Embedding(LENGTH, dim)
        self.drop, self.ln_f = nn.Dropout(0.1), nn.LayerNorm(dim)
        self.h = nn.ModuleList(GPT2Block(dim, heads, depth) for _ in range(depth))
        self.lm_head = nn.Linear(dim, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight
        laws.normal(self)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.size(1))))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class RMSNorm(nn.Module):
    """By hand, as Llama and T5 have it."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps))


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class LlamaLayer(nn.Module):
    """Rotary positions, grouped keys and values, SwiGLU."""

    def __init__(self, dim: int, heads: int, groups: int, inner: int) -> None:
        super().__init__()
        self.size, self.repeat = dim // heads, heads // groups
        self.q_proj, self.o_proj = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (
            nn.Linear(dim, groups * self.size, bias=False) for _ in range(2)
        )
        self.gate_proj, self.up_proj = (nn.Linear(dim, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, dim, bias=False)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim), RMSNorm(dim)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            layer(x).view(b, t, -1, self.size).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (z * cos + rotated(z) * sin for z in (q, k))
        k, v = (z.repeat_interleave(self.repeat, dim=1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attend(self.input_layernorm(x), cos, sin)
        h = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class Llama(nn.Module):
    def __init__(self, dim: int = 128, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, dim)
        self.layers = nn.ModuleList(LlamaLayer(dim, heads, 2, 3 * dim) for _ in range(depth))
        self.norm, self.lm_head = RMSNorm(dim), nn.Linear(dim, VOCABULARY, bias=False)
        size = dim // heads
        rates = 1.0 / (10000.0 ** (torch.arange(0, size, 2).float() / size))
        angles = torch.outer(torch.arange(LENGTH).float(), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        laws.normal(self)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.lm_head(self.norm(x))


class BertLayer(nn.Module):
    """The norm stands behind the sum."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(dim, dim) for _ in range(4))
        self.intermediate, self.output = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.dropout, self.heads = nn.Dropout(0.1), heads

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = (
            layer(x).view(b, t, self.heads, c // self.heads).permute(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(c // self.heads)
        context = torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v)
        context = context.permute(0, 2, 1, 3).reshape(b, t, c)
        x = self.norm1(self.dropout(self.dense(context)) + x)
        return self.norm2(self.dropout(self.output(F.gelu(self.intermediate(x)))) + x)


class Bert(nn.Module):
    def __init__(self, dim: int = 128, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(LENGTH, dim)
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.norm, self.dropout = nn.LayerNorm(dim, eps=1e-12), nn.Dropout(0.1)
        self.layer = nn.ModuleList(BertLayer(dim, heads) for _ in range(depth))
        self.pooler = nn.Linear(dim, dim)
        laws.normal(self)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        x = self.dropout(self.norm(x + self.position_embeddings(torch.arange(ids.size(1)))))
        for layer in self.layer:
            x = layer(x)
        return torch.tanh(self.pooler(x[:, 0]))


class T5Block(nn.Module):
    """Logits are not scaled: the queries are drawn small instead."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads, size = heads, dim // heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.wi, self.wo = nn.Linear(dim, inner, bias=False), nn.Linear(inner, dim, bias=False)
        self.norm1, self.norm2, self.dropout = RMSNorm(dim), RMSNorm(dim), nn.Dropout(0.1)
        nn.init.normal_(self.q.weight, std=(dim * size) ** -0.5)
        for layer in (self.k, self.v, self.o, self.wi, self.wo):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        b, t, c = x.shape
        h = self.norm1(x)
        q, k, v = (
            layer(h).view(b, t, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        weights = self.dropout((q @ k.transpose(3, 2) + bias).softmax(-1))
        x = x + self.dropout(self.o((weights @ v).transpose(1, 2).reshape(b, t, c)))
        return x + self.dropout(self.wo(self.dropout(F.relu(self.wi(self.norm2(x))))))


class T5Encoder(nn.Module):
    """A table of biases by distance, which all blocks share."""

    def __init__(self, dim: int = 128, heads: int = 4, depth: int = 4, buckets: int = 16) -> None:
        super().__init__()
        self.shared, self.dropout = nn.Embedding(VOCABULARY, dim), nn.Dropout(0.1)
        self.relative = nn.Embedding(2 * buckets + 1, heads)
        nn.init.normal_(self.relative.weight, std=dim**-0.5)
        self.blocks = nn.ModuleList(T5Block(dim, heads, 4 * dim) for _ in range(depth))
        self.final, self.buckets = RMSNorm(dim), buckets

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.size(1))
        apart = (places[None] - places[:, None]).clamp(-self.buckets, self.buckets) + self.buckets
        bias = self.relative(apart).permute(2, 0, 1).unsqueeze(0)
        x = self.dropout(self.shared(ids))
        for block in self.blocks:
            x = block(x, bias)
        return self.dropout(self.final(x))


class TorchEncoder(nn.Module):
    """nn.TransformerEncoder, whose layers start as copies of one."""

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        with warnings.catch_warnings():  # that nested tensors do not serve here
            warnings.simplefilter("ignore", UserWarning)
            layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, num_layers=4)
        self.proj, self.head = nn.Linear(16, dim), nn.Linear(dim, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.proj(x)).mean(dim=1))
