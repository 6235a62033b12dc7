"""Runs in lockstep: a small network, right, and wrong in every way."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.core import lockstep
from parity.core.lockstep import (
    Observations,
    OracleFailedError,
    Pass,
    RunError,
    Subject,
    TapStream,
    capture,
    walk_in_lockstep,
)
from parity.core.metrics import Status
from parity.core.taps import Axes, Kind, Tap

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32, FLOAT64 = torch.float32, torch.float64
CPU = torch.device("cpu")
X = torch.arange(2 * 5 * 3, dtype=FLOAT64).reshape(2, 5, 3) / 7 + 1

Show = Callable[[str, Tensor], Tensor]
Operation = Callable[[Mapping[str, Tensor]], Tensor]

OPERATIONS: dict[str, Operation] = {
    "a": lambda seen: seen["x"] * 3,
    "b": lambda seen: seen["a"] * seen["a"],
    "c": lambda seen: seen["b"] + seen["x"],
    "logits": lambda seen: seen["c"] / 3,
    "loss": lambda seen: seen["logits"][:, :-1, 0] / 7,
}
NAMES = list(OPERATIONS)
PLAN = [
    Tap(name, Kind(name, Axes.LOSS if name == "loss" else Axes.ROWS, (), "anything"), ())
    for name in NAMES
]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Require that after every walk all runs have ended."""
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


def network(
    dtype: torch.dtype = FLOAT64, *, shown: Sequence[str] = NAMES, **changed: Operation
) -> Callable[[Show], None]:
    """Return a run in `dtype` that passes the taps in `shown`, some operations changed."""

    def run(tap: Show) -> None:
        seen = {"x": X.to(dtype)}
        for name, operation in (OPERATIONS | changed).items():
            seen[name] = operation(seen)
            if name in shown:
                seen[name] = tap(name, seen[name])

    return run


def in_order(*names: str) -> Callable[[Show], None]:
    """Return a run that passes right tensors in any order, and the input under unknown names."""
    right = values()

    def run(tap: Show) -> None:
        for name in names:
            tap(name, right.get(name, X))

    return run


def values(**changed: Operation) -> dict[str, Tensor]:
    seen = {"x": X}
    for name, operation in (OPERATIONS | changed).items():
        seen[name] = operation(seen)
    return seen


def subject(
    run: Callable[[Show], None], name: str = "ours/plain/float64", **more: object
) -> Subject:
    dtype = FLOAT32 if name.endswith("float32") else FLOAT64
    return Subject(**{"name": name, "run": run, "dtype": dtype, "device": CPU} | more)


def walked(*subjects: Subject, **more: object) -> Observations:
    """Walk subjects in lockstep with the right oracle."""
    given = {
        "oracle": network(),
        "plan": PLAN,
        "time": 5,
        "mask": None,
        "selected": frozenset(NAMES),
        "progress": lambda _tap: None,
        "look": lambda *_seen: None,
    } | more
    progress, look = given.pop("progress"), given.pop("look")
    return walk_in_lockstep(Pass(subjects=subjects, **given), progress=progress, look=look)


def errors(
    found: Observations, name: str = "ours/plain/float64", against: str = "oracle"
) -> dict[str, float]:
    return {
        tap: d.largest for (s, tap, w), d in found.differences.items() if (s, w) == (name, against)
    }


def statuses(found: Observations, name: str = "ours/plain/float64") -> dict[str, str]:
    return {
        tap: d.status.value
        for (s, tap, w), d in found.differences.items()
        if (s, w) == (name, "oracle")
    }


def wrong(seen: Mapping[str, Tensor]) -> Tensor:
    """Return `b`, 0.1 % too large."""
    return seen["a"] * seen["a"] * 1.001


PASSES = dict.fromkeys(NAMES, "pass")


def test_right_runs_differ_nowhere() -> None:
    found = walked(subject(network()), subject(network(), "ours/tiled/float64"))
    expected = [(name, 0.0) for name in NAMES]
    for name in ("ours/plain/float64", "ours/tiled/float64"):
        assert expected == list(errors(found, name).items())
    assert not found.extras
    assert not found.broken


def test_a_wrong_operation_is_measured_where_it_is_and_after() -> None:
    found = errors(walked(subject(network(b=wrong))))
    right, broken = values(), values(b=wrong)
    assert found == {name: float((broken[name] - right[name]).abs().max()) for name in NAMES}
    assert not found["a"]
    assert all(found[name] for name in NAMES[1:])


