"""GPT-1 after "The Annotated Transformer"."""

import copy
import math

import torch
import torch.nn as nn


def clones(module, N):
    "Produce N identical layers."
    return nn.ModuleList([copy.deepcopy(module) for _ in range(N)])


def subsequent_mask(size):
    "Mask out subsequent positions."
    attn_shape = (1, size, size)
    mask = torch.triu(torch.ones(attn_shape), diagonal=1).type(torch.uint8)
    return mask == 0


def attention(query, key, value, mask=None, dropout=None):
    "Compute 'Scaled Dot Product Attention'"
    d_k = query.size(-1)
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(d_k)
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9)
    p_attn = scores.softmax(dim=-1)
    if dropout is not None:
        p_attn = dropout(p_attn)
    return torch.matmul(p_attn, value), p_attn


class LayerNorm(nn.Module):
    "Construct a layernorm module (See citation for details)."

    def __init__(self, features, eps=1e-5):
        super(LayerNorm, self).__init__()
        self.a_2 = nn.Parameter(torch.ones(features))
        self.b_2 = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        return self.a_2 * (x - mean) / torch.sqrt(var + self.eps) + self.b_2


class SublayerConnection(nn.Module):
    "A residual connection followed by a layer norm."

    def __init__(self, size, eps, dropout):
        super(SublayerConnection, self).__init__()
        self.norm = LayerNorm(size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, sublayer):
        out = self.dropout(sublayer(x))
        return self.norm(x + out)


class MultiHeadedAttention(nn.Module):
    def __init__(self, h, d_model, dropout=0.1):
        super(MultiHeadedAttention, self).__init__()
        assert d_model % h == 0
        self.d_k = d_model // h
        self.h = h
        self.linears = clones(nn.Linear(d_model, d_model), 4)
        self.attn = None
        self.dropout = nn.Dropout(p=dropout)

    def forward(self, query, key, value, mask=None):
        if mask is not None:
            mask = mask.unsqueeze(1)
        nbatches = query.size(0)

        # 1) Do all the linear projections in batch from d_model => h x d_k
        query, key, value = [
            lin(x).view(nbatches, -1, self.h, self.d_k).transpose(1, 2)
            for lin, x in zip(self.linears, (query, key, value))
        ]

        # 2) Apply attention on all the projected vectors in batch.
        x, self.attn = attention(query, key, value, mask=mask, dropout=self.dropout)

        # 3) "Concat" using a view and apply a final linear.
        x = x.transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_k)
        return self.linears[-1](x)


class PositionwiseFeedForward(nn.Module):
    "Implements FFN equation."

    def __init__(self, d_model, d_ff, dropout=0.1):
        super(PositionwiseFeedForward, self).__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, x):
        x = self.w_1(x)
        x = self.activation(x)
        return self.w_2(x)


class DecoderLayer(nn.Module):
    "Decoder is made of self-attn and feed forward (defined below)"

    def __init__(self, size, self_attn, feed_forward, eps, dropout):
        super(DecoderLayer, self).__init__()
        self.size = size
        self.self_attn = self_attn
        self.feed_forward = feed_forward
        self.sublayer = clones(SublayerConnection(size, eps, dropout), 2)

    def forward(self, x, mask):
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))
        return self.sublayer[1](x, self.feed_forward)


class Decoder(nn.Module):
    "Generic N layer decoder with masking."

    def __init__(self, layer, N):
        super(Decoder, self).__init__()
        self.layers = clones(layer, N)

    def forward(self, x, mask):
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Embeddings(nn.Module):
    def __init__(self, d_model, vocab, max_len, dropout):
        super(Embeddings, self).__init__()
        self.lut = nn.Embedding(vocab, d_model)
        self.pe = nn.Embedding(max_len, d_model)
        self.dropout = nn.Dropout(p=dropout)
        self.d_model = d_model

    def forward(self, x):
        tokens = self.lut(x)
        positions = torch.arange(x.size(1), device=x.device)
        places = self.pe(positions)
        return self.dropout(tokens + places)


class Generator(nn.Module):
    "Define standard linear generation step."

    def __init__(self, d_model, vocab):
        super(Generator, self).__init__()
        self.proj = nn.Linear(d_model, vocab, bias=False)

    def forward(self, x):
        return self.proj(x)


class DecoderOnly(nn.Module):
    def __init__(self, embed, decoder, generator):
        super(DecoderOnly, self).__init__()
        self.embed = embed
        self.decoder = decoder
        self.generator = generator

    def forward(self, src, src_mask=None):
        if src_mask is None:
            src_mask = subsequent_mask(src.size(-1)).to(src.device)
        x = self.embed(src)
        x = self.decoder(x, src_mask)
        return self.generator(x)


def make_model(vocab, N, d_model, d_ff, h, max_len, eps, dropout=0.1):
    "Helper: Construct a model from hyperparameters."
    c = copy.deepcopy
    attn = MultiHeadedAttention(h, d_model, dropout)
    ff = PositionwiseFeedForward(d_model, d_ff, dropout)
    model = DecoderOnly(
        Embeddings(d_model, vocab, max_len, dropout),
        Decoder(DecoderLayer(d_model, c(attn), c(ff), eps, dropout), N),
        Generator(d_model, vocab),
    )
    model.generator.proj.weight = model.embed.lut.weight
    return model


def build(config, weights):
    model = make_model(
        config.vocab_size,
        config.n_layer,
        config.n_embd,
        4 * config.n_embd,
        config.n_head,
        config.n_positions,
        config.layer_norm_epsilon,
    )
    model.embed.lut.weight.data = weights["tokens_embed.weight"].clone()
    model.embed.pe.weight.data = weights["positions_embed.weight"].clone()
    model.generator.proj.weight = model.embed.lut.weight
    for i, layer in enumerate(model.decoder.layers):
        w = {k[len(f"h.{i}.") :]: v for k, v in weights.items() if k.startswith(f"h.{i}.")}
        qkv_w = w["attn.c_attn.weight"].T.chunk(3)
        qkv_b = w["attn.c_attn.bias"].chunk(3)
        linears = layer.self_attn.linears
        for j in range(3):
            linears[j].weight.data = qkv_w[j].clone()
            linears[j].bias.data = qkv_b[j].clone()
        linears[3].weight.data = w["attn.c_proj.weight"].T.clone()
        linears[3].bias.data = w["attn.c_proj.bias"].clone()
        layer.feed_forward.w_1.weight.data = w["mlp.c_fc.weight"].T.clone()
        layer.feed_forward.w_1.bias.data = w["mlp.c_fc.bias"].clone()
        layer.feed_forward.w_2.weight.data = w["mlp.c_proj.weight"].T.clone()
        layer.feed_forward.w_2.bias.data = w["mlp.c_proj.bias"].clone()
        for j in range(2):
            layer.sublayer[j].norm.a_2.data = w[f"ln_{j + 1}.weight"].clone()
            layer.sublayer[j].norm.b_2.data = w[f"ln_{j + 1}.bias"].clone()
    return model.eval()
