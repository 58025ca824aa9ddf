"""Transformers for text: GPT-2, Llama, T5, BERT, torch's own, mixture of experts."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.entry import Entry, floats, tokens

VOCABULARY = 40


class Conv1D(nn.Module):
    """GPT-2's linear layer: the weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x):
        return x @ self.weight + self.bias


class AddmmConv1D(Conv1D):
    """The same as Hugging Face spells it."""

    def forward(self, x):
        size_out = (*x.size()[:-1], self.weight.shape[1])
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return x.view(size_out)


def new_gelu(x):
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3.0)))


class GPT2Block(nn.Module):
    def __init__(self, linear, dim, heads, context):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.c_attn = linear(3 * dim, dim)
        self.c_proj = linear(dim, dim)
        self.c_fc = linear(4 * dim, dim)
        self.c_out = linear(dim, 4 * dim)
        self.n_head, self.n_embd = heads, dim
        causal = torch.tril(torch.ones(context, context)).view(1, 1, context, context)
        self.register_buffer("bias", causal)

    def attend(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        att = F.softmax(att, dim=-1)
        y = att @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.c_proj(y)

    def forward(self, x):
        x = x + self.attend(self.ln_1(x))
        return x + self.c_out(new_gelu(self.c_fc(self.ln_2(x))))


class GPT2(nn.Module):
    def __init__(self, linear=Conv1D, dim=32, heads=4, context=16, depth=2):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(VOCABULARY, dim),
                "wpe": nn.Embedding(context, dim),
                "drop": nn.Dropout(0.1),
                "h": nn.ModuleList(GPT2Block(linear, dim, heads, context) for _ in range(depth)),
                "ln_f": nn.LayerNorm(dim),
            }
        )
        self.lm_head = nn.Linear(dim, VOCABULARY, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx):
        pos = torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(pos))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


def rotate_half(x):
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def repeat_kv(hidden_states, n_rep):
    batch, heads, length, head_dim = hidden_states.shape
    hidden_states = hidden_states[:, :, None, :, :].expand(batch, heads, n_rep, length, head_dim)
    return hidden_states.reshape(batch, heads * n_rep, length, head_dim)


class LlamaLayer(nn.Module):
    def __init__(self, dim, heads, kv_heads, inner):
        super().__init__()
        self.head_dim, self.groups = dim // heads, heads // kv_heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)
        self.input_layernorm = RMSNorm(dim)
        self.post_attention_layernorm = RMSNorm(dim)

    def attend(self, x, cos, sin):
        shape = (*x.shape[:-1], -1, self.head_dim)
        q = self.q_proj(x).view(shape).transpose(1, 2)
        k = self.k_proj(x).view(shape).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        q = (q * cos) + (rotate_half(q) * sin)
        k = (k * cos) + (rotate_half(k) * sin)
        k, v = repeat_kv(k, self.groups), repeat_kv(v, self.groups)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())

    def forward(self, hidden_states, position_embeddings):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states = self.attend(hidden_states, *position_embeddings)
        hidden_states = residual + hidden_states
        residual = hidden_states
        h = self.post_attention_layernorm(hidden_states)
        h = self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return residual + h


class Llama(nn.Module):
    def __init__(self, dim=32, heads=4, kv_heads=2, depth=2):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, dim)
        self.layers = nn.ModuleList(LlamaLayer(dim, heads, kv_heads, 48) for _ in range(depth))
        self.norm = RMSNorm(dim)
        self.lm_head = nn.Linear(dim, VOCABULARY, bias=False)
        head_dim = dim // heads
        inv_freq = 1.0 / (10000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim))
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, input_ids=None, position_ids=None, labels=None):
        x = self.embed_tokens(input_ids)
        freqs = position_ids[:, :, None].float() * self.inv_freq
        emb = torch.cat((freqs, freqs), dim=-1).unsqueeze(1)
        position_embeddings = (emb.cos(), emb.sin())
        for layer in self.layers:
            x = layer(x, position_embeddings=position_embeddings)
        logits = self.lm_head(self.norm(x))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.view(-1, VOCABULARY), labels.view(-1))
        return {"loss": loss, "logits": logits}


