"""Every check as one report, and the plan of inputs: what it holds, and the faults it finds."""

import dataclasses
import itertools
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity import verbs
from parity.checkpoints.weights import Weights
from parity.checks.all import (
    BATCHES,
    Case,
    cases,
    is_ragged,
    layerwise_checks,
    not_seen,
    padded,
    pairwise,
    run_all,
)
from parity.core import inputs
from parity.core.backends import EAGER
from parity.core.comparison import no_progress
from parity.core.inputs import Inputs
from parity.core.results import Mode, Plan, Reason, Report, Verdict, finish
from parity.core.runners import build_huggingface, build_ours, model_in_dtype
from parity.errors import ExitCode, InputRejectedError
from parity.report import FORMS, rendered
from reference import surrogate
from scratch_gpt import GPT, GPTConfig
from scratch_gpt.progress import Progress

TINY, FULL = surrogate.SIZES["tiny"], surrogate.SIZES["surrogate"]
SHORT = [1, 2, 37, 129, 389]


def settings(case: Case) -> tuple[int, int, bool, bool]:
    """Return batch, length, whether rows are padded, and whether there are positions."""
    batch, time = case.inputs.token_ids.shape
    given = case.inputs
    return batch, time, given.attention_mask is not None, given.positions is not None


# The plan.


def test_a_small_model_runs_on_the_full_product() -> None:
    found = {settings(case) for case in cases(TINY) if case.dtype == "float64"}
    for batch, time in itertools.product(BATCHES, SHORT):
        assert (batch, time, False, False) in found
        assert time == 1 or batch * time == 2 or (batch, time, True, True) in found
    assert {(1, time, True, False) for time in SHORT[2:]} <= found


@pytest.mark.parametrize("longest", [1, 2, 7, 36, 63, 64, 65, 128])
def test_every_input_fits_a_model_of_few_positions(longest: int) -> None:
    plan = cases({**TINY, "n_positions": longest})
    times = {case.inputs.token_ids.shape[1] for case in plan}
    assert (min(times), max(times)) == (1, longest)
    assert times >= {t for t in (1, 2, 37, 63, 64, 65, 127) if t <= longest}


@pytest.mark.parametrize("config", [TINY, FULL], ids=["tiny", "full"])
def test_the_plan_holds_every_kind_of_input(config: Mapping[str, Any]) -> None:
    plan = cases(config)
    shapes = {tuple(case.inputs.token_ids.shape) for case in plan}
    times = {time for _batch, time in shapes}
    assert {*SHORT, 63, 64, 65, 127, 128} <= times
    assert (512 in times) is (config is FULL)
    assert any(is_ragged(config, *shape) for shape in shapes)
    assert {backend for case in plan for backend in case.backends} == {
        *("plain", "tiled", "fused", "compiled", "triton")
    }
    assert any(case.dtype == "bfloat16" and case.inputs.token_ids.shape[1] > 256 for case in plan)
    assert len({case.name for case in plan}) == len(plan)
    for case in plan:
        ids = case.inputs.token_ids
        assert 0 <= int(ids.min()) <= int(ids.max()) < config["vocab_size"]
    largest = max(int(case.inputs.token_ids.max()) for case in plan)
    assert largest == config["vocab_size"] - 1
    first = plan[0]
    assert settings(first) == (1, min(512, config["n_positions"]), False, False)
    assert (first.dtype, {*first.modes}) == ("float32", {*Mode})


def test_operations_are_compared_on_equal_inputs_too() -> None:
    """In float64, but for inputs of many tokens."""
    for config, most in ((TINY, 1_024), (FULL, 128)):
        plan = [case for case in cases(config) if case.dtype == "float64"]
        both = [case for case in plan if Mode.FLOAT64_PER_OP in case.modes]
        assert all(Mode.FLOAT64 in case.modes for case in plan)
        assert both == [case for case in plan if case.inputs.token_ids.numel() <= most]
        assert {backend for case in both for backend in case.backends} >= {*EAGER}
        assert any(case.inputs.attention_mask is not None for case in both)


