"""GPT-1 with one packed projection and F.scaled_dot_product_attention."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class CausalSelfAttention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.n_embd = cfg.n_embd
        self.qkv = nn.Linear(cfg.n_embd, 3 * cfg.n_embd)
        self.proj = nn.Linear(cfg.n_embd, cfg.n_embd)

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.qkv(x)
        q, k, v = qkv.split(self.n_embd, dim=2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        y = self.proj(y)
        return y


class MLP(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.up = nn.Linear(cfg.n_embd, 4 * cfg.n_embd)
        self.down = nn.Linear(4 * cfg.n_embd, cfg.n_embd)

    def forward(self, x):
        x = self.up(x)
        x = F.gelu(x, approximate="tanh")
        x = self.down(x)
        return x


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.attn = CausalSelfAttention(cfg)
        self.norm1 = nn.LayerNorm(cfg.n_embd, eps=cfg.layer_norm_epsilon)
        self.mlp = MLP(cfg)
        self.norm2 = nn.LayerNorm(cfg.n_embd, eps=cfg.layer_norm_epsilon)

    def forward(self, x):
        a = self.attn(x)
        x = x + a
        x = self.norm1(x)
        m = self.mlp(x)
        x = x + m
        x = self.norm2(x)
        return x


class GPT(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.wte = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.wpe = nn.Embedding(cfg.n_positions, cfg.n_embd)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.lm_head = nn.Linear(cfg.n_embd, cfg.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        B, T = tokens.shape
        pos = torch.arange(T, device=tokens.device)
        tok_emb = self.wte(tokens)
        pos_emb = self.wpe(pos)
        x = tok_emb + pos_emb
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(x)
        return logits


def build(config, weights):
    model = GPT(config).to(weights["tokens_embed.weight"].dtype)
    state = {
        "wte.weight": weights["tokens_embed.weight"],
        "wpe.weight": weights["positions_embed.weight"],
        "lm_head.weight": weights["tokens_embed.weight"],
    }
    for i in range(config.n_layer):
        old, new = f"h.{i}.", f"blocks.{i}."
        state[new + "attn.qkv.weight"] = weights[old + "attn.c_attn.weight"].t()
        state[new + "attn.qkv.bias"] = weights[old + "attn.c_attn.bias"]
        state[new + "attn.proj.weight"] = weights[old + "attn.c_proj.weight"].t()
        state[new + "attn.proj.bias"] = weights[old + "attn.c_proj.bias"]
        state[new + "norm1.weight"] = weights[old + "ln_1.weight"]
        state[new + "norm1.bias"] = weights[old + "ln_1.bias"]
        state[new + "mlp.up.weight"] = weights[old + "mlp.c_fc.weight"].t()
        state[new + "mlp.up.bias"] = weights[old + "mlp.c_fc.bias"]
        state[new + "mlp.down.weight"] = weights[old + "mlp.c_proj.weight"].t()
        state[new + "mlp.down.bias"] = weights[old + "mlp.c_proj.bias"]
        state[new + "norm2.weight"] = weights[old + "ln_2.weight"]
        state[new + "norm2.bias"] = weights[old + "ln_2.bias"]
    model.load_state_dict(state)
    return model.eval()
