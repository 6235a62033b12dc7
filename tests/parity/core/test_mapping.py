"""The weights find their way into models that name, cut, turn and join them in their own ways."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from parity.align import match_parameters
from parity.core.loading import propose
from parity.core.mapped_files import read_mapped
from parity.core.mapping import (
    Expression,
    Proposal,
    Source,
    apply,
    blocks_of,
    of_every_block,
    parse_expression,
    read_map_file,
)
from parity.errors import ParityError, UsageError
from scratch_gpt import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=37, n_positions=19, n_embd=12, n_layer=2, n_head=3)
VOCAB, PLACES, WIDTH, LAYERS, HEADS = 37, 19, 12, 2, 3
D, INNER = WIDTH // HEADS, 4 * WIDTH
ATTN, OUT = "h.1.attn.c_attn", "h.1.attn.c_proj"
FC, PROJ = "h.1.mlp.c_fc", "h.1.mlp.c_proj"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {name: p.shape for name, p in GPT(CONFIG).named_parameters()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


class Tree(nn.Module):
    """Parameters under the names of a model: only names and shapes count."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(leaf, nn.Parameter(torch.randn(shape)))


def linear(name: str, inner: int, outer: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    biases: dict[str, tuple[int, ...]] = {f"{name}.bias": (outer,)} if bias else {}
    return {f"{name}.weight": (outer, inner)} | biases


def norm(name: str, gain: str = "weight", bias: str = "bias") -> dict[str, tuple[int, ...]]:
    return {f"{name}.{gain}": (WIDTH,), f"{name}.{bias}": (WIDTH,)}


def tree(
    block: Callable[[str], dict[str, tuple[int, ...]]],
    prefix: str = "blocks.{i}.",
    before: dict[str, tuple[int, ...]] | None = None,
    after: dict[str, tuple[int, ...]] | None = None,
) -> Tree:
    tables = {"tok.weight": (VOCAB, WIDTH), "pos.weight": (PLACES, WIDTH)}
    shapes = tables if before is None else before
    for i in range(LAYERS):
        shapes = shapes | block(prefix.format(i=i))
    return Tree(shapes | (after or {}))


def nano() -> nn.Module:
    """NanoGPT on `nn.Linear`, with a head of its own and a padded vocabulary."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        return {
            **norm(f"{p}ln_1"),
            **linear(f"{p}attn.c_attn", WIDTH, 3 * WIDTH),
            **linear(f"{p}attn.c_proj", WIDTH, WIDTH),
            **norm(f"{p}ln_2"),
            **linear(f"{p}mlp.c_fc", WIDTH, INNER),
            **linear(f"{p}mlp.c_proj", INNER, WIDTH),
        }

    tables = {"transformer.wte.weight": (64, WIDTH), "transformer.wpe.weight": (PLACES, WIDTH)}
    after = {**norm("transformer.ln_f"), "lm_head.weight": (64, WIDTH), "lm_head.bias": (64,)}
    return tree(block, "transformer.h.{i}.", tables, after)


def llama() -> nn.Module:
    """Separate projections, norms named by what they norm, a table of fewer positions."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        return {
            **norm(f"{p}ffn_norm"),
            **norm(f"{p}attention_norm"),
            **linear(f"{p}attention.wv", WIDTH, WIDTH),
            **linear(f"{p}attention.wk", WIDTH, WIDTH),
            **linear(f"{p}attention.wq", WIDTH, WIDTH),
            **linear(f"{p}attention.wo", WIDTH, WIDTH),
            **linear(f"{p}feed_forward.w2", INNER, WIDTH),
            **linear(f"{p}feed_forward.w1", WIDTH, INNER),
        }

    return tree(block, "layers.{i}.", {"embed.weight": (VOCAB, WIDTH), "pos_emb": (1, 11, WIDTH)})


def heads() -> nn.Module:
    """A module for each head, counted from 1; a Sequential as MLP."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        each = {}
        for h in range(1, HEADS + 1):
            for role in ("key", "query", "value"):
                each |= linear(f"{p}sa.heads.{h}.{role}", WIDTH, D)
        return {
            **each,
            **linear(f"{p}sa.proj", WIDTH, WIDTH),
            **linear(f"{p}ffwd.net.0", WIDTH, INNER),
            **linear(f"{p}ffwd.net.2", INNER, WIDTH),
            **norm(f"{p}ln1"),
            **norm(f"{p}ln2"),
        }

    return tree(block)


def lens() -> nn.Module:
    """TransformerLens: `[head in out]`, a matrix that unembeds."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        each: dict[str, tuple[int, ...]] = {}
        for role in "QKV":
            each |= {f"{p}attn.W_{role}": (HEADS, WIDTH, D), f"{p}attn.b_{role}": (HEADS, D)}
        return {
            **norm(f"{p}ln1", "w", "b"),
            **norm(f"{p}ln2", "w", "b"),
            **each,
            f"{p}attn.W_O": (HEADS, D, WIDTH),
            f"{p}attn.b_O": (WIDTH,),
            f"{p}mlp.W_in": (WIDTH, INNER),
            f"{p}mlp.b_in": (INNER,),
            f"{p}mlp.W_out": (INNER, WIDTH),
            f"{p}mlp.b_out": (WIDTH,),
        }

    tables = {"embed.W_E": (VOCAB, WIDTH), "pos_embed.W_pos": (PLACES, WIDTH)}
    after = {"unembed.W_U": (WIDTH, VOCAB), "unembed.b_U": (VOCAB,)}
    return tree(block, "blocks.{i}.", tables, after)


