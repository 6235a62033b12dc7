"""Gradients of models without taps: right ones in many styles, and wrong backward passes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.align import match_parameters
from parity.checkpoints.weights import Weights
from parity.checks.gradients.aligned import NO_TAPS, add_parts
from parity.checks.gradients.check import gradients
from parity.checks.gradients.taps import is_parameter, parameter_names
from parity.core import inputs
from parity.core.candidates import build_candidate
from parity.core.metrics import Status
from parity.core.results import Mode, Report
from parity.errors import ExitCode
from scratch_gpt import GPT

LAYERS = 12
STYLES = Path(__file__).parents[2] / "styles"
LONG = inputs.seeded(batch=2, time=37, vocab_size=211, seed=0).token_ids
IDS = inputs.seeded(batch=2, time=5, vocab_size=211, seed=0).token_ids
PLANNED = 1 + 12 * LAYERS + 2 + 15
"""The logits, all parameters, and the slopes."""

Edited = Callable[..., nn.Module]


@pytest.fixture
def edited(weights: Weights, tmp_path: Path) -> Edited:
    """Return the function that builds a style, some of its text replaced."""

    def build(style: str, *edits: tuple[str, str]) -> nn.Module:
        text = (STYLES / f"{style}.py").read_text(encoding="utf-8")
        for old, new in edits:
            assert text.count(old) == 1, f"{old!r} is in {style} {text.count(old)} times"
            text = text.replace(old, new)
        file = tmp_path / f"{style}.py"
        file.write_text(text, encoding="utf-8")
        return build_candidate(str(file), weights)

    return build


def facts_of(report: Report) -> dict[str, str]:
    (section,) = report.appendix
    return {name: fact for name, fact in section.rows}  # noqa: C416 - rows are sequences


@pytest.mark.parametrize(
    "style", ["linear_qkv", "einsum", "heads", "conv1d", "joined_table", "time_first"]
)
def test_a_right_style_passes(style: str, edited: Edited, theirs: OpenAIGPTLMHeadModel) -> None:
    """In `heads` the head is a copy of the token embedding: both gradients add up."""
    report = gradients(edited(style), theirs, LONG)
    assert [row for row in report.results if row.status is not Status.PASS] == []
    assert (report.exit_code, list(report.reasons)) == (ExitCode.PASS, [])
    assert report.plan.per_backend == {"candidate": (PLANNED, PLANNED)}
    compared = {(row.tap, row.mode) for row in report.results if is_parameter(row.tap)}
    modes = (Mode.FLOAT64, Mode.END_TO_END)
    assert compared == {(name, mode) for name in parameter_names(LAYERS) for mode in modes}
    left_out = {entry["tap"]: entry["reason"] for entry in report.plan.exempt}
    assert left_out.pop("loss") != NO_TAPS
    assert {NO_TAPS} == set(left_out.values())
    assert "h.3.mlp.gelu" in left_out


DOUBLED = (
    "class Attention(",
    """class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return 2 * gradient


