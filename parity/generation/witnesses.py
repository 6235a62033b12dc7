"""Logits of a whole text by those that have no cache: ours, Hugging Face's, the oracle's."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.subjects import oracle_weights
from reference import huggingface, oracle
from scratch_gpt.model import GPT

Forward = Callable[[Tensor], Tensor]
"""Of ids `[batch time]` the logits `[batch time vocab]`, each position's from those before it."""


def ours(model: GPT) -> Forward:
    """Return our model run anew over a whole text, by the formula of every operation."""
    plain = model.with_attention("plain").eval()

    @torch.no_grad()
    def forward(token_ids: Tensor) -> Tensor:
        return cast("Tensor", plain(token_ids))

    return forward


def theirs(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return Hugging Face's model."""

    @torch.no_grad()
    def forward(token_ids: Tensor) -> Tensor:
        return huggingface.logits(model, token_ids)

    return forward


def truth(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return the oracle with the weights of Hugging Face's model, arranged once."""
    weights, epsilon = oracle_weights(model), model.config.layer_norm_epsilon

    def forward(token_ids: Tensor) -> Tensor:
        taps = oracle.forward(weights, token_ids.numpy(), epsilon=epsilon)
        return torch.from_numpy(next(value for name, value in taps if name == "logits"))

    return forward


def following(forward: Mapping[str, Forward], text: Tensor, known: int) -> dict[str, Tensor]:
    """Return each witness's logits `[new vocab]` from which the tokens after `known` follow.

    Args:
        forward: Witnesses by name.
        text: `[1 time]`, prompt and continuation.
        known: Tokens of the prompt.
    """
    # The last token is followed by nothing.
    return {name: run(text[:, :-1])[0, known - 1 :] for name, run in forward.items()}
