"""Where weights come from, and that each model built from them has its own."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.core.runners import build_huggingface, build_ours
from parity.errors import ExitCode, InputRejectedError
from reference import surrogate

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[[Weights], nn.Module]
BUILDERS = {"ours": (build_ours, ""), "huggingface": (build_huggingface, "transformer.")}
"""For each side, what builds it, and what stands before our names there."""


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("tiny")


@pytest.fixture(params=BUILDERS)
def side(request: pytest.FixtureRequest) -> tuple[Build, str]:
    return BUILDERS[request.param]


def test_tiny_is_the_small_surrogate(weights: Weights) -> None:
    drawn = surrogate.draw("tiny")
    assert drawn.config == weights.config
    assert list(drawn.tensors) == list(weights.tensors)
    assert all(np.array_equal(drawn.tensors[n], t) for n, t in weights.tensors.items())
    expected = {
        "source": "surrogate (tiny): seeded random weights, not the released ones",
        "revision": f"recipe {surrogate.RECIPE}",
        "sha256": drawn.sha256,
        "dtype": "float32",
        "provenance": "unknown",
        "files": [],
    }
    assert expected == weights.identity


def test_a_draw_with_other_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    committed = surrogate.committed_digests()
    committed["sizes"]["tiny"]["digests"]["h.4.ln_1.bias"] = "0" * 64
    monkeypatch.setattr(surrogate, "committed_digests", lambda: committed)
    with pytest.raises(InputRejectedError, match=r"h\.4\.ln_1\.bias") as refusal:
        load_weights("tiny")
    assert refusal.value.exit_code is ExitCode.REFUSED
    assert "'tiny'" in refusal.value.where


def test_loading_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    load_weights("tiny", lambda done, total: told.append((done, total)))
    assert told == [(done, 146) for done in range(1, 147)]


def test_every_tensor_is_in_its_place(side: tuple[Build, str], weights: Weights) -> None:
    build, prefix = side
    model = build(weights)
    state = model.state_dict()
    for name, array in weights.tensors.items():
        found = state[prefix + name]
        assert torch.float32 is found.dtype
        assert np.array_equal(array.view(np.uint32), found.numpy().view(np.uint32)), name
    assert set(state) - {"lm_head.weight"} == {prefix + name for name in weights.tensors}
    assert not any(module.training for module in model.modules())


def test_every_model_has_its_own_storage(side: tuple[Build, str], weights: Weights) -> None:
    build, _ = side
    before = surrogate.digests(weights.tensors)
    one, other = build(weights), build(weights)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert before == surrogate.digests(weights.tensors)
    assert all(bool(parameter.any()) for parameter in other.parameters())


def test_the_config_is_the_weights(weights: Weights) -> None:
    weights = dataclasses.replace(
        weights, config={**weights.config, "layer_norm_epsilon": 0.03, "n_head": 7}
    )
    ours, theirs = build_ours(weights), build_huggingface(weights)
    expected = (0.03, 7, 389, 12)
    assert expected == (
        *(ours.config.layer_norm_epsilon, ours.config.n_head),
        *(ours.config.n_positions, ours.config.n_layer),
    )
    assert expected == (
        *(theirs.config.layer_norm_epsilon, theirs.config.n_head),
        *(theirs.config.n_positions, theirs.config.n_layer),
    )
    expected = {0.03}
    assert expected == {block.ln_2.epsilon for block in ours.h}
    assert expected == {block.ln_2.eps for block in theirs.transformer.h}


@pytest.mark.parametrize("backend", ["plain", "tiled"])
def test_ours_is_built_with_the_attention_asked_for(backend: str, weights: Weights) -> None:
    assert backend == build_ours(weights, backend).backend
    assert build_ours(weights).backend == "plain"


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_build_nothing(
    fault: str, side: tuple[Build, str], weights: Weights
) -> None:
    tensors = dict(weights.tensors)
    bias = tensors.pop("h.11.ln_2.bias")
    tensors |= {"extra": {"h.11.ln_2.bias": bias, "h.12.ln_2.bias": bias}, "missing": {}}.get(
        fault, {"h.11.ln_2.bias": bias[:1]}
    )
    with pytest.raises(InputRejectedError, match=r"h\.1[12]\.ln_2\.bias"):
        side[0](dataclasses.replace(weights, tensors=tensors))
