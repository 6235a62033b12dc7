"""Hugging Face's model as a reference: every key is loaded, every argument is used."""

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from reference import huggingface
from reference.huggingface import LoadReportError

Build = Callable[..., nn.Module]
State = dict[str, Tensor]


def test_every_tensor_is_in_its_place(config: dict[str, Any], state: State, build: Build) -> None:
    model = build(dtype=torch.float64)
    found = model.state_dict()
    assert set(state) | {"lm_head.weight"} == set(found)
    assert all(torch.equal(tensor.double(), found[name]) for name, tensor in state.items())
    assert model.lm_head.weight is model.transformer.tokens_embed.weight
    assert config.items() <= model.config.to_dict().items()


def test_a_head_is_refused(config: dict[str, Any], state: State) -> None:
    """One that differs from the embedding would be loaded beside it, unsaid."""
    head = {"lm_head.weight": state["transformer.tokens_embed.weight"].clone()}
    with pytest.raises(ValueError, match="leave it out"):
        huggingface.build(config, state | head)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_every_float_has_the_dtype(dtype: torch.dtype, build: Build) -> None:
    model = build(dtype=dtype)
    tensors = [*model.parameters(), *model.buffers()]
    assert {dtype} == {tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}


def test_the_model_evaluates_eagerly(build: Build) -> None:
    model = build()
    assert not any(module.training for module in model.modules())
    expected = "eager"
    assert expected == model.config._attn_implementation


def test_the_callers_dictionary_is_left_alone(
    config: dict[str, Any], state: State, build: Build
) -> None:
    given = {name: tensor.clone() for name, tensor in state.items()}
    build(given)
    assert list(state) == list(given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in state.items())
    assert "model_type" not in config


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.1.ln_2.bias",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.tokens_embed.weight",
    ],
)
def test_a_missing_tensor_is_named(name: str, state: State, build: Build) -> None:
    """The library would go on with fresh random numbers."""
    del state[name]
    with pytest.raises(LoadReportError, match=rf"missing_keys.*'{re.escape(name)}'"):
        build(state)


def test_an_unexpected_tensor_is_named(state: State, build: Build) -> None:
    """The library would leave a third block out."""
    state["transformer.h.2.ln_2.bias"] = torch.ones(21)
    with pytest.raises(LoadReportError, match=r"unexpected_keys.*'transformer\.h\.2\.ln_2\.bias'"):
        build(state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("transformer.h.1.ln_2.bias", (1,), id="would broadcast"),
        pytest.param("transformer.h.0.mlp.c_fc.weight", (84, 21), id="transposed"),
        pytest.param("transformer.positions_embed.weight", (12, 21), id="a row too many"),
    ],
)
def test_a_tensor_of_another_shape_is_named(
    name: str, shape: tuple[int, ...], state: State, build: Build
) -> None:
    state[name] = torch.ones(shape)
    with pytest.raises(LoadReportError, match=re.escape(name)):
        build(state)


def test_tensors_under_other_names_are_not_taken_for_the_models(state: State, build: Build) -> None:
    """Where not one name fits, the library would return a random model."""
    with pytest.raises(LoadReportError, match=r"missing_keys.*unexpected_keys"):
        build({f"model.{name}": tensor for name, tensor in state.items()})


@pytest.mark.parametrize(
    "report",
    [
        pytest.param({"missing_keys": ["a.b"]}, id="list"),
        pytest.param({"missing_keys": set(), "mismatched_keys": {("a.b", (1,), (2,))}}, id="tuple"),
        pytest.param({"error_msgs": "a.b"}, id="text"),
        pytest.param({"a kind of a later version": {"a.b"}}, id="new kind"),
    ],
)
def test_a_report_that_says_anything_is_an_error(report: Mapping[str, Any]) -> None:
    with pytest.raises(LoadReportError, match=f"{next(reversed(report))}"):
        huggingface.check_load_report(report)


def test_a_report_without_a_remark_is_none() -> None:
    huggingface.check_load_report({"missing_keys": [], "unexpected_keys": set(), "error_msgs": ""})


@pytest.mark.parametrize("name", ["n_emb", "hidden_size", "layer_norm_eps"])
def test_an_unknown_config_field_is_refused(
    name: str, config: dict[str, Any], state: State
) -> None:
    """The library would take it, keep it, and never read it."""
    with pytest.raises(ValueError, match=rf"OpenAIGPTConfig has no fields \['{name}'\]"):
        huggingface.build(config | {name: 21}, state)


@pytest.mark.parametrize("fails", [False, True], ids=["loads", "fails"])
def test_the_librarys_voice_is_given_back(fails: bool, state: State, build: Build) -> None:  # noqa: FBT001
    before = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_progress_bar()
    try:
        if fails:
            state.popitem()
            with pytest.raises(LoadReportError):
                build(state)
        else:
            build(state)
        expected = (transformers_logging.INFO, True)
        assert expected == (
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
        )
    finally:
        transformers_logging.set_verbosity(before[0])
        if not before[1]:
            transformers_logging.disable_progress_bar()


def test_loading_says_nothing(
    state: State, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    state["score.weight"] = torch.ones(2, 21)
    logged: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage())

    library, listener = transformers_logging.get_logger("transformers"), Listener()
    library.addHandler(listener)
    try:
        with pytest.raises(LoadReportError, match=r"score\.weight"):
            build(state)
    finally:
        library.removeHandler(listener)
    expected = ("", "")
    assert expected == capsys.readouterr()
    assert not logged


def test_an_argument_that_would_be_swallowed_is_refused() -> None:
    """`**kwargs` takes anything and reads nothing, so that it does not count."""

    def forward(input_ids: Tensor, **kwargs: object) -> tuple[Tensor, object]:
        return input_ids, kwargs

    huggingface.check_keywords(forward, {"input_ids"})
    with pytest.raises(ValueError, match=r"has no argument \['attention_mask', 'position_ids'\]"):
        huggingface.check_keywords(forward, {"input_ids", "position_ids", "attention_mask"})


def test_a_model_that_would_swallow_its_mask_is_not_called(token_ids: Tensor) -> None:
    class Swallowing(nn.Module):
        def forward(self, input_ids: Tensor, **kwargs: object) -> None:
            raise AssertionError(input_ids, kwargs)

    mask = torch.ones_like(token_ids, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"has no argument \['attention_mask'\]"):
        huggingface.logits(Swallowing(), token_ids, attention_mask=mask)


def test_the_loss_is_the_logarithm_of_the_next_tokens_share(
    assert_same: Callable[[Tensor, Tensor], None],
) -> None:
    logits = [[0.5, -1.25, 3.0], [2.0, 0.0, 1.0], [9.0, 9.0, 9.0]]
    shares = [math.exp(logits[at][token]) / sum(map(math.exp, logits[at])) for at, token in TARGETS]
    expected = torch.tensor([[-math.log(share) for share in shares]], dtype=torch.float64)
    given = torch.tensor([logits], dtype=torch.float64)
    for dtype in (torch.int32, torch.int64):
        assert_same(expected, huggingface.loss(given, torch.tensor([[1, 2, 0]], dtype=dtype)))


TARGETS = ((0, 2), (1, 0))
"""Row 0 predicts token 2, row 1 token 0; the last row predicts none."""


def test_one_token_has_no_loss() -> None:
    expected = (2, 0)
    actual = huggingface.loss(torch.zeros(2, 1, 37), torch.tensor([[3], [5]]))
    assert expected == tuple(actual.shape)
