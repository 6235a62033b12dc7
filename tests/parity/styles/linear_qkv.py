"""GPT-1 with separate query, key and value layers; returns (logits, loss)."""

import math

import torch
import torch.nn as nn
from torch.nn import functional as F


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, num_heads, max_len):
        super().__init__()
        self.num_heads = num_heads
        self.d_k = d_model // num_heads
        self.W_q = nn.Linear(d_model, d_model)
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_o = nn.Linear(d_model, d_model)
        causal = torch.tril(torch.ones(max_len, max_len))
        self.register_buffer("causal", causal.view(1, 1, max_len, max_len), persistent=False)

    def split(self, x):
        b, t, d = x.shape
        return x.view(b, t, self.num_heads, self.d_k).transpose(1, 2)

    def merge(self, x):
        b, h, t, d = x.shape
        x = x.transpose(1, 2)
        return x.reshape(b, t, h * d)

    def forward(self, x):
        t = x.size(1)
        q = self.split(self.W_q(x))
        k = self.split(self.W_k(x))
        v = self.split(self.W_v(x))
        scores = q @ k.transpose(-2, -1)
        scores = scores / math.sqrt(self.d_k)
        mask = self.causal[:, :, :t, :t] == 0
        scores = scores.masked_fill(mask, float("-inf"))
        att = F.softmax(scores, dim=-1)
        out = att @ v
        out = self.merge(out)
        return self.W_o(out)


class NewGELU(nn.Module):
    def forward(self, x):
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
        return 0.5 * x * (1.0 + torch.tanh(inner))


class FeedForward(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff)
        self.act = NewGELU()
        self.fc2 = nn.Linear(d_ff, d_model)

    def forward(self, x):
        h = self.fc1(x)
        h = self.act(h)
        return self.fc2(h)


class DecoderLayer(nn.Module):
    def __init__(self, d_model, num_heads, max_len, eps):
        super().__init__()
        self.self_attn = MultiHeadAttention(d_model, num_heads, max_len)
        self.ln_attn = nn.LayerNorm(d_model, eps=eps)
        self.ffn = FeedForward(d_model, 4 * d_model)
        self.ln_ffn = nn.LayerNorm(d_model, eps=eps)

    def forward(self, x):
        attn_out = self.self_attn(x)
        h = self.ln_attn(x + attn_out)
        ffn_out = self.ffn(h)
        return self.ln_ffn(h + ffn_out)


class GPTLanguageModel(nn.Module):
    def __init__(self, vocab, max_len, d_model, num_heads, num_layers, eps):
        super().__init__()
        self.d_model = d_model
        self.token_embedding = nn.Embedding(vocab, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(DecoderLayer(d_model, num_heads, max_len, eps))

    def forward(self, idx, targets=None):
        positions = torch.arange(idx.size(1), device=idx.device)
        tok = self.token_embedding(idx)
        pos = self.position_embedding(positions)
        h = tok + pos.unsqueeze(0)
        for layer in self.layers:
            h = layer(h)
        logits = F.linear(h, self.token_embedding.weight)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


@torch.no_grad()
def build(config, weights):
    model = GPTLanguageModel(
        vocab=config.vocab_size,
        max_len=config.n_positions,
        d_model=config.n_embd,
        num_heads=config.n_head,
        num_layers=config.n_layer,
        eps=config.layer_norm_epsilon,
    )
    model.to(weights["tokens_embed.weight"].dtype)
    model.token_embedding.weight.copy_(weights["tokens_embed.weight"])
    model.position_embedding.weight.copy_(weights["positions_embed.weight"])
    for n, layer in enumerate(model.layers):
        prefix = f"h.{n}."
        wq, wk, wv = weights[prefix + "attn.c_attn.weight"].chunk(3, dim=1)
        bq, bk, bv = weights[prefix + "attn.c_attn.bias"].chunk(3)
        load(layer.self_attn.W_q, wq, bq)
        load(layer.self_attn.W_k, wk, bk)
        load(layer.self_attn.W_v, wv, bv)
        for target, name in (
            (layer.self_attn.W_o, "attn.c_proj"),
            (layer.ffn.fc1, "mlp.c_fc"),
            (layer.ffn.fc2, "mlp.c_proj"),
        ):
            load(target, weights[prefix + name + ".weight"], weights[prefix + name + ".bias"])
        layer.ln_attn.weight.copy_(weights[prefix + "ln_1.weight"])
        layer.ln_attn.bias.copy_(weights[prefix + "ln_1.bias"])
        layer.ln_ffn.weight.copy_(weights[prefix + "ln_2.weight"])
        layer.ln_ffn.bias.copy_(weights[prefix + "ln_2.bias"])
    model.eval()
    return model


def load(linear, weight, bias):
    linear.weight.copy_(weight.t())
    linear.bias.copy_(bias)
