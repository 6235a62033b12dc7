"""A model's parameters, and how they are first drawn."""

import re

import pytest
import torch

from scratch_gpt import GPT, GPTConfig


@pytest.fixture
def fresh() -> GPT:
    """Return a model just drawn, wide enough for statistics."""
    return GPT(
        GPTConfig(
            vocab_size=211, n_positions=97, n_embd=96, n_layer=2, n_head=3, initializer_range=0.05
        )
    )


def test_the_released_shape_has_116_534_784_parameters(meta: torch.device) -> None:
    """The default config's weights, counted where they take no memory."""
    with meta:
        model = GPT(GPTConfig())
    expected = 116_534_784
    assert expected == sum(parameter.numel() for parameter in model.parameters())


def test_parameters_have_the_releases_names(config: GPTConfig) -> None:
    """Weights are `[in, out]`, and there is nothing besides: no head, no final norm, no buffer."""
    shapes = {
        "attn.c_attn.weight": (21, 63),
        "attn.c_attn.bias": (63,),
        "attn.c_proj.weight": (21, 21),
        "attn.c_proj.bias": (21,),
        "ln_1.weight": (21,),
        "ln_1.bias": (21,),
        "mlp.c_fc.weight": (21, 84),
        "mlp.c_fc.bias": (84,),
        "mlp.c_proj.weight": (84, 21),
        "mlp.c_proj.bias": (21,),
        "ln_2.weight": (21,),
        "ln_2.bias": (21,),
    }
    expected = {"tokens_embed.weight": (37, 21), "positions_embed.weight": (11, 21)}
    expected |= {f"h.{i}.{name}": shape for i in range(2) for name, shape in shapes.items()}
    actual = {name: tuple(value.shape) for name, value in GPT(config).state_dict().items()}
    assert expected == actual


def test_fresh_matrices_have_the_configured_spread(fresh: GPT) -> None:
    """Mean and standard deviation lie within six standard errors of 0 and initializer_range."""
    matrices = {name: p.detach() for name, p in fresh.named_parameters() if p.ndim == 2}
    expected = 2 + 4 * 2
    assert expected == len(matrices)
    for name, matrix in matrices.items():
        count = matrix.numel()
        assert abs(float(matrix.mean())) < 6 * 0.05 / count**0.5, name
        assert abs(float(matrix.std()) - 0.05) < 6 * 0.05 / (2 * count) ** 0.5, name


def test_fresh_gains_are_one_and_biases_zero(fresh: GPT) -> None:
    """Vectors start where they do nothing."""
    vectors = {name: p.detach() for name, p in fresh.named_parameters() if p.ndim == 1}
    expected = {name: float(re.fullmatch(r".*ln_\d\.weight", name) is not None) for name in vectors}
    assert expected == {name: float(vector.unique()) for name, vector in vectors.items()}


def test_drawing_anew_follows_the_generator(fresh: GPT) -> None:
    """The same seed gives the same weights, another seed gives others, at every place."""
    weights = []
    for seed in (1, 1, 2):
        fresh.reset_parameters(torch.Generator().manual_seed(seed))
        weights.append({name: value.clone() for name, value in fresh.state_dict().items()})
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[n], other[n]) for n in first if first[n].ndim == 2)