def test_the_second_reference_measures_the_others_of_its_dtype() -> None:
    theirs, ours = "huggingface/float64", "ours/plain/float64"
    found = walked(
        subject(network(b=wrong), theirs),
        subject(network(), ours),
        subject(network(FLOAT32), "ours/plain/float32"),
        against=theirs,
    )
    assert errors(found, ours) == dict.fromkeys(NAMES, 0.0)
    against = errors(found, ours, "huggingface")
    assert errors(found, theirs) == against
    assert against["b"] > 0
    assert {(s, w) for s, _, w in found.differences if w != "oracle"} == {(ours, "huggingface")}


def test_per_op_every_operation_meets_the_rounded_truth() -> None:
    """A wrong operation is measured alone; every right one has its own rounding only."""
    name = "ours/plain/float32"
    found = errors(walked(subject(network(FLOAT32, b=wrong), name), rounded_to=FLOAT32), name)
    expected, rounded = {}, {"x": X}
    for tap, operation in OPERATIONS.items():
        truth = operation(rounded)
        narrow = {key: value.to(FLOAT32) for key, value in rounded.items()}
        ours = (wrong if tap == "b" else operation)(narrow)
        expected[tap] = float((ours.double() - truth).abs().max())
        rounded[tap] = truth.to(FLOAT32).double()
    assert expected == found
    assert min(found.values()) > 0
    assert found["b"] > 1000 * max(error for tap, error in found.items() if tap != "b")


def test_a_raw_truth_is_left_as_it_is() -> None:
    """Where no subject is given it, the oracle goes on with all its digits."""
    truths: dict[str, Tensor] = {}

    def look(name: str, tap: str, _tensor: Tensor, truth: Tensor) -> None:
        if name == "oracle":
            truths[tap] = truth.clone()

    absent = frozenset({"b"})
    ours = subject(
        network(FLOAT32, shown=["a", "c", "logits", "loss"]), "ours/x/float32", never_formed=absent
    )
    found = walked(ours, rounded_to=FLOAT32, raw=absent, look=look)
    a = truths["a"].float().double()
    assert torch.equal(a * a, truths["b"])
    assert torch.equal(a * a + X, truths["c"])
    assert torch.equal(truths["c"].float().double() / 3, truths["logits"])
    assert "b" not in errors(found, "ours/x/float32")


def test_what_is_unwatched_is_passed_by() -> None:
    went_on: list[Tensor] = []

    def c(seen: Mapping[str, Tensor]) -> Tensor:
        went_on.append(seen["b"])
        return OPERATIONS["c"](seen)

    theirs = subject(network(FLOAT32, c=c), "huggingface/float32", unwatched=frozenset({"b"}))
    found = walked(theirs, rounded_to=FLOAT32, raw=frozenset({"b"}))
    assert list(errors(found, "huggingface/float32")) == ["a", "c", "logits", "loss"]
    a = values()["a"].float()
    assert torch.equal(a * a, went_on[0])
    assert not found.extras


@pytest.mark.parametrize("absent", ["a", "b", "logits", "loss"])
def test_a_tap_that_is_never_shown_is_missing(absent: str) -> None:
    found = walked(subject(network(shown=[name for name in NAMES if name != absent])))
    assert statuses(found) == PASSES | {absent: "missing"}
    assert not found.extras


def test_a_run_that_shows_nothing_misses_everything() -> None:
    expected = dict.fromkeys(NAMES, "missing")
    assert expected == statuses(walked(subject(in_order())))
    others = [f"model.{name}" for name in NAMES]
    found = walked(subject(in_order(*others)))
    assert expected == statuses(found)
    assert found.extras == {"ours/plain/float64": others}


@pytest.mark.parametrize(
    ("shown", "status", "extras"),
    [
        (["a", "a", "b", "c", "logits", "loss"], {}, ["a"]),
        (["a", "b", "c", "logits", "loss", "loss"], {}, ["loss"]),
        (["x", "a", "b", "c", "logits", "loss"], {}, ["x"]),
        (["a", "b", "c", "x", "logits", "y", "loss", "z"], {}, ["x", "y", "z"]),
        (["a", "c", "b", "logits", "loss"], {"b": "missing"}, ["b"]),
        (["b", "c", "logits", "loss", "a"], {"a": "missing"}, ["a"]),
        (["a", "b", "c", "loss", "logits"], {"logits": "missing"}, ["logits"]),
    ],
    ids=" ".join,
)
def test_what_is_shown_out_of_turn_is_extra(
    shown: list[str], status: dict[str, str], extras: list[str]
) -> None:
    found = walked(subject(in_order(*shown)))
    assert (statuses(found), found.extras) == (PASSES | status, {"ours/plain/float64": extras})