def test_a_small_model_has_another_config_too() -> None:
    (other,) = (case for case in cases(TINY) if case.config)
    assert other.config == {"layer_norm_epsilon": 1e-3, "n_head": 7}
    assert not any(case.config for case in cases(FULL))


def test_a_large_model_runs_on_every_pair_of_settings() -> None:
    plan = [case for case in cases(FULL) if case.dtype == "float64"]
    found = {settings(case)[:3] for case in plan}
    assert all(batch * time <= 1_024 for batch, time, _ in found)
    for batch, time in itertools.product(BATCHES, [*SHORT, 512]):
        assert batch * time > 1_024 or (batch, time) in {(b, t) for b, t, _ in found}
    assert {(batch, True) for batch in BATCHES} <= {
        (batch, is_padded) for batch, _, is_padded in found
    }
    assert {(time, True) for time in [*SHORT[1:], 512]} <= {
        (t, is_padded) for _, t, is_padded in found
    }


def test_pairwise_has_every_pair_and_less_than_the_product() -> None:
    product = [
        one for one in itertools.product((1, 2, 3), (4, 5, 6), "ab", "cd") if one[:2] != (3, 6)
    ]
    chosen = pairwise(product)

    def pairs(some: Sequence[tuple[Any, ...]]) -> set[object]:
        return {pair for one in some for pair in itertools.combinations(enumerate(one), 2)}

    assert pairs(chosen) == pairs(product)
    assert len(chosen) < len(product) / 2


def test_left_padding_counts_positions_from_the_first_real_token() -> None:
    ids = torch.arange(1, 13).reshape(2, 6)
    given = padded(ids, "left")
    assert given.attention_mask is not None
    assert given.positions is not None
    assert given.attention_mask.tolist() == [[False] * 2 + [True] * 4, [False] * 3 + [True] * 3]
    assert given.positions.tolist() == [[0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 1, 2]]
    assert given.token_ids[0].tolist() == [0, 0, 3, 4, 5, 6]


