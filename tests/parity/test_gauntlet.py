"""What must never pass: candidates, references and inputs that fool comparisons.

Every case goes through `parity.layerwise`. The numbers are those of the project's gauntlet.
"""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from parity import layerwise
from parity.core import inputs
from parity.core.results import Mode
from parity.core.taps import taps
from parity.core.tolerances import Bounds
from parity.errors import ParityError
from parity.faults.forward import inject
from reference import huggingface
from scratch_gpt import GPT, GPTConfig

Tap = Callable[[str, Tensor], Tensor]
Meddle = Callable[[Tap, str, Tensor], Tensor]
Model = OpenAIGPTLMHeadModel


class Meddled(nn.Module):
    """Our model, with something done at its taps or to its logits."""

    def __init__(self, model: GPT, meddle: Meddle, finish: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.meddle, self.finish = model, meddle, finish

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        tap: Tap | None = None,
    ) -> Any:  # noqa: ANN401 - a wrong model may return anything
        assert tap is not None
        meddled = self.model(
            token_ids,
            positions,
            attention_mask,
            tap=lambda name, value: self.meddle(tap, name, value),
        )
        return self.finish(meddled)


def meddled(
    meddle: Meddle = lambda tap, name, value: tap(name, value),
    *,
    at: str | None = None,
    finish: Callable[[Tensor], Any] = lambda logits: logits,
) -> Callable[[GPT, Model], nn.Module]:
    """Make such a candidate; `at` is the only tap where something is done."""

    def only(tap: Tap, name: str, value: Tensor) -> Tensor:
        return meddle(tap, name, value) if at in (None, name) else tap(name, value)

    return lambda ours, _theirs: Meddled(ours, only, finish)


def silent(_tap: Tap, _name: str, value: Tensor) -> Tensor:
    return value


def until_block_6(tap: Tap, name: str, value: Tensor) -> Tensor:
    block = name.split(".")[1] if name.startswith("h.") else "0"
    return tap(name, value) if int(block) < 6 and name != "logits" else value


def with_another(tap: Tap, name: str, value: Tensor) -> Tensor:
    tap(f"{name}.dropout", value)
    return tap(name, value)


def twice(tap: Tap, name: str, value: Tensor) -> Tensor:
    tap(name, value)
    return tap(name, value)


def with_nan(tap: Tap, name: str, value: Tensor) -> Tensor:
    broken = value.clone()
    broken[0, -1, 3] = math.nan
    return tap(name, broken)


def overwritten_afterwards(tap: Tap, name: str, value: Tensor) -> Tensor:
    """Show a tensor that is right, and go on with it doubled in place."""
    out = tap(name, value)
    value.mul_(2.0)
    return out


def shown_as(change: Callable[[Tensor], Any]) -> Meddle:
    """Show something else than the tensor, and go on with the tensor."""

    def meddle(tap: Tap, name: str, value: Tensor) -> Tensor:
        tap(name, change(value))
        return value

    return meddle


def raising(error: BaseException) -> Meddle:
    def meddle(_tap: Tap, _name: str, _value: Tensor) -> Tensor:
        raise error

    return meddle


def moving(knob: Callable[[], object]) -> Meddle:
    def meddle(tap: Tap, name: str, value: Tensor) -> Tensor:
        knob()
        return tap(name, value)

    return meddle


def filled(model: nn.Module, names: str, value: float, *, whole: bool = True) -> nn.Module:
    """Return a copy whose parameters of that name, or the first row of each, hold one value."""
    copied = copy.deepcopy(model)
    for name, parameter in copied.named_parameters():
        if names in name:
            (parameter.data if whole else parameter.data[:1]).fill_(value)
    return copied


def constant_in_its_input(model: nn.Module) -> nn.Module:
    """Return a copy in which every token and every position is embedded alike."""
    copied = copy.deepcopy(model)
    for name, parameter in copied.named_parameters():
        if "embed" in name:
            parameter.data.copy_(parameter.data[:1].clone().expand_as(parameter))
    return copied


class Wrapper(nn.Module):
    """The reference itself, as a candidate."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, positions: Any, mask: Any, tap: Any = None) -> Any:  # noqa: ANN401
        return huggingface.logits(
            self.model, token_ids, positions=positions, attention_mask=mask, tap=tap
        )


def sharing_one_bias(ours: GPT, theirs: Model) -> nn.Module:
    """Return our model with one bias that is the reference's own storage."""
    copied = copy.deepcopy(ours)
    copied.h[3].mlp.c_fc.bias = nn.Parameter(theirs.transformer.h[3].mlp.c_fc.bias.data)
    return copied


