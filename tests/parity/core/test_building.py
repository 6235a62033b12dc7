"""Every way in which a stranger's file builds its model: from a config, sizes, or nothing."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from parity.checkpoints.weights import Provenance, Weights
from parity.core.building import Config
from parity.core.candidates import build_candidate, is_built, loading_notes, rebuilt
from parity.core.inputs import Inputs
from parity.errors import InputRejectedError, ParityError, UsageError
from parity.watch.calling import find_way, logits_in
from scratch_gpt import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=37, n_positions=19, n_embd=12, n_layer=2, n_head=3)
IDS = torch.randint(37, (2, 11), generator=torch.Generator().manual_seed(5))

BLOCK = """
import dataclasses
import math
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads, drop=0.1, epsilon=1e-5):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = drop

    def forward(self, x):
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        x = self.ln1(x + F.dropout(self.proj(y), self.drop))
        return self.ln2(x + self.fc2(F.gelu(self.fc1(x), approximate="tanh")))


class Base(nn.Module):
    def make(self, vocab, places, width, layers, heads, drop=0.0, epsilon=1e-5):
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(places, width)
        self.blocks = nn.ModuleList(Block(width, heads, drop, epsilon) for _ in range(layers))
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, idx):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x)

"""
"""Dropout is on in evaluation too, so a right result shows that its probability is 0."""

MODEL = """
class Model(Base):
    def __init__(self{arguments}):
        super().__init__()
        self.make({values})
"""


def model(arguments: str, values: str) -> str:
    return BLOCK + MODEL.format(arguments=arguments and f", {arguments}", values=values)


DATACLASS = """
@dataclasses.dataclass
class Sizes:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layers: int = 12
    n_head: int = 12
    dim: int = 768
    resid_dropout: float = 0.2
    flash: bool = True


@dataclasses.dataclass
class Inner:
    d_model: int
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    anything: int = 3
"""
OF_SIZES = "{0}.vocab_size, {0}.block_size, {0}.dim, {0}.n_layers, {0}.n_head, {0}.resid_dropout"
FIELDS = OF_SIZES.format("config")
NAMED = "vocab_size, context_length, d_model, num_layers, nhead"
OTHERS = model(NAMED, NAMED)

ONLY = "import dataclasses\n" + DATACLASS.partition("@dataclasses.dataclass\nclass Inner")[0]
SCALED = FIELDS.replace("dropout", "dropout * config.flash")

FILES = {
    "config of aliases": model("cfg", "cfg.n_vocab, cfg.n_ctx, cfg.n_embd, cfg.depth, cfg.heads"),
    "config as a dictionary": model(
        "config",
        "config['vocab_size'], config['context_length'], config['emb_dim'], config['n_layers'], "
        "config['n_heads'], config['drop_rate'], config['eps']",
    ),
    "sizes": OTHERS,
    "sizes with defaults": model(
        "max_seq_len=7, *, dim=8, heads=2, depth=1, vocab_size=9, attn_dropout=0.5, other=3",
        "vocab_size, max_seq_len, dim, depth, heads, attn_dropout",
    ),
    "an annotated dataclass": DATACLASS.join(
        [BLOCK, MODEL.format(arguments=", sizes: Sizes", values=OF_SIZES.format("sizes"))]
    ),
    "a dataclass as default": DATACLASS.join(
        [BLOCK, MODEL.format(arguments=", sizes=Sizes()", values=OF_SIZES.format("sizes"))]
    ),
    "a nested dataclass": DATACLASS.join(
        [BLOCK, MODEL.format(arguments=", inner: Inner", values=OF_SIZES.format("inner.sizes"))]
    ),
    "the file's only dataclass": ONLY + model("config", SCALED),
    "any arguments": model(
        "*args, vocab=5, ctx_len=5, dim=5, depth=5, heads=5, **kwargs",
        "vocab, ctx_len, dim, depth, heads + len(args) + len(kwargs)",
    ),
    "build(config)": f"{OTHERS}\ndef build(config):\n"
    "    c = config\n"
    "    return Model(c.vocab_size, c.block_size, c.d_model, c.n_layer, c.n_head)\n",
    "build of another name": f"{OTHERS}\ndef build(c):\n"
    "    return Model(c.vocab_size, c.n_positions, c.n_embd, c.n_layer, c.n_head)\n",
    "build()": f"{OTHERS}\ndef build():\n    return Model(37, 19, 12, 2, 3)\n",
    "build of sizes": f"{OTHERS}\ndef build(block_size, **more):\n"
    "    return Model(37, block_size, 12, 2, 3)\n",
    "annotations that cannot be resolved": "from __future__ import annotations\n"
    + model(
        "vocab: Missing, n_ctx: int, dim: int, depth: int, heads: int",
        "vocab, n_ctx, dim, depth, heads",
    ),
}


@pytest.fixture(scope="module")
def small() -> Weights:
    """Return random weights: no gain is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: (0.3 * torch.randn(parameter.shape, generator=generator)).numpy()
        + ("ln_" in name and name.endswith("weight"))
        for name, parameter in GPT(CONFIG).named_parameters()
    }
    provenance = Provenance(source="random", revision="none", sha256="0" * 64)
    return Weights(config=CONFIG.to_huggingface(), tensors=tensors, provenance=provenance)


