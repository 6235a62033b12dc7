"""The config's total conversion from and to Hugging Face's."""

import dataclasses
import re
from typing import Any

import pytest

from scratch_gpt import GPTConfig
from scratch_gpt.checkpoint.hf_config import ALIASES, IGNORED, REQUIRED

OFF_DEFAULT: dict[str, Any] = {
    "vocab_size": 37,
    "n_positions": 11,
    "n_embd": 21,
    "n_layer": 2,
    "n_head": 3,
    "afn": "gelu",  # the only one there is
    "embd_pdrop": 0.25,
    "attn_pdrop": 0.375,
    "resid_pdrop": 0.5,
    "layer_norm_epsilon": 0.03,
    "initializer_range": 0.05,
}


@pytest.fixture(scope="module")
def transformers_fields() -> dict[str, Any]:
    import transformers

    return transformers.OpenAIGPTConfig().to_dict()


def other_than(value: object) -> object:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"not {value}"


def test_every_field_of_ours_survives_the_round_trip() -> None:
    config = GPTConfig(**OFF_DEFAULT)
    fields = config.to_huggingface()
    assert config == GPTConfig.from_huggingface(fields)
    assert OFF_DEFAULT.items() <= fields.items()


def test_the_round_trip_covers_every_field_of_ours() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(GPTConfig)}
    assert set(fields) == set(OFF_DEFAULT)
    assert {name for name in fields if fields[name] == OFF_DEFAULT[name]} == {"afn"}


@pytest.mark.reference
def test_every_field_of_transformers_has_a_place(transformers_fields: dict[str, Any]) -> None:
    known = {*OFF_DEFAULT, *REQUIRED, *IGNORED}
    assert not set(transformers_fields) - known
    assert GPTConfig() == GPTConfig.from_huggingface(transformers_fields)


@pytest.mark.reference
def test_transformers_keeps_our_config(transformers_fields: dict[str, Any]) -> None:
    import transformers

    config = GPTConfig(**OFF_DEFAULT)
    theirs = transformers.OpenAIGPTConfig.from_dict(config.to_huggingface()).to_dict()
    assert set(transformers_fields) == set(theirs)
    assert config == GPTConfig.from_huggingface(theirs)


@pytest.mark.reference
def test_with_every_field_off_its_default_each_survives_or_is_named(
    transformers_fields: dict[str, Any],
) -> None:
    """Ours survive; of the others each is ignored for a reason, or named in the one error."""
    strange = {name: other_than(value) for name, value in transformers_fields.items()}
    strange |= OFF_DEFAULT
    with pytest.raises(ValueError, match="not a GPT-1 that we can build") as caught:
        GPTConfig.from_huggingface(strange)
    named = {name for name in strange if f"{name} must be" in str(caught.value)}
    assert set(REQUIRED) & set(strange) == named
    obeying = {name: value for name, value in strange.items() if name not in named}
    assert GPTConfig(**OFF_DEFAULT) == GPTConfig.from_huggingface(obeying)
    assert set(obeying) <= {*OFF_DEFAULT, *IGNORED}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_field_is_refused_with_its_reason(name: str) -> None:
    wanted, reason = REQUIRED[name]
    message = f"{name} must be {wanted!r}, got 'odd' ({reason})"
    with pytest.raises(ValueError, match=re.escape(message)):
        GPTConfig.from_huggingface({name: "odd"})


def test_unknown_fields_are_named_together() -> None:
    message = "unknown field rotary=True; unknown field n_kv_head=4"
    with pytest.raises(ValueError, match=re.escape(message)):
        GPTConfig.from_huggingface({"rotary": True, "n_layer": 3, "n_kv_head": 4})


def test_a_bad_value_of_ours_is_named() -> None:
    with pytest.raises(ValueError, match=r"^n_layer must be a whole number of at least 1, got 0$"):
        GPTConfig.from_huggingface({"num_hidden_layers": 0})


def test_every_exception_has_a_reason() -> None:
    assert all(IGNORED.values())
    assert all(reason for _, reason in REQUIRED.values())


def test_a_field_has_one_place() -> None:
    places = [*OFF_DEFAULT, *ALIASES, *REQUIRED, *IGNORED]
    assert len(places) == len(set(places))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("n_ctx", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
)
def test_an_alias_is_the_field(alias: str, name: str) -> None:
    value = 2 * getattr(GPTConfig(), name)
    expected = GPTConfig(**{name: value, "n_embd": 768 * 2})
    fields = {"n_embd": 768 * 2} if name != "n_embd" else {}
    assert expected == GPTConfig.from_huggingface({alias: value} | fields)
    assert expected == GPTConfig.from_huggingface({alias: value, name: value} | fields)


@pytest.mark.parametrize(
    ("first", "second"),
    [("n_positions", "n_ctx"), ("n_ctx", "n_positions"), ("n_ctx", "max_position_embeddings")],
)
def test_spellings_that_contradict_are_rejected(first: str, second: str) -> None:
    with pytest.raises(ValueError, match=f"{second}=256 contradicts {first}=512"):
        GPTConfig.from_huggingface({first: 512, second: 256})


def test_the_released_config_is_accepted() -> None:
    released = {
        "afn": "gelu",
        "architectures": ["OpenAIGPTLMHeadModel"],
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "openai-gpt",
        "n_ctx": 512,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 512,
        "n_special": 0,
        "predict_special_tokens": True,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 40_478,
    }
    assert GPTConfig() == GPTConfig.from_huggingface(released)
