"""GPT-1 with raw parameters and einsum; returns a dictionary."""

import numpy as np
import torch
from torch import einsum, nn


class Attention(nn.Module):
    def __init__(self, n_heads, d_model, d_head):
        super().__init__()
        self.d_head = d_head
        self.W_Q = nn.Parameter(torch.empty(n_heads, d_model, d_head))
        self.W_K = nn.Parameter(torch.empty(n_heads, d_model, d_head))
        self.W_V = nn.Parameter(torch.empty(n_heads, d_model, d_head))
        self.W_O = nn.Parameter(torch.empty(n_heads, d_head, d_model))
        self.b_Q = nn.Parameter(torch.zeros(n_heads, d_head))
        self.b_K = nn.Parameter(torch.zeros(n_heads, d_head))
        self.b_V = nn.Parameter(torch.zeros(n_heads, d_head))
        self.b_O = nn.Parameter(torch.zeros(d_model))

    def forward(self, resid):
        seq = resid.shape[1]
        q = einsum("bpm,nmh->bpnh", resid, self.W_Q) + self.b_Q
        k = einsum("bpm,nmh->bpnh", resid, self.W_K) + self.b_K
        v = einsum("bpm,nmh->bpnh", resid, self.W_V) + self.b_V
        attn_scores = einsum("bqnh,bknh->bnqk", q, k)
        attn_scores = attn_scores / self.d_head**0.5
        hidden = torch.triu(torch.ones(seq, seq, device=resid.device), diagonal=1).bool()
        attn_scores = attn_scores.masked_fill(hidden, -1e9)
        pattern = attn_scores.softmax(dim=-1)
        z = einsum("bnqk,bknh->bqnh", pattern, v)
        attn_out = einsum("bqnh,nhm->bqm", z, self.W_O)
        attn_out = attn_out + self.b_O
        return attn_out


class LayerNorm(nn.Module):
    def __init__(self, d_model, eps):
        super().__init__()
        self.eps = eps
        self.w = nn.Parameter(torch.ones(d_model))
        self.b = nn.Parameter(torch.zeros(d_model))

    def forward(self, resid):
        mean = resid.mean(dim=-1, keepdim=True)
        var = resid.var(dim=-1, keepdim=True, unbiased=False)
        resid = (resid - mean) / (var + self.eps).sqrt()
        return resid * self.w + self.b


def gelu_new(x):
    return 0.5 * x * (1.0 + torch.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


class MLP(nn.Module):
    def __init__(self, d_model, d_mlp):
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(d_model, d_mlp))
        self.b_in = nn.Parameter(torch.zeros(d_mlp))
        self.W_out = nn.Parameter(torch.empty(d_mlp, d_model))
        self.b_out = nn.Parameter(torch.zeros(d_model))

    def forward(self, resid):
        pre = einsum("bpm,md->bpd", resid, self.W_in) + self.b_in
        post = gelu_new(pre)
        mlp_out = einsum("bpd,dm->bpm", post, self.W_out) + self.b_out
        return mlp_out


class TransformerBlock(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.attn = Attention(cfg.n_head, cfg.n_embd, cfg.n_embd // cfg.n_head)
        self.ln1 = LayerNorm(cfg.n_embd, cfg.layer_norm_epsilon)
        self.mlp = MLP(cfg.n_embd, 4 * cfg.n_embd)
        self.ln2 = LayerNorm(cfg.n_embd, cfg.layer_norm_epsilon)

    def forward(self, resid_pre):
        attn_out = self.attn(resid_pre)
        resid_mid = resid_pre + attn_out
        normed_mid = self.ln1(resid_mid)
        mlp_out = self.mlp(normed_mid)
        resid_post = normed_mid + mlp_out
        return self.ln2(resid_post)


class DemoTransformer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.vocab_size, cfg.n_embd))
        self.W_pos = nn.Parameter(torch.empty(cfg.n_positions, cfg.n_embd))
        self.blocks = nn.ModuleList([TransformerBlock(cfg) for _ in range(cfg.n_layer)])

    def forward(self, input_ids):
        seq = input_ids.shape[-1]
        embed = self.W_E[input_ids]
        pos_embed = self.W_pos[:seq]
        residual = embed + pos_embed
        for block in self.blocks:
            residual = block(residual)
        logits = einsum("bpm,vm->bpv", residual, self.W_E)
        return {"logits": logits, "loss": None}


def build(config, weights):
    heads, width = config.n_head, config.n_embd
    model = DemoTransformer(config)
    state = {"W_E": weights["tokens_embed.weight"], "W_pos": weights["positions_embed.weight"]}
    for l in range(config.n_layer):
        W_Q, W_K, W_V = weights[f"h.{l}.attn.c_attn.weight"].split(width, dim=1)
        b_Q, b_K, b_V = weights[f"h.{l}.attn.c_attn.bias"].split(width)
        state[f"blocks.{l}.attn.W_Q"] = W_Q.view(width, heads, -1).permute(1, 0, 2)
        state[f"blocks.{l}.attn.W_K"] = W_K.view(width, heads, -1).permute(1, 0, 2)
        state[f"blocks.{l}.attn.W_V"] = W_V.view(width, heads, -1).permute(1, 0, 2)
        state[f"blocks.{l}.attn.b_Q"] = b_Q.view(heads, -1)
        state[f"blocks.{l}.attn.b_K"] = b_K.view(heads, -1)
        state[f"blocks.{l}.attn.b_V"] = b_V.view(heads, -1)
        W_O = weights[f"h.{l}.attn.c_proj.weight"]
        state[f"blocks.{l}.attn.W_O"] = W_O.view(heads, -1, width)
        state[f"blocks.{l}.attn.b_O"] = weights[f"h.{l}.attn.c_proj.bias"]
        state[f"blocks.{l}.ln1.w"] = weights[f"h.{l}.ln_1.weight"]
        state[f"blocks.{l}.ln1.b"] = weights[f"h.{l}.ln_1.bias"]
        state[f"blocks.{l}.mlp.W_in"] = weights[f"h.{l}.mlp.c_fc.weight"]
        state[f"blocks.{l}.mlp.b_in"] = weights[f"h.{l}.mlp.c_fc.bias"]
        state[f"blocks.{l}.mlp.W_out"] = weights[f"h.{l}.mlp.c_proj.weight"]
        state[f"blocks.{l}.mlp.b_out"] = weights[f"h.{l}.mlp.c_proj.bias"]
        state[f"blocks.{l}.ln2.w"] = weights[f"h.{l}.ln_2.weight"]
        state[f"blocks.{l}.ln2.b"] = weights[f"h.{l}.ln_2.bias"]
    state = {name: value.clone() for name, value in state.items()}
    model.load_state_dict(state, assign=True)
    return model
