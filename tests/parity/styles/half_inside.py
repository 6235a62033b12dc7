"""GPT-1 whose softmax and norms compute in float32, so that it can run in half precision."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Fp32LayerNorm(nn.LayerNorm):
    def forward(self, x):
        weight = self.weight.float()
        bias = self.bias.float()
        out = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
        return out.type_as(x)


class CausalAttention(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states):
        bsz, q_len, _ = hidden_states.size()
        qkv = self.qkv_proj(hidden_states)
        qkv = qkv.view(bsz, q_len, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        attn_weights = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head_dim)
        mask = torch.full((q_len, q_len), torch.finfo(torch.float32).min, device=q.device)
        mask = torch.triu(mask, diagonal=1)
        attn_weights = attn_weights.float() + mask
        attn_weights = F.softmax(attn_weights, dim=-1)
        attn_weights = attn_weights.type_as(q)
        attn_output = torch.matmul(attn_weights, v)
        attn_output = attn_output.transpose(1, 2).reshape(bsz, q_len, -1)
        return self.o_proj(attn_output)


class DecoderLayer(nn.Module):
    def __init__(self, hidden_size, num_heads, eps):
        super().__init__()
        self.self_attn = CausalAttention(hidden_size, num_heads)
        self.post_attention_norm = Fp32LayerNorm(hidden_size, eps=eps)
        self.up_proj = nn.Linear(hidden_size, 4 * hidden_size)
        self.down_proj = nn.Linear(4 * hidden_size, hidden_size)
        self.post_mlp_norm = Fp32LayerNorm(hidden_size, eps=eps)

    def forward(self, hidden_states):
        residual = hidden_states
        hidden_states = self.self_attn(hidden_states)
        hidden_states = self.post_attention_norm(residual + hidden_states)
        residual = hidden_states
        hidden_states = self.up_proj(hidden_states)
        hidden_states = F.gelu(hidden_states, approximate="tanh")
        hidden_states = self.down_proj(hidden_states)
        hidden_states = self.post_mlp_norm(residual + hidden_states)
        return hidden_states


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.embed_positions = nn.Embedding(config.n_positions, config.n_embd)
        self.layers = nn.ModuleList(
            DecoderLayer(config.n_embd, config.n_head, config.layer_norm_epsilon)
            for _ in range(config.n_layer)
        )

    def forward(self, input_ids, position_ids):
        hidden_states = self.embed_tokens(input_ids) + self.embed_positions(position_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return F.linear(hidden_states, self.embed_tokens.weight)


NAMES = [
    ("tokens_embed", "embed_tokens"),
    ("positions_embed", "embed_positions"),
    ("attn.c_attn", "self_attn.qkv_proj"),
    ("attn.c_proj", "self_attn.o_proj"),
    ("ln_1", "post_attention_norm"),
    ("mlp.c_fc", "up_proj"),
    ("mlp.c_proj", "down_proj"),
    ("ln_2", "post_mlp_norm"),
]


def build(config, weights):
    model = Model(config).to(weights["h.0.ln_1.weight"].dtype)
    renamed = {}
    for key, value in weights.items():
        if key.startswith("h."):
            key = "layers." + key[2:]
            value = value.t()
        for old, new in NAMES:
            key = key.replace(old, new)
        renamed[key] = value
    model.load_state_dict(renamed)
    return model