def sharing_a_third(ours: GPT, theirs: Model) -> nn.Module:
    """Return our model holding, besides, the value third of one of the reference's tensors."""
    copied = copy.deepcopy(ours)
    joined = theirs.transformer.h[3].attn.c_attn.bias.data
    copied.shared = nn.Parameter(joined[2 * len(joined) // 3 :])
    return copied


class AlwaysTraining(GPT):
    """A model that ignores `eval()`."""

    def train(self, mode: bool = True) -> "AlwaysTraining":  # noqa: ARG002, FBT001, FBT002 - torch's own
        return super().train(True)


def always_training(ours: GPT, _theirs: Model) -> nn.Module:
    model = AlwaysTraining(ours.config)
    model.load_state_dict(ours.state_dict())
    return model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One case: what is compared, the exit code, and the tap at which the sides part.

    `broken` is done to the reference, and with `alike` to the candidate as well.
    """

    code: int
    tap: str | None = None
    candidate: Callable[[GPT, Model], Any] = lambda ours, _theirs: ours
    broken: Callable[[nn.Module], nn.Module] = lambda model: model
    alike: bool = False
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


AT = "h.3.mlp"
IDS = torch.tensor([[0, 210, 5, 210, 17]])


def nan_bias(model: nn.Module) -> nn.Module:
    return filled(model, "h.3.mlp.c_fc.bias", math.nan, whole=False)


CASES = {
    "H1 no tap shown": Case(code=3, candidate=meddled(silent)),
    "H1 no tap shown, and no loss": Case(
        code=3, candidate=meddled(silent), given={"token_ids": IDS[:, :1]}
    ),
    "H3 one tap more": Case(code=1, tap=f"{AT}.dropout", candidate=meddled(with_another, at=AT)),
    "H3 one tap twice": Case(code=1, tap=AT, candidate=meddled(twice, at=AT)),
    "H4 NaN on both sides": Case(code=1, tap=f"{AT}.c_fc", broken=nan_bias, alike=True),
    "H5 NaN on our side": Case(code=1, tap=AT, candidate=meddled(with_nan, at=AT)),
    "H5 NaN on their side": Case(code=1, tap=f"{AT}.c_fc", broken=nan_bias),
    "H6 both all zero": Case(
        code=3, tap="embeddings.tokens", broken=lambda m: filled(m, "", 0.0), alike=True
    ),
    "H7 constant in its input": Case(code=3, broken=constant_in_its_input, alike=True),
    "H8 no row": Case(code=3, given={"token_ids": IDS[:0]}),
    "H8 no token": Case(code=3, given={"token_ids": IDS[:, :0]}),
    "H9 the same object": Case(code=3, candidate=lambda _ours, theirs: theirs),
    "H9 the same object, wrapped": Case(code=3, candidate=lambda _ours, theirs: Wrapper(theirs)),
    "H10 one tensor shared": Case(code=3, candidate=sharing_one_bias),
    "H10 a part of a tensor shared": Case(code=3, candidate=sharing_a_third),
    "H11 in place after the tap": Case(
        code=1, tap=f"{AT}.gelu", candidate=meddled(overwritten_afterwards, at=f"{AT}.c_fc")
    ),
    **{
        f"H12 {name} bound {value:g}": Case(code=3, given={"bounds": Bounds(**{name: value})})
        for name in ("float64", "quality", "peak")
        for value in (1e9, 0.0, -1.0, math.nan, math.inf)
    },
    "H13 broadcastable rows": Case(
        code=1, tap=AT, candidate=meddled(shown_as(lambda x: x[:, :1]), at=AT)
    ),
    "H13 an axis less": Case(code=1, tap=AT, candidate=meddled(shown_as(lambda x: x[0]), at=AT)),
    "H14 another dtype": Case(
        code=1, tap=AT, candidate=meddled(shown_as(lambda x: x.float()), at=AT)
    ),
    "H14 half precision in between": Case(
        code=1,
        tap=AT,
        candidate=meddled(lambda tap, name, x: tap(name, x.half().to(x.dtype)), at=AT),
    ),
    "H17 default dtype moved": Case(
        code=5,
        candidate=meddled(moving(lambda: torch.set_default_dtype(torch.float64)), at=AT),
    ),
    "H17 matmul precision moved": Case(
        code=5,
        candidate=meddled(moving(lambda: torch.set_float32_matmul_precision("medium")), at=AT),
    ),
    "H17 training mode": Case(code=3, candidate=always_training),
    "H21 blocks sorted as strings": Case(
        code=1,
        tap="h.2.attn.query",
        candidate=lambda ours, _theirs: inject(ours, "string-order", 0),
    ),
    "H23 no tap selected": Case(code=3, given={"select": "h.12.*"}),
    "H23 no model given": Case(code=3, candidate=lambda _ours, _theirs: {}),
    "H26 an operation raises": Case(
        code=3, candidate=meddled(raising(RuntimeError("no such kernel")), at=AT)
    ),
    "H26 an operation exits": Case(code=3, candidate=meddled(raising(SystemExit(0)), at=AT)),
    "a tap that is no tensor": Case(
        code=3, candidate=meddled(shown_as(lambda x: x.tolist()), at=AT)
    ),
    "a model that returns nothing": Case(code=3, candidate=meddled(finish=lambda _logits: None)),
    "a model that takes no token ids": Case(code=3, candidate=lambda _o, _t: nn.Linear(1, 1)),
    "a model in half precision": Case(
        code=1, tap="embeddings.tokens", candidate=lambda ours, _t: copy.deepcopy(ours).half()
    ),
    "an explanation of no tap": Case(code=2, given={"explain": "h.3.gelu"}),
}


RETURNED = {
    "what is returned is not what was shown": Case(
        code=1,
        tap="logits",
        candidate=meddled(finish=lambda logits: torch.cat([logits[:, :-1], -logits[:, -1:]], 1)),
    ),
    "at time 1 nothing is returned": Case(
        code=3,
        candidate=meddled(finish=lambda _logits: None),
        given={"token_ids": IDS[:, :1]},
    ),
}
"""Models whose taps are right and whose answer is not."""


@pytest.fixture
def outcome(ours: GPT, theirs: Model) -> Callable[[Case], tuple[int, str | None]]:
    def run(case: Case) -> tuple[int, str | None]:
        reference = case.broken(theirs)
        candidate = case.candidate(case.broken(ours) if case.alike else ours, reference)  # type: ignore[arg-type]
        modes = tuple(Mode) if "bounds" in case.given else [Mode.FLOAT64]
        given = {"token_ids": IDS, "modes": modes} | dict(case.given)
        try:
            report = layerwise(candidate, reference, **given)  # type: ignore[arg-type]
        except ParityError as error:
            return int(error.exit_code), None
        first = report.first_divergence
        return int(report.exit_code), first.tap if first else None

    return run


Outcome = Callable[[Case], tuple[int, str | None]]


@pytest.mark.parametrize("case", CASES)
def test_it_never_passes(case: str, outcome: Outcome) -> None:
    assert outcome(CASES[case]) == (CASES[case].code, CASES[case].tap)


@pytest.mark.parametrize("case", RETURNED)
def test_what_is_returned_must_be_what_was_shown(case: str, outcome: Outcome) -> None:
    assert outcome(RETURNED[case])[0] == RETURNED[case].code


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="one row"),
        pytest.param({"bounds": Bounds()}, id="bounds given"),
        pytest.param({"token_ids": IDS[:, :1]}, id="time 1"),
        pytest.param({"token_ids": IDS.reshape(5, 1)}, id="batch 5, time 1"),
        pytest.param({"token_ids": torch.arange(28).reshape(4, 7)}, id="batch 4"),
        pytest.param(dict(vars(inputs.parse("5,210,0,17;9;12,7"))), id="unequal rows"),
        pytest.param({"positions": torch.tensor([[7, 0, 388, 3, 3]])}, id="positions"),
        pytest.param({"dtype": "float64", "modes": tuple(Mode)}, id="float64"),
    ],
)
def test_the_right_model_passes(given: dict[str, Any], outcome: Outcome) -> None:
    """The cases above fail for what is wrong in them, not for how they are run."""
    assert outcome(Case(code=0, given=given)) == (0, None)


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(meddled(), id="taps handed on"),
        pytest.param(
            meddled(lambda tap, name, x: tap(name, x.clone().requires_grad_())), id="copies"
        ),
        pytest.param(lambda ours, _theirs: ours.with_backend("tiled"), id="tiled"),
        pytest.param(lambda ours, _theirs: copy.deepcopy(ours).double(), id="float64 already"),
        pytest.param(lambda ours, _theirs: copy.deepcopy(ours).train(), id="in training mode"),
    ],
)
def test_a_harmless_wrapping_passes(
    candidate: Callable[[GPT, Model], Any], outcome: Outcome
) -> None:
    """The cases above fail for what is done to the model, not for how it is wrapped."""
    assert outcome(Case(code=0, candidate=candidate)) == (0, None)


def test_h26_an_exception_is_one_message_with_its_place(ours: GPT, theirs: Model) -> None:
    candidate = meddled(raising(RuntimeError("no such kernel")), at=AT)(ours, theirs)
    report = layerwise(candidate, theirs, IDS, modes=[Mode.FLOAT64])
    (reason,) = report.reasons
    assert reason.what == "the candidate's forward raised RuntimeError: no such kernel"
    assert f"{__name__.rpartition('.')[2]}.py:" in reason.where
    assert reason.where.endswith(f", after {AT}.gelu")
    assert (report.results, report.plan.compared) == ([], 0)


@pytest.mark.parametrize(
    ("change", "hidden"), [(until_block_6, range(6, 12)), (silent, None)], ids=["half", "one"]
)
def test_h2_a_right_model_passes_on_the_taps_that_it_shows(
    change: Any,  # noqa: ANN401 - what is done at a tap
    hidden: range | None,
    ours: GPT,
    theirs: Model,
) -> None:
    """And the report lists the others."""
    candidate = meddled(change)(ours, theirs) if hidden else meddled(silent, at=AT)(ours, theirs)
    report = layerwise(candidate, theirs, IDS, modes=[Mode.FLOAT64])
    names = {AT} if hidden is None else {t.name for t in taps(12) if t.name[:4] in BLOCKS}
    assert {entry["tap"] for entry in report.plan.exempt} == names
    assert report.verdict == "pass"
    assert report.plan.compared == report.plan.planned == len(taps(12)) - len(names)


BLOCKS = ("h.6.", "h.7.", "h.8.", "h.9.", "h.10", "h.11")


HOOKS = {
    "no hook at all": ("forward_with_taps", lambda _model, _tap: contextlib.nullcontext(), 1),
    "none in attention": (
        "_tapped_attention",
        lambda *_rest: contextlib.nullcontext(),
        len(taps(12)) - 12 * 5,
    ),
}
"""What is done to the reference's hooks, and how many taps both references still have."""


@pytest.mark.parametrize("hooks", HOOKS)
def test_h15_hooks_that_never_fired_are_inconclusive(
    hooks: str, ours: GPT, theirs: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, replacement, compared = HOOKS[hooks]
    monkeypatch.setattr(huggingface, name, replacement)
    report = layerwise(ours, theirs, IDS, modes=[Mode.FLOAT64])
    assert report.exit_code == 3
    assert report.verdict.value == "inconclusive"
    assert report.plan.compared == compared


def test_h16_a_load_report_that_is_not_empty_is_an_error() -> None:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        with pytest.raises(huggingface.LoadReportError, match="ln_1"):
            huggingface.check_load_report({kind: ["h.3.ln_1"], "error_msgs": []})


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("H17")])
def test_h17_a_moved_setting_is_moved_back(case: str, outcome: Outcome) -> None:
    before = (torch.get_default_dtype(), torch.get_float32_matmul_precision())
    try:
        assert outcome(CASES[case]) == (CASES[case].code, CASES[case].tap)
        assert before == (torch.get_default_dtype(), torch.get_float32_matmul_precision())
    finally:  # for the tests that follow
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])


SIZES = {"vocab_size": 31, "n_positions": 48, "n_embd": 12, "n_layer": 1, "n_head": 3}


def drawn_pair(seed: int) -> tuple[GPT, Model, Tensor]:
    """Return two models with the same random weights, and 37 or more random ids."""
    generator = torch.Generator().manual_seed(seed)
    theirs = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**SIZES)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            is_gain = "ln_" in name and name.endswith("weight")
            parameter.copy_(1.0 + 0.3 * drawn if is_gain else 0.6 * drawn)
    ours = GPT(GPTConfig(**SIZES)).eval()
    ours.load_state_dict({name: t.clone() for name, t in theirs.transformer.state_dict().items()})
    return ours, theirs, torch.randint(31, (1, 37 + seed % 12), generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 50))
def test_h27_right_models_raise_no_alarm(first: int) -> None:
    """In every mode, with weights and ids of their own."""
    for seed in range(first, first + 50):
        report = layerwise(*drawn_pair(seed))
        assert report.exit_code == 0, (seed, str(report))