def torch_layers() -> nn.Module:
    """`nn.TransformerEncoder`, as many use it."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True)
    model = nn.Module()
    model.tok = nn.Embedding(VOCAB, WIDTH)
    model.pos = nn.Parameter(torch.randn(PLACES, WIDTH))
    model.enc = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    model.register_buffer("mask", torch.ones(PLACES, PLACES).tril())
    return model


def annotated() -> nn.Module:
    """The Annotated Transformer: four projections in a list, norms `a_2` and `b_2`."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        projections = {}
        for j in range(4):
            projections |= linear(f"{p}self_attn.linears.{j}", WIDTH, WIDTH)
        return {
            **projections,
            **linear(f"{p}feed_forward.w_1", WIDTH, INNER),
            **linear(f"{p}feed_forward.w_2", INNER, WIDTH),
            **norm(f"{p}sublayer.0.norm", "a_2", "b_2"),
            **norm(f"{p}sublayer.1.norm", "a_2", "b_2"),
        }

    return tree(
        block, "encoder.layers.{i}.", {"lut.weight": (VOCAB, WIDTH), "pe.weight": (PLACES, WIDTH)}
    )


def bert() -> nn.Module:
    """BERT's names: a norm inside of what it follows."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        return {
            **linear(f"{p}attention.self.query", WIDTH, WIDTH),
            **linear(f"{p}attention.self.key", WIDTH, WIDTH),
            **linear(f"{p}attention.self.value", WIDTH, WIDTH),
            **linear(f"{p}attention.output.dense", WIDTH, WIDTH),
            **norm(f"{p}attention.output.LayerNorm", "gamma", "beta"),
            **linear(f"{p}intermediate.dense", WIDTH, INNER),
            **linear(f"{p}output.dense", INNER, WIDTH),
            **norm(f"{p}output.LayerNorm", "gamma", "beta"),
        }

    return tree(block, "bert.encoder.layer.{i}.")


def lucid() -> nn.Module:
    """Query apart from key and value, in nested lists, without some biases."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        return {
            **norm(f"{p}0.norm"),
            **linear(f"{p}0.fn.to_q", WIDTH, WIDTH, bias=False),
            **linear(f"{p}0.fn.to_kv", WIDTH, 2 * WIDTH, bias=False),
            **linear(f"{p}0.fn.to_out.0", WIDTH, WIDTH),
            **norm(f"{p}1.norm"),
            **linear(f"{p}1.fn.net.0", WIDTH, INNER),
            **linear(f"{p}1.fn.net.3", INNER, WIDTH),
        }

    return tree(block, "transformer.layers.{i}.")


def flax() -> nn.Module:
    """Kernels `[in head out]`, as Flax has them, with blocks named in words."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        each: dict[str, tuple[int, ...]] = {}
        for role in ("query", "key", "value"):
            each |= {
                f"{p}attn.{role}.kernel": (WIDTH, HEADS, D),
                f"{p}attn.{role}.bias": (HEADS, D),
            }
        return {
            **norm(f"{p}ln_0", "scale", "bias"),
            **each,
            f"{p}attn.out.kernel": (HEADS, D, WIDTH),
            f"{p}attn.out.bias": (WIDTH,),
            **norm(f"{p}ln_1", "scale", "bias"),
            f"{p}up.kernel": (WIDTH, INNER),
            f"{p}up.bias": (INNER,),
            f"{p}down.kernel": (INNER, WIDTH),
            f"{p}down.bias": (WIDTH,),
        }

    tables = {"embedding": (VOCAB + PLACES, WIDTH)}
    return Tree(tables | block("first.") | block("second."))


def lists() -> nn.Module:
    """A list for each kind of tensor, on the model itself."""
    model = nn.Module()
    shapes: dict[str, tuple[int, ...]] = {
        "w_qkv": (WIDTH, 3 * WIDTH),
        "b_qkv": (3 * WIDTH,),
        "w_o": (WIDTH, WIDTH),
        "b_o": (WIDTH,),
        "ln1_g": (WIDTH,),
        "ln1_b": (WIDTH,),
        "w1": (WIDTH, INNER),
        "b1": (INNER,),
        "w2": (INNER, WIDTH),
        "b2": (WIDTH,),
        "ln2_g": (WIDTH,),
        "ln2_b": (WIDTH,),
    }
    model.wte, model.wpe = (nn.Parameter(torch.randn(n, WIDTH)) for n in (VOCAB, PLACES))
    for name, shape in shapes.items():
        values = [nn.Parameter(torch.randn(shape)) for _ in range(LAYERS)]
        model.register_module(name, nn.ParameterList(values))
    return model


def flat() -> nn.Module:
    """One list of everything, in GPT-1's order."""
    return nn.ParameterList([nn.Parameter(torch.randn(p.shape)) for p in GPT(CONFIG).parameters()])


