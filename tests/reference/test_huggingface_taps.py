"""The taps of Hugging Face's model: each computed again from the weights."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reference import huggingface

Build = Callable[..., nn.Module]
Same = Callable[[Tensor, Tensor], None]
State = dict[str, Tensor]
Tap = Callable[[str, Tensor], Tensor]

BLOCK = [
    *("attn.query", "attn.key", "attn.value", "attn.scores", "attn.weights", "attn.context"),
    *("attn", "ln_1.input", "ln_1", "mlp.c_fc", "mlp.gelu", "mlp", "ln_2.input", "ln_2"),
]
NAMES = [
    *("embeddings.tokens", "embeddings.positions", "embeddings"),
    *(f"h.{index}.{name}" for index in range(2) for name in BLOCK),
    "logits",
]
CAUSAL = torch.ones(5, 5).tril().bool()
PLACES = torch.tensor([[4, 3, 10, 3, 0], [0, 1, 2, 0, 7]])
PADDED = torch.tensor([[True] * 5, [True, True, True, False, False]])


class Watch:
    """A tap that keeps a copy of each tensor and returns `reply` of it."""

    def __init__(self, reply: Tap = lambda _name, value: value) -> None:
        self.reply = reply
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        assert name not in self.seen, f"{name} was shown twice"
        self.seen[name] = value.detach().clone()
        return self.reply(name, value)


def bent(_name: str, value: Tensor) -> Tensor:
    return 0.75 * value + 0.125


def library(state: State, token_ids: Tensor, places: Tensor, seen: Tensor, tap: Tap) -> None:
    """Compute every tap with PyTorch's functions; `seen` is `[batch 1 time_q time_k]`."""
    weights = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}

    def mapped(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"].T, weights[f"{name}.bias"])

    def normed(name: str, x: Tensor) -> Tensor:
        gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return tap(name, functional.layer_norm(tap(f"{name}.input", x), (21,), gain, bias, 0.03))

    def attended(name: str, x: Tensor) -> Tensor:
        parts = mapped(f"{name}.c_attn", x).tensor_split(3, dim=-1)
        heads = [torch.stack(part.tensor_split(3, dim=-1), dim=1) for part in parts]
        query, key, value = (
            tap(f"{name}.{part}", tensor)
            for part, tensor in zip(("query", "key", "value"), heads, strict=True)
        )
        scores = tap(f"{name}.scores", torch.einsum("bhqd,bhkd->bhqk", query, key) / 7**0.5)
        hidden = scores.masked_fill(~seen, float("-inf"))
        shares = tap(f"{name}.weights", functional.softmax(hidden, -1))
        context = torch.einsum("bhqk,bhkd->bqhd", shares, value).reshape(*x.shape)
        return tap(name, mapped(f"{name}.c_proj", tap(f"{name}.context", context)))

    tokens = tap("embeddings.tokens", weights["tokens_embed.weight"][token_ids])
    x = tap("embeddings.positions", weights["positions_embed.weight"][places]) + tokens
    x = tap("embeddings", x)
    for name in ("h.0", "h.1"):
        x = normed(f"{name}.ln_1", x + attended(f"{name}.attn", x))
        inner = tap(f"{name}.mlp.c_fc", mapped(f"{name}.mlp.c_fc", x))
        inner = tap(f"{name}.mlp.gelu", functional.gelu(inner, approximate="tanh"))
        x = normed(f"{name}.ln_2", x + tap(f"{name}.mlp", mapped(f"{name}.mlp.c_proj", inner)))
    tap("logits", functional.linear(x, weights["tokens_embed.weight"]))


@pytest.mark.parametrize("reply", [lambda _n, value: value, bent], ids=["watched", "replaced"])
@pytest.mark.parametrize(
    ("places", "mask"),
    [
        pytest.param(None, None, id="plain"),
        pytest.param(PLACES, None, id="positions given"),
        pytest.param(None, PADDED, id="padded"),
    ],
)
def test_every_tap_is_what_the_weights_give(  # noqa: PLR0913 - a call and its arguments
    reply: Tap,
    places: Tensor | None,
    mask: Tensor | None,
    state: State,
    token_ids: Tensor,
    build: Build,
    assert_same: Same,
) -> None:
    """All taps are equal, in order; with replaced values, too.

    Rows of padding and masked scores do not count.
    """
    actual, expected = Watch(reply), Watch(reply)
    model = build(dtype=torch.float64)
    huggingface.logits(model, token_ids, positions=places, attention_mask=mask, tap=actual)
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
    seen = CAUSAL & real[:, None, None, :]
    doubled = {name: tensor.double() for name, tensor in state.items()}
    library(doubled, token_ids, torch.arange(5)[None] if places is None else places, seen, expected)
    assert NAMES == list(actual.seen) == list(expected.seen)
    for name, value in actual.seen.items():
        counted = torch.ones_like(value, dtype=torch.bool)
        if name.startswith("h.") and value.ndim == 4:
            counted &= real[:, None, :, None] & (seen if name.endswith("scores") else True)
        elif name != "embeddings.positions":
            counted &= real[:, :, None]
        assert_same(expected.seen[name][counted], value[counted])


def test_attentions_and_hidden_states_are_the_librarys_own(token_ids: Tensor, build: Build) -> None:
    model, watch = build(), Watch()
    huggingface.logits(model, token_ids, tap=watch)
    with torch.no_grad():
        out = model(token_ids, output_attentions=True, output_hidden_states=True)
    hidden = [watch.seen[name] for name in ("embeddings", "h.0.ln_2", "h.1.ln_2")]
    attentions = [watch.seen[f"h.{index}.attn.weights"] for index in range(2)]
    pairs = [*zip(out.hidden_states, hidden, strict=True)]
    pairs += zip(out.attentions, attentions, strict=True)
    assert all(torch.equal(theirs, ours) for theirs, ours in pairs)
    assert torch.equal(out.logits, watch.seen["logits"])


@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
def test_watching_changes_nothing(mask: Tensor | None, token_ids: Tensor, build: Build) -> None:
    model = build()
    expected = huggingface.logits(model, token_ids, attention_mask=mask)
    actual = huggingface.logits(model, token_ids, attention_mask=mask, tap=Watch())
    assert torch.equal(expected, actual)


def traces(model: nn.Module) -> list[object]:
    return [
        trace
        for module in model.modules()
        for trace in (
            *module._forward_hooks.values(),
            *module._forward_pre_hooks.values(),
            *(name for name, value in vars(module).items() if callable(value)),
        )
    ]


@pytest.mark.parametrize("breaks", [False, True], ids=["to the end", "broken off"])
def test_nothing_stays_on_the_model(breaks: bool, token_ids: Tensor, build: Build) -> None:  # noqa: FBT001
    model = build()
    before = traces(model)
    shown: list[str] = []

    def tap(name: str, value: Tensor) -> Tensor:
        shown.append(name)
        if breaks and name == "h.1.attn.scores":
            raise RuntimeError(name)
        return value

    expected = huggingface.logits(model, token_ids)
    with pytest.raises(RuntimeError, match="scores") if breaks else contextlib.nullcontext():
        huggingface.logits(model, token_ids, tap=tap)
    count = len(shown)
    assert torch.equal(expected, huggingface.logits(model, token_ids))
    assert count == len(shown)
    assert before == traces(model)


@pytest.mark.parametrize("replaced", NAMES)
def test_a_replaced_tap_changes_what_follows(
    replaced: str, token_ids: Tensor, build: Build
) -> None:
    model = build()

    def disturb(name: str, value: Tensor) -> Tensor:
        return value * torch.linspace(0.5, 1.5, value.shape[-1]) if name == replaced else value

    expected = huggingface.logits(model, token_ids)
    assert not torch.equal(expected, huggingface.logits(model, token_ids, tap=disturb))


@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
def test_replaced_scores_stay_masked(mask: Tensor | None, token_ids: Tensor, build: Build) -> None:
    watch = Watch(lambda name, value: torch.zeros_like(value) if "scores" in name else value)
    huggingface.logits(build(), token_ids, attention_mask=mask, tap=watch)
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
    seen = (CAUSAL & real[:, None, :]).float()
    expected = (seen / seen.sum(-1, keepdim=True))[:, None].expand(2, 3, 5, 5)
    actual = watch.seen["h.0.attn.weights"]
    assert torch.equal(expected.transpose(1, 2)[real], actual.transpose(1, 2)[real])
