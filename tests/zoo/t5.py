"""T5: relative bias shared by the blocks of a stack, RMS norm, encoder and decoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.entry import Entry, tokens

VOCABULARY = 40


class T5LayerNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps))


def bucket(relative, bidirectional, buckets=8, max_distance=16):
    found = 0
    if bidirectional:
        buckets //= 2
        found += (relative > 0).to(torch.long) * buckets
        relative = torch.abs(relative)
    else:
        relative = -torch.min(relative, torch.zeros_like(relative))
    exact = buckets // 2
    large = torch.log(relative.float() / exact) / math.log(max_distance / exact)
    large = exact + (large * (buckets - exact)).to(torch.long)
    large = torch.min(large, torch.full_like(large, buckets - 1))
    found += torch.where(relative < exact, relative, large)
    return found


class T5Attention(nn.Module):
    def __init__(self, dim, heads, decoder, has_bias):
        super().__init__()
        self.heads, self.decoder, self.has_bias = heads, decoder, has_bias
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(8, heads)

    def compute_bias(self, query_length, key_length):
        context = torch.arange(query_length, dtype=torch.long)[:, None]
        memory = torch.arange(key_length, dtype=torch.long)[None, :]
        relative = bucket(memory - context, bidirectional=not self.decoder)
        values = self.relative_attention_bias(relative)
        return values.permute([2, 0, 1]).unsqueeze(0)

    def forward(self, hidden, memory=None, position_bias=None):
        source = hidden if memory is None else memory
        batch, length = hidden.shape[:2]
        q = self.q(hidden).view(batch, -1, self.heads, 8).transpose(1, 2)
        k = self.k(source).view(batch, -1, self.heads, 8).transpose(1, 2)
        v = self.v(source).view(batch, -1, self.heads, 8).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(3, 2))
        if position_bias is None:
            if self.has_bias:
                position_bias = self.compute_bias(length, source.shape[1])
            else:
                position_bias = torch.zeros((1, self.heads, length, source.shape[1]))
            if self.decoder and memory is None:
                causal = torch.ones(length, length).triu(1).bool()
                position_bias = position_bias.masked_fill(causal, torch.finfo(q.dtype).min)
        scores += position_bias
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        out = torch.matmul(weights, v).transpose(1, 2).contiguous().view(batch, -1, 8 * self.heads)
        return self.o(out), position_bias


class T5Block(nn.Module):
    def __init__(self, dim, heads, decoder, first):
        super().__init__()
        self.attention = T5Attention(dim, heads, decoder, first)
        self.cross = T5Attention(dim, heads, decoder, False) if decoder else None
        self.wi, self.wo = nn.Linear(dim, 48, bias=False), nn.Linear(48, dim, bias=False)
        self.norms = nn.ModuleList(T5LayerNorm(dim) for _ in range(3 if decoder else 2))
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden, memory, biases):
        out, bias = self.attention(self.norms[0](hidden), position_bias=biases[0])
        hidden = hidden + self.dropout(out)
        cross_bias = None
        if self.cross is not None:
            out, cross_bias = self.cross(self.norms[1](hidden), memory, position_bias=biases[1])
            hidden = hidden + self.dropout(out)
        forwarded = self.norms[-1](hidden)
        forwarded = self.wo(self.dropout(F.relu(self.wi(forwarded))))
        hidden = hidden + self.dropout(forwarded)
        return hidden, (bias, cross_bias)


class T5Stack(nn.Module):
    def __init__(self, embed_tokens, dim, heads, decoder, depth=2):
        super().__init__()
        self.embed_tokens = embed_tokens
        self.block = nn.ModuleList(T5Block(dim, heads, decoder, i == 0) for i in range(depth))
        self.final_layer_norm = T5LayerNorm(dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, input_ids, memory=None):
        hidden = self.dropout(self.embed_tokens(input_ids))
        biases = (None, None)
        for block in self.block:
            hidden, biases = block(hidden, memory, biases)
        return self.dropout(self.final_layer_norm(hidden))


class T5(nn.Module):
    def __init__(self, dim=32, heads=4):
        super().__init__()
        self.model_dim = dim
        self.shared = nn.Embedding(VOCABULARY, dim)
        self.encoder = T5Stack(self.shared, dim, heads, decoder=False)
        self.decoder = T5Stack(self.shared, dim, heads, decoder=True)
        self.lm_head = nn.Linear(dim, VOCABULARY, bias=False)
        self.lm_head.weight = self.shared.weight

    def forward(self, input_ids, decoder_input_ids):
        memory = self.encoder(input_ids)
        sequence_output = self.decoder(decoder_input_ids, memory=memory)
        sequence_output = sequence_output * (self.model_dim**-0.5)
        return self.lm_head(sequence_output)


def inputs():
    return {
        "input_ids": tokens(2, 11, below=VOCABULARY),
        "decoder_input_ids": tokens(2, 7, below=VOCABULARY, seed=1),
    }


ENTRIES = (
    Entry("t5", T5, inputs, 33, False,
          "head tied to one embedding of two stacks; scores += bias handed from block to block"),
)  # fmt: skip