def test_rows_of_one_batch_are_padded_on_either_side() -> None:
    given = padded(torch.ones(3, 9, dtype=torch.long), "both")
    assert given.attention_mask is not None
    ends = [(bool(row[0]), bool(row[-1])) for row in given.attention_mask]
    assert ends == [(True, True), (True, False), (False, True)]
    assert padded(torch.ones(1, 9, dtype=torch.long), "right").positions is None


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        (TINY, (9, 300), False),
        (TINY, (9, 389), True),
        (FULL, (3, 129), False),
        (FULL, (3, 228), True),
        (FULL, (3, 512), False),
        (FULL, (1, 512), False),
    ],
)
def test_a_ragged_group_is_one_of_fewer_sequences(
    config: Mapping[str, Any],
    shape: tuple[int, int],
    expected: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    assert is_ragged(config, *shape) is expected


# What one run of layerwise leaves out.


@pytest.mark.parametrize(
    ("shape", "padding", "ran", "dtype", "line"),
    [
        (
            *((1, 512), "none", ("plain", "fused"), "float32"),
            "batches, padding, time 1, bfloat16, tiled, compiled: see all",
        ),
        (
            *((1, 5), "none", ("plain", "fused"), "float32"),
            "batches, padding, time 1, tiles, bfloat16, tiled, compiled: see all",
        ),
        ((3, 300), "both", ("plain", "tiled", "fused", "compiled"), "bfloat16", "time 1: see all"),
        ((2, 64), "right", (), "bfloat16", "time 1, tiles, bfloat16: see all"),
        (
            (2, 1),
            "none",
            ("tiled",),
            "float32",
            "padding, tiles, bfloat16, plain, fused, compiled: see all",
        ),
    ],
)
def test_a_run_names_what_it_did_not_see(
    shape: tuple[int, int], padding: str, ran: Sequence[str], dtype: str, line: str
) -> None:
    given = padded(torch.ones(shape, dtype=torch.long), padding)
    (section,) = not_seen(given, ran, dtype)
    assert section.rows == [("not seen", line)]
    assert len(f"not seen  {line}") <= 80


def test_layerwise_prints_what_it_did_not_see(check: Callable[..., Any]) -> None:
    given = ("layerwise", "--weights", "tiny", "--seq-len", "5", "--dtype", "float64")
    result = check(*given)
    assert (
        "\nnot seen  batches, padding, time 1, tiles, bfloat16, tiled, compiled: see all\n"
        in result.stdout
    )
    several = check(*given, "--batch-size", "2", "--backend", "all")
    assert "\nnot seen  padding, time 1, tiles, bfloat16: see all\n" in several.stdout


# The faults that the plan finds, on two blocks and 130 positions.


@pytest.fixture(scope="module")
def small(weights: Weights) -> Weights:
    kept = {
        n: t for n, t in weights.tensors.items() if not n.startswith("h.") or n[2:4] in ("0.", "1.")
    }
    kept["positions_embed.weight"] = kept["positions_embed.weight"][:130]
    config = {**weights.config, "n_layer": 2, "n_positions": 130}
    return dataclasses.replace(weights, tensors=kept, config=config)


class Wrong(nn.Module):
    """Our model behind a function that changes what it is called with, or what it returns."""

    def __init__(self, model: GPT, backend: str, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.backend, self.call = model, backend, call

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        tap: Callable[..., Tensor],
    ) -> Tensor:
        return self.call(self.model, ids, positions, mask, tap)


def first_failing(
    weights: Weights, call: Callable[..., Tensor], kept: Callable[[Case], bool]
) -> str:
    """Return the first case of the plan that fails, of those kept."""
    made: dict[str, Any] = {}

    def models(case: Case) -> Any:  # noqa: ANN401 - both sides
        key = str(case.config) + case.dtype
        if key not in made:
            source = dataclasses.replace(weights, config={**weights.config, **case.config})
            sides = {"plain": build_ours(source), "huggingface": build_huggingface(source)}
            if case.dtype == "float64":
                sides = model_in_dtype(sides, torch.float64)
            theirs = sides.pop("huggingface")
            made[key] = {n: Wrong(m, n, call) for n, m in sides.items()}, theirs
        return made[key]

    plan = [
        case for case in cases(weights.config) if case.name != plan_name(weights) and kept(case)
    ]
    report = run_all([*layerwise_checks(plan, models, {})], {}, no_progress, {}, keep_going=False)
    assert report.verdict is Verdict.FAIL
    return str(report.inputs["case"])


def plan_name(weights: Weights) -> str:
    return cases(weights.config)[0].name


def ignoring(**ignored: None) -> Callable[..., Tensor]:
    def call(model: GPT, ids: Tensor, positions: Any, mask: Any, tap: Any) -> Tensor:  # noqa: ANN401
        given = {"positions": positions, "attention_mask": mask} | ignored
        return model(ids, **given, tap=tap)

    return call


def swapping_rows(model: GPT, ids: Tensor, positions: Any, mask: Any, tap: Any) -> Tensor:  # noqa: ANN401
    return model(ids.flip(0), positions, mask, tap=tap)


def inverting(model: GPT, ids: Tensor, positions: Any, mask: Any, tap: Any) -> Tensor:  # noqa: ANN401
    return model(ids, positions, None if mask is None else ~mask, tap=tap)


def wrong_alone(model: GPT, ids: Tensor, positions: Any, mask: Any, tap: Any) -> Tensor:  # noqa: ANN401
    places = torch.ones_like(ids) if ids.shape[1] == 1 else positions
    return model(ids, places, mask, tap=tap)


def wrong_at(length: int) -> Callable[..., Tensor]:
    def call(model: GPT, ids: Tensor, positions: Any, mask: Any, tap: Any) -> Tensor:  # noqa: ANN401
        return model(ids.flip(1) if ids.shape[1] == length else ids, positions, mask, tap=tap)

    return call


def everything(_case: Case) -> bool:
    return True


@pytest.mark.fault
@pytest.mark.parametrize(
    ("call", "kept", "named"),
    [
        (swapping_rows, everything, "batch 3, 1 token"),
        (ignoring(attention_mask=None), everything, "batch 1, 37 tokens, padding left"),
        (ignoring(positions=None), everything, "batch 1, 37 tokens, padding left"),
        (inverting, everything, "batch 1, 37 tokens, padding right"),
        (wrong_alone, everything, "batch 1, 1 token"),
        (wrong_at(65), lambda case: case.inputs.token_ids.shape[1] > 60, "batch 1, 65 tokens"),
        (wrong_at(127), lambda case: case.inputs.token_ids.shape[1] > 126, "batch 1, 127 tokens"),
    ],
)
def test_the_plan_finds_faults_that_the_default_does_not_show(
    call: Callable[..., Tensor], kept: Callable[[Case], bool], named: str, small: Weights
) -> None:
    assert first_failing(small, call, kept) == named


def test_the_plan_finds_an_epsilon_that_is_not_the_configs(small: Weights) -> None:
    def call(model: GPT, ids: Tensor, positions: Any, mask: Any, tap: Any) -> Tensor:  # noqa: ANN401
        for block in model.h:
            block.ln_1.epsilon = block.ln_2.epsilon = 1e-5
        return model(ids, positions, mask, tap=tap)

    found = first_failing(small, call, lambda case: case.dtype == "float64" and bool(case.config))
    assert found == "batch 3, 37 tokens, padding both, epsilon 0.001, head 7"


# One report of several checks.


def reported(check: str, code: ExitCode = ExitCode.PASS, reasons: Sequence[Reason] = ()) -> Report:
    why = Reason(what="something is wrong", where="there", fix="mend it", code=code)
    given = [*reasons, *([why] if code else [])]
    return finish(check, rows=[], plan=Plan.of({"ours": (3, 3)}), reasons=given)


def some(*found: tuple[str, Report | Exception], keep_going: bool = False) -> Report:
    def run(result: Report | Exception) -> Report:
        if isinstance(result, Exception):
            raise result
        return result

    checks = [(name, "", lambda _progress, one=one: run(one)) for name, one in found]
    skipped = {"golden": "it needs the released weights"}
    return run_all(checks, skipped, no_progress, {"code": "0"}, keep_going=keep_going)


def test_passes_are_one_table() -> None:
    report = some(("weights", reported("weights")), ("training", reported("training")))
    assert (report.verdict, report.exit_code, report.plan.compared) == (Verdict.PASS, 0, 6)
    text = str(report)
    assert "golden          " in text
    assert "not run  it needs the released weights" in text
    assert "PASS  2 of 3 checks run" in text


def test_the_run_ends_at_the_first_failure() -> None:
    bad = reported("weights", ExitCode.FAIL)
    report = some(("weights", bad), ("training", reported("training")))
    assert (report.verdict, report.inputs["check"]) == (Verdict.FAIL, "weights")
    assert [one["check"] for one in report.details["checks"]] == ["weights"]
    assert report.details["not_run"] == {
        "training": "an earlier check failed; --keep-going runs it",
        "golden": "it needs the released weights",
    }
    assert "1 of 3 checks run" in report.summary


def test_keep_going_runs_all_and_shows_the_first_failure() -> None:
    found = [
        ("doctor", reported("doctor", ExitCode.INCONCLUSIVE)),
        ("weights", reported("weights", ExitCode.FAIL)),
        ("training", reported("training", ExitCode.FAIL)),
    ]
    report = some(*found, keep_going=True)
    assert (report.exit_code, report.inputs["check"]) == (1, "weights")
    assert len(report.details["checks"]) == 3
    assert some(found[0], ("weights", reported("weights"))).exit_code == 3


def test_an_error_of_a_check_is_its_outcome() -> None:
    error = InputRejectedError("no such file", where="there", fix="look elsewhere")
    report = some(("weights", error), ("training", reported("training")), keep_going=True)
    assert (report.exit_code, report.verdict) == (4, Verdict.ERROR)
    assert [one["verdict"] for one in report.details["checks"]] == ["error", "pass"]


def test_an_exception_of_a_check_is_its_outcome_too() -> None:
    """The report keeps the checks before it, and the later ones run."""
    found = [
        ("doctor", reported("doctor")),
        ("weights", ZeroDivisionError("division by zero")),
        ("training", reported("training")),
    ]
    report = some(*found, keep_going=True)
    assert (report.exit_code, report.verdict) == (ExitCode.INTERNAL, Verdict.ERROR)
    assert [one["verdict"] for one in report.details["checks"]] == ["pass", "error", "pass"]
    assert report.inputs["check"] == "weights"
    assert "ZeroDivisionError: division by zero" in str(report)
    assert [one["check"] for one in some(*found).details["checks"]] == ["doctor", "weights"]


def test_the_models_of_a_check_are_freed_before_the_next() -> None:
    class Model:
        pass

    model = Model()
    first = weakref.ref(model)
    freed = []

    def second(_progress: Progress) -> Report:
        freed.append(first() is None)
        return reported("training")

    checks = [("layerwise", "", lambda _progress, _model=model: reported("layerwise"))]
    checks += [("training", "", second)]
    del model
    run_all(checks, {}, no_progress, {}, keep_going=False)
    assert freed == [True]


def test_an_exception_on_one_input_names_it() -> None:
    def broken(_progress: Progress) -> Report:
        raise ZeroDivisionError("division by zero")

    report = run_all(
        [
            ("layerwise", "1 token", lambda _progress: reported("layerwise")),
            ("layerwise", "batch 9, 2 tokens", broken),
        ],
        {},
        no_progress,
        {},
        keep_going=False,
    )
    assert (report.exit_code, report.verdict) == (ExitCode.INTERNAL, Verdict.ERROR)
    assert (report.inputs["check"], report.inputs["case"]) == ("layerwise", "batch 9, 2 tokens")
    text = " ".join(str(report).split())
    assert "ERROR layerwise on batch 9, 2 tokens: error; 1 of 1 checks run" in text
    assert "ZeroDivisionError: division by zero" in text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("code", [ExitCode.PASS, ExitCode.FAIL])
def test_every_form_renders(form: str, code: ExitCode) -> None:
    text = rendered(some(("weights", reported("weights", code))), form)
    assert "1 of 2 checks run" in text
    assert form != "json" or json.loads(text)["verdict"] == ("pass" if code == 0 else "fail")


# The verb, with one small input and without the long checks.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the checks but layerwise by ones that pass and keep their options."""
    seen: dict[str, Any] = {}
    for name in (
        *("doctor", "weights", "tokens", "gradients", "invariants"),
        *("training", "generation", "golden"),
    ):

        def run(options: object, _progress: object, name: str = name) -> Report:
            seen[name] = options
            return reported(name)

        monkeypatch.setattr(verbs, name, run)
    ids = inputs.seeded(batch=2, time=5, vocab_size=TINY["vocab_size"], seed=0)
    one = Case(name="one input", inputs=Inputs(token_ids=ids.token_ids))
    monkeypatch.setattr(verbs.plan_of_all, "cases", lambda _config: [one])
    return seen


def test_all_runs_every_check_in_causal_order(
    check: Callable[..., Any], quick: dict[str, Any]
) -> None:
    result = check("all", "--weights", "tiny")
    assert result.exit_code == 0, result.stdout + result.stderr
    order = ["doctor", "weights", "tokens", "gradients", "invariants", "training", "generation"]
    assert [*quick] == order
    table = result.stdout.partition("\ncheck ")[2].partition("\n\n")[0]
    rows = [line.split()[0] for line in table.splitlines() if line[:1].isalpha()]
    wanted = ["doctor", "weights", "tokens", "layerwise", *order[3:], "golden"]
    assert [row for row in rows if row in wanted] == wanted
    assert "PASS  8 of 9 checks run; layerwise: 1 input, " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_forward_fault_stops_at_layerwise(
    check: Callable[..., Any], quick: dict[str, Any]
) -> None:
    result = check("all", "--weights", "tiny", "--inject-fault", "erf-gelu@2")
    assert result.exit_code == 1
    assert [*quick] == ["doctor", "weights", "tokens"]
    assert "\nfirst divergence: h.2.mlp.gelu\n" in result.stdout
    (row,) = [
        one for one in result.stdout.splitlines() if one.split()[:2] == ["h.2.mlp.gelu", "plain"]
    ]
    assert row.endswith("WRONG")
    line = " ".join(result.stdout.partition("\nFAIL  ")[2].split())
    assert line.startswith(
        "layerwise on one input: first divergence at h.2.mlp.gelu; 4 of 9 checks"
    )
    assert result.stdout.index("first divergence: h.2") < result.stdout.index("\ncheck ")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "verb", "more"),
    [
        ("head-detached", "gradients", {}),
        ("future-seen@3", "invariants", {"device": "cpu"}),
        ("case-kept", "tokens", {"pretokenizer": "huggingface"}),
        ("header-counted", "tokens", {"pretokenizer": "huggingface"}),
        ("parts-not-averaged", "training", {"dropout": False}),
        ("no-attention-dropout", "training", {}),
        ("key-overwritten", "generation", {}),
    ],
)
def test_a_fault_is_given_to_the_check_of_its_kind(
    fault: str, verb: str, more: Mapping[str, Any], check: Callable[..., Any], quick: dict[str, Any]
) -> None:
    assert check("all", "--weights", "tiny", "--inject-fault", fault).exit_code == 0
    asked = {name: getattr(given, "inject_fault", None) for name, given in quick.items()}
    assert {name: value for name, value in asked.items() if value} == {verb: fault}
    assert {name: getattr(quick[verb], name) for name in more} == more


