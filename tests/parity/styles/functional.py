"""GPT-1 as functions of a dictionary of tensors, after picoGPT; a module holds the dictionary."""

import torch


def gelu(x):
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def softmax(x):
    exp_x = torch.exp(x - torch.max(x, dim=-1, keepdim=True).values)
    return exp_x / torch.sum(exp_x, dim=-1, keepdim=True)


def layer_norm(x, g, b, eps):
    mean = torch.mean(x, dim=-1, keepdim=True)
    variance = torch.var(x, dim=-1, keepdim=True, correction=0)
    x = (x - mean) / torch.sqrt(variance + eps)
    return g * x + b


def linear(x, w, b):
    return x @ w + b


def ffn(x, c_fc, c_proj):
    a = gelu(linear(x, **c_fc))
    return linear(a, **c_proj)


def attention(q, k, v, mask):
    return softmax(q @ k.T / q.shape[-1] ** 0.5 + mask) @ v


def mha(x, c_attn, c_proj, n_head):
    x = linear(x, **c_attn)
    qkv = torch.tensor_split(x, 3, dim=-1)
    qkv_heads = [torch.tensor_split(part, n_head, dim=-1) for part in qkv]
    causal_mask = (1 - torch.tril(torch.ones(x.shape[0], x.shape[0], dtype=x.dtype))) * -1e10
    out_heads = [attention(q, k, v, causal_mask) for q, k, v in zip(*qkv_heads)]
    x = linear(torch.hstack(out_heads), **c_proj)
    return x


def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, eps):
    x = layer_norm(x + mha(x, **attn, n_head=n_head), **ln_1, eps=eps)
    x = layer_norm(x + ffn(x, **mlp), **ln_2, eps=eps)
    return x


def gpt(inputs, wte, wpe, blocks, n_head, eps):
    x = wte[inputs] + wpe[range(len(inputs))]
    for block in blocks:
        x = transformer_block(x, **block, n_head=n_head, eps=eps)
    return x @ wte.T


class Model(torch.nn.Module):
    def __init__(self, params, n_head, eps):
        super().__init__()
        self.params = params
        self.n_head = n_head
        self.eps = eps

    def forward(self, inputs):
        rows = [gpt(row, **self.params, n_head=self.n_head, eps=self.eps) for row in inputs]
        return torch.stack(rows)


def build(config, weights):
    def pair(name, w="w"):
        return {w: weights[name + ".weight"], "b": weights[name + ".bias"]}

    params = {
        "wte": weights["tokens_embed.weight"],
        "wpe": weights["positions_embed.weight"],
        "blocks": [
            {
                "mlp": {"c_fc": pair(f"h.{i}.mlp.c_fc"), "c_proj": pair(f"h.{i}.mlp.c_proj")},
                "attn": {
                    "c_attn": pair(f"h.{i}.attn.c_attn"),
                    "c_proj": pair(f"h.{i}.attn.c_proj"),
                },
                "ln_1": pair(f"h.{i}.ln_1", "g"),
                "ln_2": pair(f"h.{i}.ln_2", "g"),
            }
            for i in range(config.n_layer)
        ],
    }
    return Model(params, config.n_head, config.layer_norm_epsilon)