def test_another_shape_is_described() -> None:
    found = walked(subject(network(logits=lambda seen: seen["c"][:, -1:])))
    seen = found.differences["ours/plain/float64", "logits", "oracle"]
    assert seen.status is Status.SHAPE
    assert seen.detail == "they are of the last position alone; return those of every position"


def breaks(_seen: Mapping[str, Tensor]) -> Tensor:
    raise ValueError("too wide")


@pytest.mark.parametrize("place", range(6))
def test_a_run_that_raises_leaves_the_rest_of_its_taps_not_run(place: int) -> None:
    """At place 5 it raises after its last tap."""
    broken, whole = "ours/plain/float64", "ours/tiled/float64"
    run = network(**{[*NAMES, "end"][place]: breaks})
    found = walked(subject(run, broken), subject(network(), whole))
    assert list(statuses(found, broken).values()) == ["pass"] * place + ["not_run"] * (5 - place)
    assert statuses(found, whole) == PASSES
    assert {name: str(error) for name, error in found.broken.items()} == {broken: "too wide"}
    assert found.last.get(broken) == (NAMES[place - 1] if place else None)
    details = {d.detail for d in found.differences.values() if d.status is Status.NOT_RUN}
    assert details == ({"the run broke off: ValueError: too wide"} if place < 5 else set())


def test_where_the_reference_breaks_off_its_rows_end() -> None:
    found = walked(
        subject(network(c=breaks), "huggingface/float64"),
        subject(network()),
        against="huggingface/float64",
    )
    assert list(errors(found, against="huggingface")) == ["a", "b"]
    assert statuses(found) == PASSES


def test_an_oracle_without_a_planned_tap_is_an_error_of_ours() -> None:
    with pytest.raises(OracleFailedError, match="the oracle has no tap b"):
        walked(subject(network()), oracle=network(shown=["a", "c", "logits", "loss"]))


@pytest.mark.parametrize("what", ["look", "progress"])
def test_an_error_in_a_callback_ends_all_runs(what: str) -> None:
    def callback(*_seen: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        walked(subject(network()), **{what: callback})


def test_only_what_is_selected_is_measured() -> None:
    looked: list[tuple[str, str]] = []
    progress: list[str] = []
    found = walked(
        subject(network()),
        selected=frozenset({"b", "loss"}),
        look=lambda run, tap, _tensor, _truth: looked.append((run, tap)),
        progress=progress.append,
    )
    assert list(errors(found)) == ["b", "loss"]
    assert [tap for run, tap in looked if run == "ours/plain/float64"] == ["b", "loss"]
    assert [tap for run, tap in looked if run == "oracle"] == NAMES == progress


def test_a_look_is_given_the_tensor_and_the_truth() -> None:
    looked: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, tap: str, tensor: Tensor, truth: Tensor) -> None:
        if name != "oracle":
            looked[tap] = (tensor.clone(), truth.clone())

    walked(subject(network(b=wrong)), look=look)
    right, broken = values(), values(b=wrong)
    for name in NAMES:
        assert torch.equal(broken[name], looked[name][0])
        assert torch.equal(right[name], looked[name][1])


def spoiling(tap: Show) -> None:
    seen = {"x": X}
    for name, operation in OPERATIONS.items():
        seen[name] = operation(seen)
        tap(name, seen[name].clone()).fill_(float("nan"))


@pytest.mark.parametrize("role", ["subject", "against"])
def test_what_a_run_writes_after_its_tap_is_not_measured(role: str) -> None:
    """A run waits while its tensor is measured."""
    theirs = subject(spoiling if role == "against" else network(), "huggingface/float64")
    ours = subject(spoiling if role == "subject" else network())
    found = walked(theirs, ours, against="huggingface/float64")
    assert errors(found) == dict.fromkeys(NAMES, 0.0)
    # A reference that overwrites its logits does so before the others are compared with them.
    against = errors(found, against="huggingface")
    compared = NAMES if role == "subject" else ["a", "b", "c"]
    assert not any(against[name] for name in compared)


def test_another_dtype_or_shape_is_found_at_its_tap() -> None:
    changed = {"b": lambda seen: OPERATIONS["b"](seen).float(), "c": lambda seen: seen["a"][:1]}
    found = walked(subject(network(**changed)))
    assert list(statuses(found).values())[:3] == ["pass", "dtype", "shape"]
    found = walked(subject(network(**changed)), rounded_to=FLOAT64)
    assert statuses(found) == PASSES | {"b": "dtype", "c": "shape"}


