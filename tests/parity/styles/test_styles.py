"""Models in many styles equal Hugging Face's; each edit makes one wrong."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.core.runners import build_huggingface
from scratch_gpt import GPTConfig

spec = importlib.util.spec_from_file_location("styles_edits", Path(__file__).parent / "edits.py")
edits: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = edits
spec.loader.exec_module(edits)

IDENTITY = 1e-12
ROUNDED = {"half_inside": 1e-5}
"""Largest difference of a style that computes in float32 inside, whatever its weights are."""

Built = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("tiny")


@pytest.fixture(scope="module")
def ids(weights: Weights) -> Tensor:
    """Return 2 rows of 11: coprime to width and heads, with the first and the last id."""
    vocab_size = weights.config["vocab_size"]
    drawn = torch.randint(vocab_size, (2, 11), generator=torch.Generator().manual_seed(7))
    drawn[0, 0], drawn[1, -1] = 0, vocab_size - 1
    return drawn


@pytest.fixture(scope="module")
def expected(weights: Weights, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return build_huggingface(weights).double()(ids).logits


@pytest.fixture(scope="module")
def built(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return the function that builds a style with float64 weights, with an edit or without."""
    folder = tmp_path_factory.mktemp("styles")
    config = GPTConfig.from_huggingface(weights.config)

    def build(style: str, edit: object = None, block: int | None = None) -> nn.Module:
        state = {name: torch.tensor(array).double() for name, array in weights.tensors.items()}
        return edits.load_style(folder, style, edit, block)(config, state).eval()

    return build


def logits_of(style: str, model: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits [batch time vocab] from what a style returns."""
    with torch.no_grad():
        if style == "half_inside":
            return model(ids, torch.arange(ids.shape[1]))
        if style == "conv1d":
            return model(input_ids=ids).logits
        if style == "last_only":
            return model(ids, ids)[0]
        result = model(ids)
    if style == "time_first":
        return result.transpose(0, 1)
    if isinstance(result, dict):
        return result["logits"]
    return result[0] if isinstance(result, tuple) else result


def error(found: Tensor, expected: Tensor) -> float:
    return float((found[..., : expected.shape[-1]] - expected).abs().amax() / expected.abs().amax())


@pytest.mark.reference
@pytest.mark.parametrize("style", edits.STYLES)
def test_a_style_is_right(style: str, built: Built, ids: Tensor, expected: Tensor) -> None:
    found = logits_of(style, built(style), ids)
    assert found.dtype == torch.float64
    assert error(found, expected) <= ROUNDED.get(style, IDENTITY)


@pytest.mark.parametrize("style", edits.STYLES)
def test_a_style_takes_float32(style: str, weights: Weights, ids: Tensor, tmp_path: Path) -> None:
    state = {name: torch.tensor(array) for name, array in weights.tensors.items()}
    model = edits.load_style(tmp_path, style)(GPTConfig.from_huggingface(weights.config), state)
    assert logits_of(style, model.eval(), ids).dtype == torch.float32


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("edit", edits.EDITS, ids=str)
def test_an_edit_changes_the_logits(
    edit: edits.Edit, built: Built, ids: Tensor, expected: Tensor
) -> None:
    """The weakest, GELU's 0.044715 cut to 0.04471, changes them by 4e-6."""
    text = edit.source.splitlines()[edit.line - 1]
    assert text.strip()
    found = logits_of(edit.style, built(edit.style, edit), ids)
    assert bool(found.isfinite().all())
    assert error(found, expected) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("edit", [e for e in edits.EDITS if e.is_in_block], ids=str)
def test_an_edit_may_be_in_one_block(edit: edits.Edit, built: Built, ids: Tensor) -> None:
    """Then the blocks before it are right."""
    n_layer = 12
    right, wrong = built(edit.style), built(edit.style, edit, n_layer - 2)
    seen: dict[nn.Module, list[Tensor]] = {}
    for model in (right, wrong):
        for block in edits.blocks_of(model, n_layer):
            block.register_forward_hook(
                lambda _part, _inputs, result, model=model: seen.setdefault(model, []).append(
                    result
                )
            )
        logits_of(edit.style, model, ids)
    same = [torch.equal(a, b) for a, b in zip(seen[right], seen[wrong], strict=True)]
    assert same == [True] * (n_layer - 2) + [False] * 2
