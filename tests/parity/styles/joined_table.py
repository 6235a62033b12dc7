"""GPT-1 after the code of 2018: one table of tokens and positions, and ids in pairs."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv_w = nn.Parameter(torch.empty(width, 3 * width))
        self.qkv_b = nn.Parameter(torch.zeros(3 * width))
        self.out_w = nn.Parameter(torch.empty(width, width))
        self.out_b = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        n, length, width = x.shape
        qkv = x @ self.qkv_w + self.qkv_b
        qkv = qkv.reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        w = q @ k.mT
        w = w * (1.0 / math.sqrt(width // self.heads))
        b = torch.ones(length, length, dtype=x.dtype, device=x.device).tril()
        w = w * b + -1e9 * (1 - b)
        w = w.softmax(-1)
        a = w @ v
        a = a.transpose(1, 2).flatten(2)
        return a @ self.out_w + self.out_b


class Block(nn.Module):
    def __init__(self, width, heads, e):
        super().__init__()
        self.attn = Attention(width, heads)
        self.g1 = nn.Parameter(torch.ones(width))
        self.b1 = nn.Parameter(torch.zeros(width))
        self.fc_w = nn.Parameter(torch.empty(width, 4 * width))
        self.fc_b = nn.Parameter(torch.zeros(4 * width))
        self.proj_w = nn.Parameter(torch.empty(4 * width, width))
        self.proj_b = nn.Parameter(torch.zeros(width))
        self.g2 = nn.Parameter(torch.ones(width))
        self.b2 = nn.Parameter(torch.zeros(width))
        self.e = e

    def norm(self, x, g, b):
        u = x.mean(-1, keepdim=True)
        s = (x - u).pow(2).mean(-1, keepdim=True)
        x = (x - u) * torch.rsqrt(s + self.e)
        return x * g + b

    def forward(self, x):
        a = self.attn(x)
        n = self.norm(x + a, self.g1, self.b1)
        h = n @ self.fc_w + self.fc_b
        h = F.gelu(h, approximate="tanh")
        m = h @ self.proj_w + self.proj_b
        return self.norm(n + m, self.g2, self.b2)


class LanguageModel(nn.Module):
    def __init__(self, n_vocab, n_ctx, width, heads, layers, e):
        super().__init__()
        self.n_vocab = n_vocab
        self.we = nn.Parameter(torch.empty(n_vocab + n_ctx, width))
        self.h = nn.ModuleList(Block(width, heads, e) for _ in range(layers))

    def forward(self, tokens):
        places = self.n_vocab + torch.arange(tokens.shape[1], device=tokens.device)
        x = torch.stack([tokens, places.expand_as(tokens)], dim=-1)
        e = self.we[x]
        h = e.sum(2)
        for block in self.h:
            h = block(h)
        logits = h @ self.we[: self.n_vocab].t()
        return (logits,)


def build(config, weights):
    model = LanguageModel(
        config.vocab_size,
        config.n_positions,
        config.n_embd,
        config.n_head,
        config.n_layer,
        config.layer_norm_epsilon,
    )
    table = torch.cat([weights["tokens_embed.weight"], weights["positions_embed.weight"]])
    model.we = nn.Parameter(table)
    names = {
        "attn.qkv_w": "attn.c_attn.weight",
        "attn.qkv_b": "attn.c_attn.bias",
        "attn.out_w": "attn.c_proj.weight",
        "attn.out_b": "attn.c_proj.bias",
        "g1": "ln_1.weight",
        "b1": "ln_1.bias",
        "fc_w": "mlp.c_fc.weight",
        "fc_b": "mlp.c_fc.bias",
        "proj_w": "mlp.c_proj.weight",
        "proj_b": "mlp.c_proj.bias",
        "g2": "ln_2.weight",
        "b2": "ln_2.bias",
    }
    for i, block in enumerate(model.h):
        for mine, theirs in names.items():
            block.get_parameter(mine).data = weights[f"h.{i}.{theirs}"].clone()
    return model
