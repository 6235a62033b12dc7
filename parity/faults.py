"""Faults that re-implementations really have, planted into a right model from outside.

A check is worth what it can catch. Each row names a fault, where it is planted, and the tap at
which it must be seen first; how it is planted stands in `parity.plants`.
"""

import copy
import dataclasses
from collections.abc import Callable

import torch

from parity import plants
from parity.taps import BLOCK_KINDS, PATHS
from scratch_gpt.model import GPT


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        what: What is wrong, in words.
        plant: Plants it into a model, in the given block.
        tap: Where it is seen first; `{i}` is the block.
        block: The only block it can be planted in, if there is one.
    """

    what: str
    plant: Callable[[GPT, int], None]
    tap: str
    block: int | None = None


def planted(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of `model`, with storage of its own, that has the fault.

    Args:
        model: A right model.
        name: Key of `FAULTS`.
        block: Where to plant it; ignored by faults that have only one place.
    """
    faulty = copy.deepcopy(model)
    with torch.no_grad():
        only = FAULTS[name].block
        FAULTS[name].plant(faulty, block if only is None else only)
    return faulty


def first_tap(name: str, block: int, attention: str) -> str:
    """Return the tap at which the fault must be seen first on an attention path."""
    fault = FAULTS[name]
    tap = fault.tap.replace("{i}", str(block if fault.block is None else fault.block))
    prefix, index, kind = tap.split(".", 2) if tap.startswith("h.") else ("", "", tap)
    kinds = [kind.name for kind in BLOCK_KINDS]
    # What a path never forms shows in what it makes of it.
    while kind in PATHS[attention]:
        kind = kinds[kinds.index(kind) + 1]
    return f"{prefix}.{index}.{kind}" if prefix else tap


FAULTS: dict[str, Fault] = {
    "erf-gelu": Fault("the erf GELU for the tanh form", plants.erf_gelu, "h.{i}.mlp.gelu"),
    "epsilon": Fault("layer-norm epsilon 1e-6 for 1e-5", plants.epsilon, "h.{i}.ln_1"),
    "unbiased-variance": Fault(
        "variance divided by width - 1", plants.unbiased_variance, "h.{i}.ln_1"
    ),
    "norms-swapped": Fault("ln_1 and ln_2 swapped", plants.norms_swapped, "h.{i}.ln_1"),
    "affine-ignored": Fault("gain and bias of ln_1 ignored", plants.affine_ignored, "h.{i}.ln_1"),
    "no-mlp-residual": Fault(
        "the MLP's residual missing", plants.no_mlp_residual, "h.{i}.ln_2.input"
    ),
    "norm-inside-residual": Fault(
        "x + ln(attn(x))", plants.norm_inside_residual, "h.{i}.ln_1.input"
    ),
    "projection-transposed": Fault(
        "the square c_proj of attention transposed", plants.projection_transposed, "h.{i}.attn"
    ),
    "heads-interleaved": Fault(
        "heads take every n_head-th feature",
        plants.heads_interleaved,
        "h.{i}.attn.query",
    ),
    "query-key-swapped": Fault(
        "query and key swapped", plants.query_key_swapped, "h.{i}.attn.query"
    ),
    "scale-missing": Fault("scores not divided by the root", plants.unscaled, "h.{i}.attn.scores"),
    "mask-off-by-one": Fault(
        "each position sees the next", plants.mask_off_by_one, "h.{i}.attn.weights"
    ),
    "positions-from-one": Fault(
        "positions counted from 1", plants.positions_from_one, "embeddings.positions"
    ),
    "string-order": Fault(
        "blocks sorted as strings: 0 1 10 11 2", plants.string_order, "h.{i}.attn.query", 2
    ),
    "bias-dropped": Fault("the bias of c_fc dropped", plants.bias_dropped, "h.{i}.mlp.c_fc", 7),
    "final-norm": Fault("an extra norm before the head", plants.final_norm, "logits"),
    "untied-head": Fault("a head that is not the embedding", plants.untied_head, "logits"),
    "weight-off": Fault("one weight of c_fc off by 1e-4", plants.one_weight_off, "h.{i}.mlp.c_fc"),
}
"""Every fault by name."""
