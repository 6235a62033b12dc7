"""The third reference: the slope of the oracle's loss along a direction in all parameters.

The oracle has no backward pass, so it cannot share a mistake with one. Its loss is computed a
step ahead and a step behind: `(L(θ + step v) - L(θ - step v)) / (2 step)` is `<dL/dθ, v>` except
for a term in `step` squared.

A direction moves every element of a tensor by the tensor's root mean square. The sign is random,
with the tensor's name as the seed, so no direction is stored.
"""

import fnmatch
import functools
import hashlib
import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import Side, convert
from parity.checks.gradients.backward import predicted
from parity.checks.gradients.taps import direction, is_parameter, kind_of, parameter_names
from parity.core.inputs import Inputs
from parity.core.metrics import Status
from parity.core.results import Mode, Row
from parity.core.runners import array
from parity.core.taps import Tap
from parity.core.tolerances import SLOPE_BOUND
from parity.threads import copy_parallel
from reference import oracle
from scratch_gpt.progress import Progress

STEP = 3e-7
"""The step, in units of each tensor's root mean square.

The rounding of the loss over the step falls with the step; the term of the third derivative grows
with its square. The measured error is in `parity.core.tolerances`.
"""


def signs(name: str, count: int) -> NDArray[np.float64]:
    """Return the direction's signs, 1 or -1, of the parameter of that name, flat."""
    digest = hashlib.sha256(f"direction/{name}".encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(-(-count // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=count)
    return bits.astype(np.float64) * 2.0 - 1.0


def length(tensor: NDArray[np.floating]) -> float:
    """Return the root mean square of a parameter, by which the direction moves each element."""
    flat = tensor.reshape(-1).astype(np.float64)
    return math.sqrt(float(flat @ flat) / max(1, flat.size))


def along(name: str, gradient: Tensor) -> float:
    """Return the inner product of a parameter's gradient and the direction's signs."""
    flat = gradient.detach().cpu().double().reshape(-1)
    return float(flat @ torch.from_numpy(signs(name, flat.numel())))


class DirectionalDerivative:
    """The oracle's loss around the reference's weights."""

    def __init__(self, model: OpenAIGPTLMHeadModel, inputs: Inputs) -> None:
        self._config = model.config.to_dict()
        state = {name: array(tensor) for name, tensor in model.state_dict().items()}
        self._state = convert(state, self._config, source=Side.HUGGINGFACE, target=Side.OURS)
        self._inputs = inputs
        self.lengths = {name: length(tensor) for name, tensor in self._state.items()}

    def slope(self, names: Collection[str], step: float = STEP) -> float:
        """Return the slope of the oracle's loss along the direction in some parameters."""
        ahead, behind = copy_parallel(lambda by: self._losses(names, by), (step, -step))
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


SMALL_MODEL = 1_000_000
"""Up to this number of parameters each kind has its own direction, for two more passes each."""


class Slopes:
    """The slopes to compare, the oracle's and each backend's."""

    def __init__(self, reference: OpenAIGPTLMHeadModel, inputs: Inputs, select: str) -> None:
        self._reference = reference
        self._inputs = inputs
        names = parameter_names(int(reference.config.n_layer))
        small = sum(p.numel() for p in reference.parameters()) <= SMALL_MODEL
        kinds = [None, *dict.fromkeys(map(kind_of, names))] if small else [None]
        self._parts = {
            direction(kind): [name for name in names if kind in (None, kind_of(name))]
            for kind in kinds
        }
        self._selected = [p for p in self._parts if fnmatch.fnmatchcase(p.name, select)]
        self._inner: dict[tuple[str, str], tuple[float, float]] = {}
        self._slopes: dict[str, float] = {}

    @property
    def plan(self) -> list[Tap]:
        """Every slope."""
        return list(self._parts)

    @functools.cached_property
    def _around(self) -> DirectionalDerivative:
        return DirectionalDerivative(self._reference, self._inputs)

    def see(self, backend: str, name: str, gradient: Tensor) -> None:
        """Add one of our float64 gradients to the slopes."""
        if not is_parameter(name) or not self._selected:
            return
        size = self._around.lengths[name]
        norm = float(gradient.detach().double().norm())
        self._inner[backend, name] = (size * along(name, gradient), size * norm)

    def measure(self, progress: Progress) -> None:
        """Run the oracle ahead and behind along each direction."""
        for done, place in enumerate(self._selected):
            progress(f"{place.name}, oracle", done, len(self._selected))
            self._slopes[place.name] = self._around.slope(self._parts[place])

    def rows(self, backend: str, plan: Sequence[Tap]) -> list[Row]:
        """Return a row for each planned slope of one backend."""
        return [self._row(backend, place) for place in plan]

    def _row(self, backend: str, place: Tap) -> Row:
        names = self._parts[place]
        parts = [self._inner[key] for name in names if (key := (backend, name)) in self._inner]
        ours, slope = sum(part for part, _ in parts), self._slopes[place.name]
        # The usual size of the inner product for random signs; by chance it can be near 0.
        usual = math.hypot(*(norm for _, norm in parts))
        error = abs(ours - slope) / usual if usual > 0.0 else math.nan
        complete = len(parts) == len(names) and math.isfinite(error)
        status = Status.PASS if error <= SLOPE_BOUND else Status.FAIL
        return Row(
            tap=place.name,
            backend=backend,
            dtype="float64",
            mode=Mode.FLOAT64,
            against="oracle",
            status=status if complete else Status.NOT_RUN,
            error_ours=error if complete else None,
            bound=SLOPE_BOUND,
            value_ours=ours if complete else None,
            value_against=slope,
            required_tolerance=error if complete else None,
            detail="" if complete else "a parameter in this direction has no finite gradient",
        )
