"""GPT-1 whose layers are closures over a list of parameters."""

import math

import torch
from torch import nn


class GPT(nn.Module):
    def __init__(self, config, weights):
        super().__init__()
        self.params = nn.ParameterList()

        def param(name):
            self.params.append(nn.Parameter(weights[name].clone()))
            index = len(self.params) - 1
            return lambda: self.params[index]

        def dense(name):
            w, b = param(name + ".weight"), param(name + ".bias")
            return lambda x: x @ w() + b()

        def norm(name):
            g, b = param(name + ".weight"), param(name + ".bias")
            eps = config.layer_norm_epsilon

            def apply(x):
                centered = x - x.mean(-1, keepdim=True)
                std = (centered.square().mean(-1, keepdim=True) + eps).sqrt()
                return g() * centered / std + b()

            return apply

        def attention(name):
            qkv, out = dense(name + ".c_attn"), dense(name + ".c_proj")
            heads = lambda x: x.unflatten(-1, (config.n_head, -1)).movedim(-2, -3)
            merge = lambda x: x.movedim(-3, -2).flatten(-2)
            scale = math.sqrt(config.n_embd // config.n_head)

            def apply(x):
                q, k, v = map(heads, qkv(x).chunk(3, -1))
                future = torch.ones(x.shape[-2], x.shape[-2], device=x.device).triu(1) > 0
                logits = (q / scale) @ k.mT
                probs = torch.where(future, -torch.inf, logits).softmax(-1)
                return out(merge(probs @ v))

            return apply

        gelu = lambda x: x / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
        sequence = lambda *functions: lambda x: [x := f(x) for f in functions][-1]
        residual = lambda f: lambda x: x + f(x)

        def layer(name):
            attn = residual(attention(name + ".attn"))
            ln_1 = norm(name + ".ln_1")
            mlp = residual(sequence(dense(name + ".mlp.c_fc"), gelu, dense(name + ".mlp.c_proj")))
            ln_2 = norm(name + ".ln_2")
            return sequence(attn, ln_1, mlp, ln_2)

        words, places = param("tokens_embed.weight"), param("positions_embed.weight")
        self.embed = lambda ids: words()[ids] + places()[: ids.shape[-1]]
        self.body = sequence(*[layer(f"h.{i}") for i in range(config.n_layer)])
        self.unembed = lambda x: x @ words().T

    def forward(self, inputs):
        return self.unembed(self.body(self.embed(inputs)))


def build(config, weights):
    return GPT(config, weights)
