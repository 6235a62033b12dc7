"""The forward passes of all sides: what each is called with, and what it shows."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import FileDigest, Weights
from parity.core.inputs import Inputs
from parity.core.runners import (
    LoadingFailedError,
    build_huggingface,
    build_ours,
    candidate_run,
    check_apart,
    check_evaluating,
    huggingface_run,
    model_in_dtype,
    oracle_run,
)
from parity.errors import ExitCode, InconclusiveError, InputRejectedError
from reference import oracle, surrogate
from scratch_gpt import GPT
from scratch_gpt.checkpoint import checkpoint
from scratch_gpt.loss import negative_log_likelihood

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = torch.tensor([[3, 210, 0, 7, 3], [12, 5, 21, 30, 1]])
PLACES = torch.tensor([[4, 3, 10, 3, 0], [0, 1, 2, 0, 7]])
PADDED = torch.tensor([[True] * 5, [True, True, True, False, False]])
EVERYTHING = Inputs(token_ids=IDS, positions=PLACES, attention_mask=PADDED)


@pytest.fixture
def ours(weights: Weights) -> GPT:
    return build_ours(weights)


@pytest.fixture
def theirs(weights: Weights) -> OpenAIGPTLMHeadModel:
    return build_huggingface(weights)


def shown(run: Callable[..., object]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value.detach().clone()
        return value

    with torch.no_grad():
        run(tap)
    return seen


class Returning(nn.Module):
    """A model with known logits at its tap, which returns what `change` makes of them."""

    def __init__(self, logits: Tensor, change: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.logits, self.change = logits, change
        self.calls: list[tuple[Any, ...]] = []

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        tap: Callable[..., Tensor],
    ) -> Tensor:
        self.calls.append((ids, positions, mask))
        return self.change(tap("logits", self.logits))


LOGITS = torch.arange(2.0 * 5 * 211).reshape(2, 5, 211)


def test_a_candidate_is_called_with_ids_positions_and_mask() -> None:
    model = Returning(LOGITS)
    shown(candidate_run(model, EVERYTHING))
    shown(candidate_run(model, Inputs(token_ids=IDS)))
    assert model.calls == [(IDS, PLACES, PADDED), (IDS, None, None)]


def test_a_wrapper_of_any_arguments_gets_only_those_that_the_inputs_have() -> None:
    """The wrapped forward may take no positions and no mask."""
    calls = []

    class Wrapper(nn.Module):
        def forward(self, *arguments: Tensor, **named: Any) -> Tensor:  # noqa: ANN401
            calls.append((*arguments, *sorted(named)))
            return named["tap"]("logits", LOGITS)

    shown(candidate_run(Wrapper(), EVERYTHING))
    shown(candidate_run(Wrapper(), Inputs(token_ids=IDS)))
    assert calls == [(IDS, "attention_mask", "positions", "tap"), (IDS, "tap")]


def test_a_candidate_returns_the_logits_that_it_shows() -> None:
    shown(candidate_run(Returning(LOGITS, torch.clone), EVERYTHING))
    shown(candidate_run(Returning(LOGITS), EVERYTHING))
    shown(candidate_run(Returning(LOGITS, lambda logits: (None, logits)), EVERYTHING))
    with pytest.raises(ValueError, match=r"returned .* than it showed"):
        shown(candidate_run(Returning(LOGITS, lambda logits: logits + 1), EVERYTHING))
    with pytest.raises(TypeError, match="returned NoneType, and no logits in it"):
        shown(candidate_run(Returning(LOGITS, lambda _logits: None), EVERYTHING))


def test_the_loss_is_of_the_logits_that_replaced_the_models() -> None:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return torch.zeros_like(value)

    candidate_run(Returning(LOGITS), EVERYTHING)(tap)
    assert torch.equal(negative_log_likelihood(torch.zeros(2, 5, 211), IDS), seen["loss"])


@pytest.mark.parametrize("time", [1, 2, 64, 65, 66, 128, 129, 130, 200])
def test_the_loss_is_the_whole_texts_in_one(time: int) -> None:
    generator = torch.Generator().manual_seed(time)
    logits = torch.randn(2, time, 37, generator=generator)
    ids = torch.randint(0, 37, (2, time), generator=generator)
    seen = shown(candidate_run(Returning(logits), Inputs(token_ids=ids)))
    assert list(seen) == (["logits"] if time == 1 else ["logits", "loss"])
    assert time == 1 or torch.equal(negative_log_likelihood(logits, ids), seen["loss"])


def test_both_sides_show_the_loss_of_their_own_logits(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, assert_same: Callable[[Tensor, Tensor], None]
) -> None:
    models = model_in_dtype({"ours": ours, "theirs": theirs}, torch.float64)
    for run in (
        candidate_run(models["ours"], EVERYTHING),
        huggingface_run(models["theirs"], EVERYTHING),
        oracle_run(theirs, EVERYTHING),
    ):
        seen = shown(run)
        chances = torch.log_softmax(seen["logits"][:, :-1], -1)
        assert_same(-chances.gather(-1, IDS[:, 1:, None])[..., 0], seen["loss"])
        assert {torch.float64} == {tensor.dtype for tensor in seen.values()}


def test_huggingface_is_given_positions_and_mask(
    theirs: OpenAIGPTLMHeadModel, weights: Weights
) -> None:
    seen = shown(huggingface_run(theirs, EVERYTHING))
    with torch.no_grad():
        out = theirs(input_ids=IDS, position_ids=PLACES, attention_mask=PADDED)
    assert torch.equal(out.logits, seen["logits"])
    table = torch.from_numpy(weights.tensors["positions_embed.weight"])
    assert torch.equal(table[PLACES], seen["embeddings.positions"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_oracle_runs_on_the_references_weights(
    dtype: torch.dtype, theirs: OpenAIGPTLMHeadModel
) -> None:
    """Arranged by hand and upcast exactly, they give the same bits."""
    theirs = theirs.to(dtype)
    theirs.config.layer_norm_epsilon = 0.03
    order = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    state = {name: tensor.double().numpy() for name, tensor in theirs.state_dict().items()}
    tables = [state[f"transformer.{name}_embed.weight"] for name in ("positions", "tokens")]
    blocks = [state[f"transformer.h.{index}.{name}"] for index in range(12) for name in order]
    listed = [*tables, *(b[None] if b.ndim == 2 else b for b in blocks)]
    expected = dict(
        oracle.forward(
            oracle.arrange(listed, n_head=3),
            IDS.numpy(),
            positions=PLACES.numpy(),
            mask=PADDED.numpy(),
            epsilon=0.03,
        )
    )
    seen = shown(oracle_run(theirs, EVERYTHING))
    assert list(expected) == list(seen)
    assert all(np.array_equal(expected[name], seen[name].numpy()) for name in expected)


LAYERS = ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")


def test_the_oracle_goes_on_with_what_it_is_answered(theirs: OpenAIGPTLMHeadModel) -> None:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return torch.zeros_like(value) if name.startswith("embeddings.") else value

    oracle_run(theirs, Inputs(token_ids=IDS))(tap)
    assert torch.equal(torch.zeros(2, 5, 21, dtype=torch.float64), seen["embeddings"])


# What may not be compared.


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_others_are_copied(dtype: torch.dtype, theirs: OpenAIGPTLMHeadModel) -> None:
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    copied = model_in_dtype({"theirs": theirs}, dtype)["theirs"]
    tensors = [*copied.parameters(), *copied.buffers()]
    assert {dtype} == {t.dtype for t in tensors if t.dtype.is_floating_point}
    assert copied.transformer.position_ids.dtype is torch.int64
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(before[name], tensor)
        assert torch.equal(tensor.to(dtype), copied.state_dict()[name])
    check_apart({"copy": copied}, theirs)
    assert not copied.training


def test_what_is_shared_stays_shared(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    copied = model_in_dtype({"theirs": theirs}, torch.float64)["theirs"]
    assert copied.lm_head.weight is copied.transformer.tokens_embed.weight
    twins = model_in_dtype({"plain": ours, "tiled": ours.with_backend("tiled")}, torch.float64)
    for mine, its in zip(twins["plain"].parameters(), twins["tiled"].parameters(), strict=True):
        assert mine is its


class Stubborn(nn.Linear):
    """A layer that returns itself as its copy."""

    def __deepcopy__(self, memo: object) -> "Stubborn":
        return self


class HalfMade(nn.Module):
    """A layer whose copies draw one of their tensors anew, in the default dtype."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight, self.kind = nn.Parameter(torch.ones(3)), kind
        if kind == "buffer":
            self.register_buffer("mask", torch.ones(3), persistent=False)
        else:
            self.mask = nn.Parameter(torch.ones(3))

    def __deepcopy__(self, memo: dict[int, Any]) -> "HalfMade":
        made = HalfMade(self.kind)
        made.weight = copy.deepcopy(self.weight, memo)
        return made