def huggingface() -> nn.Module:
    return OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=VOCAB, n_positions=PLACES, n_embd=WIDTH, n_layer=2, n_head=HEADS)
    )


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_positions=PLACES, n_embd=WIDTH, n_layer=2, n_head=HEADS)
    )


def ours() -> nn.Module:
    return GPT(CONFIG)


def packed() -> nn.Module:
    """Convolutions of width one, stacks of three, and a Sequential of everything."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        return {
            f"{p}attn.qkv.weight": (3 * WIDTH, WIDTH, 1),
            f"{p}attn.qkv.bias": (3 * WIDTH,),
            f"{p}attn.out.weight": (WIDTH, WIDTH, 1),
            f"{p}attn.out.bias": (WIDTH,),
            f"{p}mlp.expand.weight": (INNER, WIDTH, 1),
            f"{p}mlp.expand.bias": (INNER,),
            f"{p}mlp.contract.weight": (WIDTH, INNER, 1),
            f"{p}mlp.contract.bias": (WIDTH,),
            **norm(f"{p}norms.0"),
            **norm(f"{p}norms.1"),
        }

    tables = {"net.0.tok.weight": (VOCAB, WIDTH), "net.0.pos.weight": (PLACES, WIDTH)}
    shapes = tables | block("net.1.") | block("net.2.") | {"net.3.weight": (VOCAB, WIDTH)}
    return Tree(shapes)


Q, K, V = f"{ATTN}.weight[:, :12]", f"{ATTN}.weight[:, 12:24]", f"{ATTN}.weight[:, 24:36]"
MODELS: dict[Callable[[], nn.Module], dict[str, str]] = {
    ours: {"h.1.attn.c_attn.weight": f"{ATTN}.weight", "h.1.ln_2.bias": "h.1.ln_2.bias"},
    huggingface: {
        "transformer.h.1.attn.c_proj.weight": f"{OUT}.weight",
        "transformer.h.1.mlp.c_proj.weight": f"{PROJ}.weight",
    },
    gpt2: {
        "transformer.h.1.attn.c_proj.weight": f"{OUT}.weight",
        "transformer.ln_f.weight": "1",
        "transformer.ln_f.bias": "0",
    },
    nano: {
        "transformer.wte.weight": "pad(tokens_embed.weight, 27)",
        "transformer.h.1.attn.c_attn.weight": f"{ATTN}.weight.T",
        "transformer.h.1.attn.c_proj.weight": f"{OUT}.weight.T",
        "transformer.h.1.mlp.c_proj.weight": f"{PROJ}.weight.T",
        "transformer.h.1.mlp.c_proj.bias": f"{PROJ}.bias",
        "transformer.h.1.ln_2.weight": "h.1.ln_2.weight",
        "lm_head.weight": "pad(tokens_embed.weight, 27)",
        "lm_head.bias": "0",
        "transformer.ln_f.bias": "0",
    },
    llama: {
        "pos_emb": "positions_embed.weight[:11]",
        "layers.1.attention_norm.weight": "h.1.ln_1.weight",
        "layers.1.ffn_norm.bias": "h.1.ln_2.bias",
        "layers.1.attention.wq.weight": f"{Q}.T",
        "layers.1.attention.wv.weight": f"{V}.T",
        "layers.1.attention.wk.bias": f"{ATTN}.bias[12:24]",
        "layers.1.attention.wo.weight": f"{OUT}.weight.T",
        "layers.1.attention.wo.bias": f"{OUT}.bias",
        "layers.1.feed_forward.w1.weight": f"{FC}.weight.T",
        "layers.1.feed_forward.w2.bias": f"{PROJ}.bias",
    },
    heads: {
        "blocks.1.sa.heads.1.query.weight": f"{ATTN}.weight[:, :4].T",
        "blocks.1.sa.heads.2.value.weight": f"{ATTN}.weight[:, 28:32].T",
        "blocks.1.sa.heads.3.key.bias": f"{ATTN}.bias[20:24]",
        "blocks.1.sa.proj.weight": f"{OUT}.weight.T",
        "blocks.1.ffwd.net.0.bias": f"{FC}.bias",
        "blocks.1.ffwd.net.2.weight": f"{PROJ}.weight.T",
        "blocks.1.ln1.bias": "h.1.ln_1.bias",
    },
    lens: {
        "unembed.W_U": "tokens_embed.weight.T",
        "unembed.b_U": "0",
        "blocks.1.attn.W_K": (
            f"cat({ATTN}.weight[:, 12:16], {ATTN}.weight[:, 16:20], {ATTN}.weight[:, 20:24])"
        ),
        "blocks.1.attn.b_V": f"{ATTN}.bias[24:36]",
        "blocks.1.attn.W_O": f"{OUT}.weight",
        "blocks.1.mlp.W_in": f"{FC}.weight",
        "blocks.1.mlp.b_out": f"{PROJ}.bias",
        "blocks.1.ln2.w": "h.1.ln_2.weight",
    },
    torch_layers: {
        "enc.layers.1.self_attn.in_proj_weight": f"{ATTN}.weight.T",
        "enc.layers.1.self_attn.in_proj_bias": f"{ATTN}.bias",
        "enc.layers.1.self_attn.out_proj.weight": f"{OUT}.weight.T",
        "enc.layers.1.linear2.weight": f"{PROJ}.weight.T",
        "enc.layers.1.norm1.weight": "h.1.ln_1.weight",
    },
    annotated: {
        "encoder.layers.1.self_attn.linears.1.weight": f"{K}.T",
        "encoder.layers.1.self_attn.linears.3.weight": f"{OUT}.weight.T",
        "encoder.layers.1.self_attn.linears.3.bias": f"{OUT}.bias",
        "encoder.layers.1.sublayer.1.norm.a_2": "h.1.ln_2.weight",
        "encoder.layers.1.sublayer.1.norm.b_2": "h.1.ln_2.bias",
    },
    bert: {
        "bert.encoder.layer.1.attention.output.dense.weight": f"{OUT}.weight.T",
        "bert.encoder.layer.1.output.dense.weight": f"{PROJ}.weight.T",
        "bert.encoder.layer.1.attention.output.LayerNorm.beta": "h.1.ln_1.bias",
        "bert.encoder.layer.1.output.LayerNorm.gamma": "h.1.ln_2.weight",
    },
    lucid: {
        "transformer.layers.1.0.fn.to_q.weight": f"{Q}.T",
        "transformer.layers.1.0.fn.to_kv.weight": f"{ATTN}.weight[:, 12:36].T",
        "transformer.layers.1.0.fn.to_out.0.weight": f"{OUT}.weight.T",
        "transformer.layers.1.1.fn.net.3.weight": f"{PROJ}.weight.T",
        "transformer.layers.1.1.norm.weight": "h.1.ln_2.weight",
    },
    flax: {
        "embedding": "cat(tokens_embed.weight, positions_embed.weight)",
        "second.attn.query.kernel": Q,
        "second.attn.key.bias": f"{ATTN}.bias[12:24]",
        "second.attn.out.kernel": f"{OUT}.weight",
        "second.down.kernel": f"{PROJ}.weight",
        "second.ln_0.scale": "h.1.ln_1.weight",
    },
    lists: {
        "w_qkv.1": f"{ATTN}.weight",
        "w_o.1": f"{OUT}.weight",
        "w2.1": f"{PROJ}.weight",
        "b1.1": f"{FC}.bias",
        "ln1_b.1": "h.1.ln_1.bias",
    },
    flat: {
        "14": f"{ATTN}.weight",
        "15": f"{ATTN}.bias",
        "18": "h.1.ln_1.weight",
        "21": f"{FC}.bias",
        "25": "h.1.ln_2.bias",
    },
    packed: {
        "net.2.attn.qkv.weight": f"{ATTN}.weight.T",
        "net.2.attn.out.weight": f"{OUT}.weight.T",
        "net.2.mlp.contract.bias": f"{PROJ}.bias",
        "net.2.norms.1.weight": "h.1.ln_2.weight",
        "net.3.weight": "tokens_embed.weight",
    },
}
EXTRA = {"lm_head.bias", "unembed.b_U", "transformer.ln_f.weight", "transformer.ln_f.bias"}
"""What GPT-1 does not have."""


def proposed(model: nn.Module, reference: dict[str, Tensor]) -> Proposal:
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    # A constant of transformers 4.
    kept = {name: tensor for name, tensor in named.items() if not name.endswith("masked_bias")}
    return propose(kept, reference, HEADS)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_every_parameter_gets_its_weights(
    make: Callable[[], nn.Module], reference: dict[str, Tensor]
) -> None:
    model = make().double()
    proposal = proposed(model, reference)
    assert proposal.ambiguous == {}
    found = dict(line.split(" = ") for line in proposal.lines())
    parameters = dict(model.named_parameters())
    assert {name: found[name] for name in MODELS[make]} == MODELS[make]
    assert list(found) == list(parameters)
    left = {"h.0.attn.c_attn.bias", "h.1.attn.c_attn.bias"} if make is lucid else set()
    assert set(proposal.unused()) == left
    identities = {name: id(parameter) for name, parameter in parameters.items()}
    apply(proposal, model)
    assert {n: id(p) for n, p in model.named_parameters()} == identities
    assert {p.dtype for p in parameters.values()} == {torch.float64}
    matches = match_parameters(parameters, reference)
    assert {match.name for match in matches if not match.parts} == EXTRA & set(found)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_lines_are_read_back(
    make: Callable[[], nn.Module], reference: dict[str, Tensor], tmp_path: Path
) -> None:
    proposal = proposed(make(), reference)
    file = tmp_path / "map.txt"
    file.write_text("# a comment\n\n" + "  # behind\n".join(proposal.lines()), encoding="utf-8")
    assert read_map_file(file).mapping == proposal.mapping


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_lines_convert_a_file_of_the_model_back(
    make: Callable[[], nn.Module], reference: dict[str, Tensor], tmp_path: Path
) -> None:
    """To the bit, if the model has all of our tensors; else they are listed."""
    model = make()
    proposal = proposed(model, reference)
    apply(proposal, model)
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(state, tmp_path / "model.safetensors")
    sizes = [f"{name} = {getattr(CONFIG, name)}" for name in ("n_head", "n_positions", "n_embd")]
    lines = [*sizes, f"vocab_size = {CONFIG.vocab_size}", *proposal.lines()]
    (tmp_path / "map").write_text("\n".join(lines), encoding="utf-8")
    file = read_map_file(tmp_path / "map")
    if make in (lucid, llama):
        with pytest.raises(UsageError, match=r"of our tensors are not given: \w") as caught:
            read_mapped(file, {}, str(tmp_path / "model.safetensors"))
        partly = "h.0.attn.c_attn.bias, h" if make is lucid else "(96 of 228 numbers)"
        assert partly in caught.value.what
        return
    weights = read_mapped(file, {}, str(tmp_path / "model.safetensors"))
    found = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    assert found.keys() == reference.keys()
    assert all(torch.equal(found[name], reference[name]) for name in found)


def raw() -> nn.Module:
    """Square matrices beside `nn.Linear`, whose orientation neither names nor shapes show."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        return {
            **{f"{p}attn.{name}": (WIDTH, WIDTH) for name in ("Wq", "Wk", "Wv", "Wo")},
            **linear(f"{p}fc1", WIDTH, INNER),
            **linear(f"{p}fc2", INNER, WIDTH),
            **norm(f"{p}ln1"),
            **norm(f"{p}ln2"),
        }

    return tree(block)


