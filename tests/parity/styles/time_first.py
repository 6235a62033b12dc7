"""GPT-1 on [time, batch, width], as older sequence code has it."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.dim = dim
        self.heads = heads
        self.head_dim = dim // heads
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x, mask):
        tgt_len, bsz, dim = x.size()
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        q = q / math.sqrt(self.head_dim)
        q = q.contiguous().view(tgt_len, bsz * self.heads, self.head_dim).transpose(0, 1)
        k = k.contiguous().view(tgt_len, bsz * self.heads, self.head_dim).transpose(0, 1)
        v = v.contiguous().view(tgt_len, bsz * self.heads, self.head_dim).transpose(0, 1)
        weights = torch.bmm(q, k.transpose(1, 2))
        weights = weights + mask
        weights = torch.softmax(weights, dim=-1)
        out = torch.bmm(weights, v)
        out = out.transpose(0, 1).contiguous().view(tgt_len, bsz, dim)
        return self.out_proj(out)


class Layer(nn.Module):
    def __init__(self, dim, heads, eps):
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.layer_norm_1 = nn.LayerNorm(dim, eps=eps)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.layer_norm_2 = nn.LayerNorm(dim, eps=eps)

    def forward(self, x, mask):
        residual = x
        x = self.attention(x, mask)
        x = residual + x
        x = self.layer_norm_1(x)
        residual = x
        x = self.fc1(x)
        x = F.gelu(x, approximate="tanh")
        x = self.fc2(x)
        x = residual + x
        x = self.layer_norm_2(x)
        return x


class TransformerLM(nn.Module):
    def __init__(self, num_embeddings, positions, dim, heads, depth, eps):
        super().__init__()
        self.embed_tokens = nn.Embedding(num_embeddings, dim)
        self.embed_positions = nn.Embedding(positions, dim)
        self.layers = nn.ModuleList(Layer(dim, heads, eps) for _ in range(depth))
        self.dim = dim

    def future_mask(self, x):
        n = x.size(0)
        full = torch.full((n, n), float("-inf"), dtype=x.dtype, device=x.device)
        return torch.triu(full, diagonal=1)

    def forward(self, src):
        src = src.t()
        steps = torch.arange(src.size(0), device=src.device).unsqueeze(1)
        x = self.embed_tokens(src)
        p = self.embed_positions(steps)
        x = x + p
        mask = self.future_mask(x)
        for layer in self.layers:
            x = layer(x, mask)
        out = F.linear(x, self.embed_tokens.weight)
        return out


def build(config, weights):
    model = TransformerLM(
        config.vocab_size,
        config.n_positions,
        config.n_embd,
        config.n_head,
        config.n_layer,
        config.layer_norm_epsilon,
    )
    renamed = {}
    for name, value in weights.items():
        name = name.replace("h.", "layers.", 1) if name.startswith("h.") else name
        name = name.replace("attn.c_attn", "attention.in_proj")
        name = name.replace("attn.c_proj", "attention.out_proj")
        name = name.replace("ln_", "layer_norm_")
        name = name.replace("mlp.c_fc", "fc1")
        name = name.replace("mlp.c_proj", "fc2")
        name = name.replace("tokens_embed", "embed_tokens")
        name = name.replace("positions_embed", "embed_positions")
        if value.dim() == 2 and not name.startswith("embed"):
            value = value.t().contiguous()
        renamed[name] = value.clone()
    model.load_state_dict(renamed, assign=True)
    model.eval()
    return model
