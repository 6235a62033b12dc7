"""The config and its range checks."""

import dataclasses
import math
import re

import jaxtyping
import pytest

from scratch_gpt import GPTConfig


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let wrong types reach the config's own checks, past the shape checker of test runs."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "12", None, math.nan])
def test_a_count_is_a_whole_number_of_at_least_one(name: str, value: object) -> None:
    message = f"{name} must be a whole number of at least 1, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPTConfig(**{name: value})


@pytest.mark.parametrize("name", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
@pytest.mark.parametrize("value", [1.0, 1, -0.1, math.nan, math.inf, "0.1", False, None])
def test_a_probability_is_a_number_below_one(name: str, value: object) -> None:
    message = f"{name} must be a number in [0, 1), got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPTConfig(**{name: value})


@pytest.mark.parametrize("name", ["layer_norm_epsilon", "initializer_range"])
@pytest.mark.parametrize("value", [0.0, -1e-5, math.nan, math.inf, "1e-5", True, None])
def test_epsilon_and_spread_are_positive_and_finite(name: str, value: object) -> None:
    message = f"{name} must be a finite number above 0, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPTConfig(**{name: value})


def test_the_width_is_a_multiple_of_the_heads() -> None:
    message = "n_embd must be a multiple of n_head, got 20 and 3"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPTConfig(n_embd=20, n_head=3)


@pytest.mark.parametrize("value", ["gelu_new", "relu", "GELU", None])
def test_the_activation_is_gelu(value: object) -> None:
    message = f"afn must be 'gelu' (the tanh form, as released), got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPTConfig(afn=value)


def test_the_edges_of_the_ranges_are_accepted() -> None:
    counts = dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"), 1)
    config = GPTConfig(**counts, embd_pdrop=0, attn_pdrop=0.0, resid_pdrop=0.0)
    assert (config.head_width, config.n_inner) == (1, 4)


def test_the_defaults_are_the_released_models() -> None:
    expected = {
        "vocab_size": 40_478,
        "n_positions": 512,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "afn": "gelu",
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
    }
    assert expected == dataclasses.asdict(GPTConfig())


def test_widths_follow_from_the_fields() -> None:
    config = GPTConfig(n_embd=21, n_head=3)
    assert (config.head_width, config.n_inner) == (7, 84)


def test_is_frozen() -> None:
    config = GPTConfig()
    with pytest.raises(dataclasses.FrozenInstanceError, match="n_layer"):
        config.n_layer = 3


def test_is_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        GPTConfig(40_478)