def gated() -> nn.Module:
    """An MLP of three matrices, which GPT-1 does not have, and a third norm."""

    def block(p: str) -> dict[str, tuple[int, ...]]:
        return {
            **linear(f"{p}attn.qkv", WIDTH, 3 * WIDTH),
            **linear(f"{p}attn.proj", WIDTH, WIDTH),
            **linear(f"{p}mlp.gate", WIDTH, INNER),
            **linear(f"{p}mlp.up", WIDTH, INNER),
            **linear(f"{p}mlp.down", INNER, WIDTH),
            **norm(f"{p}norm1"),
            **norm(f"{p}norm2"),
            **norm(f"{p}norm3"),
        }

    return tree(block)


def test_what_shapes_cannot_decide_is_listed_with_the_choices(reference: dict[str, Tensor]) -> None:
    model = raw()
    proposal = proposed(model, reference)
    names = [f"blocks.{i}.attn.W{role}" for i in range(LAYERS) for role in "qkvo"]
    assert sorted(proposal.ambiguous) == sorted(names)
    assert [str(one) for one in proposal.ambiguous["blocks.1.attn.Wq"]] == [Q, f"{Q}.T"]
    with pytest.raises(UsageError, match="do not decide") as caught:
        apply(proposal, model)
    assert "blocks.0.attn.Wk = h.0.attn.c_attn.weight[:, 12:24] or h.0." in caught.value.where
    assert caught.value.where.endswith("and 2 more")
    assert "--map FILE" in caught.value.fix


