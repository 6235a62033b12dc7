"""Folders of weights as people have them, each judged by transformers: what it loads, we load."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
    OpenAIGPTModel,
    PreTrainedModel,
)

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.checks.layerwise import layerwise
from parity.core.runners import build_huggingface, build_ours
from reference import compat
from scratch_gpt.errors import CommandError

SIZES = {"n_layer": 2, "n_embd": 12, "n_head": 3, "vocab_size": 31, "n_positions": 16}
EMBEDDING = "transformer.tokens_embed.weight"
State = dict[str, Tensor]


def small_model(
    kind: type[PreTrainedModel] = OpenAIGPTLMHeadModel, seed: int = 1, **sizes: int
) -> PreTrainedModel:
    """Return a model with random weights: no gain is 1 and no bias 0."""
    made = kind(OpenAIGPTConfig(**{**SIZES, **sizes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            drawn = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn + ("ln_" in name and name.endswith("weight")))
    return made.eval()


def state_of(made: PreTrainedModel) -> State:
    """Return the tensors, without the head that is the embedding."""
    state = {name: tensor.detach().clone() for name, tensor in made.state_dict().items()}
    state.pop("lm_head.weight", None)
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def write(folder: Path, state: dict[str, Any], form: str = "safetensors", **fields: object) -> None:
    """Write a state and the small model's config, with other fields."""
    folder.mkdir(parents=True, exist_ok=True)
    config = OpenAIGPTConfig(**SIZES).to_dict() | fields
    (folder / "config.json").write_text(json.dumps(config))
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "safetensors":
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = list(state)
        halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, held in halves.items():
            save_file({n: state[n].contiguous() for n in held}, folder / file)
        index = {name: file for file, held in halves.items() for name in held}
        if form == "index of a tied tensor":
            index["lm_head.weight"] = "a.safetensors"
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def theirs(folder: Path) -> OpenAIGPTLMHeadModel | None:
    """Return the model that transformers loads; None if it lacks a tensor or raises."""
    try:
        model, info = OpenAIGPTLMHeadModel.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32
        )
    except Exception:  # noqa: BLE001 - any error means that it does not load it
        return None
    lacks = info["missing_keys"] or info["mismatched_keys"]
    lacks = lacks or any(tensor.is_meta for tensor in model.parameters())  # by transformers 4.57
    return None if lacks else model


def assert_equal(weights: Weights, model: OpenAIGPTLMHeadModel) -> None:
    """Require equal tensors and sizes, and equal logits to the bit of Hugging Face's arithmetic."""
    expected = dict(model.transformer.named_parameters())
    assert set(expected) == set(weights.tensors)
    for name, tensor in expected.items():
        assert torch.equal(tensor.detach(), torch.from_numpy(weights.tensors[name])), name
    for field in SIZES:
        assert weights.config[field] == getattr(model.config, field)
    assert weights.config["layer_norm_epsilon"] == model.config.layer_norm_epsilon
    build_ours(weights)


PLAIN = state_of(small_model())
BARE = {name.removeprefix("transformer."): tensor for name, tensor in PLAIN.items()}


def renamed(rename: Callable[[str], str], state: State = PLAIN) -> State:
    return {rename(name): tensor for name, tensor in state.items()}


def nested(folder: Path, *keys: str, **beside: object) -> None:
    state: dict[str, Any] = dict(PLAIN)
    for key in reversed(keys):
        state = {key: state, **beside}
    write(folder, state, "bin")


def saved(kind: type[PreTrainedModel]) -> Callable[[Path], None]:
    return lambda folder: small_model(kind).save_pretrained(folder)


def without_embedding(folder: Path) -> None:
    """Write what transformers 5 saves of two tied heads; 4.57 saves the embedding."""
    state = dict(small_model(OpenAIGPTDoubleHeadsModel).state_dict())
    del state[EMBEDDING]
    write(folder, state)


def stale_pair(folder: Path) -> None:
    write(folder, state_of(small_model(seed=2)), "bin")
    write(folder, PLAIN)


def untied(folder: Path) -> None:
    head = {"lm_head.weight": PLAIN[EMBEDDING].clone()}
    write(folder, {**PLAIN, **head}, tie_word_embeddings=False)


def grown(folder: Path) -> None:
    table = torch.cat([PLAIN[EMBEDDING], torch.randn(1, 12)])
    write(folder, {**PLAIN, EMBEDDING: table}, vocab_size=32)
    (folder / "vocab.json").write_text(json.dumps({f"t{i}": i for i in range(31)}))


