"""Files under other names, converted by a map to our forms and back: every bit, or an error."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from parity import layerwise
from parity.checkpoints.load import load_weights
from parity.convert import app
from parity.core import inputs
from parity.core.candidates import build_candidate, loading_notes
from parity.core.runners import build_huggingface
from reference import compat

EXAMPLES = Path(__file__).parents[3] / "examples"
MAP = (EXAMPLES / "nanogpt.map").read_text(encoding="utf-8")
SPLIT = """
n_head = 12
tokens = cat(tokens_embed.weight[:7], tokens_embed.weight[7:])   # as an example of cat
positions = positions_embed.weight
blocks.{i}.q.weight = h.{i}.attn.c_attn.weight[:, :24].T
blocks.{i}.k.weight = h.{i}.attn.c_attn.weight[:, 24:48].T
blocks.{i}.v.weight = h.{i}.attn.c_attn.weight[:, 48:].T
blocks.{i}.q.bias = h.{i}.attn.c_attn.bias[:24]
blocks.{i}.kv.bias = h.{i}.attn.c_attn.bias[24:]
blocks.{i}.out.weight = h.{i}.attn.c_proj.weight.T
blocks.{i}.out.bias = h.{i}.attn.c_proj.bias
blocks.{i}.norm1.weight = h.{i}.ln_1.weight
blocks.{i}.norm1.bias = h.{i}.ln_1.bias
blocks.{i}.mlp.0.weight = h.{i}.mlp.c_fc.weight.T
blocks.{i}.mlp.0.bias = h.{i}.mlp.c_fc.bias
blocks.{i}.mlp.2.weight = h.{i}.mlp.c_proj.weight.T
blocks.{i}.mlp.2.bias = h.{i}.mlp.c_proj.bias
blocks.{i}.norm2.weight = h.{i}.ln_2.weight
blocks.{i}.norm2.bias = h.{i}.ln_2.bias
head.weight = pad(tokens_embed.weight, 5)
head.bias = 0
"""

Convert = Callable[..., Result]


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def nanogpt() -> nn.Module:
    """A model of two blocks with random weights; read only."""
    example = runpy.run_path(str(EXAMPLES / "nanogpt.py"))
    config = example["GPTConfig"](block_size=29, vocab_size=53, n_layer=2, n_head=12, n_embd=24)
    model: nn.Module = example["NanoGPT"](config)
    generator = torch.Generator().manual_seed(20)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def state(nanogpt: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in nanogpt.state_dict().items()}


@pytest.fixture(autouse=True)
def here(state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the model and its map."""
    monkeypatch.chdir(tmp_path)
    save_file(state, "nanogpt.safetensors")
    Path("nanogpt.map").write_text(MAP, encoding="utf-8")
    return tmp_path


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("to", ["huggingface", "openai"])
def test_there_and_back_every_bit_is_kept(to: str, here: Path, state: dict[str, Tensor]) -> None:
    done = convert("nanogpt.safetensors", "ours", "--map", "nanogpt.map", "--to", to)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "nanogpt.safetensors, by the map nanogpt.map" in done.stdout
    back = convert("ours", "theirs", "--map", "nanogpt.map", "--to", "mapped")
    assert (back.exit_code, back.stderr) == (0, "")
    assert_same(load_file("theirs/state.safetensors"), state)
    assert {path.name for path in (here / "theirs").iterdir()} == {
        *("config.json", "conversion.json", "state.safetensors")
    }
    again = convert("theirs/state.safetensors", "again", "--map", "nanogpt.map", "--to", to)
    assert again.exit_code == 0
    assert load_weights("./again").provenance.sha256 == load_weights("./ours").provenance.sha256


def test_the_converted_model_computes_the_same(here: Path) -> None:
    assert convert("nanogpt.safetensors", "ours", "--map", "nanogpt.map").exit_code == 0
    weights = load_weights("./ours")
    assert (weights.config["vocab_size"], weights.config["n_layer"]) == (53, 2)
    candidate = build_candidate(str(EXAMPLES / "nanogpt.py"), weights, here / "nanogpt.map")
    ids = inputs.seeded(batch=1, time=23, vocab_size=53, seed=5).token_ids
    assert layerwise({"candidate": candidate}, build_huggingface(weights), ids).exit_code == 0


