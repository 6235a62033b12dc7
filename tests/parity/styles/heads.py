"""GPT-1 with a module for each head, as in "Let's build GPT" videos."""

import torch
import torch.nn as nn
from torch.nn import functional as F


class Head(nn.Module):
    """one head of self-attention"""

    def __init__(self, n_embd, head_size, block_size):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size)
        self.query = nn.Linear(n_embd, head_size)
        self.value = nn.Linear(n_embd, head_size)
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))

    def forward(self, x):
        B, T, C = x.shape
        k = self.key(x)  # (B,T,hs)
        q = self.query(x)  # (B,T,hs)
        # compute attention scores ("affinities")
        wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        wei = F.softmax(wei, dim=-1)
        # perform the weighted aggregation of the values
        v = self.value(x)
        out = wei @ v
        return out


class MultiHeadAttention(nn.Module):
    """multiple heads of self-attention in parallel"""

    def __init__(self, n_embd, num_heads, head_size, block_size):
        super().__init__()
        self.heads = nn.ModuleList([Head(n_embd, head_size, block_size) for _ in range(num_heads)])
        self.proj = nn.Linear(head_size * num_heads, n_embd)

    def forward(self, x):
        out = torch.cat([h(x) for h in self.heads], dim=-1)
        out = self.proj(out)
        return out


class FeedFoward(nn.Module):
    """a simple linear layer followed by a non-linearity"""

    def __init__(self, n_embd):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * n_embd, n_embd),
        )

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    """Transformer block: communication followed by computation"""

    def __init__(self, n_embd, n_head, block_size, eps):
        super().__init__()
        head_size = n_embd // n_head
        self.sa = MultiHeadAttention(n_embd, n_head, head_size, block_size)
        self.ffwd = FeedFoward(n_embd)
        self.ln1 = nn.LayerNorm(n_embd, eps=eps)
        self.ln2 = nn.LayerNorm(n_embd, eps=eps)

    def forward(self, x):
        x = self.ln1(x + self.sa(x))
        x = self.ln2(x + self.ffwd(x))
        return x


class GPTLanguageModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.token_embedding_table = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding_table = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.Sequential(
            *[
                Block(config.n_embd, config.n_head, config.n_positions, config.layer_norm_epsilon)
                for _ in range(config.n_layer)
            ]
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, idx, targets=None):
        B, T = idx.shape
        tok_emb = self.token_embedding_table(idx)  # (B,T,C)
        pos_emb = self.position_embedding_table(torch.arange(T, device=idx.device))  # (T,C)
        x = tok_emb + pos_emb  # (B,T,C)
        x = self.blocks(x)  # (B,T,C)
        logits = self.lm_head(x)  # (B,T,vocab_size)
        if targets is None:
            loss = None
        else:
            B, T, C = logits.shape
            logits = logits.view(B * T, C)
            targets = targets.view(B * T)
            loss = F.cross_entropy(logits, targets)
        return logits, loss


def build(config, weights):
    model = GPTLanguageModel(config)
    model = model.to(weights["tokens_embed.weight"].dtype)
    sd = model.state_dict()
    sd["token_embedding_table.weight"] = weights["tokens_embed.weight"]
    sd["position_embedding_table.weight"] = weights["positions_embed.weight"]
    sd["lm_head.weight"] = weights["tokens_embed.weight"]
    hs = config.n_embd // config.n_head
    for i in range(config.n_layer):
        w = weights[f"h.{i}.attn.c_attn.weight"]
        b = weights[f"h.{i}.attn.c_attn.bias"]
        for part, name in enumerate(["query", "key", "value"]):
            for j in range(config.n_head):
                start = part * config.n_embd + j * hs
                sd[f"blocks.{i}.sa.heads.{j}.{name}.weight"] = w[:, start : start + hs].T
                sd[f"blocks.{i}.sa.heads.{j}.{name}.bias"] = b[start : start + hs]
        sd[f"blocks.{i}.sa.proj.weight"] = weights[f"h.{i}.attn.c_proj.weight"].T
        sd[f"blocks.{i}.sa.proj.bias"] = weights[f"h.{i}.attn.c_proj.bias"]
        sd[f"blocks.{i}.ffwd.net.0.weight"] = weights[f"h.{i}.mlp.c_fc.weight"].T
        sd[f"blocks.{i}.ffwd.net.0.bias"] = weights[f"h.{i}.mlp.c_fc.bias"]
        sd[f"blocks.{i}.ffwd.net.2.weight"] = weights[f"h.{i}.mlp.c_proj.weight"].T
        sd[f"blocks.{i}.ffwd.net.2.bias"] = weights[f"h.{i}.mlp.c_proj.bias"]
        for n in (1, 2):
            sd[f"blocks.{i}.ln{n}.weight"] = weights[f"h.{i}.ln_{n}.weight"]
            sd[f"blocks.{i}.ln{n}.bias"] = weights[f"h.{i}.ln_{n}.bias"]
    model.load_state_dict(sd)
    return model
