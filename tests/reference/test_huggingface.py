"""Hugging Face's model as a reference: every key is loaded, every argument is used."""

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
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
    """One that differs from the embedding would be loaded beside it silently."""
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
    assert model.config._attn_implementation == "eager"


def test_the_callers_dictionary_is_left_alone(
    config: dict[str, Any], state: State, build: Build
) -> None:
    given = {name: tensor.clone() for name, tensor in state.items()}
    build(given)
    assert list(state) == list(given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in state.items())
    assert "model_type" not in config


@pytest.mark.parametrize("name", ["h.1.ln_2.bias", "h.0.attn.c_attn.weight", "tokens_embed.weight"])
def test_a_missing_tensor_is_named(name: str, state: State, build: Build) -> None:
    """The library would continue with fresh random numbers."""
    del state[f"transformer.{name}"]
    with pytest.raises(LoadReportError, match=rf"missing_keys.*'transformer.{re.escape(name)}'"):
        build(state)


def test_an_unexpected_tensor_is_named(state: State, build: Build) -> None:
    """The library would leave a third block out."""
    state["transformer.h.2.ln_2.bias"] = torch.ones(21)
    with pytest.raises(LoadReportError, match=r"unexpected_keys.*'transformer\.h\.2\.ln_2\.bias'"):
        build(state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.1.ln_2.bias", (1,)),  # would broadcast
        ("transformer.h.0.mlp.c_fc.weight", (84, 21)),  # transposed
        ("transformer.positions_embed.weight", (12, 21)),  # a row too many
    ],
)
def test_a_tensor_of_another_shape_is_named(
    name: str, shape: tuple[int, ...], state: State, build: Build
) -> None:
    state[name] = torch.ones(shape)
    with pytest.raises(LoadReportError, match=re.escape(name)):
        build(state)


def test_tensors_under_other_names_are_refused(state: State, build: Build) -> None:
    """Where not one name fits, the library would return a random model."""
    with pytest.raises(LoadReportError, match=r"missing_keys.*unexpected_keys"):
        build({f"model.{name}": tensor for name, tensor in state.items()})


@pytest.mark.parametrize(
    "report",
    [
        {"missing_keys": ["a.b"]},
        {"missing_keys": set(), "mismatched_keys": {("a.b", (1,), (2,))}},
        {"error_msgs": "a.b"},
        {"a kind of a later version": {"a.b"}},
    ],
)
def test_a_report_with_an_entry_is_an_error(report: Mapping[str, Any]) -> None:
    with pytest.raises(LoadReportError, match=f"{next(reversed(report))}"):
        huggingface.check_load_report(report)


def test_an_empty_report_is_accepted() -> None:
    huggingface.check_load_report({"missing_keys": [], "unexpected_keys": set(), "error_msgs": ""})


@pytest.mark.parametrize("name", ["n_emb", "hidden_size", "layer_norm_eps"])
def test_an_unknown_config_field_is_refused(
    name: str, config: dict[str, Any], state: State
) -> None:
    """The library would store it and never read it."""
    with pytest.raises(ValueError, match=rf"OpenAIGPTConfig has no fields \['{name}'\]"):
        huggingface.build(config | {name: 21}, state)


@pytest.mark.parametrize("fails", [False, True], ids=["loads", "fails"])
def test_the_librarys_verbosity_is_restored(*, fails: bool, state: State, build: Build) -> None:
    def verbosity() -> tuple[int, bool]:
        return (
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
        )

    before = verbosity()
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_progress_bar()
    try:
        if fails:
            state.popitem()
            with pytest.raises(LoadReportError):
                build(state)
        else:
            build(state)
        assert verbosity() == (transformers_logging.INFO, True)
    finally:
        transformers_logging.set_verbosity(before[0])
        if not before[1]:
            transformers_logging.disable_progress_bar()


