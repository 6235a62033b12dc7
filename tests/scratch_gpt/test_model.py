"""GPT-1 from ids to logits, its taps and its weights."""

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig

Same = Callable[..., None]
Loud = Callable[[nn.Module], nn.Module]
Watch = Callable[..., Tensor]

NO_DROPOUT = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)


@pytest.fixture
def logits_formula(
    config: GPTConfig, block_formula: Callable[..., Tensor]
) -> Callable[[GPT, Tensor, Tensor], Tensor]:
    """Return the model computed with torch's own functions."""

    def compute(model: GPT, token_ids: Tensor, positions: Tensor) -> Tensor:
        weights = dict(model.named_parameters())
        table, places = weights["tokens_embed.weight"], weights["positions_embed.weight"]
        x = nn.functional.embedding(token_ids, table) + nn.functional.embedding(positions, places)
        for block in model.h:
            x = block_formula(x, block, config)
        return nn.functional.linear(x, table)

    return compute


@pytest.mark.parametrize(
    "positions",
    [None, [[9, 2, 10, 2, 0]], [[9, 2, 10, 2, 0], [1, 3, 5, 7, 9]]],
    ids=["from zero", "one row for the batch", "a row each"],
)
def test_equals_the_library(
    positions: list[list[int]] | None,
    model: GPT,
    token_ids: Tensor,
    logits_formula: Callable[..., Tensor],
    assert_same: Same,
) -> None:
    given = None if positions is None else torch.tensor(positions)
    rows = torch.arange(5)[None] if given is None else given
    assert_same(logits_formula(model, token_ids, rows), model(token_ids, given))


@pytest.mark.parametrize("backend", ["plain", "tiled", "fused"])
def test_the_smallest_model_is_one(backend: str, loud: Loud) -> None:
    """With one feature every norm gives its bias: the logits depend on the last of them alone."""
    sizes = dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"), 1)
    model = loud(GPT(GPTConfig(**sizes), backend=backend)).eval()
    logits = model(torch.zeros(2, 1, dtype=torch.int64))
    expected = model.h[0].ln_2.bias * model.tokens_embed.weight
    assert torch.equal(expected.expand(2, 1, 1), logits)


def test_left_padding_changes_nothing(model: GPT, token_ids: Tensor, assert_same: Same) -> None:
    expected = model(token_ids)
    padded = torch.cat([torch.full((2, 3), 7), token_ids], dim=1)
    mask = torch.arange(8).expand(2, 8) >= 3
    positions = (torch.arange(8) - 3).clamp(min=0)[None]
    assert_same(expected, model(padded, positions, mask)[:, 3:])


def test_the_head_is_the_token_embedding(model: GPT, token_ids: Tensor) -> None:
    """The row of a token outside the input changes that token's logits only."""
    before = model(token_ids)
    with torch.no_grad():
        model.tokens_embed.weight[17] *= 2
    expected = before.clone()
    expected[..., 17] *= 2
    assert torch.equal(expected, model(token_ids))


def test_an_unknown_backend_is_rejected(config: GPTConfig, model: GPT) -> None:
    for build in (lambda: GPT(config, backend="flash"), lambda: model.with_backend("flash")):
        with pytest.raises(ValueError, match=r"must be one of \[.*'tiled'.*\], got 'flash'"):
            build()


def test_evaluation_and_with_backend_use_no_random_numbers(model: GPT, token_ids: Tensor) -> None:
    state = torch.get_rng_state()
    assert torch.equal(model(token_ids), model(token_ids))
    model.with_backend("tiled")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dropped", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
@pytest.mark.parametrize("backend", ["plain", "tiled"])
def test_training_drops_out(
    dropped: str, backend: str, config: GPTConfig, loud: Loud, token_ids: Tensor
) -> None:
    alone = dataclasses.replace(config, **NO_DROPOUT | {dropped: 0.5})
    model = loud(GPT(alone, backend=backend)).train()
    assert not torch.equal(model(token_ids), model(token_ids))


def test_without_dropout_modes_agree(config: GPTConfig, loud: Loud, token_ids: Tensor) -> None:
    model = loud(GPT(dataclasses.replace(config, **NO_DROPOUT)))
    expected = model.eval()(token_ids)
    assert torch.equal(expected, model.train()(token_ids))


def test_the_embedding_sum_is_dropped_out(
    config: GPTConfig, loud: Loud, token_ids: Tensor, watch: Watch, assert_same: Same
) -> None:
    loud(GPT(config)).train()(token_ids, tap=watch)
    total = watch.seen["embeddings.tokens"] + watch.seen["embeddings.positions"]
    actual = watch.seen["embeddings"]
    assert set((actual == 0).flatten().tolist()) == {True, False}
    assert_same((total / 0.75).masked_fill(actual == 0, 0.0), actual)


def test_gradients_equal_the_librarys(
    model: GPT, token_ids: Tensor, logits_formula: Callable[..., Tensor], assert_same: Same
) -> None:
    parameters = dict(model.named_parameters())
    outputs = logits_formula(model, token_ids, torch.arange(5)[None]), model(token_ids)
    expected, actual = (
        torch.autograd.grad(logits.square().sum(), parameters.values()) for logits in outputs
    )
    for name, *pair in zip(parameters, expected, actual, strict=True):
        assert bool(pair[0].any()), name
        assert_same(*pair)


