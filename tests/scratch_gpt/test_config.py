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


COUNTS = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(
            (name, value, "a whole number of at least 1")
            for name in COUNTS
            for value in (0, -1, 2.0, True, "12", None, math.nan)
        ),
        *(
            (name, value, "a number in [0, 1)")
            for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")
            for value in (1.0, 1, -0.1, math.nan, math.inf, "0.1", False, None)
        ),
        *(
            (name, value, "a finite number above 0")
            for name in ("layer_norm_epsilon", "initializer_range")
            for value in (0.0, -1e-5, math.nan, math.inf, "1e-5", True, None)
        ),
        *(
            ("afn", value, "'gelu' (the tanh form, as released)")
            for value in ("gelu_new", "relu", "GELU", None)
        ),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object, allowed: str) -> None:
    message = f"{name} must be {allowed}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPTConfig(**{name: value})


def test_the_width_is_a_multiple_of_the_heads() -> None:
    message = "n_embd must be a multiple of n_head, got 20 and 3"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GPTConfig(n_embd=20, n_head=3)


def test_the_edges_of_the_ranges_are_accepted() -> None:
    config = GPTConfig(**dict.fromkeys(COUNTS, 1), embd_pdrop=0, attn_pdrop=0.0, resid_pdrop=0.0)
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


def test_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="n_layer"):
        GPTConfig().n_layer = 3
    with pytest.raises(TypeError, match="positional"):
        GPTConfig(40_478)
