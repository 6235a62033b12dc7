"""Whole training steps as contestants: ours, and Hugging Face's as its users write it."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from bench.adam import Optimizer, OurAdam, Start, TorchAdamW, put_back
from scratch_gpt.loss import next_token_loss
from scratch_gpt.model import GPT

Model = GPT | OpenAIGPTLMHeadModel

_CLIP = 1.0
"""Largest norm where there is no start that says another."""


def parameters_of(model: Model) -> dict[str, nn.Parameter]:
    """Return every parameter under our name."""
    return {n.removeprefix("transformer."): p for n, p in model.named_parameters()}


class Training:
    """A model in training: forward, loss, backward, clipping, and a step of Adam.

    Ours is `scratch_gpt` all the way. Hugging Face's computes its loss from `labels=`, has its
    gradients clipped by PyTorch, and is stepped by `torch.optim.AdamW(foreach=True)`.

    Attributes:
        parameters: By our names.
    """

    def __init__(self, model: Model) -> None:
        self.model = model.eval()
        self.parameters = parameters_of(model)
        self.ours = isinstance(model, GPT)
        self.optimizer: Optimizer = (
            OurAdam(self.parameters, "adamw")
            if self.ours
            else TorchAdamW(self.parameters, "foreach")
        )
        self._maximum = _CLIP

    def begin(self, start: Start) -> None:
        """Put weights and moments back to a start's, and clip as it says."""
        put_back(self.parameters, start)
        self.optimizer.begin(start)
        self._maximum = start.maximum

    def step(self, token_ids: Tensor) -> float:
        """Make one step on token ids `[batch time]`; return the loss before it."""
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = self._loss(token_ids)
        torch.autograd.backward(loss)
        self.optimizer.clip(self._maximum)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, token_ids: Tensor) -> Tensor:
        if isinstance(self.model, GPT):
            return next_token_loss(self.model(token_ids), token_ids)
        return cast("Tensor", self.model(input_ids=token_ids, labels=token_ids).loss)