@pytest.mark.parametrize("backend", ["plain", "tiled"])
def test_with_backend_runs_that_backend(backend: str, model: GPT, token_ids: Tensor) -> None:
    built = GPT(model.config, backend=backend).double().eval()
    built.load_state_dict(model.state_dict())
    twin = model.with_backend(backend)
    assert backend == twin.backend
    assert torch.equal(built(token_ids), twin(token_ids))


def test_with_backend_shares_the_parameters(model: GPT) -> None:
    """Each parameter is the same object, so training one model trains the other."""
    expected = {name: id(parameter) for name, parameter in model.named_parameters()}
    twin = model.with_backend("tiled")
    assert expected == {name: id(parameter) for name, parameter in twin.named_parameters()}


def test_with_backend_keeps_the_mode(model: GPT) -> None:
    for training in (True, False):
        twin = model.train(training).with_backend("tiled")
        assert {module.training for module in twin.modules()} == {training}


def tap_names(n_layer: int, *, whole_scores: bool) -> list[str]:
    scores = ["attn.scores", "attn.weights"] if whole_scores else []
    per_block = [
        *("attn.query", "attn.key", "attn.value", *scores, "attn.context", "attn"),
        *("ln_1.input", "ln_1", "mlp.c_fc", "mlp.gelu", "mlp", "ln_2.input", "ln_2"),
    ]
    blocks = [f"h.{index}.{name}" for index in range(n_layer) for name in per_block]
    return ["embeddings.tokens", "embeddings.positions", "embeddings", *blocks, "logits"]


@pytest.mark.parametrize(("backend", "count"), [("plain", 172), ("tiled", 148)])
def test_twelve_layers_call_their_taps_in_network_order(
    backend: str, count: int, config: GPTConfig, token_ids: Tensor, watch: Watch
) -> None:
    """With the loss, a caller's tap, that is 173 taps, or 149 without scores."""
    model = GPT(dataclasses.replace(config, n_layer=12), backend=backend)
    model(token_ids, tap=watch)
    assert list(watch.seen) == tap_names(12, whole_scores=backend == "plain")
    assert count == len(watch.seen)


def test_shapes_of_taps(config: GPTConfig, loud: Loud, token_ids: Tensor, watch: Watch) -> None:
    logits = loud(GPT(config))(token_ids, tap=watch)
    expected = dict.fromkeys(
        ("embeddings.tokens", "embeddings", "h.0.ln_2", "h.1.ln_2"), (2, 5, 21)
    )
    expected |= {"embeddings.positions": (1, 5, 21), "logits": (2, 5, 37)}
    assert expected == {name: tuple(watch.seen[name].shape) for name in expected}
    assert torch.equal(logits, watch.seen["logits"])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_tap_changes_nothing(mode: str, model: GPT, token_ids: Tensor, watch: Watch) -> None:
    getattr(model, mode)().float()
    torch.manual_seed(5)
    expected = model(token_ids)
    torch.manual_seed(5)
    assert torch.equal(expected, model(token_ids, tap=watch))


@pytest.mark.parametrize("replaced", tap_names(2, whole_scores=True))
def test_replacing_a_tap_changes_the_logits(
    replaced: str, config: GPTConfig, loud: Loud, token_ids: Tensor
) -> None:
    model = loud(GPT(config)).eval()

    def disturb(name: str, value: Tensor) -> Tensor:
        return value * torch.linspace(0.5, 1.5, value.shape[-1]) if name == replaced else value

    assert not torch.equal(model(token_ids), model(token_ids, tap=disturb))


@pytest.fixture
def fresh() -> GPT:
    return GPT(
        GPTConfig(
            vocab_size=211, n_positions=97, n_embd=96, n_layer=2, n_head=3, initializer_range=0.05
        )
    )


def test_the_released_shape_has_116_534_784_parameters(meta: torch.device) -> None:
    with meta:
        model = GPT(GPTConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 116_534_784


def test_parameters_have_the_released_names_and_shapes(config: GPTConfig) -> None:
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
    assert len(matrices) == 2 + 4 * 2
    for name, matrix in matrices.items():
        count = matrix.numel()
        assert abs(float(matrix.mean())) < 6 * 0.05 / count**0.5, name
        assert abs(float(matrix.std()) - 0.05) < 6 * 0.05 / (2 * count) ** 0.5, name


def test_fresh_gains_are_one_and_biases_zero(fresh: GPT) -> None:
    vectors = {name: p.detach() for name, p in fresh.named_parameters() if p.ndim == 1}
    expected = {name: float(re.fullmatch(r".*ln_\d\.weight", name) is not None) for name in vectors}
    assert expected == {name: float(vector.unique()) for name, vector in vectors.items()}


def test_initial_weights_depend_on_the_generator(fresh: GPT) -> None:
    weights = []
    for seed in (1, 1, 2):
        fresh.reset_parameters(torch.Generator().manual_seed(seed))
        weights.append({name: value.clone() for name, value in fresh.state_dict().items()})
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[n], other[n]) for n in first if first[n].ndim == 2)