@pytest.fixture(scope="module")
def expected(small: Weights) -> Tensor:
    ours = GPT(CONFIG).double().eval()
    ours.load_state_dict({n: torch.tensor(a).double() for n, a in small.tensors.items()})
    with torch.no_grad():
        return ours(IDS)


def logits(made: nn.Module) -> Tensor:
    way = find_way(made, IDS, CONFIG.vocab_size)
    with torch.no_grad():
        return logits_in(way.call(made, Inputs(token_ids=IDS)), IDS, CONFIG.vocab_size).tensor


def is_right(made: nn.Module, expected: Tensor) -> bool:
    """Return whether it has the weights, and so has the one that is built again in float64."""
    torch.testing.assert_close(logits(made).double(), expected, rtol=1e-4, atol=1e-4)
    again = rebuilt(made, torch.float64)
    assert again is not None
    assert again is not made
    assert {p.dtype for p in again.parameters()} == {torch.float64}
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(again), expected, rtol=1e-9, atol=1e-9)
    return is_built(made) and not made.training


Candidate = Callable[..., str]


@pytest.mark.parametrize("case", FILES)
def test_each_kind_of_file_is_built_and_gets_the_weights(
    case: str, candidate: Candidate, small: Weights, expected: Tensor
) -> None:
    made = build_candidate(candidate(FILES[case]), small)
    assert is_right(made, expected)
    notes = loading_notes(made)
    assert notes[0] == "the candidate takes no weights; they were copied in by names and shapes"
    assert "blocks.1.proj.weight = h.1.attn.c_proj.weight.T" in notes
    packed = "blocks.0.qkv.weight, blocks.1.qkv.weight"
    assert notes[1] == f"query, key and value lie one after the other: {packed}"
    assert len(notes) == 2 + len(list(made.parameters()))


PLAIN = f"{OTHERS}\nMADE = Model(37, 19, 12, 2, 3)\nNUMBER = 3\n"
LOADED = f"""{BLOCK}
def build(config, weights):
    model = Base()
    model.make(config.vocab_size, config.block_size, config.d_model, config.depth, config.heads)
    w = weights
    for i, block in enumerate(model.blocks):
        for mine, name in dict(qkv="attn.c_attn", proj="attn.c_proj", fc1="mlp.c_fc",
                               fc2="mlp.c_proj", ln1="ln_1", ln2="ln_2").items():
            for kind in ("weight", "bias"):
                x = w[f"h.{{i}}.{{name}}.{{kind}}"]
                getattr(getattr(block, mine), kind).data = x.mT.clone() if x.ndim > 1 else x
    model.wte.weight.data = model.head.weight.data = w["tokens_embed.weight"]
    model.wpe.weight.data = w["positions_embed.weight"]
    return model
"""


@pytest.mark.parametrize("name", ["Model", "MADE"])
def test_a_name_may_follow_the_file(
    name: str, candidate: Candidate, small: Weights, expected: Tensor
) -> None:
    assert is_right(build_candidate(f"{candidate(PLAIN)}:{name}", small), expected)