@pytest.mark.parametrize(("longest", "missing"), [(6, {"generation", "tokens"}), (7, {"tokens"})])
def test_what_the_weights_have_no_part_for_does_not_run(
    longest: int,
    missing: set[str],
    check: Callable[..., Any],
    quick: dict[str, Any],
    tmp_path: Path,
) -> None:
    """A search needs positions, a tokenizer a vocabulary. A fault of a tokenizer needs it, too."""
    config = GPTConfig(vocab_size=211, n_positions=longest, n_embd=16, n_layer=1, n_head=2)
    GPT(config).save_pretrained(tmp_path)
    result = check("all", "--weights", str(tmp_path), "--keep-going")
    assert result.exit_code == ExitCode.INCONCLUSIVE, result.stdout  # gains of 1 hide faults
    every = {"doctor", "weights", "tokens", "gradients", "invariants", "training", "generation"}
    assert every - quick.keys() == missing
    text = " ".join(result.stdout.split())
    assert "tokens not run there is no vocabulary in the folder" in text
    assert ("generation not run it needs 7 positions" in text) == ("generation" in missing)
    check("all", "--weights", str(tmp_path), "--inject-fault", "case-kept")
    assert "tokens" in quick


def test_of_a_candidate_only_the_checks_of_models_run(
    check: Callable[..., Any], quick: dict[str, Any], candidate: Callable[..., str]
) -> None:
    file = candidate()
    result = check("all", "--weights", "tiny", "--candidate", file)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert [*quick] == ["doctor", "gradients", "invariants", "training"]
    assert {quick[name].candidate for name in [*quick][1:]} == {file}
    assert "not run  it is not of a candidate" in result.stdout


def test_a_fault_is_not_injected_into_a_candidate(
    check: Callable[..., Any], quick: dict[str, Any], candidate: Callable[..., str]
) -> None:
    result = check("all", "--candidate", candidate(), "--inject-fault", "erf-gelu")
    assert (result.exit_code, [*quick]) == (2, [])
    assert "not into a candidate" in result.stderr