ACCEPTED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "hugging face": (lambda folder: small_model().save_pretrained(folder), []),
    "bare model": (saved(OpenAIGPTModel), []),
    "double heads": (
        without_embedding,
        [
            "lm_head.weight is the token embedding: the file has no other",
            "multiple_choice_head.summary.weight': another head, not checked",
        ],
    ),
    "classifier": (
        saved(OpenAIGPTForSequenceClassification),
        ["'score.weight': another head, not checked"],
    ),
    "head alone": (
        lambda folder: write(folder, renamed(lambda n: "lm_head.weight" if n == EMBEDDING else n)),
        ["lm_head.weight is the token embedding: the file has no other"],
    ),
    "decoder": (
        lambda folder: write(folder, {**PLAIN, "lm_head.decoder.weight": PLAIN[EMBEDDING].clone()}),
        ["lm_head.decoder.weight is a second name"],
    ),
    "sharded": (lambda folder: write(folder, PLAIN, "index"), []),
    "index of a tied tensor": (
        lambda folder: write(folder, PLAIN, "index of a tied tensor"),
        ["'lm_head.weight' listed for a file that does not hold it"],
    ),
    "transformers 2": (
        lambda folder: write(
            folder, PLAIN, n_ctx=15, num_labels=2, output_past=True, pruned_heads={}
        ),
        ["n_ctx=15 (it sized a buffer of old versions), num_labels, output_past ignored"],
    ),
    "sizes by default": (
        lambda folder: write(folder, PLAIN, n_head=3),
        [],
    ),
    "distributed and compiled": (
        lambda folder: write(folder, renamed("module._orig_mod.{}".format)),
        ["'module._orig_mod.' removed from 26 names"],
    ),
    "lightning": (
        lambda folder: nested(folder, "state_dict", epoch=3, hyper_parameters={"lr": 1e-3}),
        ["the state under 'state_dict' was read; not read: 'epoch', 'hyper_parameters'"],
    ),
    "training checkpoint": (
        lambda folder: nested(
            folder,
            "model",
            optimizer={"state": {0: {"exp_avg": torch.ones(3)}}},
            best_val_loss=torch.tensor(1.5),
        ),
        ["the state under 'model' was read"],
    ),
    "gamma and beta": (
        lambda folder: write(
            folder,
            renamed(
                lambda n: n.replace("weight", "gamma").replace("bias", "beta") if "ln_" in n else n
            ),
        ),
        ["beta is bias, gamma is weight"],
    ),
    "float64": (
        lambda folder: write(folder, {n: t.double() for n, t in PLAIN.items()}),
        ["float64, exact in float32"],
    ),
    "stale pair": (stale_pair, ["pytorch_model.bin: beside model.safetensors, not read"]),
    "untied and equal": (untied, ["tie_word_embeddings=False"]),
    "larger table": (grown, ["vocab.json has 31 tokens, the token embedding 32 rows"]),
}


PICKLED = {"lightning", "training checkpoint", "stale pair", "two states", "no tensor"}
needs_torch_files = pytest.mark.skipif(
    not compat.unpickles_safely(), reason="not run: this torch is too old to read the file"
)


def cases(table: Mapping[str, object]) -> list[Any]:
    """Return the cases; those of files of torch.save are skipped where these are rejected."""
    return [
        pytest.param(name, marks=[needs_torch_files] if name in PICKLED else []) for name in table
    ]


@pytest.mark.parametrize("case", cases(ACCEPTED))
def test_what_people_have_is_accepted_with_notes(case: str, tmp_path: Path) -> None:
    build, notes = ACCEPTED[case]
    build(tmp_path / "folder")
    weights = load_weights(str(tmp_path / "folder"))
    found = weights.provenance.notes
    assert len(found) == len(notes)
    assert all(any(note in one for one in found) for note in notes), found
    assert weights.identity["notes"] == list(found)
    model = theirs(tmp_path / "folder")
    if model is not None:
        assert_equal(weights, model)
    elif case != "larger table":
        assert all(
            torch.equal(tensor, torch.from_numpy(weights.tensors[name]))
            for name, tensor in BARE.items()
        )


REJECTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "transposed": (
        lambda folder: write(
            folder,
            {n: t.T if t.ndim == 2 and "embed" not in n else t for n, t in PLAIN.items()},
        ),
        "transpose all matrices of the blocks, the square attn.c_proj.weight too",
    ),
    "folder above": (
        lambda folder: write(folder / "checkpoint-500", PLAIN),
        "give the folder below that you mean, for example 'checkpoint-500'",
    ),
    "two states": (
        lambda folder: write(folder, {"model": dict(PLAIN), "ema": dict(PLAIN)}, "bin"),
        "save the one that you mean alone",
    ),
    "another activation": (
        lambda folder: write(folder, PLAIN, afn="relu"),
        "give the config.json that belongs to the weights",
    ),
    "a head of its own": (
        lambda folder: write(folder, {**PLAIN, "lm_head.weight": torch.randn(31, 12)}),
        "GPT-1's head is the embedding itself",
    ),
    "epsilon of 400 digits": (
        lambda folder: write(folder, PLAIN, layer_norm_epsilon=10**400),
        "give the config.json that belongs to the weights",
    ),
    "no tensor": (
        lambda folder: write(folder, {"epoch": 3}, "bin"),
        "convert it to safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", cases(REJECTED))
def test_other_folders_are_rejected_with_a_way_on(case: str, tmp_path: Path) -> None:
    build, fix = REJECTED[case]
    build(tmp_path / "folder")
    with pytest.raises(CommandError) as caught:
        load_weights(str(tmp_path / "folder"))
    assert fix in caught.value.fix
    assert caught.value.exit_code == 4


def sharp(folder: Path) -> None:
    """Write weights of which some scores are below Hugging Face's mask of -10,000."""
    state = dict(PLAIN)
    for block in range(2):
        name = f"transformer.h.{block}.attn.c_attn.weight"
        state[name] = state[name].clone()
        state[name][:, :24] *= 300
    write(folder, state)


def too_large(folder: Path) -> None:
    """Write weights whose first MLP gives numbers that float16 does not have."""
    name = "transformer.h.0.mlp.c_proj.weight"
    write(folder, {**PLAIN, name: PLAIN[name] * 6e5})


@pytest.mark.parametrize(
    ("build", "dtype", "words"),
    [
        (sharp, "float32", "Hugging Face stands alone at h.1.attn.weights"),
        (too_large, "float16", "both sides overflow at h.0.mlp: float16 cannot hold this model"),
    ],
)
def test_weights_that_a_reference_or_a_dtype_cannot_hold_are_inconclusive(
    build: Callable[[Path], None], dtype: str, words: str, tmp_path: Path
) -> None:
    build(tmp_path)
    weights = load_weights(str(tmp_path))
    ids = torch.randint(31, (1, 13), generator=torch.Generator().manual_seed(3))
    report = layerwise(build_ours(weights), build_huggingface(weights), ids, dtype=dtype)
    assert any(reason.what.startswith(words) for reason in report.reasons), report.reasons
    assert report.verdict == "inconclusive"
    assert [r.tap for r in report.results if r.status == "fail" and r.against == "oracle"] == []


