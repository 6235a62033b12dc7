"""GPT-1 from PyTorch's own layers: nn.MultiheadAttention with a float mask."""

import torch
from torch import nn


class TransformerBlock(nn.Module):
    def __init__(self, embed_dim, num_heads, ff_dim, eps):
        super().__init__()
        self.att = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.ffn = nn.Sequential(
            nn.Linear(embed_dim, ff_dim), nn.GELU("tanh"), nn.Linear(ff_dim, embed_dim)
        )
        self.layernorm1 = nn.LayerNorm(embed_dim, eps)
        self.layernorm2 = nn.LayerNorm(embed_dim, eps)

    def forward(self, inputs, attn_mask):
        attention_output, _ = self.att(
            inputs, inputs, inputs, attn_mask=attn_mask, need_weights=False
        )
        out1 = self.layernorm1(inputs + attention_output)
        ffn_output = self.ffn(out1)
        return self.layernorm2(out1 + ffn_output)


class GPT(nn.Module):
    def __init__(self, maxlen, vocab_size, embed_dim, num_heads, num_layers, eps):
        super().__init__()
        self.token_emb = nn.Embedding(vocab_size, embed_dim)
        self.pos_emb = nn.Embedding(maxlen, embed_dim)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(embed_dim, num_heads, 4 * embed_dim, eps) for _ in range(num_layers)]
        )
        self.head = nn.Linear(embed_dim, vocab_size, bias=False)
        self.head.weight = self.token_emb.weight

    def forward(self, x):
        seq_len = x.size(1)
        positions = torch.arange(seq_len, device=x.device).unsqueeze(0).expand_as(x)
        attn_mask = torch.triu(
            torch.full((seq_len, seq_len), float("-inf"), device=x.device), diagonal=1
        )
        hidden = self.token_emb(x) + self.pos_emb(positions)
        attn_mask = attn_mask.to(hidden.dtype)
        for block in self.transformer_blocks:
            hidden = block(hidden, attn_mask)
        return self.head(hidden)


def build(config, weights):
    model = GPT(
        maxlen=config.n_positions,
        vocab_size=config.vocab_size,
        embed_dim=config.n_embd,
        num_heads=config.n_head,
        num_layers=config.n_layer,
        eps=config.layer_norm_epsilon,
    )
    model = model.to(dtype=weights["tokens_embed.weight"].dtype)
    with torch.no_grad():
        model.token_emb.weight.copy_(weights["tokens_embed.weight"])
        model.pos_emb.weight.copy_(weights["positions_embed.weight"])
        for i, block in enumerate(model.transformer_blocks):
            h = f"h.{i}"
            block.att.in_proj_weight.copy_(weights[f"{h}.attn.c_attn.weight"].T)
            block.att.in_proj_bias.copy_(weights[f"{h}.attn.c_attn.bias"])
            block.att.out_proj.weight.copy_(weights[f"{h}.attn.c_proj.weight"].T)
            block.att.out_proj.bias.copy_(weights[f"{h}.attn.c_proj.bias"])
            block.ffn[0].weight.copy_(weights[f"{h}.mlp.c_fc.weight"].T)
            block.ffn[0].bias.copy_(weights[f"{h}.mlp.c_fc.bias"])
            block.ffn[2].weight.copy_(weights[f"{h}.mlp.c_proj.weight"].T)
            block.ffn[2].bias.copy_(weights[f"{h}.mlp.c_proj.bias"])
            block.layernorm1.weight.copy_(weights[f"{h}.ln_1.weight"])
            block.layernorm1.bias.copy_(weights[f"{h}.ln_1.bias"])
            block.layernorm2.weight.copy_(weights[f"{h}.ln_2.weight"])
            block.layernorm2.bias.copy_(weights[f"{h}.ln_2.bias"])
    return model
