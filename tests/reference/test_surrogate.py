"""The seeded weights: complete, and held by digests."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from reference import surrogate
from reference.surrogate import SIZES, Surrogate, SurrogateMismatchError

ShapesOf = Callable[[Mapping[str, int]], dict[str, tuple[int, ...]]]


def with_tensors(tiny: Surrogate, **changed: NDArray[np.float32]) -> Surrogate:
    return dataclasses.replace(tiny, tensors={**tiny.tensors, **changed})


def test_has_every_tensor_of_its_shape(tiny: Surrogate, shapes_of: ShapesOf) -> None:
    expected = shapes_of(SIZES["tiny"])
    assert expected == {name: tensor.shape for name, tensor in tiny.tensors.items()}
    assert {np.dtype(np.float32)} == {tensor.dtype for tensor in tiny.tensors.values()}


def test_the_full_size_is_the_released_models(shapes_of: ShapesOf) -> None:
    sizes = {"vocab_size": 40_478, "n_positions": 512, "n_embd": 768, "n_layer": 12, "n_head": 12}
    assert sizes == SIZES["surrogate"]
    expected = 116_534_784
    assert expected == sum(math.prod(shape) for shape in shapes_of(sizes).values())


def test_the_config_is_complete(tiny: Surrogate) -> None:
    constants = {"afn": "gelu", "layer_norm_epsilon": 1e-5, "model_type": "openai-gpt"}
    assert SIZES["tiny"] | constants == tiny.config


@pytest.mark.parametrize("size", ["tiny", "surrogate"])
def test_the_committed_file_is_complete(size: str, shapes_of: ShapesOf) -> None:
    committed = surrogate.committed_digests()
    sizes = {name: entry["shape"] for name, entry in committed["sizes"].items()}
    assert sizes == SIZES
    digests = committed["sizes"][size]["digests"]
    expected = 146
    assert set(shapes_of(SIZES[size])) == set(digests)
    assert expected == len(digests) == len(set(digests.values()))
    assert {64} == {len(bytes.fromhex(digest)) * 2 for digest in digests.values()}


def test_every_digest_is_the_committed_one(tiny: Surrogate) -> None:
    expected = surrogate.committed_digests()["sizes"]["tiny"]["digests"]
    hashed = {n: hashlib.sha256(t.astype("<f4").tobytes()) for n, t in tiny.tensors.items()}
    assert expected == {name: digest.hexdigest() for name, digest in hashed.items()}
    assert expected == surrogate.digests(tiny.tensors)


def test_the_models_digest_is_over_names_and_digests(tiny: Surrogate) -> None:
    digests = surrogate.committed_digests()["sizes"]["tiny"]["digests"]
    lines = [f"{name} {digests[name]}\n" for name in sorted(digests)]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == tiny.sha256


def test_the_file_can_be_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = surrogate.committed_digests()
    del expected["sizes"]["surrogate"]
    monkeypatch.setattr(surrogate, "SIZES", {"tiny": SIZES["tiny"]})
    assert expected == surrogate.digest_file()


def test_the_committed_draw_is_accepted(tiny: Surrogate) -> None:
    surrogate.check_digests(tiny, surrogate.committed_digests())


@pytest.mark.parametrize("name", ["tokens_embed.weight", "h.7.ln_1.bias"])
def test_one_changed_bit_is_found(name: str, tiny: Surrogate) -> None:
    changed = tiny.tensors[name].copy()
    changed.view(np.uint32).flat[-1] ^= 1
    with pytest.raises(SurrogateMismatchError, match=f"^1 tensors differ .*'{name}'"):
        surrogate.check_digests(
            with_tensors(tiny, **{name: changed}), surrogate.committed_digests()
        )


def test_two_blocks_in_each_others_place_are_found(tiny: Surrogate) -> None:
    swapped = {
        name.replace(f"h.{here}.", f"h.{there}.", 1): tiny.tensors[name]
        for here, there in ((3, 10), (10, 3))
        for name in tiny.tensors
        if name.startswith(f"h.{here}.")
    }
    with pytest.raises(SurrogateMismatchError, match=r"^24 tensors differ .*'h\.10\.attn\.c_attn"):
        surrogate.check_digests(with_tensors(tiny, **swapped), surrogate.committed_digests())


def test_a_transposed_square_matrix_is_found(tiny: Surrogate) -> None:
    """Its shape cannot tell, its digest can."""
    name = "h.5.attn.c_proj.weight"
    changed = with_tensors(tiny, **{name: tiny.tensors[name].T})
    with pytest.raises(SurrogateMismatchError, match=f"^1 tensors differ .*'{name}'"):
        surrogate.check_digests(changed, surrogate.committed_digests())


def test_a_tensor_too_many_and_one_missing_are_found(tiny: Surrogate) -> None:
    tensors = dict(tiny.tensors)
    tensors["h.12.ln_1.bias"] = tensors.pop("h.11.ln_1.bias")
    with pytest.raises(
        SurrogateMismatchError,
        match=r"^2 tensors differ .*'h\.11\.ln_1\.bias', 'h\.12\.ln_1\.bias'",
    ):
        surrogate.check_digests(
            dataclasses.replace(tiny, tensors=tensors), surrogate.committed_digests()
        )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"recipe": surrogate.RECIPE + 1}, id="recipe"),
        pytest.param({"sizes": {}}, id="size not there"),
        pytest.param({"sizes": {"tiny": {"shape": {}, "digests": {}}}}, id="shape"),
    ],
)
def test_stale_digests_are_refused(
    change: dict[str, object], tiny: Surrogate, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = surrogate.committed_digests() | change
    message = "^the committed digests of 'tiny' are of another recipe or shape$"
    with pytest.raises(SurrogateMismatchError, match=message):
        surrogate.check_digests(tiny, stale)
    monkeypatch.setattr(surrogate, "committed_digests", lambda: stale)
    with pytest.raises(SurrogateMismatchError, match=message):
        surrogate.load("tiny")


def test_a_draw_tells_how_far_it_is(tiny: Surrogate) -> None:
    told: list[tuple[int, int]] = []
    again = surrogate.draw("tiny", lambda done, total: told.append((done, total)))
    assert [(done, 146) for done in range(1, 147)] == told
    assert tiny.sha256 == again.sha256