def test_the_report_has_the_notes_and_strict_rejects_them(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    write(tmp_path, renamed("module.{}".format), num_labels=2)
    checked = ("weights", "--weights", str(tmp_path))
    text = command(*checked).stdout
    assert "'module.' removed from 26 names" in text
    assert "config.json: num_labels ignored" in text
    rejected = command(*checked, "--strict")
    assert rejected.returncode == 4
    assert "strict reading rejects it: 'module.' removed from 26 names" in rejected.stderr


def test_strict_accepts_what_hugging_face_writes(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    assert load_weights(str(tmp_path), strict=True).provenance.notes == ()


def change_name(state: State, name: str, how: str) -> None:
    other = {
        "bare": name.removeprefix("transformer."),
        "twice": f"transformer.{name}",
        "prefix": f"model.{name}",
        "wrapper": name.replace("transformer.", "transformer._orig_mod."),
        "misspelt": f"{name}s",
    }[how]
    state[other] = state.pop(name)


CONFIG_FIELDS: dict[str, st.SearchStrategy[object]] = {
    "afn": st.sampled_from(["gelu", "relu", "swish"]),
    "n_ctx": st.integers(1, 20),
    "n_head": st.sampled_from([1, 3, 4, 5, "3"]),
    "n_layer": st.integers(1, 3),
    "vocab_size": st.sampled_from([30, 31, 32]),
    "num_hidden_layers": st.integers(1, 2),
    "layer_norm_epsilon": st.sampled_from([1e-5, 1e-3, 0, -1.0, "1e-5", 10**400]),
    "resid_pdrop": st.sampled_from([0.0, 0.5, 1, 2.0]),
    "tie_word_embeddings": st.booleans(),
    "model_type": st.sampled_from(["openai-gpt", "gpt2"]),
    "chunk_size_feed_forward": st.integers(0, 2),
    "is_encoder_decoder": st.booleans(),
    "n_inner": st.integers(1, 99),
    "dtype": st.sampled_from(["float16", "float32"]),
    "trainer": st.just({"seed": 1}),
}


@st.composite
def mutations(draw: st.DrawFn) -> tuple[State, str, dict[str, object]]:
    """Draw a state with one to three changes, its form on disk, and other config fields."""
    state = dict(PLAIN)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(state)))
        kind = draw(
            st.sampled_from(["one name", "all names", "drop", "again", "dtype", "shape", "extra"])
        )
        if kind == "one name":
            how = draw(st.sampled_from(["bare", "twice", "prefix", "wrapper", "misspelt"]))
            change_name(state, name, how)
        elif kind == "all names":
            how = draw(st.sampled_from(["bare", "twice", "prefix", "wrapper"]))
            for each in list(state):
                change_name(state, each, how)
        elif kind == "drop":
            del state[name]
        elif kind == "again":
            other = draw(st.sampled_from(["lm_head.weight", name.split(".", 1)[-1], "x.y"]))
            state[other] = state[name].clone() + draw(st.sampled_from([0.0, 0.0, 1.0]))
        elif kind == "dtype":
            dtype = draw(st.sampled_from([torch.float64, torch.float16, torch.bfloat16]))
            state[name] = state[name].to(dtype)
        elif kind == "shape":
            tensor = state[name]
            turned = tensor.mT if tensor.ndim == 2 else tensor[:1]
            state[name] = draw(st.sampled_from([turned, tensor[None], tensor[:-1]])).clone()
        else:
            head = draw(st.sampled_from(["score.weight", "transformer.h.7.ln_1.weight", "a"]))
            state[head] = torch.ones(2)
    form = draw(st.sampled_from(["safetensors", "bin", "index", "index of a tied tensor"]))
    fields = draw(st.dictionaries(st.sampled_from(sorted(CONFIG_FIELDS)), st.none(), max_size=2))
    return state, form, {name: draw(CONFIG_FIELDS[name]) for name in fields}


def check_against_transformers(folder: Path, case: tuple[State, str, dict[str, object]]) -> None:
    state, form, fields = case
    write(folder, state, form, **fields)
    model, weights, problem = theirs(folder), None, ""
    try:
        weights = load_weights(str(folder))
    except CommandError as error:
        problem = error.what
        rejected = error.exit_code
    if weights is None:
        assert rejected in (3, 4)
        assert model is None or is_another_function(model, problem), problem
    elif model is not None:
        assert_equal(weights, model)


def is_another_function(model: OpenAIGPTLMHeadModel, problem: str) -> bool:
    """Return whether transformers loaded a model that GPT-1 is not, or chose one of two values."""
    tied = torch.equal(model.lm_head.weight, model.transformer.tokens_embed.weight)
    return (
        not tied
        or model.config.afn != "gelu"
        or model.config.resid_pdrop >= 1
        or model.config.layer_norm_epsilon <= 0
        or any(words in problem for words in ("contradicts", "are both", "lm_head.weight differs"))
    )


def fuzz(examples: int) -> Any:  # noqa: ANN401 - Hypothesis's decorator
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


of_transformers_5 = pytest.mark.skipif(
    transformers.__version__ < "5", reason="not run: transformers 4 maps names in another way"
)


@needs_torch_files
@of_transformers_5
@fuzz(60)
@given(case=mutations())
def test_changed_folders_load_as_transformers_loads_them(
    case: tuple[State, str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_against_transformers(tmp_path_factory.mktemp("folder"), case)


@pytest.mark.release
@needs_torch_files
@of_transformers_5
@pytest.mark.slow
@pytest.mark.timeout(1_200)
@fuzz(2_000)
@given(case=mutations())
def test_many_changed_folders_load_as_transformers_loads_them(
    case: tuple[State, str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_against_transformers(tmp_path_factory.mktemp("folder"), case)
