"""Seeded weights of the released shape: the same bits on every machine and every version.

The released weights need a download; the surrogate needs none. It draws every tensor from a seed
and the tensor's own name, by integer arithmetic on the raw output of Philox: NumPy keeps the
streams of its bit generators stable, but not those of its distributions. Each tensor is compared
with a committed SHA-256.

The scales are chosen so that every operation matters: gains are not 1, biases not 0, attention is
sharp and positions stay distinct in every block. Weights drawn at the released tensors' own
scale make a model that is degenerate from block 6, in which broken attention would hardly show.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RECIPE = 1
"""Incremented whenever a draw changes; digests of another recipe are rejected."""

SIZES: dict[str, dict[str, int]] = {
    "surrogate": {
        "vocab_size": 40_478,
        "n_positions": 512,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
    },
    # Awkward on purpose: no two axes alike, more than three attention tiles, the last one ragged.
    "tiny": {"vocab_size": 211, "n_positions": 389, "n_embd": 21, "n_layer": 12, "n_head": 3},
}
"""Shapes by name: the released model's, and one for quick runs."""


class SurrogateMismatchError(ValueError):
    """The drawn tensors are not the committed ones; the message names them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A drawn model, with the config's and the tensors' names of the published files.

    An example is `h.0.attn.c_attn.weight`. Matrices are `[in, out]`, float32.
    """

    name: str  # a key of `SIZES`
    config: Mapping[str, Any]
    tensors: Mapping[str, Array]

    @functools.cached_property
    def digests(self) -> Mapping[str, str]:
        """Each tensor's SHA-256."""
        return digests(self.tensors)

    @functools.cached_property
    def sha256(self) -> str:
        """One digest for the whole model: over the sorted lines of name and digest."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.digests.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class _Draw:
    """The plan of one tensor."""

    shape: tuple[int, ...]
    spread: float | NDArray[np.float64]  # the standard deviation, or one for each column
    mean: float = 0.0
    centred: bool = False  # whether each column's mean over the first axis is removed


def load(name: str = "surrogate", on_tensor: Callable[[int, int], None] | None = None) -> Surrogate:
    """Draw the tensors of a size and compare each with its committed digest.

    `on_tensor` is called with (tensors done, tensors in all).

    Raises:
        SurrogateMismatchError: A tensor's bits are not the committed ones.
    """
    surrogate = draw(name, on_tensor)
    check_digests(surrogate, committed_digests())
    return surrogate


def draw(name: str, on_tensor: Callable[[int, int], None] | None = None) -> Surrogate:
    """Draw the tensors of size `name`, unchecked."""
    shape = SIZES[name]
    plan = dict(_plan(**shape))
    tensors: dict[str, Array] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        drawn = pool.map(lambda item: _tensor(f"{name}/{item[0]}", item[1]), plan.items())
        for tensor_name, tensor in zip(plan, drawn, strict=True):
            tensors[tensor_name] = tensor
            if on_tensor is not None:
                on_tensor(len(tensors), len(plan))
    config = shape | {"afn": "gelu", "layer_norm_epsilon": 1e-5, "model_type": "openai-gpt"}
    return Surrogate(name=name, config=config, tensors=tensors)


def digests(tensors: Mapping[str, Array]) -> dict[str, str]:
    """Return each tensor's SHA-256 over its little-endian float32 bytes."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(tensors, pool.map(_digest, tensors.values()), strict=True))


def committed_digests() -> dict[str, Any]:
    """Return the committed file: the recipe's number, and shape and digests of each size."""
    text = resources.files("reference").joinpath("surrogate_digests.json").read_text("utf-8")
    committed: dict[str, Any] = json.loads(text)
    return committed


def digest_file() -> dict[str, Any]:
    """Return the contents of `surrogate_digests.json` for the draws of this module."""
    drawn = {name: dict(draw(name).digests) for name in SIZES}
    sizes = {name: {"shape": SIZES[name], "digests": found} for name, found in drawn.items()}
    return {"recipe": RECIPE, "sizes": sizes}


def check_digests(surrogate: Surrogate, committed: Mapping[str, Any]) -> None:
    """Compare a drawn model with committed digests.

    Raises:
        SurrogateMismatchError: The digests belong to another recipe or shape, or tensors differ.
    """
    entry = committed["sizes"].get(surrogate.name, {})
    if committed["recipe"] != RECIPE or entry.get("shape") != SIZES[surrogate.name]:
        message = f"the committed digests of {surrogate.name!r} are of another recipe or shape"
        raise SurrogateMismatchError(message)
    drawn, due = surrogate.digests, entry["digests"]
    differing = sorted(name for name in {**drawn, **due} if drawn.get(name) != due.get(name))
    if differing:
        message = f"{len(differing)} tensors differ from their committed digests: {differing[:4]}"
        raise SurrogateMismatchError(message)