def test_loading_prints_and_logs_nothing(
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
    assert capsys.readouterr() == ("", "")
    assert not logged


def test_an_argument_that_would_be_ignored_is_refused() -> None:
    """`**kwargs` accepts every argument and reads none, so it does not count."""

    def forward(input_ids: Tensor, **kwargs: object) -> tuple[Tensor, object]:
        return input_ids, kwargs

    huggingface.check_keywords(forward, {"input_ids"})
    with pytest.raises(ValueError, match=r"has no argument \['attention_mask', 'position_ids'\]"):
        huggingface.check_keywords(forward, {"input_ids", "position_ids", "attention_mask"})


def test_a_model_that_would_ignore_its_mask_is_not_called(token_ids: Tensor) -> None:
    class Ignoring(nn.Module):
        def forward(self, input_ids: Tensor, **kwargs: object) -> None:
            raise AssertionError(input_ids, kwargs)

    mask = torch.ones_like(token_ids, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"has no argument \['attention_mask'\]"):
        huggingface.logits(Ignoring(), token_ids, attention_mask=mask)


def test_the_loss_is_the_negative_log_probability_of_the_next_token(
    assert_same: Callable[[Tensor, Tensor], None],
) -> None:
    """Row 0 predicts token 2, row 1 token 0; the last row predicts none."""
    logits = [[0.5, -1.25, 3.0], [2.0, 0.0, 1.0], [9.0, 9.0, 9.0]]
    shares = [
        math.exp(logits[at][token]) / sum(map(math.exp, logits[at]))
        for at, token in ((0, 2), (1, 0))
    ]
    expected = torch.tensor([[-math.log(share) for share in shares]], dtype=torch.float64)
    given = torch.tensor([logits], dtype=torch.float64)
    for dtype in (torch.int32, torch.int64):
        assert_same(expected, huggingface.loss(given, torch.tensor([[1, 2, 0]], dtype=dtype)))


def test_one_token_has_no_loss() -> None:
    losses = huggingface.loss(torch.zeros(2, 1, 37), torch.tensor([[3], [5]]))
    assert losses.shape == (2, 0)


# Supplied dropout masks.


@pytest.fixture
def training() -> OpenAIGPTLMHeadModel:
    config = OpenAIGPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3)
    config.embd_pdrop, config.attn_pdrop, config.resid_pdrop = 0.25, 0.375, 0.5
    return OpenAIGPTLMHeadModel(config).double().train()


def test_masks_are_requested_in_order_with_probabilities(training: OpenAIGPTLMHeadModel) -> None:
    asked = []

    def keeps(place: str, x: Tensor, probability: float) -> Tensor:
        asked.append((place, tuple(x.shape), probability))
        return torch.ones_like(x, dtype=torch.bool)

    with huggingface.supply_dropout_masks(training, keeps):
        training(input_ids=torch.tensor([[3, 36, 0, 7], [12, 5, 21, 30]]))
    rows = (2, 4, 21)
    block = [("attn.weights", (2, 3, 4, 4), 0.375), ("attn", rows, 0.5), ("mlp", rows, 0.5)]
    rest = [(f"h.{index}.{name}", shape, p) for index in range(2) for name, shape, p in block]
    assert asked == [("embeddings", rows, 0.25), *rest]


def test_the_formula_is_the_modules_own() -> None:
    x = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module = nn.Dropout(0.25)
    expected = module(x)
    found = huggingface._dropped("here", module, lambda *_given: expected != 0.0, x)
    assert torch.equal(expected, found)


def test_afterwards_the_modules_are_their_own_again(training: OpenAIGPTLMHeadModel) -> None:
    def keeps(_place: str, _x: Tensor, _probability: float) -> Tensor:
        raise RuntimeError

    with pytest.raises(RuntimeError), huggingface.supply_dropout_masks(training, keeps):
        training(input_ids=torch.tensor([[3, 36]]))
    assert training(input_ids=torch.tensor([[3, 36]])).logits.isfinite().all()


def test_evaluating_drops_nothing(training: OpenAIGPTLMHeadModel) -> None:
    with huggingface.supply_dropout_masks(training.eval(), lambda *_given: pytest.fail("asked")):
        training(input_ids=torch.tensor([[3, 36]]))


def test_an_unknown_dropout_is_refused(training: OpenAIGPTLMHeadModel) -> None:
    """Otherwise a version with a dropout elsewhere would be compared in part."""
    training.transformer.h[0].late_dropout = nn.Dropout(0.1)
    with (
        pytest.raises(ValueError, match="late_dropout"),
        huggingface.supply_dropout_masks(training, lambda _place, x, _p: x > 0),
    ):
        pass
