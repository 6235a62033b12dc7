"""Settings of torch that move numbers: pinned for a while, watched, and given back."""

import contextlib
import getpass
import platform
from collections.abc import Callable, Iterator

import pytest
import torch

from parity.core.environment import SETTINGS, assert_settings_pinned, environment, pinned_settings
from parity.errors import EnvironmentUnfitError, ExitCode
from reference import compat

HAS_FP32_PRECISION = compat.sets_precision_of_onednn()
"""Where a precision can be set for each library, and under several names."""

MOVES: dict[str, Callable[[], object]] = {
    "torch.default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.float32_matmul_precision": lambda: torch.set_float32_matmul_precision("high"),
    "torch.deterministic_algorithms": lambda: torch.use_deterministic_algorithms(mode=False),
    "autocast(cpu)": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast(cuda)": lambda: torch.set_autocast_enabled("cuda", True),
    "torch.backends.cuda.matmul.allow_tf32": lambda: setattr(
        torch.backends.cuda.matmul, "allow_tf32", True
    ),
    "torch.backends.cudnn.allow_tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
}
OTHER_STATES: dict[str, Callable[[], object]] = {
    "as torch comes": lambda: None,
    "float64 by default": lambda: torch.set_default_dtype(torch.float64),
    "matmul high": lambda: torch.set_float32_matmul_precision("high"),
    "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
    "matmul tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "convolutions without tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "deterministic": lambda: torch.use_deterministic_algorithms(mode=True),
    "deterministic, warning only": lambda: torch.use_deterministic_algorithms(
        mode=True, warn_only=True
    ),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}
MIXED: dict[str, Callable[[], object]] = {}

if HAS_FP32_PRECISION:

    def _set_onednn(value: str) -> None:
        torch.backends.mkldnn.matmul.fp32_precision = value

    MOVES["torch.backends.mkldnn.matmul.fp32_precision"] = lambda: _set_onednn("bf16")
    MIXED["oneDNN alone"] = lambda: _set_onednn("tf32")
    MIXED["CUDA alone"] = lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")


def settings() -> dict[str, object]:
    read: dict[str, Callable[[], object]] = {
        "dtype": torch.get_default_dtype,
        "precision": torch.get_float32_matmul_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled,
        "warning only": torch.is_deterministic_algorithms_warn_only_enabled,
        "autocast cpu": lambda: torch.is_autocast_enabled("cpu"),
        "autocast cuda": lambda: torch.is_autocast_enabled("cuda"),
        "matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
        "convolution": lambda: torch.backends.cudnn.allow_tf32,
    }
    if HAS_FP32_PRECISION:
        read["onednn"] = lambda: torch.backends.mkldnn.matmul.fp32_precision
    return {key: function() for key, function in read.items()}


@pytest.fixture(autouse=True)
def _torch_as_it_comes() -> Iterator[None]:
    before = settings()
    yield
    torch.set_default_dtype(before["dtype"])
    if HAS_FP32_PRECISION:
        torch.backends.cuda.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision(before["precision"])
    if HAS_FP32_PRECISION:
        torch.backends.mkldnn.matmul.fp32_precision = before["onednn"]
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warning only"])
    torch.set_autocast_enabled("cpu", before["autocast cpu"])
    torch.set_autocast_enabled("cuda", before["autocast cuda"])
    torch.backends.cudnn.allow_tf32 = before["convolution"]
    assert before == settings()


def test_every_knob_is_listed_with_its_reason() -> None:
    assert sorted(MOVES) == sorted(knob.name for knob in SETTINGS)
    assert all(knob.why for knob in SETTINGS)


@pytest.mark.parametrize("state", OTHER_STATES)
def test_while_pinned_every_knob_has_its_value(state: str) -> None:
    OTHER_STATES[state]()
    with pinned_settings():
        found = settings()
        assert_settings_pinned()
    assert found.get("onednn", "ieee") == "ieee"
    assert (
        *(found["dtype"], found["precision"], found["deterministic"], found["warning only"]),
        *(found["autocast cpu"], found["autocast cuda"], found["matmul"], found["convolution"]),
    ) == (torch.float32, "highest", True, False, False, False, False, False)


@pytest.mark.parametrize("fails", [False, True], ids=["to the end", "broken off"])
@pytest.mark.parametrize("state", OTHER_STATES)
def test_afterwards_every_knob_is_where_it_was(state: str, fails: bool) -> None:  # noqa: FBT001
    OTHER_STATES[state]()
    expected = settings()
    with (
        pytest.raises(KeyError, match="mine") if fails else contextlib.nullcontext(),
        pinned_settings(),
    ):
        if fails:
            raise KeyError("mine")
    assert expected == settings()


@pytest.mark.parametrize("knob", MOVES)
def test_a_knob_that_is_moved_meanwhile_is_an_error(knob: str) -> None:
    expected = settings()
    with pytest.raises(EnvironmentUnfitError) as refusal, pinned_settings():
        MOVES[knob]()
    known = next(known for known in SETTINGS if known.name == knob)
    assert f"{knob} is " in refusal.value.what
    assert f"not {known.wanted!r} ({known.why})" in refusal.value.what
    assert ExitCode.ENVIRONMENT is refusal.value.exit_code
    assert expected == settings()


def test_all_that_were_moved_are_named() -> None:
    with pytest.raises(EnvironmentUnfitError) as refusal, pinned_settings():
        [move() for move in MOVES.values()]
    assert not [knob for knob in MOVES if f"{knob} is " not in refusal.value.what]


def test_a_knob_that_is_put_back_in_time_is_none() -> None:
    with pinned_settings(), contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.float32)
        torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("state", MIXED)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_knob_that_torch_will_not_read_is_an_error_of_the_environment(
    state: str, when: str
) -> None:
    """Set through another of torch's names, a setting cannot be asserted."""

    def mix() -> None:
        assert when == "meanwhile", "nothing is begun where a setting could not be given back"
        MIXED[state]()

    if when == "before":
        MIXED[state]()
    with pytest.raises(EnvironmentUnfitError, match="float32_matmul_precision"), pinned_settings():
        mix()


def test_what_is_not_installed_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise compat.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compat.metadata, "version", unknown)
    assert environment()["safetensors"] == "not installed"


def test_the_environment_says_what_is_needed_to_run_it_again() -> None:
    found = environment()
    expected = {"python", "platform", "torch", "cpu_capability", "threads", "cores"}
    assert expected | {"transformers", "numpy", "safetensors"} == set(found)
    assert torch.__version__ == found["torch"]
    assert str(torch.get_num_threads()) == found["threads"]
    told = " ".join(found.values())
    assert not [name for name in (platform.node(), getpass.getuser()) if name and name in told]