def test_given_lines_come_first(reference: dict[str, Tensor], tmp_path: Path) -> None:
    model, file = raw(), tmp_path / "map.txt"
    lines = [
        "blocks.{i}.attn.Wq = h.{i}.attn.c_attn.weight[:, :12]",
        "blocks.{i}.attn.Wk = h.{i}.attn.c_attn.weight[:, 12:24]",
        "blocks.{i}.attn.Wv = h.{i}.attn.c_attn.weight[:, 24:]",
        "blocks.{i}.attn.Wo = h.{i}.attn.c_proj.weight",
        "blocks.1.fc1.bias = 0",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    proposal = proposed(model, reference).overridden(read_map_file(file).mapping)
    apply(proposal, model)
    assert f"blocks.1.attn.Wv = {ATTN}.weight[:, 24:]" in proposal.lines()
    found = dict(model.named_parameters())
    assert torch.equal(found["blocks.1.attn.Wk"], reference[f"{ATTN}.weight"][:, 12:24])
    assert torch.equal(found["blocks.0.fc1.weight"], reference["h.0.mlp.c_fc.weight"].T)
    assert not found["blocks.1.fc1.bias"].any()
    assert proposal.unused() == [
        "h.0.attn.c_attn.bias",
        "h.0.attn.c_proj.bias",
        f"{ATTN}.bias",
        f"{OUT}.bias",
        f"{FC}.bias",
    ]


def test_another_architecture_is_not_guessed(reference: dict[str, Tensor]) -> None:
    proposal = proposed(gated(), reference)
    left = {name.removeprefix("blocks.1.") for name in proposal.ambiguous}
    assert {"mlp.gate.weight", "mlp.up.bias", "mlp.down.weight", "norm3.weight"} <= left
    assert "attn.qkv.weight" not in left


def test_another_number_of_blocks_is_not_guessed(reference: dict[str, Tensor]) -> None:
    fewer = {name: tensor for name, tensor in reference.items() if not name.startswith("h.1.")}
    assert proposed(bert(), fewer).ambiguous.keys() >= {
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.1.output.dense.weight",
    }


def test_masks_and_integers_are_no_weights(reference: dict[str, Tensor]) -> None:
    state = {
        "mask": torch.ones(1, 1, PLACES, PLACES).tril(),
        "additive": torch.full((PLACES, PLACES), -torch.inf).triu(1),
        "hidden": torch.ones(PLACES, PLACES).triu(1),
        "steps": torch.arange(PLACES),
        "visible": torch.ones(PLACES, PLACES, dtype=torch.bool),
        "blocks.0.norm1.weight": torch.ones(WIDTH),
        "blocks.1.norm1.weight": torch.zeros(WIDTH),
    }
    proposal = propose(state, reference, HEADS)
    assert set(proposal.mapping) | set(proposal.ambiguous) == {
        "blocks.0.norm1.weight",
        "blocks.1.norm1.weight",
    }


WRONG_LINES = {
    "no equals sign": "tok.weight tokens_embed.weight",
    "no parameter": " = tokens_embed.weight",
    "nothing": "tok.weight = ",
    "an index": "tok.weight = tokens_embed.weight[3]",
    "two cuts": "tok.weight = tokens_embed.weight[:3, :4]",
    "code": "tok.weight = __import__('os').remove('x')",
    "arithmetic": "tok.weight = tokens_embed.weight + 1",
    "turned twice": "tok.weight = tokens_embed.weight.T.T",
    "an open bracket": "tok.weight = cat(tokens_embed.weight, positions_embed.weight",
    "an empty one": "tok.weight = cat()",
    "no count": "tok.weight = pad(tokens_embed.weight)",
    "a nested cat": "tok.weight = cat(cat(tokens_embed.weight), positions_embed.weight)",
    "again": "pos.weight = positions_embed.weight",
}


@pytest.mark.parametrize("case", WRONG_LINES)
def test_a_line_of_another_form_is_a_usage_error(case: str, tmp_path: Path) -> None:
    file = tmp_path / "map.txt"
    text = f"# first\npos.weight = positions_embed.weight\n\n{WRONG_LINES[case]}  # why\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_map_file(file)
    assert caught.value.where == f"--map {file}, line 4"
    assert ("again" in caught.value.what) == (case == "again")
    assert WRONG_LINES[case].strip() in caught.value.what


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ParityError):
        read_map_file(tmp_path / "none.txt")


