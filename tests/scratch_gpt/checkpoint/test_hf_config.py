"""The config's total conversion from and to Hugging Face's."""

import dataclasses
import re
from typing import Any

import pytest

from scratch_gpt import GPTConfig
from scratch_gpt.checkpoint.checkpoint import ignored
from scratch_gpt.checkpoint.hf_config import ALIASES, CHANGES_FUNCTION, USUAL, WITHOUT_EFFECT

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
    assert ignored(transformers_fields) == []
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
    strange = {name: value for name, value in strange.items() if name not in CHANGES_FUNCTION}
    strange |= OFF_DEFAULT
    assert GPTConfig(**OFF_DEFAULT) == GPTConfig.from_huggingface(strange)
    (note,) = ignored(strange)
    assert [name for name in set(WITHOUT_EFFECT) & set(strange) if f"{name}=" not in note] == []


@pytest.mark.parametrize("name", CHANGES_FUNCTION)
def test_a_field_that_changes_the_function_is_rejected_with_its_reason(name: str) -> None:
    (wanted, *_), reason = CHANGES_FUNCTION[name]
    message = f"{name} must be {wanted!r}, got 'odd' ({reason})"
    with pytest.raises(ValueError, match=re.escape(message)):
        GPTConfig.from_huggingface({name: "odd"})


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_field_without_effect_is_named_with_its_reason_if_it_is_unusual(name: str) -> None:
    usual, reason = WITHOUT_EFFECT[name]
    sizes = GPTConfig().to_huggingface()
    assert ignored({**sizes, name: 512 if name == "n_ctx" else usual}) == []
    (note,) = ignored({**sizes, name: "odd"})
    assert note == f"config.json: {name}='odd' ({reason}) ignored"
    assert GPTConfig() == GPTConfig.from_huggingface({**sizes, name: "odd"})


@pytest.mark.parametrize("name", CHANGES_FUNCTION)
def test_a_field_that_leaves_the_function_as_it_is_needs_no_note(name: str) -> None:
    sizes = GPTConfig().to_huggingface()
    for value in CHANGES_FUNCTION[name][0]:
        assert ignored({**sizes, name: value}) == []
        assert GPTConfig() == GPTConfig.from_huggingface({**sizes, name: value})


def test_unknown_fields_are_named_together() -> None:
    fields = {**GPTConfig().to_huggingface(), "rotary": True, "n_kv_head": 4}
    assert ignored(fields) == ["config.json: rotary, n_kv_head ignored"]


def test_sizes_that_are_not_given_are_named() -> None:
    (note,) = ignored({"n_layer": 2, "n_embd": 12, "vocab_size": 31, "n_positions": 16})
    assert note == "config.json does not say that n_head is 12"


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("layer_norm_epsilon", 10**400, "must be a number, got a whole number of 16 digits"),
        ("layer_norm_epsilon", 2**53, "must be a number, got a whole number of 16 digits"),
        ("afn", 2**53, "must be text, got a whole number of 16 digits"),
        ("afn", 2**53 - 1, "must be text, got 9007199254740991"),
        ("layer_norm_epsilon", "1e-5", "must be a number, got '1e-5'"),
        ("n_layer", True, "must be a whole number, got True"),
        ("n_head", 2.0, "must be a whole number, got 2.0"),
        ("afn", None, "must be text, got None"),
    ],
)
def test_a_value_of_another_type_is_named(field: str, value: object, shown: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field} {shown}")):
        GPTConfig.from_huggingface({field: value})


def test_a_whole_number_is_a_float_too() -> None:
    found = GPTConfig.from_huggingface({"layer_norm_epsilon": 1}).layer_norm_epsilon
    assert (found, type(found)) == (1.0, float)


def test_a_bad_value_of_ours_is_named() -> None:
    with pytest.raises(ValueError, match=r"^n_layer must be a whole number of at least 1, got 0$"):
        GPTConfig.from_huggingface({"num_hidden_layers": 0})


def test_a_field_has_one_place() -> None:
    places = [*OFF_DEFAULT, *ALIASES, *CHANGES_FUNCTION, *WITHOUT_EFFECT, *USUAL]
    assert len(places) == len(set(places))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
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
    [("n_positions", "max_position_embeddings"), ("max_position_embeddings", "n_positions")],
)
def test_spellings_that_contradict_are_rejected(first: str, second: str) -> None:
    with pytest.raises(ValueError, match=f"{second}=256 contradicts {first}=512"):
        GPTConfig.from_huggingface({first: 512, second: 256})


def test_the_number_of_positions_may_be_given_as_n_ctx_alone() -> None:
    assert GPTConfig.from_huggingface({"n_ctx": 256}).n_positions == 256
    assert GPTConfig.from_huggingface({"n_ctx": 256, "n_positions": 512}).n_positions == 512


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
