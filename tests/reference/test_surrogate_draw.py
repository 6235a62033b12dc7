"""How the seeded weights are drawn: each number worked out again, in integers, from its name."""

import hashlib
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from reference.surrogate import Surrogate

WORD = 2**64
WIDTH = 21
SCALE = math.sqrt(768 / WIDTH)
DEVIATION = math.sqrt(4 * (65_536**2 - 1) / 12)  # of the sum of four 16-bit numbers


def philox_block(key: tuple[int, int], counter: int) -> list[int]:
    words = [counter % WORD, counter // WORD, 0, 0]
    for at in range(10):
        keys = [
            (key[0] + at * 0x9E3779B97F4A7C15) % WORD,
            (key[1] + at * 0xBB67AE8584CAA73B) % WORD,
        ]
        high_0, low_0 = divmod(words[0] * 0xD2E7470EE14C6C93, WORD)
        high_1, low_1 = divmod(words[2] * 0xCA5A826395121157, WORD)
        words = [high_1 ^ words[1] ^ keys[0], low_1, high_0 ^ words[3] ^ keys[1], low_0]
    return words


def deviates(name: str, count: int) -> list[int]:
    """Return what the surrogate draws for a tensor, before it is scaled: integers around 0."""
    digest = hashlib.sha256(name.encode()).digest()
    key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    # NumPy counts on before it draws, so that its first block is of counter 1.
    words = [w for at in range(1 + (count - 1) // 4) for w in philox_block(key, at + 1)][:count]
    return [sum(word >> shift & 0xFFFF for shift in (0, 16, 32, 48)) - 131_070 for word in words]


def spread(name: str) -> tuple[float, float]:
    """Return the recipe's mean and deviation; of `c_attn`, those of queries and keys."""
    first = name.startswith("h.0.")
    kind = name if "embed" in name else name.split(".", 2)[2]
    return {
        "tokens_embed.weight": (0.0, 0.11),
        "positions_embed.weight": (0.0, 0.11),
        "attn.c_attn.weight": (0.0, SCALE * (0.5 if first else 0.18)),
        "attn.c_attn.bias": (0.0, 0.5),
        "attn.c_proj.weight": (0.0, SCALE * 0.02),
        "attn.c_proj.bias": (0.0, 0.05),
        "ln_1.weight": (1.2, 0.2),
        "ln_1.bias": (0.0, 0.05),
        "mlp.c_fc.weight": (0.0, SCALE * 0.053),
        "mlp.c_fc.bias": (0.0, 0.1),
        "mlp.c_proj.weight": (0.0, SCALE * 0.008),
        "mlp.c_proj.bias": (0.0, 0.05),
        "ln_2.weight": (0.45, 0.05),
        "ln_2.bias": (0.0, 0.05),
    }[kind]


def value_spread(name: str) -> float:
    """Return the recipe's deviation of the values' third of `c_attn`."""
    if name.endswith("bias"):
        return 0.1
    return SCALE * (0.1 if name.startswith("h.0.") else 0.03)


def worked_out(name: str, shape: tuple[int, ...]) -> list[float]:
    mean, deviation = spread(name)
    columns = math.prod(shape[1:])
    drawn = deviates(f"tiny/{name}", math.prod(shape))
    centre = [0.0] * columns
    if name.endswith("mlp.c_proj.weight"):
        centre = [sum(drawn[at::columns]) / shape[0] for at in range(columns)]
    numbers = []
    for at, number in enumerate(drawn):
        feature = at % columns if len(shape) > 1 else at
        is_value = "c_attn" in name and feature >= 2 * WIDTH
        scale = value_spread(name) if is_value else deviation
        numbers.append((number - centre[at % columns]) * (scale / DEVIATION) + mean)
    return numbers


def test_philox_gives_its_published_numbers() -> None:
    """Key 0 and counter 0 give what Random123 lists; NumPy counts on before its first block."""
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    stream = np.random.Philox(key=0, counter=2**256 - 1)
    assert expected == [int(word) for word in stream.random_raw(4)]
    assert expected == philox_block((0, 0), 0)


@pytest.mark.parametrize("block", [0, 1, 11])
def test_a_block_is_drawn_as_the_recipe_says(block: int, tiny: Surrogate) -> None:
    for name, tensor in tiny.tensors.items():
        if name.startswith(f"h.{block}."):
            expected = np.array(worked_out(name, tensor.shape)).astype(np.float32)
            assert np.array_equal(expected, tensor.ravel()), name


@pytest.mark.parametrize("name", ["tokens_embed.weight", "positions_embed.weight"])
def test_the_embeddings_are_drawn_as_the_recipe_says(name: str, tiny: Surrogate) -> None:
    tensor = tiny.tensors[name]
    expected = np.array(worked_out(name, tensor.shape)).astype(np.float32)
    assert np.array_equal(expected, tensor.ravel())


def test_has_the_recipes_scale(tiny: Surrogate) -> None:
    """Over all blocks but the first, each kind's mean and deviation are the recipe's.

    They are as near as a sample of that size is: within five of its own standard errors.
    """
    kinds: dict[str, list[NDArray[np.float64]]] = {}
    for name, tensor in tiny.tensors.items():
        if not name.startswith("h.0.") and "c_attn" not in name:
            kind = name if "embed" in name else f"h.1.{name.split('.', 2)[2]}"
            kinds.setdefault(kind, []).append(tensor.ravel().astype(np.float64))
    expected = 12
    assert expected == len(kinds)
    for kind, samples in kinds.items():
        sample = np.concatenate(samples)
        mean, deviation = spread(kind)
        assert abs(sample.mean() - mean) < 5 * deviation / math.sqrt(sample.size), kind
        assert abs(sample.std() / deviation - 1) < 5 / math.sqrt(2 * sample.size), kind


def test_the_columns_of_the_second_mlp_matrix_are_centred(tiny: Surrogate) -> None:
    """Each sums to 0 but for the rounding of its elements; those of the first matrix do not."""
    half_ulp = np.finfo(np.float32).eps / 2
    for block in range(12):
        centred = tiny.tensors[f"h.{block}.mlp.c_proj.weight"].astype(np.float64)
        assert (abs(centred.sum(0)) <= half_ulp * abs(centred).sum(0)).all()
        other = tiny.tensors[f"h.{block}.mlp.c_fc.weight"].astype(np.float64)
        assert (abs(other.sum(0)) > half_ulp * abs(other).sum(0)).all()
