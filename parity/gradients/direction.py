"""The third witness: how fast the oracle's loss changes along a direction in all parameters.

The oracle has no backward pass, so it cannot share a mistake with one. Its loss is computed a
step ahead and a step behind, and the slope between the two is what the inner product of gradient
and direction must be: `(L(θ + step v) - L(θ - step v)) / (2 step)` is `<dL/dθ, v>` but for a term
in `step` squared.

A direction moves every element of a tensor by the tensor's root mean square, up or down; the sign
is drawn from the tensor's name. So every tensor has a part in the slope, and no direction has to
be kept: it is drawn again wherever it is needed.
"""

import hashlib
import math
from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.conversion import convert
from parity.gradients.losses import predicted
from parity.inputs import Inputs
from parity.machine import copied
from parity.mapping import Side
from parity.subjects import array
from reference import oracle

STEP = 3e-7
"""How far ahead and behind, over each tensor's root mean square.

The error has two parts: rounding of the loss over the step, which falls as the step grows, and
the third derivative, which grows with its square; measured, it is in `parity.tolerances`.
"""


def signs(name: str, count: int) -> NDArray[np.float64]:
    """Return the direction's signs, 1 or -1, of the parameter of that name, flat."""
    digest = hashlib.sha256(f"direction/{name}".encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(-(-count // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=count)
    return bits.astype(np.float64) * 2.0 - 1.0


def length(tensor: NDArray[np.floating]) -> float:
    """Return how far the direction moves each element of a parameter: its root mean square."""
    flat = tensor.reshape(-1).astype(np.float64)
    return math.sqrt(float(flat @ flat) / max(1, flat.size))


def along(name: str, gradient: Tensor) -> float:
    """Return the inner product of a parameter's gradient and the direction's signs."""
    flat = gradient.detach().cpu().double().reshape(-1)
    return float(flat @ torch.from_numpy(signs(name, flat.numel())))


class Surroundings:
    """The oracle's loss around the reference's weights."""

    def __init__(self, model: OpenAIGPTLMHeadModel, inputs: Inputs) -> None:
        self._config = model.config.to_dict()
        state = {name: array(tensor) for name, tensor in model.state_dict().items()}
        self._state = convert(state, self._config, source=Side.HUGGINGFACE, target=Side.OURS)
        self._inputs = inputs
        self.lengths = {name: length(tensor) for name, tensor in self._state.items()}

    def slope(self, names: Collection[str], step: float = STEP) -> float:
        """Return the slope of the oracle's loss along the direction in some parameters."""
        ahead, behind = copied(lambda by: self._losses(names, by), (step, -step))
        # Token by token: the mean of many differences loses less than the difference of two means.
        return float((ahead - behind).mean()) / (2.0 * step)

    def _losses(self, names: Collection[str], by: float) -> NDArray[np.float64]:
        """Return each token's loss with these parameters moved `by` times the direction."""
        moved = {
            name: self._moved(name, by) if name in names else tensor
            for name, tensor in self._state.items()
        }
        released = convert(moved, self._config, source=Side.OURS, target=Side.RELEASE)
        weights = oracle.arrange(list(released.values()), n_head=self._config["n_head"])
        del moved, released  # the oracle has one matrix of both embeddings, a copy of two of these
        positions, mask = self._inputs.positions, self._inputs.attention_mask
        taps = oracle.forward(
            weights,
            self._inputs.token_ids.cpu().numpy(),
            positions=None if positions is None else positions.cpu().numpy(),
            mask=None if mask is None else mask.cpu().numpy(),
            epsilon=self._config["layer_norm_epsilon"],
        )
        counted = predicted(self._inputs).cpu().numpy()
        losses: NDArray[np.float64] = next(value for name, value in taps if name == "loss")[counted]
        return losses

    def _moved(self, name: str, by: float) -> NDArray[np.float64]:
        tensor = self._state[name]
        moved = signs(name, tensor.size).reshape(tensor.shape)
        moved *= by * self.lengths[name]
        moved += tensor
        return moved
