"""Recurrent and state-space models."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.entry import Entry, floats, tokens
from tests.zoo.language import RMSNorm

VOCABULARY = 40


class MambaBlock(nn.Module):
    def __init__(self, dim, inner=32, state=8, dt_rank=4):
        super().__init__()
        self.inner, self.state, self.dt_rank = inner, state, dt_rank
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.x_proj = nn.Linear(inner, dt_rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, inner)
        A = torch.arange(1, state + 1, dtype=torch.float32).repeat(inner, 1)
        self.A_log = nn.Parameter(torch.log(A))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        l = x.shape[1]  # noqa: E741
        x_and_res = self.in_proj(x)
        (x, res) = x_and_res.split(split_size=[self.inner, self.inner], dim=-1)
        x = x.transpose(1, 2)
        x = self.conv1d(x)[:, :, :l]
        x = F.silu(x.transpose(1, 2))
        y = self.ssm(x)
        y = y * F.silu(res)
        return self.out_proj(y)

    def ssm(self, x):
        A = -torch.exp(self.A_log.float())
        x_dbl = self.x_proj(x)
        (delta, B, C) = x_dbl.split([self.dt_rank, self.state, self.state], dim=-1)
        delta = F.softplus(self.dt_proj(delta))
        return self.selective_scan(x, delta, A, B, C, self.D.float())

    def selective_scan(self, u, delta, A, B, C, D):
        (b, l, d_in) = u.shape  # noqa: E741
        deltaA = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
        deltaB_u = torch.einsum("bld,bln,bld->bldn", delta, B, u)
        x = torch.zeros((b, d_in, self.state), device=deltaA.device)
        ys = []
        for i in range(l):
            x = deltaA[:, i] * x + deltaB_u[:, i]
            ys.append(torch.einsum("bdn,bn->bd", x, C[:, i, :]))
        y = torch.stack(ys, dim=1)
        return y + u * D


class Mamba(nn.Module):
    def __init__(self, dim=16, depth=2):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, dim)
        self.layers = nn.ModuleList(MambaBlock(dim) for _ in range(depth))
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(depth))
        self.norm_f = RMSNorm(dim)
        self.lm_head = nn.Linear(dim, VOCABULARY, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, input_ids):
        x = self.embedding(input_ids)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = layer(norm(x)) + x
        return self.lm_head(self.norm_f(x))


class LSTMLanguageModel(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(VOCABULARY, dim)
        self.rnn = nn.LSTM(dim, 32, 2, dropout=0.2)
        self.decoder = nn.Linear(32, VOCABULARY)

    def forward(self, input, hidden=None):
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        output = self.drop(output)
        decoded = self.decoder(output).view(-1, VOCABULARY)
        return F.log_softmax(decoded, dim=1), hidden


class LSTMByHand(nn.Module):
    def __init__(self, inp=8, hidden=24, classes=5):
        super().__init__()
        self.hidden = hidden
        self.i2h = nn.Linear(inp, 4 * hidden)
        self.h2h = nn.Linear(hidden, 4 * hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        h = torch.zeros(x.size(0), self.hidden, device=x.device)
        c = torch.zeros_like(h)
        for t in range(x.size(1)):
            preact = self.i2h(x[:, t, :]) + self.h2h(h)
            gates = preact[:, : 3 * self.hidden].sigmoid()
            g_t = preact[:, 3 * self.hidden :].tanh()
            i_t, f_t, o_t = gates.chunk(3, 1)
            c = torch.mul(c, f_t) + torch.mul(i_t, g_t)
            h = torch.mul(o_t, c.tanh())
        return self.head(h)


class ElmanRNN(nn.Module):
    """A fixed number of steps, weights as plain parameters."""

    def __init__(self, inp=6, hidden=24, steps=5):
        super().__init__()
        self.steps = steps
        self.w_ih = nn.Parameter(torch.randn(inp, hidden) / math.sqrt(inp))
        self.w_hh = nn.Parameter(torch.eye(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.w_out = nn.Parameter(torch.randn(hidden, 3) / math.sqrt(hidden))

    def forward(self, x):
        h = torch.tanh(x[:, 0] @ self.w_ih + self.bias)
        outputs = [h.matmul(self.w_out)]
        for t in range(1, self.steps):
            h = torch.tanh(torch.mm(x[:, t], self.w_ih) + h.mm(self.w_hh) + self.bias)
            outputs += [h.matmul(self.w_out)]
        return torch.stack(outputs, 1)


class GRUClassifier(nn.Module):
    def __init__(self, dim=16, hidden=16, classes=4):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, dim, padding_idx=0)
        self.gru = nn.GRU(dim, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * hidden, 1)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, ids):
        out, _ = self.gru(self.embedding(ids))
        weights = torch.softmax(self.attention(out).squeeze(-1), dim=1)
        pooled = torch.bmm(weights.unsqueeze(1), out).squeeze(1)
        return self.fc(pooled)


class Seq2SeqAttention(nn.Module):
    """Cells called in a loop; additive attention v(tanh(w(h) + u(s)))."""

    def __init__(self, dim=16, steps=4):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, dim)
        self.encoder = nn.GRU(dim, dim, batch_first=True)
        self.cell = nn.GRUCell(2 * dim, dim)
        self.w, self.u = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.v = nn.Linear(dim, 1, bias=False)
        self.out = nn.Linear(2 * dim, VOCABULARY)
        self.steps = steps

    def forward(self, src, tgt):
        memory, state = self.encoder(self.embedding(src))
        state, keys = state[0], self.w(memory)
        logits = []
        for t in range(self.steps):
            energy = self.v(torch.tanh(keys + self.u(state)[:, None])).squeeze(-1)
            context = (energy.softmax(-1)[..., None] * memory).sum(1)
            state = self.cell(torch.cat([self.embedding(tgt[:, t]), context], -1), state)
            logits.append(self.out(torch.cat([state, context], -1)))
        return torch.stack(logits, dim=1)


class RWKVBlock(nn.Module):
    """Time shift by ZeroPad2d, mixing parameters, squared ReLU, gates by sigmoid."""

    def __init__(self, dim):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.time_shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.time_mix = nn.ParameterDict(
            {name: nn.Parameter(torch.rand(1, 1, dim)) for name in ("k", "v", "r", "ck", "cr")}
        )
        self.decay = nn.Parameter(torch.zeros(dim))
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.ffn_key = nn.Linear(dim, 2 * dim, bias=False)
        self.ffn_value = nn.Linear(2 * dim, dim, bias=False)
        self.ffn_receptance = nn.Linear(dim, dim, bias=False)

    def mix(self, x, shifted, name):
        return x * self.time_mix[name] + shifted * (1 - self.time_mix[name])

    def attend(self, x):
        xx = self.time_shift(x)
        k = torch.exp(self.key(self.mix(x, xx, "k")).clamp(max=20))
        v = self.value(self.mix(x, xx, "v"))
        r = torch.sigmoid(self.receptance(self.mix(x, xx, "r")))
        a = b = torch.zeros_like(k[:, 0])
        outs = []
        for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
            outs.append((a + k_t * v_t) / (b + k_t))
            decay = torch.exp(-torch.exp(self.decay))
            a, b = decay * a + k_t * v_t, decay * b + k_t
        return self.output(r * torch.stack(outs, 1))

    def forward(self, x):
        x = x + self.attend(self.ln1(x))
        h = self.ln2(x)
        hh = self.time_shift(h)
        k = torch.square(torch.relu(self.ffn_key(self.mix(h, hh, "ck"))))
        return x + torch.sigmoid(self.ffn_receptance(self.mix(h, hh, "cr"))) * self.ffn_value(k)


class RWKV(nn.Module):
    def __init__(self, dim=16, depth=2):
        super().__init__()
        self.emb = nn.Embedding(VOCABULARY, dim)
        self.blocks = nn.ModuleList(RWKVBlock(dim) for _ in range(depth))
        self.ln_out = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCABULARY, bias=False)

    def forward(self, idx):
        x = self.emb(idx)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_out(x))


def ids():
    return (tokens(2, 10, below=VOCABULARY),)


ENTRIES = (
    Entry("mamba", Mamba, ids, 11, False,
          "loop over time; softplus steps; exp(delta A) by einsum with -exp(A_log), no weight: "
          "'bld,dn->bldn' sums over nothing",
          tables=("A_log",)),
    Entry("lstm_lm", LSTMLanguageModel, lambda: (tokens(7, 2, below=VOCABULARY),), 1, True,
          "nn.LSTM of two layers; tuple out"),
    Entry("lstm_by_hand", LSTMByHand, lambda: (floats(2, 5, 8),), 3, False,
          "two layers used at each step, gates by slices"),
    Entry("elman_rnn", ElmanRNN, lambda: (floats(2, 5, 6),), 3, True,
          "plain parameters by @, mm and matmul; each used many times"),
    Entry("gru_classifier", GRUClassifier, ids, 2, True, "bidirectional; attention pooling"),
    Entry("seq2seq_attention", Seq2SeqAttention,
          lambda: (*ids(), tokens(2, 4, below=VOCABULARY, seed=1)), 4, True,
          "nn.GRUCell in a loop (not counted); additive attention"),
    Entry("rwkv", RWKV, ids, 15, False,
          "mixing by a ParameterDict; squared ReLU; exponentials; ZeroPad2d by -1",
          tables=("k", "v", "r", "ck", "cr")),
)  # fmt: skip
