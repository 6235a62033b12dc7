"""Names that other programs give GPT-1's tensors: renamed, left out with a note, or rejected."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratch_gpt.checkpoint.names import EMBEDDING, POSITIONS, as_float32, find_tensors
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import CheckpointError
from scratch_gpt.model import GPT

CONFIG = GPTConfig(vocab_size=29, n_positions=11, n_embd=6, n_layer=2, n_head=2)
WANTED = {name: tuple(p.shape) for name, p in GPT(CONFIG).named_parameters()}
State = dict[str, Tensor]


def drawn(seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in WANTED.items()}


def renamed(rename: Callable[[str], str]) -> State:
    return {rename(name): tensor for name, tensor in drawn().items()}


def without(part: str) -> State:
    return {name: tensor for name, tensor in drawn().items() if part not in name}


def with_head(name: str, *, alone: bool = False) -> State:
    state = {f"transformer.{ours}": tensor for ours, tensor in drawn().items()}
    state[name] = state[f"transformer.{EMBEDDING}"].clone()
    if alone:
        del state[f"transformer.{EMBEDDING}"]
    return state


def first_port() -> State:
    """As huggingface/pytorch-openai-transformer-lm saves it."""
    state = drawn()
    joined = torch.cat([state.pop(EMBEDDING), state.pop(POSITIONS)])

    def old(name: str) -> str:
        module, _, kind = name.rpartition(".")
        return f"{module}.{'g' if kind == 'weight' and '.ln_' in name else kind[0]}"

    masks = {f"transformer.h.{i}.attn.b": torch.ones(1, 1, 11, 11).tril() for i in range(2)}
    state = {f"transformer.{old(name)}": tensor for name, tensor in state.items()}
    return {"transformer.embed.weight": joined, **state, **masks}


def gamma_beta(name: str) -> str:
    name = f"transformer.{name}"
    return name.replace("weight", "gamma").replace("bias", "beta") if ".ln_" in name else name


ACCEPTED: dict[str, tuple[State, list[str]]] = {
    "ours": (drawn(), []),
    "huggingface": (renamed("transformer.{}".format), []),
    "tied head": (with_head("lm_head.weight"), []),
    "mixed": (
        renamed(lambda name: name if "h.1." in name else f"transformer.{name}"),
        [],
    ),
    "twice": (
        renamed("transformer.transformer.{}".format),
        ["'transformer.' removed from 26 names"],
    ),
    "masks": (
        {**drawn(), "h.0.attn.bias": torch.ones(1, 1, 11, 11), "position_ids": torch.arange(11)},
        [],
    ),
    "head alone": (
        with_head("lm_head.weight", alone=True),
        ["lm_head.weight is the token embedding: the file has no other"],
    ),
    "decoder": (
        with_head("lm_head.decoder.weight"),
        ["lm_head.decoder.weight is a second name of tokens_embed.weight, equal to the bit"],
    ),
    "compiled and parallel": (
        renamed("module._orig_mod.transformer.{}".format),
        ["'module._orig_mod.' removed from 26 names"],
    ),
    "wrapped inside": (
        renamed(lambda name: f"transformer.{name.replace('attn.', 'attn._fsdp_wrapped_module.')}"),
        ["'_fsdp_wrapped_module.' removed from 8 names"],
    ),
    "lightning": (
        renamed("model.transformer.{}".format),
        ["'model.' removed from 26 names"],
    ),
    "gamma and beta": (renamed(gamma_beta), ["beta is bias, gamma is weight"]),
    "first port": (
        first_port(),
        [
            "b is bias, g is weight, w is weight",
            "embed.weight is both embeddings: 29 rows of tokens, then positions",
        ],
    ),
    "double heads": (
        {**drawn(), "multiple_choice_head.summary.weight": torch.ones(1, 6)},
        ["'multiple_choice_head.summary.weight': another head, not checked"],
    ),
    "classifier": (
        {**drawn(), "score.weight": torch.ones(2, 6)},
        ["'score.weight': another head, not checked"],
    ),
    "third block": (
        {**drawn(), "h.2.ln_1.weight": torch.ones(6)},
        ["'h.2.ln_1.weight': beyond the config's n_layer, not checked"],
    ),
    "other": (
        {**drawn(), "teacher.x\n": torch.ones(2)},
        [r"'teacher.x\n': not part of the model, not checked"],
    ),
    "saved twice": (
        {**drawn(), **renamed("transformer.{}".format)},
        [f"'transformer.{name}' repeats '{name}'" for name in WANTED],
    ),
    "beside another model": (
        {**drawn(), **{f"ema.{name}": tensor for name, tensor in drawn(2).items()}},
        [", ".join(f"'ema.{name}'" for name in list(WANTED)[:12]) + " and 14 more: not part of "
         "the model, not checked"],
    ),
    **{
        f"beside a model without {absent}": (
            {**renamed("student.{}".format), **{f"t.{n}": t for n, t in without(absent).items()}},
            ["'student.' removed from 26 names",
             ", ".join([f"'t.{n}'" for n in WANTED if n != absent][:12]) + " and 13 more: not part "
             "of the model, not checked"],
        )
        for absent in (EMBEDDING, POSITIONS)
    },
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_each_way_to_name_them_gives_the_same_tensors(case: str) -> None:
    state, notes = ACCEPTED[case]
    found = find_tensors(state, WANTED, where="a file")
    assert sorted(found.notes) == sorted(notes)
    assert list(found.tensors) == list(WANTED)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in drawn().items())


@pytest.mark.parametrize("case", ACCEPTED)
def test_strict_accepts_only_what_needs_no_note(case: str) -> None:
    state, notes = ACCEPTED[case]
    if not notes:
        find_tensors(state, WANTED, where="a file", strict=True)
        return
    with pytest.raises(CheckpointError, match="strict"):
        find_tensors(state, WANTED, where="a file", strict=True)


def turned() -> State:
    state = drawn()
    return {n: t.T if t.ndim == 2 and "embed" not in n else t for n, t in state.items()}


def widened(name: str) -> State:
    state = drawn()
    state[name] = torch.cat([state[name], state[name][:1]])
    return state


REJECTED: dict[str, tuple[State, str, str]] = {
    "missing": (without("h.1.mlp.c_fc.bias"), "1 missing: 'h.1.mlp.c_fc.bias'", "config.json"),
    "no positions": (without(POSITIONS), "1 missing: 'positions_embed.weight'", "config.json"),
    "one block": (without("h.1."), "12 missing", "the file has 1 blocks: check n_layer"),
    "no block": (without("h."), "24 missing", "check that the file and its config.json belong"),
    "empty": ({}, "none of the 26 tensors is there; it has 0: none at all", "config.json"),
    "head differs": (
        {**drawn(), "lm_head.weight": drawn(2)[EMBEDDING]},
        "lm_head.weight differs from tokens_embed.weight",
        "",
    ),
    "two values": (
        {**drawn(), **{f"transformer.{n}": t for n, t in drawn(2).items()}},
        "'h.0.ln_1.bias' and 'transformer.h.0.ln_1.bias' are both h.0.ln_1.bias",
        "",
    ),
    "two models": (
        {f"{m}.{n}": t for m in ("student", "teacher") for n, t in drawn().items()},
        "2 models: 'student.', 'teacher.'",
        "save the one that you mean alone",
    ),
    "linear layout": (turned(), "6 of another shape", "transpose all matrices"),
    "one matrix transposed, one cut": (
        {**turned(), "h.1.mlp.c_fc.weight": drawn()["h.1.mlp.c_fc.weight"][:, :5]},
        "'h.1.mlp.c_fc.weight' is [6, 5], expected [6, 24]",
        "check that the file and its config.json belong together",
    ),
    "leading axis": (
        {n: t[None] if "c_fc.weight" in n else t for n, t in drawn().items()},
        "'h.0.mlp.c_fc.weight' is [1, 6, 24], expected [6, 24]",
        "remove the first axis",
    ),
    "vocabulary": (widened(EMBEDDING), "is [30, 6], expected [29, 6]", "the table has 30 rows"),
    "positions": (widened(POSITIONS), "is [12, 6], expected [11, 6]", "the table has 12 rows"),
    "gpt-2": (
        {"wte.weight": torch.ones(29, 6), "h.0.ln_1.weight": torch.ones(6)},
        "missing",
        "names of GPT-2",
    ),
    "gpt-2 alone": (
        {"wte.weight": torch.randn(29, 6), "ln_f.bias": torch.randn(6)},
        "none of the 26 tensors is there; it has 2: 'wte.weight', 'ln_f.bias'",
        "names of GPT-2",
    ),
    "adapter": (
        {f"base_model.model.{n.replace('c_attn', 'c_attn.base_layer')}": t
         for n, t in drawn().items()},
        "missing",
        "merge the adapter first",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_what_cannot_be_a_model_is_rejected_with_a_way_on(case: str) -> None:
    state, what, fix = REJECTED[case]
    with pytest.raises(CheckpointError) as caught:
        find_tensors(state, WANTED, where="a file")
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: torch.where(t == 0, -t, t), id="a sign of zero"),
        pytest.param(lambda t: t.nextafter(torch.tensor(torch.inf)), id="a last bit"),
        pytest.param(lambda t: t[:-1], id="a row short"),
        pytest.param(lambda t: t.view(torch.int32), id="bits of another dtype"),
    ],
)
def test_a_head_of_its_own_is_rejected(change: Callable[[Tensor], Tensor]) -> None:
    state = drawn()
    state[EMBEDDING][0, 0] = 0.0
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from"):
        find_tensors({**state, "lm_head.weight": change(state[EMBEDDING])}, WANTED, where="a file")


@pytest.mark.parametrize("names", [(), ("lm_head.weight",)])
def test_an_untied_head_must_be_there_and_equal_the_embedding(names: tuple[str, ...]) -> None:
    state = drawn() | {name: drawn()[EMBEDDING] for name in names}
    if names:
        find_tensors(state, WANTED, where="a file", tied=False)
        return
    with pytest.raises(CheckpointError, match="tie_word_embeddings is false"):
        find_tensors(state, WANTED, where="a file", tied=False)


def test_all_problems_are_listed_at_once_and_a_long_list_is_cut() -> None:
    state = without("h.1.")
    state["h.0.attn.c_proj.weight"] = torch.ones(9)
    with pytest.raises(CheckpointError) as caught:
        find_tensors(state, WANTED, where="a file")
    assert caught.value.what.startswith("its tensors are not this model's: 12 missing: 'h.1.")
    assert "'h.0.attn.c_proj.weight' is [9], expected [6, 6]" in caught.value.what
    many = {f"extra.{index}": torch.ones(1) for index in range(1000)}
    (note,) = find_tensors({**drawn(), **many}, WANTED, where="a file").notes
    assert note.endswith("'extra.11' and 988 more: not part of the model, not checked")


@pytest.mark.parametrize(
    ("values", "dtype", "note"),
    [
        ([1.5, -2.0], torch.float32, ""),
        ([1.5, -2.0], torch.bfloat16, ""),
        ([1.5, 0.25], torch.float64, "float64, exact in float32"),
        ([1.5, 0.1], torch.float64, "float64, rounded to float32"),
        ([1, -7], torch.int8, "int8, exact in float32"),
        ([1, 2**24 + 1], torch.int64, "int64, rounded to float32"),
    ],
)
def test_other_dtypes_become_float32(values: list[float], dtype: torch.dtype, note: str) -> None:
    tensor = torch.tensor(values, dtype=dtype)
    widened, said = as_float32("a", tensor, "a file")
    assert said == note
    assert torch.equal(widened, tensor.to(torch.float32))


@pytest.mark.parametrize("values", [[1e300], [1j]])
def test_numbers_outside_float32_are_rejected(values: list[complex]) -> None:
    dtype = torch.complex64 if values == [1j] else torch.float64
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=f"'a' is {kind}, and float32 does not hold all"):
        as_float32("a", torch.tensor(values, dtype=dtype), "a file")