class Attention(""",
)

ALL = frozenset(parameter_names(LAYERS))


def of_blocks(last: int) -> set[str]:
    """Return the parameters of the blocks up to one, and of the positions."""
    prefixes = tuple(f"h.{block}." for block in range(last + 1))
    return {name for name in ALL if name.startswith((*prefixes, "positions_embed"))}


def of_kind(*kinds: str) -> set[str]:
    return {f"h.{block}.{kind}" for block in range(LAYERS) for kind in kinds}


TOKENS = "tokens_embed.weight"
WRONG = {
    "a function's gradient is doubled": (
        "einsum",
        [DOUBLED, ("resid * self.w + self.b", "resid * Doubled.apply(self.w) + self.b")],
        of_kind("ln_1.weight", "ln_2.weight"),
        Status.FAIL,
        "",
    ),
    "the residual branch of attention is detached": (
        "linear_qkv",
        [("self.ln_attn(x + attn_out)", "self.ln_attn(x.detach() + attn_out)")],
        of_blocks(LAYERS - 2) | {TOKENS},
        Status.FAIL,
        "",
    ),
    "a matrix is detached": (
        "einsum",
        [("post, self.W_out)", "post, self.W_out.detach())")],
        of_kind("mlp.c_proj.weight"),
        Status.MISSING,
        "blocks.0.mlp.W_out",
    ),
    "the query's matrices are detached": (
        "einsum",
        [("resid, self.W_Q)", "resid, self.W_Q.detach())")],
        of_kind("attn.c_attn.weight"),
        Status.FAIL,
        "blocks.0.attn.W_Q",
    ),
    "the head uses .data": (
        "time_first",
        [("F.linear(x, self.embed_tokens.weight)", "F.linear(x, self.embed_tokens.weight.data)")],
        {TOKENS},
        Status.FAIL,
        "",
    ),
    "a copy of the embedding is detached": (
        "heads",
        [
            (
                "logits = self.lm_head(x)",
                "logits = F.linear(x, self.lm_head.weight.detach())",
            )
        ],
        {TOKENS},
        Status.FAIL,
        "lm_head.weight",
    ),
    "one block runs without gradients": (
        "joined_table",
        [
            (
                "        for block in self.h:\n            h = block(h)",
                (
                    "        for i, block in enumerate(self.h):\n"
                    "            with torch.set_grad_enabled(torch.is_grad_enabled() and i != 6):\n"
                    "                h = block(h)"
                ),
            )
        ],
        of_blocks(6) | {TOKENS},
        Status.MISSING,
        "h.0.g1",
    ),
}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("style", "edits", "wrong", "status", "unreached"), WRONG.values(), ids=WRONG
)
def test_a_wrong_backward_fails_at_its_parameters(  # noqa: PLR0913 - a case
    style: str,
    edits: Sequence[tuple[str, str]],
    wrong: set[str],
    status: Status,
    unreached: str,
    edited: Edited,
    theirs: OpenAIGPTLMHeadModel,
) -> None:
    report = gradients(edited(style, *edits), theirs, IDS, dtype="float64", select="[!d]*")
    failed = [row for row in report.results if row.status is not Status.PASS]
    assert {row.tap for row in failed} == wrong
    assert [r for r in report.reasons if r.code is not ExitCode.FAIL] == []
    assert report.first_divergence is not None
    first = next(name for name in parameter_names(LAYERS) if name in wrong)
    assert report.first_divergence.tap == first
    assert report.first_divergence.row.status is status
    facts = facts_of(report)
    assert first in facts["first differs"]
    assert unreached in facts.get("no gradient", "")
    assert bool(unreached) == ("no gradient" in facts)
    assert report.exit_code == ExitCode.FAIL


FOLDED = [
    ("scores = scores / math.sqrt(self.d_k)", "pass"),
    (
        "load(layer.self_attn.W_q, wq, bq)",
        "load(layer.self_attn.W_q, wq / layer.self_attn.d_k**0.5, bq / layer.self_attn.d_k**0.5)",
    ),
]


def test_a_folded_factor_is_no_pass(edited: Edited, theirs: OpenAIGPTLMHeadModel) -> None:
    """The query's columns are left out; those of key and value are compared."""
    report = gradients(edited("linear_qkv", *FOLDED), theirs, IDS, dtype="float64")
    assert report.exit_code == ExitCode.INCONCLUSIVE
    unknown, partly = report.reasons
    assert "24 parameters of the candidate are none" in unknown.what
    assert "layers.0.self_attn.W_q.weight [21, 21]: no match" in unknown.where
    assert "h.0.attn.c_attn.weight" in partly.where
    rows = [row for row in report.results if row.against == "huggingface"]
    assert {Status.PASS} == {row.status for row in rows}
    slopes = {row.tap: row.status for row in report.results if row.against == "oracle"}
    assert slopes["direction"] is slopes["direction.attn.c_attn.weight"] is Status.NOT_RUN
    assert slopes["direction.mlp.c_fc.weight"] is Status.PASS


def test_what_a_folded_factor_leaves_is_compared(
    edited: Edited, theirs: OpenAIGPTLMHeadModel
) -> None:
    frozen = ("self.W_v(x)", "F.linear(x, self.W_v.weight.detach(), self.W_v.bias)")
    report = gradients(edited("linear_qkv", *FOLDED, frozen), theirs, IDS, dtype="float64")
    failed = [row for row in report.results if row.status is Status.FAIL]
    assert {row.tap for row in failed} == of_kind("attn.c_attn.weight")
    width = theirs.config.n_embd
    assert all(row.worst_index is not None and row.worst_index[1] >= 2 * width for row in failed)
    assert report.exit_code == ExitCode.FAIL


def test_a_tensor_without_a_parameter_is_missing(
    edited: Edited, theirs: OpenAIGPTLMHeadModel
) -> None:
    as_buffer = (
        "    model.load_state_dict(state, assign=True)\n",
        (
            "    model.load_state_dict(state, assign=True)\n"
            "    table = model.W_pos.data\n    del model.W_pos\n"
            "    model.register_buffer('W_pos', table)\n"
        ),
    )
    report = gradients(edited("einsum", as_buffer), theirs, IDS, dtype="float64")
    row = next(row for row in report.results if row.tap == "positions_embed.weight")
    assert (row.status, row.detail) == (Status.NOT_RUN, "no parameter of the candidate holds it")
    (reason,) = report.reasons
    assert "1 tensors of the reference are missing" in reason.what
    assert reason.where == "positions_embed.weight"
    assert report.exit_code == ExitCode.INCONCLUSIVE


def test_a_frozen_mask_is_no_unknown_parameter(
    edited: Edited, theirs: OpenAIGPTLMHeadModel
) -> None:
    mask = (
        "        self.W_o = nn.Linear(d_model, d_model)\n",
        (
            "        self.W_o = nn.Linear(d_model, d_model)\n"
            "        self.tril = nn.Parameter(torch.ones(4, 4).tril(), requires_grad=False)\n"
        ),
    )
    report = gradients(edited("linear_qkv", mask), theirs, IDS, dtype="float64")
    assert (report.exit_code, list(report.reasons)) == (ExitCode.PASS, [])


REFUSED = {
    "no parameter": ("functional", [], "logits have no gradient"),
    "no gradient at all": (
        "closures",
        [("return self.unembed(", "return torch.no_grad()(self.unembed)(")],
        "logits have no gradient",
    ),
    "dropout": (
        "linear_qkv",
        [("att = F.softmax(scores, dim=-1)", "att = F.dropout(F.softmax(scores, dim=-1), 0.1)")],
        "two runs of the candidate on the same ids differ",
    ),
    "an error in the backward pass": (
        "einsum",
        [("return resid * self.w + self.b", "y = resid.exp()\n        y += 1\n        return y")],
        "forward or backward raised RuntimeError",
    ),
    "float32 inside, and few tokens": (
        "half_inside",
        [],
        "float32 enters the float64 run",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize(("style", "edits", "what"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_inconclusive(
    style: str,
    edits: Sequence[tuple[str, str]],
    what: str,
    edited: Edited,
    theirs: OpenAIGPTLMHeadModel,
) -> None:
    report = gradients(edited(style, *edits), theirs, IDS)
    (reason,) = report.reasons
    assert what in reason.what
    assert report.exit_code == ExitCode.INCONCLUSIVE


def test_float32_inside_is_compared_as_float32(
    edited: Edited, theirs: OpenAIGPTLMHeadModel
) -> None:
    """There are no slopes then, and a wrong gradient still fails."""
    report = gradients(edited("half_inside"), theirs, LONG)
    assert report.plan.per_backend == {"candidate": (PLANNED - 15, PLANNED - 15)}
    (note,) = report.reasons
    assert "half_inside.py:" in note.what
    assert report.exit_code == ExitCode.PASS
    frozen = ("bias = self.bias.float()", "bias = self.bias.float().detach()")
    wrong = gradients(edited("half_inside", frozen), theirs, LONG, select="h.3.*")
    failed = {row.tap for row in wrong.results if row.status is not Status.PASS}
    assert failed == {"h.3.ln_1.bias", "h.3.ln_2.bias"}
    assert wrong.exit_code == ExitCode.FAIL


def test_a_wrong_forward_is_no_rounding(edited: Edited, theirs: OpenAIGPTLMHeadModel) -> None:
    """The mask is of float32, which changes nothing: the wrong GELU is what differs."""
    wrong = ("0.044715 * x * x * x", "0.04 * x * x * x")
    report = gradients(edited("closures", wrong), theirs, IDS, dtype="float64", select="[!d]*")
    (reason,) = report.reasons
    assert "the loss itself differs" in reason.what
    assert report.exit_code == ExitCode.FAIL


def test_a_call_can_be_given(check: Callable, candidate: Callable[..., str]) -> None:
    """The loss needs the logits of all positions."""
    file = candidate((STYLES / "linear_qkv.py").read_text(encoding="utf-8"))
    options = ("--weights", "tiny", "--seq-len", "5", "--dtype", "float64", "--candidate", file)
    result = check("gradients", *options, "--call", "model(ids, targets=ids)[0]")
    assert result.exit_code == ExitCode.PASS
    assert "model(ids, targets=ids)[0]" in result.stdout
    result = check("gradients", *options, "--call", "model(ids)[0][:, -1]")
    assert result.exit_code == ExitCode.INCONCLUSIVE
    assert "logits of the last position alone" in " ".join(result.stdout.split())


def test_training_asks_for_taps(check: Callable, candidate: Callable[..., str]) -> None:
    file = candidate((STYLES / "einsum.py").read_text(encoding="utf-8"))
    result = check("training", "--weights", "tiny", "--seq-len", "5", "--candidate", file)
    assert result.exit_code == ExitCode.USAGE
    assert "needs a model that shows taps" in " ".join(result.stderr.split())


ARRANGED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "transposed": lambda square, _: square.T,
    "a slice": lambda square, _: square[2:5],
    "columns": lambda square, _: square[:, 2:5],
    "columns transposed": lambda square, _: square[:, 2:5].T,
    "heads": lambda square, _: square.view(6, 2, 3).permute(1, 0, 2),
    "heads of rows": lambda square, _: square.view(2, 3, 6),
    "heads transposed": lambda square, _: square.T.reshape(3, 2, 6),
    "joined": lambda square, other: torch.cat([other, square]),
    "joined transposed": lambda square, other: torch.cat([other, square]).T,
    "turned and joined": lambda square, other: torch.cat([other, square.T]),
    "padded": lambda square, _: nn.functional.pad(square, (0, 0, 0, 3)),
    "repeated": lambda square, _: torch.cat([square, square]),
}


@pytest.mark.parametrize("arrange", ARRANGED.values(), ids=ARRANGED)
def test_parts_go_back_to_their_places(arrange: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Autograd carries a gradient back through the arrangement."""
    draws = torch.Generator().manual_seed(3)
    square, other = torch.randn(6, 6, generator=draws), torch.randn(4, 6, generator=draws)
    square.requires_grad_()
    other.requires_grad_()
    arranged = arrange(square, other)
    names = {"a": square, "b": other}
    (match,) = match_parameters({"own": arranged.detach()}, names)
    gradient = torch.randn(arranged.shape, generator=draws)
    arranged.backward(gradient)
    sums = {name: torch.zeros(tensor.shape) for name, tensor in names.items()}
    add_parts(match, gradient, sums)
    for found, tensor in zip(sums.values(), (square, other), strict=True):
        expected = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_parts_of_vectors_go_back_to_their_places() -> None:
    draws = torch.Generator().manual_seed(3)
    one, two = torch.randn(6, generator=draws), torch.randn(4, generator=draws)
    gradient = torch.randn(3, 3, generator=draws)
    own = torch.cat([two, one[1:]]).view(3, 3)
    (match,) = match_parameters({"own": own}, {"one": one, "two": two})
    sums = {"one": torch.zeros(6), "two": torch.zeros(4)}
    add_parts(match, gradient, sums)
    assert torch.equal(sums["two"], gradient.flatten()[:4])
    assert torch.equal(sums["one"], torch.cat([torch.zeros(1), gradient.flatten()[4:]]))


def test_no_gradient_is_left_in_the_candidate(edited: Edited, theirs: OpenAIGPTLMHeadModel) -> None:
    model = edited("einsum")
    gradients(model, theirs, LONG, select="h.3.*")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_with_taps_is_judged_by_them(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    report = gradients({"candidate": ours}, theirs, IDS, dtype="float64", select="h.3.mlp*")
    assert "h.3.mlp.gelu" in {row.tap for row in report.results}
    assert list(report.appendix) == []