def _plan(
    *, vocab_size: int, n_positions: int, n_embd: int, n_layer: int, n_head: int
) -> Iterator[tuple[str, _Draw]]:
    """Yield (name, draw) for every tensor, in the published file's order."""
    del n_head  # the number of heads shapes no tensor
    yield "tokens_embed.weight", _Draw((vocab_size, n_embd), 0.11)
    yield "positions_embed.weight", _Draw((n_positions, n_embd), 0.11)
    for index in range(n_layer):
        for name, block_draw in _block(n_embd, first=index == 0):
            yield f"h.{index}.{name}", block_draw


def _block(width: int, *, first: bool) -> Iterator[tuple[str, _Draw]]:
    """Yield the tensors of one block; `first` has sharper queries, its input being smaller."""
    # A narrower model has larger elements, so that the products keep their size.
    scale = math.sqrt(768 / width)
    inner = 4 * width
    # One spread for query and key columns, another for value columns.
    thirds = np.repeat([0.5, 0.5, 0.1] if first else [0.18, 0.18, 0.03], width)
    yield "attn.c_attn.weight", _Draw((width, 3 * width), scale * thirds)
    yield "attn.c_attn.bias", _Draw((3 * width,), np.repeat([0.5, 0.5, 0.1], width))
    yield "attn.c_proj.weight", _Draw((width, width), scale * 0.02)
    yield "attn.c_proj.bias", _Draw((width,), 0.05)
    yield "ln_1.weight", _Draw((width,), 0.2, mean=1.2)
    yield "ln_1.bias", _Draw((width,), 0.05)
    yield "mlp.c_fc.weight", _Draw((width, inner), scale * 0.053)
    yield "mlp.c_fc.bias", _Draw((inner,), 0.1)
    # GELU's outputs have a positive mean: an uncentred matrix would push every position alike.
    yield "mlp.c_proj.weight", _Draw((inner, width), scale * 0.008, centred=True)
    yield "mlp.c_proj.bias", _Draw((width,), 0.05)
    yield "ln_2.weight", _Draw((width,), 0.05, mean=0.45)
    yield "ln_2.bias", _Draw((width,), 0.05)


_CHUNK = 1 << 16
_LOW_HALVES = np.uint64(0x0000_FFFF_0000_FFFF)
_SUM_MEAN = 4 * 65_535 // 2
_SUM_DEVIATION = math.sqrt(4 * (65_536**2 - 1) / 12)


def _tensor(key: str, plan: _Draw) -> Array:
    """Return the tensor drawn for `key`, chunk by chunk so that the work stays in the cache."""
    stream = _stream(key)
    rows, columns = plan.shape if len(plan.shape) > 1 else (1, *plan.shape)
    means = _column_means(key, rows, columns) if plan.centred else 0.0
    out = np.empty((rows, columns), np.float32)
    step = max(1, _CHUNK // columns)
    for start in range(0, rows, step):
        chunk = out[start : start + step]
        deviates = _near_normal(stream, chunk.size).reshape(chunk.shape)
        chunk[...] = (deviates - means) * (plan.spread / _SUM_DEVIATION) + plan.mean
    return out.reshape(plan.shape)


def _stream(key: str) -> np.random.Philox:
    """Return Philox4x64-10 keyed by `key`.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def _near_normal(stream: np.random.Philox, count: int) -> NDArray[np.float64]:
    """Return `count` exact integers, centred, near-normal with deviation `_SUM_DEVIATION`.

    Each is the sum of the four 16-bit parts of one 64-bit word: integer arithmetic alone, so
    that no mathematical library of any machine can change a bit.
    """
    words = stream.random_raw(count)
    pairs = (words & _LOW_HALVES) + ((words >> np.uint64(16)) & _LOW_HALVES)
    sums = (pairs & np.uint64(0xFFFF_FFFF)) + (pairs >> np.uint64(32))
    centred: NDArray[np.float64] = sums.astype(np.float64) - _SUM_MEAN
    return centred


def _column_means(key: str, rows: int, columns: int) -> NDArray[np.float64]:
    """Return each column's mean over the rows: a sum of integers, exact in any order."""
    stream = _stream(key)
    totals = np.zeros(columns)
    step = max(1, _CHUNK // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        totals += _near_normal(stream, count * columns).reshape(count, columns).sum(axis=0)
    return totals / rows


def _digest(tensor: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor, dtype="<f4").data).hexdigest()


if __name__ == "__main__":  # after a change of recipe: python -m reference.surrogate > the file
    print(json.dumps(digest_file(), indent=1))  # noqa: T201 - its output is the file