class BertLayer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.dense = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.intermediate, self.output = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.heads = heads

    def transpose_for_scores(self, x):
        x = x.view(*x.size()[:-1], self.heads, x.size(-1) // self.heads)
        return x.permute(0, 2, 1, 3)

    def forward(self, x, attention_mask):
        q = self.transpose_for_scores(self.query(x))
        k = self.transpose_for_scores(self.key(x))
        v = self.transpose_for_scores(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1))
        probs = self.dropout(nn.functional.softmax(scores + attention_mask, dim=-1))
        context = torch.matmul(probs, v).permute(0, 2, 1, 3).contiguous()
        context = context.view(*context.size()[:-2], -1)
        x = self.norm1(self.dropout(self.dense(context)) + x)
        h = self.output(F.gelu(self.intermediate(x)))
        return self.norm2(self.dropout(h) + x)


class Bert(nn.Module):
    """With classes: a token classifier, whose pooler is built and never called."""

    def __init__(self, classes=None, dim=32, heads=4, depth=2):
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(16, dim)
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.register_buffer("position_ids", torch.arange(16).expand((1, -1)))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layer = nn.ModuleList(BertLayer(dim, heads) for _ in range(depth))
        self.pooler = nn.Linear(dim, dim)
        self.classifier = nn.Linear(dim, classes) if classes else None

    def forward(self, input_ids, attention_mask, token_type_ids):
        positions = self.position_ids[:, : input_ids.size(1)]
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        x += self.position_embeddings(positions)
        x = F.dropout(self.norm(x), p=0.1, training=self.training)
        mask = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for layer in self.layer:
            x = layer(x, mask)
        if self.classifier is not None:
            return OrderedDict(logits=self.classifier(x))
        pooled = torch.tanh(self.pooler(x[:, 0]))
        return OrderedDict(last_hidden_state=x, pooler_output=pooled)


class TorchEncoder(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, nhead=4, dim_feedforward=48, batch_first=True)
        self.proj = nn.Linear(8, dim)
        self.encoder = nn.TransformerEncoder(layer, num_layers=3)
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.proj(x) * math.sqrt(32)
        return self.head(self.encoder(x).mean(dim=1))


class TorchSeq2Seq(nn.Module):
    """nn.Transformer, sequence first, pre-norm, with a sine position table."""

    def __init__(self, dim=32, length=16):
        super().__init__()
        with warnings.catch_warnings():  # that nested tensors do not serve here
            warnings.simplefilter("ignore", UserWarning)
            self.transformer = nn.Transformer(
                dim, 4, 2, 2, dim_feedforward=48, activation="gelu", norm_first=True
            )
        self.src_emb, self.tgt_emb = nn.Embedding(VOCABULARY, dim), nn.Embedding(VOCABULARY, dim)
        self.generator = nn.Linear(dim, VOCABULARY)
        position = torch.arange(length)[:, None] * torch.exp(
            torch.arange(0, dim, 2) * (-math.log(10000.0) / dim)
        )
        table = torch.zeros(length, 1, dim)
        table[:, 0, 0::2], table[:, 0, 1::2] = torch.sin(position), torch.cos(position)
        self.register_buffer("pe", table)
        mask = torch.triu(torch.full((length, length), float("-inf")), diagonal=1)
        self.register_buffer("causal", mask)

    def forward(self, src, tgt):
        src_emb = self.src_emb(src) * math.sqrt(32) + self.pe[: src.size(0)]
        tgt_emb = self.tgt_emb(tgt) * math.sqrt(32) + self.pe[: tgt.size(0)]
        mask = self.causal[: tgt.size(0), : tgt.size(0)]
        return self.generator(self.transformer(src_emb, tgt_emb, tgt_mask=mask))


