"""Dropout given from outside: the module's own formula, at every place, and gone afterwards."""

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from reference import huggingface


@pytest.fixture
def model() -> OpenAIGPTLMHeadModel:
    config = OpenAIGPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3)
    config.embd_pdrop, config.attn_pdrop, config.resid_pdrop = 0.25, 0.375, 0.5
    return OpenAIGPTLMHeadModel(config).double().train()


def test_every_place_is_asked_in_order_with_its_probability(model: OpenAIGPTLMHeadModel) -> None:
    """Embeddings, then of each block the weights, attention's output, and the MLP's."""
    asked = []

    def keeps(place: str, x: Tensor, probability: float) -> Tensor:
        asked.append((place, tuple(x.shape), probability))
        return torch.ones_like(x, dtype=torch.bool)

    with huggingface.supply_dropout_masks(model, keeps):
        model(input_ids=torch.tensor([[3, 36, 0, 7], [12, 5, 21, 30]]))
    block = [
        ("attn.weights", (2, 3, 4, 4), 0.375),
        ("attn", (2, 4, 21), 0.5),
        ("mlp", (2, 4, 21), 0.5),
    ]
    rest = [(f"h.{index}.{name}", shape, p) for index in range(2) for name, shape, p in block]
    assert asked == [("embeddings", (2, 4, 21), 0.25), *rest]


def test_the_formula_is_the_module_s_own() -> None:
    """What torch's dropout keeps, kept by us, gives its numbers to the bit."""
    x = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module = nn.Dropout(0.25)
    expected = module(x)
    found = huggingface._dropped("here", module, lambda *_given: expected != 0.0, x)
    assert torch.equal(expected, found)


def test_afterwards_the_modules_are_their_own_again(model: OpenAIGPTLMHeadModel) -> None:
    def keeps(_place: str, _x: Tensor, _probability: float) -> Tensor:
        raise RuntimeError

    with pytest.raises(RuntimeError), huggingface.supply_dropout_masks(model, keeps):
        model(input_ids=torch.tensor([[3, 36]]))
    assert model(input_ids=torch.tensor([[3, 36]])).logits.isfinite().all()


def test_evaluating_drops_nothing(model: OpenAIGPTLMHeadModel) -> None:
    with huggingface.supply_dropout_masks(model.eval(), lambda *_given: pytest.fail("asked")):
        model(input_ids=torch.tensor([[3, 36]]))


def test_an_unknown_dropout_is_refused(model: OpenAIGPTLMHeadModel) -> None:
    """A version with a dropout elsewhere is not compared by halves."""
    model.transformer.h[0].late_dropout = nn.Dropout(0.1)
    with (
        pytest.raises(ValueError, match="late_dropout"),
        huggingface.supply_dropout_masks(model, lambda _place, x, _p: x > 0),
    ):
        pass
