"""The list of taps, compared with our model's, and the inputs of each."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from parity.core.backends import EAGER
from parity.core.inputs import Inputs
from parity.core.runners import candidate_run
from parity.core.taps import NEVER_FORMED, Tap, never_formed, other_shape, taps, undefined_taps
from scratch_gpt import GPT, GPTConfig
from scratch_gpt.kernels import backends

pytestmark = pytest.mark.usefixtures("one_thread")

TOKEN_IDS = torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]])
BLOCK = [
    *("attn.query", "attn.key", "attn.value", "attn.scores", "attn.weights", "attn.context"),
    *("attn", "ln_1.input", "ln_1", "mlp.c_fc", "mlp.gelu", "mlp", "ln_2.input", "ln_2"),
]
ALL = taps(2)


@pytest.fixture(scope="module")
def models() -> dict[str, GPT]:
    """Return one small model with each backend; no gain of it is 1 and no bias 0."""
    model = GPT(GPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3)).eval()
    generator = torch.Generator().manual_seed(20180611)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return {path: model.with_backend(path) for path in EAGER}


def shown(
    model: nn.Module, replaced: Mapping[str, Tensor], ids: Tensor = TOKEN_IDS
) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return replaced.get(name, value)

    with torch.no_grad():
        candidate_run(model, Inputs(token_ids=ids))(tap)
    return seen


def disturbed(value: Tensor) -> Tensor:
    return value + torch.linspace(0.5, 1.5, value.numel()).reshape(value.shape)


def test_stand_in_network_order() -> None:
    blocks = [f"h.{index}.{name}" for index in range(2) for name in BLOCK]
    tables = ["embeddings.tokens", "embeddings.positions", "embeddings"]
    assert [*tables, *blocks, "logits", "loss"] == [tap.name for tap in ALL]


@pytest.mark.parametrize(
    ("backend", "n_layer", "count"),
    [("plain", 1, 19), ("plain", 12, 173), ("tiled", 12, 149), ("fused", 12, 125)],
)
def test_there_are_five_taps_and_fourteen_a_block(backend: str, n_layer: int, count: int) -> None:
    """Tiled attention has no scores and no weights; fused sums also lack attn and mlp."""
    names = [tap.name for tap in taps(n_layer)]
    absent = never_formed(backend, n_layer)
    assert len(names) == len(set(names))
    assert set(absent) < set(names)
    assert count == len(names) - len(absent)


@pytest.mark.parametrize("backend", EAGER)
def test_our_model_shows_exactly_these(backend: str, models: dict[str, GPT]) -> None:
    absent = never_formed(backend, 2)
    assert list(shown(models[backend], {})) == [tap.name for tap in ALL if tap.name not in absent]


def test_every_backend_is_in_the_table() -> None:
    assert set(backends.BACKENDS) == set(NEVER_FORMED)
    assert all(reason for absent in NEVER_FORMED.values() for reason in absent.values())
    assert all(tap.kind.suspects for tap in ALL)


def test_one_token_has_no_loss(models: dict[str, GPT]) -> None:
    assert set(undefined_taps(1)) == {"loss"}
    assert all(undefined_taps(1).values())
    assert "loss" not in shown(models["plain"], {}, TOKEN_IDS[:, :1])
    assert not undefined_taps(2)
    assert "loss" in shown(models["plain"], {}, TOKEN_IDS[:, :2])


def fed(tap: Tap, backend: str) -> list[str]:
    """Return the taps that feed this one on a backend: those it forms, without detours."""
    absent = never_formed(backend, 2)
    inputs = [name for name in tap.inputs if name not in absent]
    ways_round = {".weights": (".query", ".key"), ".attn": (".context",), ".mlp": (".gelu",)}
    for formed, passed_by in ways_round.items():
        if any(name.endswith(formed) for name in inputs):
            inputs = [name for name in inputs if not name.endswith(passed_by)]
    return inputs


@pytest.mark.parametrize("backend", EAGER)
def test_a_tap_is_made_of_its_inputs_alone(backend: str, models: dict[str, GPT]) -> None:
    """With these held, whatever happens to all other taps, it stays the same to the bit."""
    model = models[backend]
    clean = shown(model, {})
    assert set(clean) == {tap.name for tap in ALL} - never_formed(backend, 2).keys()
    for tap in (tap for tap in ALL if tap.name in clean and tap.inputs):
        before = list(clean)[: list(clean).index(tap.name)]
        replaced = {
            name: clean[name] if name in tap.inputs else disturbed(clean[name]) for name in before
        }
        assert torch.equal(clean[tap.name], shown(model, replaced)[tap.name]), tap.name


@pytest.mark.parametrize("backend", EAGER)
def test_a_tap_changes_with_each_of_its_inputs(backend: str, models: dict[str, GPT]) -> None:
    """With any one of them replaced, and the others held, it is another tensor."""
    model = models[backend]
    clean = shown(model, {})
    for tap in (tap for tap in ALL if tap.name in clean):
        for name in fed(tap, backend):
            held = {other: clean[other] for other in fed(tap, backend) if other != name}
            seen = shown(model, held | {name: disturbed(clean[name])})
            assert not torch.equal(clean[tap.name], seen[tap.name]), (tap.name, name)


def test_only_the_two_tables_have_no_inputs() -> None:
    names = [tap.name for tap in ALL]
    tables = {"embeddings.tokens", "embeddings.positions"}
    assert {tap.name for tap in ALL if not tap.inputs} == tables
    assert all(names.index(name) < place for place, tap in enumerate(ALL) for name in tap.inputs)


OTHER_SHAPES = [
    ("logits", (2, 1, 37), (2, 5, 37), "of the last position alone"),
    ("logits", (2, 37), (2, 5, 37), "of the last position alone"),
    ("logits", (2, 37), (2, 1, 37), "shape [2, 37], expected [batch time vocab], here [2, 1, 37]"),
    (
        "logits",
        (2, 5, 44),
        (2, 5, 37),
        "7 columns more than the vocabulary; return logits[..., :37",
    ),
    ("logits", (2, 5, 30), (2, 5, 37), "shape [2, 5, 30], expected [batch time vocab]"),
    ("logits", (2, 4, 44), (2, 5, 37), "shape [2, 4, 44], expected [batch time vocab]"),
    ("logits", (5, 2, 37), (2, 5, 37), "[time batch vocab]; return logits.transpose(0, 1)"),
    ("logits", (2, 37, 5), (2, 5, 37), "[batch vocab time]; return logits.transpose(1, 2)"),
    ("logits", (37, 5, 2), (2, 5, 37), "shape [37, 5, 2], expected [batch time vocab]"),
    (
        "h.1.attn.scores",
        (2, 5),
        (2, 3, 5, 5),
        "expected [batch head time_q time_k], here [2, 3",
    ),
    ("h.0.attn", (2, 1, 21), (2, 5, 21), "expected [batch time feature], here [2, 5, 21]"),
]


@pytest.mark.parametrize(("name", "found", "expected", "words"), OTHER_SHAPES)
def test_another_shape_is_described(
    name: str, found: tuple[int, ...], expected: tuple[int, ...], words: str
) -> None:
    (tap,) = (tap for tap in ALL if tap.name == name)
    assert words in other_shape(tap, found, expected)