def test_padding_is_not_measured() -> None:
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])

    def c(seen: Mapping[str, Tensor]) -> Tensor:
        return OPERATIONS["c"](seen).masked_fill(~mask[:, :, None], float("nan"))

    found = walked(subject(network(c=c)), mask=mask)
    assert statuses(found) == PASSES
    counts = {tap: d.count for (_, tap, _), d in found.differences.items()}
    assert counts == dict.fromkeys(NAMES[:4], 21) | {"loss": 5}
    assert statuses(walked(subject(network(c=c))))["c"] == "nonfinite"


def test_one_subjects_logits_are_gone_before_those_after_the_next_are_made() -> None:
    """They are by far the largest: while one is measured, one more is made and no third."""
    made: list[str] = []

    def noting(name: str) -> Subject:
        def noted(tap: str) -> Operation:
            def operation(seen: Mapping[str, Tensor]) -> Tensor:
                made.append(f"{name} {tap}")
                return OPERATIONS[tap](seen)

            return operation

        return subject(network(logits=noted("logits"), loss=noted("loss")), f"{name}/float64")

    names = ("first", "second", "third", "fourth")
    walked(*map(noting, names))
    assert sorted(made) == sorted(f"{name} {tap}" for name in names for tap in ("logits", "loss"))
    for earlier, later in (("first", "third"), ("second", "fourth")):
        assert made.index(f"{earlier} loss") < made.index(f"{later} logits")


def test_while_logits_are_measured_the_next_subjects_are_made() -> None:
    begun = threading.Event()
    waited: list[bool] = []

    def logits(seen: Mapping[str, Tensor]) -> Tensor:
        begun.set()
        return OPERATIONS["logits"](seen)

    def look(name: str, tap: str, _tensor: Tensor, _truth: Tensor) -> None:
        if (name, tap) == ("first/float64", "logits"):
            waited.append(begun.wait(10))

    second = subject(network(logits=logits), "second/float64")
    walked(subject(network(), "first/float64"), second, look=look)
    assert waited == [True]


def test_a_plan_may_begin_with_the_logits() -> None:
    shown = ["logits", "loss"]
    found = walked(subject(network(shown=shown)), oracle=network(shown=shown), plan=PLAN[3:])
    assert statuses(found) == dict.fromkeys(shown, "pass")


# One run as a stream of taps.


def numbers() -> Tensor:
    return torch.tensor([[1.0, 2.0, 3.0]])


def in_place(tap: Show) -> None:
    """Pass one tensor three times, and write to it in between."""
    x = numbers()
    tap("a", x)
    x += 10
    tap("b", x)
    x.zero_()
    tap("c", x)


IN_PLACE = {"a": [[1.0, 2.0, 3.0]], "b": [[11.0, 12.0, 13.0]], "c": [[0.0, 0.0, 0.0]]}


def test_every_tap_comes_by_in_order() -> None:
    seen = [(name, tensor.tolist()) for name, tensor in TapStream(in_place)]
    assert seen == list(IN_PLACE.items())
    captured = capture(in_place)
    assert [(name, tensor.tolist()) for name, tensor in captured.items()] == list(IN_PLACE.items())


def test_a_run_waits_until_its_tap_is_answered() -> None:
    happened: list[str] = []

    def run(tap: Show) -> None:
        for name in "ab":
            tap(name, numbers())
            happened.append(f"after {name}")

    taps = TapStream(run)
    for expected in ([], ["after a"]):
        next(taps)
        time.sleep(0.05)
        assert happened == expected
    taps.close()
    assert happened == ["after a"]


def test_what_is_sent_back_is_what_the_run_goes_on_with() -> None:
    went_on: list[float] = []

    def run(tap: Show) -> None:
        went_on.extend(float(tap(name, numbers()).sum()) for name in "abc")

    taps = TapStream(run)
    next(taps)
    taps.send(torch.tensor([7.0]))
    taps.send(None)
    with pytest.raises(StopIteration):
        taps.send(torch.tensor([9.0]))
    assert went_on == [7.0, 6.0, 9.0]


def test_the_tensor_is_the_runs_own() -> None:
    own, went_on = numbers(), []
    taps = TapStream(lambda tap: tap("a", own))
    assert next(taps)[1].data_ptr() == own.data_ptr()
    taps.close()
    capture(lambda tap: went_on.append(tap("a", own)))
    assert went_on[0] is own