def test_a_file_that_is_not_utf_8_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "map.txt"
    file.write_bytes("pos.weight = positions_embed.weight  # für alle\n".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8") as caught:
        read_map_file(file)
    assert caught.value.where == f"--map {file}"


UNFIT = {
    "tok.weight = tokens.weight": "there is no tensor",
    "none.weight = tokens_embed.weight": "the model has no parameter",
    "tok.weight = positions_embed.weight": "shape",
    "tok.weight = tokens_embed.weight[5:38]": "the axis has 37",
    "tok.weight = tokens_embed.weight[9:9]": "the axis has 37",
    "tok.weight = h.0.ln_1.bias[:, 3:]": "has shape [12]",
    "blocks.0.norm1.bias = h.0.ln_1.bias.T": "has shape [12]",
    "tok.weight = cat(tokens_embed.weight, h.0.mlp.c_fc.weight)": "cat joins",
    "tok.weight = pad(tokens_embed.weight, 1)": "shape",
}


@pytest.mark.parametrize("line", UNFIT)
def test_a_line_that_does_not_fit_is_a_usage_error(line: str, reference: dict[str, Tensor]) -> None:
    model = tree(lambda p: norm(f"{p}norm1"))
    name, _, right = line.partition(" = ")
    expression = parse_expression(right)
    assert isinstance(expression, Expression)
    with pytest.raises(UsageError) as caught:
        apply(Proposal(mapping={name: expression}, reference=reference), model)
    assert UNFIT[line] in caught.value.what
    assert caught.value.where == line


def test_pad_adds_rows_of_zeros_before_it_is_turned(reference: dict[str, Tensor]) -> None:
    table = reference["tokens_embed.weight"]
    expression = parse_expression("pad(cat(tokens_embed.weight, positions_embed.weight), 7).T")
    assert expression is not None
    found = expression.tensor(reference, (WIDTH, VOCAB + PLACES + 7))
    assert torch.equal(found[:, :VOCAB], table.T)
    assert torch.equal(found[:, VOCAB:-7], reference["positions_embed.weight"].T)
    assert not found[:, -7:].any()


@pytest.mark.parametrize("make", [m for m in MODELS if m is not flat], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("vocab", "places"), [(48, 19), (36, 19), (24, 19), (37, 48), (37, 36), (37, 24), (37, 12)]
)
def test_a_table_is_no_matrix_of_a_block_of_the_same_shape(
    make: Callable[[], nn.Module], vocab: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a matrix a table: as long as one, two, three or four times the width."""
    config = dataclasses.replace(CONFIG, vocab_size=vocab, n_positions=places)
    for name, value in {"VOCAB": vocab, "PLACES": places, "CONFIG": config}.items():
        monkeypatch.setitem(globals(), name, value)
    proposal = proposed(make(), dict(GPT(config).named_parameters()))
    assert proposal.ambiguous == {}
    for name, text in MODELS[make].items():
        expected = parse_expression(text)
        assert expected is not None
        assert proposal.mapping[name].sources == expected.sources


def test_a_plain_list_of_such_sizes_is_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, vocab_size=48)
    monkeypatch.setitem(globals(), "CONFIG", config)
    assert proposed(flat(), dict(GPT(config).named_parameters())).ambiguous


def test_equal_tables_without_a_word_in_their_names_are_ambiguous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(CONFIG, n_positions=VOCAB)
    monkeypatch.setitem(globals(), "PLACES", VOCAB)
    proposal = proposed(annotated(), dict(GPT(config).named_parameters()))
    assert [str(one) for one in proposal.ambiguous["lut.weight"]] == [
        "tokens_embed.weight",
        "positions_embed.weight",
    ]


# Every part of a line, and every field of an error.


A, B = Source("a.b"), Source("c_1")
PARSED = {
    "0": Expression(),
    "1": Expression(constant=1),
    "a.b": Expression((A,)),
    "a.b.T": Expression((Source("a.b", turned=True),)),
    "a.b[3:]": Expression((Source("a.b", 0, 3, None),)),
    "a.b[:, :12].T": Expression((Source("a.b", 1, None, 12, turned=True),)),
    "a.b[:, 7:12]": Expression((Source("a.b", 1, 7, 12),)),
    "cat(a.b, c_1)": Expression((A, B)),
    "cat(a.b[:, 1:2], c_1.T).T": Expression(
        (Source("a.b", 1, 1, 2), Source("c_1", turned=True)), turned=True
    ),
    "pad(a.b, 7)": Expression((A,), 7),
    "pad(a.b.T, 7).T": Expression((Source("a.b", turned=True),), 7, turned=True),
    "pad(cat(a.b, c_1), 123456789).T": Expression((A, B), 123_456_789, turned=True),
    "h.{i}.x": Expression((Source("h.{i}.x"),)),
}


@pytest.mark.parametrize("text", PARSED)
def test_an_expression_is_read_and_written_the_same(text: str) -> None:
    assert parse_expression(text) == PARSED[text]
    assert parse_expression(text.replace(", ", " ,\t")) == PARSED[text]
    assert str(PARSED[text]) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "a.", ".a", "a.b[3]", "a.b[]", "a.b.T.T", "cat(a.b).T.T", "pad(a.b)"),
        *("pad(a.b,)", "pad(a.b, 1234567890)", "pad(a.b, -1)", "a.b, 7)", "cat(a.b,)", "a-b"),
    ],
)
def test_other_texts_are_no_expressions(text: str) -> None:
    assert parse_expression(text) is None


def test_a_file_has_tensors_buffers_and_numbers(tmp_path: Path) -> None:
    lines = [
        "n_head = 12",
        "resid_pdrop = 0.25",
        "layer_norm_epsilon = 1e-5",
        "blocks.{i}.bias = mask#1  # the causal mask",
        "blocks.{i}.bias = mask",
        "lm_head.bias = ignore",
        "\t ln.weight   =  h.{i}.ln_1.weight  ",
    ]
    path = tmp_path / "map.txt"
    path.write_text("\n".join([*lines[:3], *lines[4:]]), encoding="utf-8")
    found = read_map_file(str(path))
    assert found.path == str(path)
    assert found.config == {"n_head": 12, "resid_pdrop": 0.25, "layer_norm_epsilon": 1e-5}
    assert [type(number) for number in found.config.values()] == [int, float, float]
    assert found.others == {"blocks.{i}.bias": "mask", "lm_head.bias": "ignore"}
    assert found.mapping == {"ln.weight": Expression((Source("h.{i}.ln_1.weight"),))}
    assert list(found.places.values()) == [1, 2, 3, 4, 5, 6]
    assert found.where("lm_head.bias") == f"--map {path}, line 5: lm_head.bias = ignore"
    assert found.where("ln.weight") == f"--map {path}, line 6: ln.weight = h.{{i}}.ln_1.weight"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UsageError, match="it is no such line") as caught:
        read_map_file(path)
    assert caught.value.where == f"--map {path}, line 4"
    assert caught.value.fix == (
        "write PARAMETER = h.0.attn.c_attn.weight[:, :768].T, cat(A, B), pad(A, 7), 0 or 1; one "
        "line for each parameter"
    )


@pytest.mark.parametrize("value", ["x", "-1", "1.", "1e", "mask", "a.b"])
def test_a_field_of_the_config_is_a_number(value: str, tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text(f"n_head = {value}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^the value is no number: ") as caught:
        read_map_file(path)
    assert f"n_head = {value}" in caught.value.what


def test_a_part_of_a_source_counts_from_where_that_starts() -> None:
    assert Source("a").part(0, 4, 1) == Source("a", 1, None, 4)
    assert Source("a").part(2, 4, 0) == Source("a", 0, 2, 4)
    assert Source("a", 1, 12, 24).part(0, 4, 1) == Source("a", 1, 12, 16)
    assert Source("a", 1, 12, 24).part(4, 8, 1) == Source("a", 1, 16, 20)


def test_only_a_whole_c_attn_packs_attention() -> None:
    for text, packs in (
        ("h.1.attn.c_attn.weight", True),
        ("h.1.attn.c_attn.weight.T", True),
        ("cat(h.0.ln_1.bias, h.1.attn.c_attn.weight)", True),
        ("h.1.attn.c_attn.weight[:, :12]", False),
        ("h.1.attn.c_attn.bias", False),
        ("h.1.attn.c_attn.weights", False),
        ("h.1.attn.xc_attn.weight", False),
        ("0", False),
    ):
        expression = parse_expression(text)
        assert expression is not None
        assert expression.packs_attention() is packs


def test_blocks_are_counted_in_the_names_of_the_reference() -> None:
    assert blocks_of(["h.10.a", "h.2.b", "h.2.c", "x.h.3.a", "h.4", "h.x.a"]) == [2, 10]
    given = {"b.{i}.w": Expression((Source("h.{i}.w"), B), 3), "n": Expression((A,))}
    assert of_every_block(given, 2) == {
        "b.0.w": Expression((Source("h.0.w"), B), 3),
        "b.1.w": Expression((Source("h.1.w"), B), 3),
        "n": Expression((A,)),
    }


CORRECT = "correct the line in the file of --map; parity/core/mapping.py has the form"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a.b", "there is no tensor 'a.b'"),
        ("h.0.ln_1.bias[:, 3:]", "h.0.ln_1.bias has shape [12]"),
        ("h.0.ln_1.bias.T", "h.0.ln_1.bias has shape [12]"),
        ("tokens_embed.weight[5:38]", "tokens_embed.weight[5:38]: the axis has 37"),
        ("tokens_embed.weight[37:]", "tokens_embed.weight[37:]: the axis has 37"),
        ("cat(h.0.ln_1.bias, h.0.mlp.c_fc.weight)", "cat joins shapes [12], [12, 48]"),
        ("pad(tokens_embed.weight, 1)", "it has shape [38, 12], the parameter [37, 12]"),
    ],
)
def test_a_line_that_does_not_fit_says_how_it_is_corrected(
    text: str, what: str, reference: dict[str, Tensor]
) -> None:
    model, expression = tree(lambda p: norm(f"{p}norm1")), parse_expression(text)
    assert expression is not None
    with pytest.raises(UsageError) as caught:
        apply(Proposal(mapping={"tok.weight": expression}, reference=reference), model)
    error = caught.value
    assert (error.what, error.where, error.fix) == (what, f"tok.weight = {text}", CORRECT)
    with pytest.raises(UsageError) as caught:
        apply(Proposal(mapping={"none": expression}, reference=reference), model)
    few = "tok.weight, pos.weight, blocks.0.norm1.weight, ..."
    assert caught.value.what == f"the model has no parameter 'none'; it has {few}"
    assert (caught.value.where, caught.value.fix) == (f"none = {text}", CORRECT)


@pytest.mark.parametrize("count", [6, 7])
def test_of_many_undecided_parameters_six_are_listed(count: int) -> None:
    ambiguous = {f"p{i}": [Expression((A,)), Expression((B,))] * (i > 0) for i in range(count)}
    with pytest.raises(UsageError) as caught:
        apply(Proposal(mapping={}, reference={}, ambiguous=ambiguous), nn.Module())
    listed = "; ".join(["p0 = ?", *(f"p{i} = a.b or c_1" for i in range(1, 6))])
    assert caught.value.where == listed + "; and 1 more" * (count > 6)
    assert caught.value.what == (
        "names and shapes do not decide which weights these parameters hold"
    )
    assert caught.value.fix == (
        "write the right lines into a file and give --map FILE; or load the weights yourself, in a "
        "function build(config, weights)"
    )


def test_a_number_throughout_has_the_shape_of_its_parameter() -> None:
    for constant in (0, 1):
        found = Expression(constant=constant).tensor({}, (2, 3))
        assert found.tolist() == [[float(constant)] * 3] * 2
        assert found.dtype is torch.float32
