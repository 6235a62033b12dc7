"""Dropout at the wrong place, at none, or with the wrong probability, in the first block."""

import dataclasses
from typing import cast

from scratch_gpt.dropout import dropout
from scratch_gpt.model import GPT
from scratch_gpt.transformer_block import TransformerBlock


def dropout_on_norm(model: GPT) -> None:
    """Drop from ln_1's output in the first block, and not from what attention gives."""
    block = cast("TransformerBlock", model.h[0])
    probability, block.resid_pdrop = block.resid_pdrop, 0.0
    for part in (block.ln_1, block.mlp):  # the MLP's output is what it should drop from
        part.register_forward_hook(lambda _module, _given, out: dropout(out, probability))


def no_attention_dropout(model: GPT) -> None:
    """Leave the first block's attention weights whole."""
    cast("TransformerBlock", model.h[0]).attn.attn_pdrop = 0.0


def no_embedding_dropout(model: GPT) -> None:
    """Leave the embeddings whole."""
    model.config = dataclasses.replace(model.config, embd_pdrop=0.0)


def keep_probability(model: GPT) -> None:
    """Keep, in the first block, with the probability of being dropped."""
    block = cast("TransformerBlock", model.h[0])
    block.resid_pdrop = 1.0 - block.resid_pdrop