def test_a_square_matrix_that_is_not_turned_is_found_by_layerwise(here: Path) -> None:
    """Its shape cannot show it."""
    text = MAP.replace("attn.c_proj.weight.T", "attn.c_proj.weight")
    (here / "wrong.map").write_text(text, encoding="utf-8")
    assert convert("nanogpt.safetensors", "ours", "--map", "wrong.map").exit_code == 0
    weights = load_weights("./ours")
    candidate = build_candidate(str(EXAMPLES / "nanogpt.py"), weights, here / "wrong.map")
    ids = inputs.seeded(batch=1, time=23, vocab_size=53, seed=5).token_ids
    report = layerwise({"candidate": candidate}, build_huggingface(weights), ids)
    assert report.exit_code == 1
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "h.0.attn"


def test_tensors_apart_joined_and_padded(here: Path, state: dict[str, Tensor]) -> None:
    """Through our form from one model's names to another's."""
    assert convert("nanogpt.safetensors", "ours", "--map", "nanogpt.map").exit_code == 0
    (here / "split.map").write_text(SPLIT, encoding="utf-8")
    assert convert("ours", "split", "--map", "split.map", "--to", "mapped").exit_code == 0
    found = load_file("split/state.safetensors")
    key = state["transformer.h.1.attn.c_attn.weight"][24:48]
    assert torch.equal(found["blocks.1.k.weight"], key)
    assert found["head.weight"].shape == (58, 24)
    save_file(found | {"head.bias": torch.zeros(58)}, "split.safetensors")
    assert convert("split.safetensors", "again", "--map", "split.map").exit_code == 0
    assert load_weights("./again").provenance.sha256 == load_weights("./ours").provenance.sha256

    padded = found["head.weight"].clone()
    padded[-1, 3] = 1e-9
    for wrong, changed in {
        "padding of 'head.weight' are not zero": {"head.weight": padded},
        "'head.bias' is not 0 throughout": {"head.bias": torch.ones(58)},
        "'head.weight' and 'tokens' give other values": {"head.weight": found["head.weight"].neg()},
    }.items():
        save_file(found | changed, "wrong.safetensors")
        done = convert("wrong.safetensors", "new", "--map", "split.map")
        assert (done.exit_code, (here / "new").exists()) == (4, False)
        assert wrong in done.stderr
        assert "--map split.map, line " in done.stderr