@pytest.mark.parametrize(
    "follow", [lambda run: list(TapStream(run)), capture], ids=["stream", "capture"]
)
def test_no_gradient_is_recorded(follow: Callable[[Callable[[Show], object]], object]) -> None:
    """Gradient mode is a setting of the thread, and a run has its own thread."""
    recorded: list[bool] = []

    def run(tap: Show) -> None:
        weight = numbers().requires_grad_()
        recorded.extend([torch.is_grad_enabled(), (weight * 2).requires_grad])
        tap("a", weight)

    follow(run)
    assert recorded == [False, False]


def test_a_watched_parameter_is_shown_without_its_gradient() -> None:
    taps = TapStream(lambda tap: tap("a", numbers().requires_grad_()))
    assert not next(taps)[1].requires_grad
    taps.close()
    assert not capture(lambda tap: tap("a", numbers().requires_grad_()))["a"].requires_grad


@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), KeyboardInterrupt("mine"), StopIteration("mine"), SystemExit("mine")],
    ids=repr,
)
def test_what_the_run_raises_is_handed_over(error: BaseException) -> None:
    def run(tap: Show) -> None:
        tap("a", numbers())
        raise error

    taps = TapStream(run)
    assert next(taps)[0] == "a"
    with pytest.raises(RunError, match=f"^{type(error).__name__}: mine$") as raised:
        next(taps)
    assert error is raised.value.__cause__


def test_after_its_end_a_stream_stays_ended() -> None:
    def breaks(_tap: Show) -> None:
        raise ValueError

    whole, broken = TapStream(lambda tap: tap("a", numbers())), TapStream(breaks)
    next(whole)
    with pytest.raises(RunError):
        next(broken)
    for taps in (whole, broken):
        assert not list(taps)
        taps.close()
        taps.close()


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_abandoned_run_ends_its_thread(taken: int) -> None:
    happened: list[str] = []

    def run(tap: Show) -> None:
        try:
            for name in "abc":
                try:
                    tap(name, numbers())
                except Exception:  # noqa: BLE001 - a model that swallows everything it can
                    happened.append("swallowed")
        finally:
            happened.append("cleaned up")

    before = set(threading.enumerate())
    taps = TapStream(run)
    for _ in range(taken):
        next(taps)
    taps.close()
    assert not set(threading.enumerate()) - before
    assert not list(taps)
    assert "swallowed" not in happened
    assert not taken or happened == ["cleaned up"]


def test_a_capture_raises_for_a_name_shown_twice_and_what_the_run_raises() -> None:
    with pytest.raises(ValueError, match="'a' was shown twice"):
        capture(lambda tap: (tap("a", numbers()), tap("a", numbers())))
    with pytest.raises(ValueError, match="too wide"):
        capture(breaks)


def test_a_model_that_swallows_the_end_is_ended() -> None:
    """It shows tap after tap, whatever is raised at them."""
    raised = []

    def run(tap: Show) -> None:
        for name in "abc":
            try:
                tap(name, torch.ones(2))
            except BaseException as error:  # noqa: BLE001 - as a model may
                raised.append(type(error).__name__)

    taps = TapStream(run)
    assert next(taps)[0] == "a"
    taps.close()
    assert raised == ["_AbandonedError"] * 3


def test_the_warnings_of_numpy_do_not_end_a_run() -> None:
    taps = TapStream(lambda tap: tap("a", torch.from_numpy(np.full(3, 1e308) * 10)))
    assert [name for name, value in taps if value.isinf().all()] == ["a"]


def test_a_look_is_given_the_oracles_own_tensor_twice() -> None:
    looked: dict[str, Tensor] = {}

    def look(name: str, tap: str, tensor: Tensor, truth: Tensor) -> None:
        if name == "oracle":
            assert tensor is truth
            looked[tap] = tensor.clone()

    walked(subject(network(b=wrong)), look=look)
    assert list(looked) == NAMES
    right = values()
    assert all(torch.equal(looked[tap], right[tap]) for tap in NAMES)


@pytest.mark.parametrize("count", [1, 3])
def test_the_threads_are_split_among_the_subjects_and_the_oracle(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[int] = []
    split = lockstep.split_threads
    monkeypatch.setattr(lockstep, "split_threads", lambda n: (shares.append(n), split(n))[1])
    walked(*(subject(network(), f"ours/{number}/float64") for number in range(count)))
    assert shares == [1 + count]


def test_what_is_not_shown_says_so_and_has_no_numbers() -> None:
    found = walked(subject(network(shown=["a", "c", "logits", "loss"])))
    seen = found.differences["ours/plain/float64", "b", "oracle"]
    assert (seen.detail, seen.count, seen.shape) == ("this tap was never shown", 0, ())
    assert found.last == {"ours/plain/float64": "loss"}
