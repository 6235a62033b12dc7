"""Every setting of torch that moves numbers: pinned, asserted, recorded.

A knob off its value is an error and never a tolerance.
"""

import contextlib
import dataclasses
import os
import platform
from collections.abc import Callable, Iterator

import torch

from parity.errors import EnvironmentUnfitError
from reference import compat


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: Its name in torch.
        wanted: The value under which verdicts are given.
        read: Returns its value.
        write: Sets its value.
        why: What it would change.
    """

    name: str
    wanted: object
    read: Callable[[], object]
    write: Callable[[object], object]
    why: str


def _attribute(path: str, wanted: object, why: str) -> Setting:
    """Return a knob that is an attribute under `torch`, given by its dotted path."""
    *parents, last = path.split(".")
    owner: object = torch
    for parent in parents:
        owner = getattr(owner, parent)
    return Setting(
        f"torch.{path}",
        wanted,
        lambda: getattr(owner, last),
        lambda value: setattr(owner, last, value),
        why,
    )


def _autocast(device: str) -> Setting:
    return Setting(
        f"autocast({device})",
        False,
        lambda: torch.is_autocast_enabled(device),
        lambda value: torch.set_autocast_enabled(device, bool(value)),
        "would run matrix products in half precision",
    )


def _knobs() -> list[Setting]:
    knobs = [
        Setting(
            "torch.default_dtype",
            torch.float32,
            torch.get_default_dtype,
            torch.set_default_dtype,  # type: ignore[arg-type]
            "constants made inside a model take it",
        ),
        Setting(
            "torch.float32_matmul_precision",
            "highest",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,  # type: ignore[arg-type]
            "'high' and 'medium' multiply in TF32 or bfloat16",
        ),
        Setting(
            "torch.deterministic_algorithms",
            "error",
            lambda: ("default", "warn", "error")[torch.get_deterministic_debug_mode()],
            torch.set_deterministic_debug_mode,  # type: ignore[arg-type]
            "some kernels sum in an order that varies",
        ),
        _autocast("cpu"),
        _autocast("cuda"),
        _attribute("backends.cuda.matmul.allow_tf32", False, "TF32 keeps 10 bits of 23"),
        _attribute("backends.cudnn.allow_tf32", False, "TF32 keeps 10 bits of 23"),
    ]
    if compat.sets_precision_of_onednn():
        why = "'bf16' and 'tf32' round the inputs of float32 products"
        knobs.insert(2, _attribute("backends.mkldnn.matmul.fp32_precision", "ieee", why))
    return knobs


SETTINGS = tuple(_knobs())
"""Every knob that is pinned."""


@contextlib.contextmanager
def pinned_settings() -> Iterator[None]:
    """Set every knob, give control, assert that none was moved, and set all back.

    Raises:
        EnvironmentUnfitError: A knob was moved meanwhile, so that no number can be trusted; or
            one cannot be read, and so not be set back.
    """
    before = [(knob, _read(knob)) for knob in SETTINGS]
    _refuse([f"{knob.name} was {value}" for knob, value in before if value is _UNREADABLE])
    try:
        for knob in SETTINGS:
            knob.write(knob.wanted)
        yield
        assert_settings_pinned()
    finally:
        for knob, value in before:  # general settings first: they overwrite the special ones
            if _read(knob) != value:  # and a special one, written needlessly, the general one
                knob.write(value)


def assert_settings_pinned() -> None:
    """Require every knob to be at its value.

    Raises:
        EnvironmentUnfitError: Names each knob that is not, and what it would change.
    """
    moved = [
        f"{knob.name} is {_read(knob)!r}, not {knob.wanted!r} ({knob.why})"
        for knob in SETTINGS
        if _read(knob) != knob.wanted
    ]
    _refuse(moved)


def _refuse(moved: list[str]) -> None:
    if moved:
        raise EnvironmentUnfitError(
            f"a setting that moves numbers was changed: {'; '.join(moved)}",
            where="torch's global settings",
            fix="keep the model's code from changing them while it is checked",
        )


def _read(knob: Setting) -> object:
    """Return a knob's value; torch refuses to read some that were set through another name."""
    try:
        return knob.read()
    except RuntimeError:
        return _UNREADABLE


_UNREADABLE = "set through another of torch's names"


def environment() -> dict[str, str]:
    """Return what a reader needs to run the same numbers again; no name of user or host."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        **{name: compat.describe(name) for name in ("transformers", "numpy", "safetensors")},
    }