FAULTS = {
    "a transposition too few": (
        ("h.{i}.attn.c_attn.weight.T", "h.{i}.attn.c_attn.weight"),
        (2, "shape [72, 24], the expression [24, 72]", "line 7: transformer.h.{i}.attn.c_attn"),
    ),
    "a transposition too many": (
        ("= h.{i}.ln_1.bias", "= h.{i}.ln_1.bias.T"),
        (2, "h.0.ln_1.bias has shape [24]", "line 12"),
    ),
    "a line too few": (
        ("transformer.h.{i}.ln_2.bias = h.{i}.ln_2.bias", ""),
        (4, "not in the map: 'transformer.h.0.ln_2.bias', 'transformer.h.1", "nothing"),
    ),
    "a wrong name of theirs": (
        ("transformer.wpe.weight =", "transformer.wpo.weight ="),
        (4, "not in the map: 'transformer.wpe.weight'", "line 5: transformer.wpo.weight = "),
    ),
    "a wrong name of ours": (
        ("= h.{i}.ln_2.bias", "= h.{i}.ln_3.bias"),
        (2, "there is no tensor 'h.0.ln_3.bias'", "line 18: transformer.h.{i}.ln_2.bias"),
    ),
    "a name twice": (
        ("transformer.wpe.weight = ", "lm_head.weight = "),
        (2, "names the parameter again: 'lm_head.weight = positions_embed.weight'", "line 5"),
    ),
    "one of ours twice": (
        ("= h.{i}.ln_2.bias", "= h.{i}.ln_1.bias"),
        (4, "'transformer.h.0.ln_1.bias' give other values of h.0.ln_1.bias", "line 18"),
    ),
    "a slice out of range": (
        ("c_attn.bias = h.{i}.attn.c_attn.bias", "c_attn.bias = h.{i}.attn.c_attn.bias[:73]"),
        (2, "h.0.attn.c_attn.bias[:73]: the axis has 72", "line 8"),
    ),
    "a slice too short": (
        ("c_attn.bias = h.{i}.attn.c_attn.bias", "c_attn.bias = h.{i}.attn.c_attn.bias[:71]"),
        (2, "shape [72], the expression [71]", "line 8"),
    ),
    "no line": (("n_head = 12", "n_head 12"), (2, "it is no such line: 'n_head 12'", "line 2")),
    "a number of heads that is none": (
        ("n_head = 12", "n_head = h.0.ln_1.bias"),
        (2, "the value is no number: 'n_head = ", "line 2"),
    ),
    "no number of heads": (("n_head = 12", ""), (2, "no tensor shows n_head", "wrong.map")),
    "an impossible number of heads": (
        ("n_head = 12", "n_head = 5"),
        (2, "n_embd must be a multiple of n_head", "wrong.map"),
    ),
    "too many blocks": (
        ("n_head = 12", "n_head = 12\nn_layer = 3"),
        (2, "n_layer is 3, and the file has 2 blocks", "--map wrong.map"),
    ),
    "blocks without end": (
        ("n_head = 12", "n_head = 12\nn_layer = 99999999"),
        (2, "n_layer is 99999999, and the file has 2 blocks", "--map wrong.map"),
    ),
    "too few blocks": (
        ("n_head = 12", "n_head = 12\nn_layer = 1"),
        (2, "n_layer is 1, and the file has 2 blocks", "--map wrong.map"),
    ),
    "another vocabulary": (
        ("n_head = 12", "n_head = 12\nvocab_size = 54"),
        (2, "shape [53, 24], the expression [54, 24]", "line 4"),
    ),
    "a mask that is none": (("= mask", "= 1"), (4, "is not 1 throughout", "line 6")),
    "weights for a mask": (
        ("ln_1.bias = h.{i}.ln_1.bias", "ln_1.bias = mask"),
        (4, "'transformer.h.0.ln_1.bias' is no causal mask", "line 12"),
    ),
    "weights that are ignored": (
        ("wpe.weight = positions_embed.weight", "wpe.weight = ignore"),
        (2, "no tensor shows n_positions", "wrong.map"),
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_in_the_map_names_its_line(case: str, here: Path) -> None:
    (old, new), (code, what, where) = FAULTS[case]
    assert old in MAP
    (here / "wrong.map").write_text(MAP.replace(old, new), encoding="utf-8")
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    done = convert("nanogpt.safetensors", "ours", "--map", "wrong.map")
    assert done.exit_code == code, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["error:", "where", "fix"]
    assert what in lines[0]
    assert where in lines[1]
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_a_map_that_loses_a_tensor_is_rejected_on_the_way_back(here: Path) -> None:
    assert convert("nanogpt.safetensors", "ours", "--map", "nanogpt.map").exit_code == 0
    text = MAP.replace("transformer.h.{i}.ln_2.bias = h.{i}.ln_2.bias\n", "")
    (here / "wrong.map").write_text(text, encoding="utf-8")
    done = convert("ours", "theirs", "--map", "wrong.map", "--to", "mapped")
    assert done.exit_code == 2
    assert "2 of our tensors are not given: h.0.ln_2.bias, h.1.ln_2.bias" in done.stderr
    assert not (here / "theirs").exists()


@pytest.mark.skipif(not compat.unpickles_safely(), reason="this torch reads no file of torch.save")
def test_a_training_checkpoint_of_torch_save(here: Path, state: dict[str, Tensor]) -> None:
    """As nanoGPT writes it: the model below a key, compiled, in half precision."""
    (here / "own.map").write_text(MAP.replace("transformer.", "own."), encoding="utf-8")
    half = {name.replace("transformer.", "own."): t.bfloat16() for name, t in state.items()}
    model = {f"_orig_mod.{name}": tensor for name, tensor in half.items()}
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    torch.save({"optimizer": moments, "model": model, "iter_num": 7}, "ckpt.pt")
    done = convert("ckpt.pt", "ours", "--map", "own.map")
    assert done.exit_code == 0, done.stderr
    assert "the state under 'model' was read" in done.stdout
    assert "parts of names that wrappers add were removed" in done.stdout
    weights = load_weights("./ours")
    bias = torch.from_numpy(weights.tensors["h.1.ln_2.bias"])
    assert torch.equal(bias, half["own.h.1.ln_2.bias"].float())
    assert convert("ckpt.pt", "strict", "--map", "own.map", "--strict").exit_code == 4


def test_one_name_of_tied_weights_is_enough(state: dict[str, Tensor]) -> None:
    del state["lm_head.weight"], state["transformer.h.1.attn.bias"]
    save_file(state, "less.safetensors")
    assert convert("less.safetensors", "ours", "--map", "nanogpt.map").exit_code == 0
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    state["lm_head.weight"][3, 4] += 1e-6
    save_file(state, "other.safetensors")
    done = convert("other.safetensors", "other", "--map", "nanogpt.map")
    assert done.exit_code == 4
    assert "give other values of tokens_embed.weight" in done.stderr


def test_ignored_tensors_are_noted(here: Path, state: dict[str, Tensor]) -> None:
    save_file(state | {"value_head.weight": torch.randn(3, 24)}, "more.safetensors")
    (here / "more.map").write_text(f"{MAP}value_head.weight = ignore\n", encoding="utf-8")
    done = convert("more.safetensors", "ours", "--map", "more.map")
    assert done.exit_code == 0
    assert "note      ignored, as the map requests: 'value_head.weight'" in done.stdout


def test_names_that_fit_nothing_are_noted(here: Path) -> None:
    more = "lm_haed.weight = tokens_embed.weight\nblocks.{i}.attn.bais = mask\n"
    (here / "more.map").write_text(MAP + more, encoding="utf-8")
    done = convert("nanogpt.safetensors", "ours", "--map", "more.map")
    misfits = "in the map, and not in the file: 'lm_haed.weight', 'blocks.{i}.attn.bais'"
    assert (done.exit_code, misfits in done.stdout) == (0, True)
    strict = convert("nanogpt.safetensors", "strict", "--map", "more.map", "--strict")
    assert (strict.exit_code, misfits in strict.stderr) == (4, True)
    exact = convert("nanogpt.safetensors", "exact", "--map", "nanogpt.map", "--strict")
    assert exact.exit_code == 0


def test_names_that_no_candidate_has_are_noted(here: Path) -> None:
    assert convert("nanogpt.safetensors", "ours", "--map", "nanogpt.map").exit_code == 0
    (here / "more.map").write_text(f"{MAP}blocks.{{i}}.attn.bais = mask\n", encoding="utf-8")
    weights, example = load_weights("./ours"), str(EXAMPLES / "nanogpt.py")
    misfits = "in the map, and not in the model: 'blocks.{i}.attn.bais'"
    assert loading_notes(build_candidate(example, weights, here / "more.map"))[1] == misfits
    notes = loading_notes(build_candidate(example, weights, here / "nanogpt.map"))
    assert not [note for note in notes if "in the map" in note]


def test_the_option_gives_the_heads(here: Path) -> None:
    (here / "no.map").write_text(MAP.replace("n_head = 12", ""), encoding="utf-8")
    arguments = ("nanogpt.safetensors", "ours", "--map", "no.map", "--n-head", "6")
    assert convert(*arguments).exit_code == 0
    assert json.loads((here / "ours/config.json").read_bytes())["n_head"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tiny", "new", "--to", "mapped"], 2, "give --map FILE"),
        (["tiny", "new", "--n-head", "3"], 2, "--n-head"),
        (["tiny", "new", "--map", "nanogpt.map", "--to", "mapped", "--n-head", "3"], 2, "n-head"),
        (["tiny", "new", "--map", "nanogpt.map"], 2, "one file of tensors"),
        (["nanogpt.map", "new", "--map", "nanogpt.map"], 2, "one file of tensors"),
        (["none.safetensors", "new", "--map", "nanogpt.map"], 2, "none.safetensors"),
        (["nanogpt.safetensors", "new", "--map", "none.map"], 2, "none.map"),
        (["nanogpt.safetensors", ".", "--map", "nanogpt.map", "--force"], 2, "beside the new ones"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_other_errors(arguments: list[str], code: int, words: str, here: Path) -> None:
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    done = convert(*arguments)
    assert done.exit_code == code, done.stderr
    assert words in done.stderr
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_our_form_is_never_replaced_by_a_mapped_one() -> None:
    assert convert("nanogpt.safetensors", "ours", "--map", "nanogpt.map").exit_code == 0
    done = convert("tiny", "ours", "--map", "nanogpt.map", "--to", "mapped", "--force")
    assert done.exit_code == 2
    assert "beside the new ones: model.safetensors" in done.stderr


def test_a_dry_run_lists_their_names(here: Path) -> None:
    done = convert("tiny", "new", "--map", "nanogpt.map", "--to", "mapped", "--dry-run")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["h.7.mlp.c_fc.weight.T", "transformer.h.7.mlp.c_fc.weight", "[84,", "21]"] in rows
    assert ["mask", "transformer.h.0.attn.bias", "[1,", "1,", "389,", "389]"] in rows
    assert not (here / "new").exists()