@pytest.mark.parametrize("name", ["Model", "MADE", "build"])
def test_a_class_or_a_module_is_imported_by_name(  # noqa: PLR0913 - fixtures
    name: str,
    candidate: Candidate,
    small: Weights,
    expected: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = f"candidate_named_{name.lower()}"
    candidate(f"{PLAIN}\nbuild = lambda **sizes: Model(37, 19, 12, 2, 3)\n", f"{file}.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_right(build_candidate(f"{file}:{name}", small), expected)


def test_a_module_that_is_imported_stays_as_it_is(
    candidate: Candidate, small: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate(PLAIN, "candidate_kept.py")
    monkeypatch.syspath_prepend(tmp_path)
    kept = importlib.import_module("candidate_kept").MADE
    before = kept.wte.weight.clone()
    rebuilt(build_candidate("candidate_kept:MADE", small), torch.float64)
    assert torch.equal(kept.wte.weight, before)


OTHER = f"{OTHERS}\nclass Other(Base):\n    pass\n"
USED = {
    "in a function": f"{OTHERS}\ndef main():\n    return Model(37, 19, 12, 2, 3)\n",
    "by itself": f"{OTHERS}\n    def copy(self):\n        return Model(37, 19, 12, 2, 3)\n",
    "by a function that a class uses": (
        f"{OTHERS}\n    def copy(self):\n        return helper()\n\nclass Other(Base):\n    pass\n"
        "\ndef helper():\n    return deeper()\n\ndef deeper():\n    return Other()\n"
    ),
    "no module": f"{OTHERS}\nclass Trainer:\n    pass\n",
}


def test_of_several_models_one_must_be_named(candidate: Candidate, small: Weights) -> None:
    name = candidate(OTHER)
    with pytest.raises(UsageError, match="no function build, and 2 models") as caught:
        build_candidate(name, small)
    assert caught.value.fix == f"name one: {name}:Model, {name}:Other"
    assert isinstance(build_candidate(f"{name}:Model", small), nn.Module)


@pytest.mark.parametrize("case", USED)
def test_the_one_class_that_no_other_uses_is_the_model(
    case: str, candidate: Candidate, small: Weights
) -> None:
    assert type(build_candidate(candidate(USED[case]), small)).__name__ == "Model"


def test_a_model_that_holds_its_weights_keeps_them(
    candidate: Candidate, small: Weights, expected: Tensor, tmp_path: Path
) -> None:
    """It loaded them from a file of its own; a wrong one among them is not repaired."""
    given = {name: torch.tensor(array) for name, array in small.tensors.items()}
    torch.save(given, tmp_path / "weights.pt")
    wrong = f"""{LOADED.replace("build(config, weights)", "fill(config, weights)")}
def build(config):
    weights = torch.load({str(tmp_path / "weights.pt")!r})
    weights["h.1.ln_2.bias"] = weights["h.1.ln_2.bias"] + 0.5
    return fill(config, weights)
"""
    made = build_candidate(candidate(wrong), small)
    assert loading_notes(made) == ["the candidate takes no weights and holds them already"]
    assert float((logits(made) - expected).abs().max()) > 0.1


def test_a_model_that_takes_the_weights_gets_no_others(
    candidate: Candidate, small: Weights, expected: Tensor
) -> None:
    """Not even if it drops them: what it does with them is what is checked."""
    made = build_candidate(candidate(LOADED), small)
    assert is_right(made, expected)
    assert loading_notes(made) == ()
    dropped = LOADED.replace("w = weights", "return model")
    assert not torch.allclose(logits(build_candidate(candidate(dropped), small)).double(), expected)


def test_a_model_of_other_sizes_is_a_usage_error(candidate: Candidate, small: Weights) -> None:
    other = f"{OTHERS}\ndef build():\n    return Model(37, 19, 24, 2, 3)\n"
    with pytest.raises(UsageError, match=r"can be the token embedding \[37, 12\]") as caught:
        build_candidate(candidate(other), small)
    assert "its parameters are wte.weight [37, 24], wpe.weight [19, 24]" in caught.value.where


UNKNOWN: dict[str, tuple[type[ParityError], str, str]] = {
    "an argument": (
        UsageError,
        model("vocab_size, flavour", "vocab_size, 19, 12, 2, 3"),
        "flavour",
    ),
    "two of a class": (UsageError, model("first, second", "1, 1, 1, 1, 1"), "second"),
    "three of a function": (UsageError, "def build(a, b, c): ...", "c, an argument"),
    "a field": (
        UsageError,
        DATACLASS.replace("anything: int = 3", "flavour: int")
        .join([BLOCK, MODEL.format(arguments=", inner: Inner", values="1, 1, 1, 1, 1")])
        .replace("    sizes: Sizes = dataclasses.field(default_factory=Sizes)\n", ""),
        "flavour, a field of Inner",
    ),
    "an attribute": (
        InputRejectedError,
        model("config", "config.flavour, 19, 12, 2, 3"),
        "AttributeError: the config has no flavour",
    ),
    "a number": (UsageError, PLAIN, "NUMBER is no function, class or module: it is of type int"),
    "nothing": (UsageError, PLAIN, "NONE is no function, class or module: it has none"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_has_no_known_name_is_named(case: str, candidate: Candidate, small: Weights) -> None:
    error, text, words = UNKNOWN[case]
    name = candidate(text)
    name += {"a number": ":NUMBER", "nothing": ":NONE"}.get(case, "")
    with pytest.raises(error) as caught:
        build_candidate(name, small)
    assert words in caught.value.what
    assert f"--candidate {name}" in caught.value.where


def test_the_config_answers_to_many_names() -> None:
    config = Config(n_embd=12, n_head=3, n_positions=19)
    assert (config.block_size, config["d_model"], config.d_ff, config.head_dim) == (19, 12, 48, 4)
    assert (config.dropout, config.bias, config.mlp_ratio, config.eps) == (0.0, True, 4, 1e-5)
    assert dataclasses.replace(config, n_layer=3).num_layers == 3
    assert not hasattr(config, "flash")


SQUARE = OTHERS.replace(
    "self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)",
    "self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)\n"
    "        self.mix = nn.Parameter(torch.randn(width, width))\n        del self.proj",
).replace("self.proj(y)", "(y @ self.mix)")


def test_an_ambiguous_matrix_needs_a_line(
    candidate: Candidate, small: Weights, tmp_path: Path
) -> None:
    name, file = candidate(SQUARE), tmp_path / "map.txt"
    with pytest.raises(UsageError, match="do not decide") as caught:
        build_candidate(name, small)
    assert "blocks.0.mix = h.0.attn.c_proj.weight or h.0.attn.c_proj.weight.T" in caught.value.where
    file.write_text("blocks.{i}.mix = h.{i}.attn.c_proj.weight", encoding="utf-8")
    made = build_candidate(name, small, file)
    held = dict(made.named_parameters())["blocks.1.mix"]
    assert torch.equal(held, torch.tensor(small.tensors["h.1.attn.c_proj.weight"]))
    again = rebuilt(made, torch.float64)
    assert again is not None
    assert torch.equal(dict(again.named_parameters())["blocks.1.mix"], held.double())
    assert "blocks.1.mix = h.1.attn.c_proj.weight" in loading_notes(made)
    assert any(
        note.startswith("in no parameter: h.0.attn.c_proj.bias") for note in loading_notes(made)
    )


def test_a_mapping_overrides_what_a_model_holds(
    candidate: Candidate, small: Weights, tmp_path: Path
) -> None:
    file = tmp_path / "map.txt"
    file.write_text("head.weight = 0", encoding="utf-8")
    made = build_candidate(candidate(OTHERS), small, str(file))
    assert not dict(made.named_parameters())["head.weight"].any()
    assert "what GPT-1 does not have is 1 or 0: head.weight" in loading_notes(made)


def test_what_is_special_is_noted(candidate: Candidate, small: Weights) -> None:
    text = OTHERS.replace("nn.Linear(width, vocab, bias=False)", "nn.Linear(width, vocab + 7)")
    text = text.replace("nn.Linear(4 * width, width)", "nn.Linear(4 * width, width, bias=False)")
    notes = loading_notes(build_candidate(candidate(text), small))
    assert [note for note in notes[:5] if " = " not in note] == [
        "the candidate takes no weights; they were copied in by names and shapes",
        "what GPT-1 does not have is 1 or 0: head.bias",
        "query, key and value lie one after the other: blocks.0.qkv.weight, blocks.1.qkv.weight",
        "more rows than the weights have, 0 at the end: head.weight",
        "in no parameter: h.0.mlp.c_proj.bias, h.1.mlp.c_proj.bias",
    ]


def test_a_mapping_for_a_model_that_takes_weights_is_a_usage_error(
    candidate: Candidate, small: Weights, tmp_path: Path
) -> None:
    file = tmp_path / "map.txt"
    file.write_text("head.weight = 0", encoding="utf-8")
    with pytest.raises(UsageError, match="takes the weights itself"):
        build_candidate(candidate(LOADED), small, file)