@pytest.mark.parametrize(
    "layer",
    [Stubborn(3, 3), HalfMade("buffer"), HalfMade("parameter")],
    ids=["not copied at all", "a buffer", "a parameter"],
)
def test_half_a_copy_is_refused(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(InconclusiveError, match=r"^ours still holds .*float32") as refusal:
        model_in_dtype({"ours": model}, torch.float64)
    assert refusal.value.exit_code is ExitCode.INCONCLUSIVE


def test_only_models_that_have_the_dtype_are_taken_as_they_are(ours: GPT) -> None:
    assert model_in_dtype({"ours": ours}, torch.float32)["ours"] is ours
    mixed = nn.Sequential(nn.Linear(3, 3).double(), nn.Linear(3, 3))
    copied = model_in_dtype({"ours": mixed}, torch.float64)["ours"]
    assert copied is not mixed
    assert {torch.float64} == {parameter.dtype for parameter in copied.parameters()}


def test_two_sides_with_storage_of_their_own_are_apart(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    check_apart({"plain": ours, "tiled": ours.with_backend("tiled")}, theirs)
    check_apart({"copy": copy.deepcopy(theirs)}, theirs)


def lent(ours: GPT, tensor: Tensor) -> GPT:
    ours.h[7].mlp.c_fc.bias = nn.Parameter(tensor, requires_grad=False)
    return ours


def lent_whole(theirs: OpenAIGPTLMHeadModel) -> Tensor:
    whole = torch.randn(100)
    theirs.transformer.h[7].mlp.c_fc.bias = nn.Parameter(whole[8:92], requires_grad=False)
    return whole


SHARED: dict[str, Callable[[GPT, OpenAIGPTLMHeadModel], nn.Module]] = {
    "the reference itself": lambda _ours, theirs: theirs,
    "the reference inside": lambda _ours, theirs: nn.ModuleList([theirs]),
    "one tensor": lambda ours, theirs: lent(ours, theirs.transformer.h[7].mlp.c_fc.bias.detach()),
    "a view of one": lambda ours, theirs: lent(
        ours, theirs.transformer.tokens_embed.weight[:4].view(-1).detach()
    ),
    "a view of its middle": lambda ours, theirs: lent(
        ours, theirs.transformer.tokens_embed.weight[5:9].view(-1).detach()
    ),
    "all of which theirs is a view": lambda ours, theirs: lent(ours, lent_whole(theirs)),
    "a buffer": lambda ours, theirs: (
        ours.register_buffer("kept", theirs.lm_head.weight.detach()) or ours
    ),
}


@pytest.mark.parametrize("how", SHARED)
def test_two_sides_that_share_storage_are_refused(
    how: str, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    candidate = SHARED[how](ours, theirs)
    with pytest.raises(InconclusiveError, match=r"^mine and the reference share") as refusal:
        check_apart({"other": copy.deepcopy(ours), "mine": candidate}, theirs)
    assert refusal.value.exit_code is ExitCode.INCONCLUSIVE
    if how == "one tensor":
        assert refusal.value.where == "1 tensors, the first is h.7.mlp.c_fc.bias"


def test_a_module_in_training_is_refused(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    check_evaluating({"ours": ours, "theirs": theirs})
    ours.h[3].mlp.training = True
    with pytest.raises(InconclusiveError, match=r"^ours is in training mode \(") as refusal:
        check_evaluating({"theirs": theirs, "ours": ours})
    assert refusal.value.where == "1 modules, the first is h.3.mlp"

    class Always(nn.Linear):
        def train(self, mode: bool = True) -> "Always":  # noqa: ARG002, FBT001, FBT002
            return self

    with pytest.raises(InconclusiveError, match="training mode"):
        check_evaluating({"ours": Always(3, 3).eval()})


# Models built from weights.


Build = Callable[[Weights], nn.Module]
BUILDERS = {"ours": (build_ours, ""), "huggingface": (build_huggingface, "transformer.")}
"""For each side, what builds it, and the prefix of our names there."""


@pytest.fixture(params=BUILDERS)
def side(request: pytest.FixtureRequest) -> tuple[Build, str]:
    return BUILDERS[request.param]


def test_tiny_is_the_small_surrogate(weights: Weights) -> None:
    drawn = surrogate.draw("tiny")
    assert drawn.config == weights.config
    assert list(drawn.tensors) == list(weights.tensors)
    assert all(np.array_equal(drawn.tensors[n], t) for n, t in weights.tensors.items())
    assert weights.identity == {
        "source": "surrogate (tiny): seeded random weights, not the released ones",
        "revision": f"recipe {surrogate.RECIPE}",
        "sha256": drawn.sha256,
        "dtype": "float32",
        "provenance": "unknown",
        "files": [],
        "notes": [],
    }


def test_loading_reports_progress() -> None:
    steps: list[tuple[int, int]] = []
    load_weights("tiny", lambda done, total: steps.append((done, total)))
    assert steps == [(done, 146) for done in range(1, 147)]


def test_every_tensor_is_in_its_place(side: tuple[Build, str], weights: Weights) -> None:
    build, prefix = side
    model = build(weights)
    state = model.state_dict()
    for name, array in weights.tensors.items():
        found = state[prefix + name]
        assert torch.float32 is found.dtype
        assert np.array_equal(array.view(np.uint32), found.numpy().view(np.uint32)), name
    assert set(state) - {"lm_head.weight"} == {prefix + name for name in weights.tensors}
    assert not any(module.training for module in model.modules())


def test_every_model_has_its_own_storage(side: tuple[Build, str], weights: Weights) -> None:
    build, _ = side
    before = surrogate.digests(weights.tensors)
    one, other = build(weights), build(weights)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert before == surrogate.digests(weights.tensors)
    assert all(bool(parameter.any()) for parameter in other.parameters())


def test_the_config_is_the_weights(weights: Weights) -> None:
    config = {**weights.config, "layer_norm_epsilon": 0.03, "n_head": 7}
    other = dataclasses.replace(weights, config=config)
    ours, theirs = build_ours(other), build_huggingface(other)
    for model in (ours, theirs):
        found = model.config
        assert (found.layer_norm_epsilon, found.n_head) == (0.03, 7)
        assert (found.n_positions, found.n_layer) == (389, 12)
    assert {block.ln_2.epsilon for block in ours.h} == {0.03}
    assert {block.ln_2.eps for block in theirs.transformer.h} == {0.03}


@pytest.mark.parametrize("backend", ["plain", "tiled"])
def test_ours_is_built_with_the_requested_backend(backend: str, weights: Weights) -> None:
    assert backend == build_ours(weights, backend).backend
    assert build_ours(weights).backend == "plain"


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_build_nothing(
    fault: str, side: tuple[Build, str], weights: Weights
) -> None:
    tensors = dict(weights.tensors)
    bias = tensors.pop("h.11.ln_2.bias")
    changes = {
        "missing": {},
        "extra": {"h.11.ln_2.bias": bias, "h.12.ln_2.bias": bias},
        "shape": {"h.11.ln_2.bias": bias[:1]},
    }
    with pytest.raises(InputRejectedError, match=r"h\.1[12]\.ln_2\.bias"):
        side[0](dataclasses.replace(weights, tensors=tensors | changes[fault]))


# Our model is loaded as users load it.


def _transposed(state: dict[str, Tensor]) -> None:
    state["h.5.attn.c_proj.weight"] = state["h.5.attn.c_proj.weight"].T.contiguous()


def _swapped(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if name.startswith("h.4.")]:
        other = name.replace("h.4.", "h.7.")
        state[name], state[other] = state[other], state[name]


def _dropped(state: dict[str, Tensor]) -> None:
    state["h.3.mlp.c_fc.bias"] = torch.zeros_like(state["h.3.mlp.c_fc.bias"])


@pytest.mark.parametrize(
    ("change", "tap", "form"),
    [
        (_transposed, "h.5.attn", "drawn"),
        (_swapped, "h.4.attn.query", "folder"),
        (_dropped, "h.3.mlp.c_fc", "folder"),
    ],
)
def test_a_wrong_loader_fails_layerwise(  # noqa: PLR0913 - a test's parameters
    change: Callable[[dict[str, Tensor]], None],
    tap: str,
    form: str,
    check: Callable[..., Any],
    ours: GPT,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = str(tmp_path / "model")
    ours.save_pretrained(folder)
    load = checkpoint.from_pretrained

    def wrong(directory: Path, *, backend: str) -> GPT:
        model = load(directory, backend=backend)
        state = dict(model.state_dict())
        change(state)
        model.load_state_dict(state, assign=True)
        return model

    monkeypatch.setattr(checkpoint, "from_pretrained", wrong)
    name = folder if form == "folder" else "tiny"
    result = check("layerwise", "--weights", name, "--seq-len", "5", "--dtype", "float64")
    assert (result.exit_code, f"first divergence: {tap}\n" in result.stdout) == (1, True)


def test_a_loader_that_raises_fails(
    check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> GPT:
        raise RuntimeError("Missing key(s) in state_dict")

    monkeypatch.setattr(checkpoint, "from_pretrained", broken)
    result = check("layerwise", "--weights", "tiny", "--seq-len", "5")
    assert result.exit_code == 1
    assert "it raised RuntimeError: Missing key(s)" in result.stderr
    assert "GPT.from_pretrained" in result.stderr


def test_a_loader_that_leaves_a_parameter_empty_fails(
    ours: GPT, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        empty = GPT(ours.config)
    monkeypatch.setattr(checkpoint, "from_pretrained", lambda *_arguments, **_options: empty)
    with pytest.raises(LoadingFailedError, match=r"left tokens_embed.weight, .* without values"):
        build_ours(weights)


def test_a_folder_with_notes_is_read_by_way_of_our_names(weights: Weights, tmp_path: Path) -> None:
    """What was widened or left out is a note of the weights, and not a warning at each load."""
    halved = dataclasses.replace(
        weights,
        folder=tmp_path,  # empty
        provenance=dataclasses.replace(
            weights.provenance,
            files=(FileDigest(name="model.safetensors", size=1, sha256="0" * 64),),
            notes=("1 tensor was bfloat16",),
        ),
    )
    found = build_ours(halved).state_dict()
    assert all(torch.equal(found[name], torch.from_numpy(weights.tensors[name])) for name in found)