class MoE(nn.Module):
    """All experts by einsum with parameters of three axes, weighed by a softmax gate."""

    def __init__(self, dim, hidden, experts, top=2):
        super().__init__()
        self.gate = nn.Linear(dim, experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(experts, dim, hidden) * dim**-0.5)
        self.b1 = nn.Parameter(torch.zeros(experts, hidden))
        self.w2 = nn.Parameter(torch.randn(experts, hidden, dim) * hidden**-0.5)
        self.top = top

    def forward(self, x):
        logits = self.gate(x)
        top, index = logits.topk(self.top, dim=-1)
        weights = torch.zeros_like(logits).scatter(-1, index, top.softmax(dim=-1))
        h = torch.einsum("btd,edh->beth", x, self.w1) + self.b1[None, :, None]
        y = torch.einsum("beth,ehd->betd", F.gelu(h), self.w2)
        return torch.einsum("betd,bte->btd", y, weights)


class MoETransformer(nn.Module):
    def __init__(self, dim=32, depth=2):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, dim)
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(dim, 4, bias=False, batch_first=True) for _ in range(depth)
        )
        self.moe = nn.ModuleList(MoE(dim, 24, 4) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * depth))

    def forward(self, ids):
        x = self.embed(ids)
        for i, (attention, moe) in enumerate(zip(self.attention, self.moe, strict=True)):
            h = self.norms[2 * i](x)
            x = x + attention(h, h, h)[0]
            x = x + moe(self.norms[2 * i + 1](x))
        return F.linear(x, self.embed.weight)


class SortedExperts(nn.Module):
    """bmm: each expert takes the tokens routed to it, by index_add_; control flow on data."""

    def __init__(self, dim=16, experts=3):
        super().__init__()
        self.inp = nn.Linear(8, dim)
        self.router = nn.Linear(dim, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
            for _ in range(experts)
        )
        self.shared = nn.Parameter(torch.randn(2, dim, dim) * dim**-0.5)
        self.out = nn.Linear(dim, 4)

    def forward(self, x):
        x = self.inp(x)
        scores = F.softmax(self.router(x), dim=-1)
        weight, chosen = torch.max(scores, dim=-1)
        final = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == i)
            if rows.numel() == 0:
                continue
            final.index_add_(0, rows, expert(x[rows]) * weight[rows, None])
        shared = torch.bmm(x.unsqueeze(0).expand(2, -1, -1), self.shared).sum(0)
        return self.out(x + final + shared)


def ids():
    return (tokens(2, 12, below=VOCABULARY),)


def llama_inputs():
    return {
        "input_ids": tokens(2, 12, below=VOCABULARY),
        "position_ids": torch.arange(12).unsqueeze(0),
    }


def bert_inputs():
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 9:] = 0
    types = (torch.arange(12) > 5).long().expand(2, -1)
    return {
        "input_ids": tokens(2, 12, below=VOCABULARY) * mask,
        "attention_mask": mask,
        "token_type_ids": types,
    }


def pair():
    return (tokens(12, 2, below=VOCABULARY), tokens(9, 2, below=VOCABULARY, seed=1))


ENTRIES = (
    Entry("gpt2", GPT2, ids, 9, False, "x @ W + b with W (in, out); masked_fill; tied head"),
    Entry("gpt2_addmm", lambda: GPT2(AddmmConv1D), ids, 9, False, "addmm on a flat view"),
    Entry("llama", Llama, llama_inputs, 15, False,
          "kwargs; RMS norm by hand; rotary; grouped keys by expand; SwiGLU; dict with a None"),
    Entry("bert", Bert, bert_inputs, 13, False, "post-norm; x += embeddings; OrderedDict out"),
    Entry("bert_tokens", lambda: Bert(classes=5), bert_inputs, 13, False, "the pooler is unused"),
    Entry("torch_encoder", TorchEncoder, lambda: (floats(2, 6, 8),), 14, True,
          "nn.TransformerEncoder; its fused path in evaluation without gradients"),
    Entry("torch_seq2seq", TorchSeq2Seq, pair, 21, False,
          "nn.Transformer, sequence first; tables sliced by sizes"),
    Entry("moe_transformer", MoETransformer, ids, 11, True,
          "parameters of three axes by einsum; topk and scatter; embedding as head",
          tables=("b1",)),
    Entry("routed_experts", SortedExperts, lambda: (floats(24, 8),), 10, False,
          "where and index_add_ by routes; bmm with a parameter"),
)  # fmt: skip
