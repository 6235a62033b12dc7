"""`assert_parity`, for test suites: one call runs a check, and fails with its report as the text.

`parity.pytest_plugin` is built on it. Nothing of this project is imported before the first check,
so that a test session that never runs one pays nothing.
"""

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from torch import Tensor, nn

    from parity.core.results import Report

SETTINGS = {
    "check": "layerwise",
    "weights": None,
    "seq_len": 64,
    "batch_size": 1,
    "seed": 0,
    "dtype": "float32",
    "taps": "*",
    "call": None,
    "mapping": None,
}
"""The settings of `assert_parity`, and what they are where neither a call nor a marker has them."""

_PARAMETERS = {name.replace("_", "-"): name for name in SETTINGS} | {
    "candidate": "model",
    "map": "mapping",
    "token-ids": "ids",
}
"""The parameter of `assert_parity` for each option of the command line that has one."""

_defaults: Mapping[str, Any] = {}
_listener: "Callable[[Report], None] | None" = None


@contextlib.contextmanager
def listening(defaults: Mapping[str, Any], listener: "Callable[[Report], None]") -> Iterator[None]:
    """Give other defaults to `assert_parity` in the context, and pass on each report."""
    global _defaults, _listener
    before = _defaults, _listener
    _defaults, _listener = defaults, listener
    try:
        yield
    finally:
        _defaults, _listener = before


def assert_parity(  # noqa: PLR0913 - one argument for each setting
    model: "nn.Module | Callable[..., object] | str | PathLike[str]",
    reference: "nn.Module | str | PathLike[str] | None" = None,
    ids: "Tensor | list[list[int]] | None" = None,
    *,
    check: str | None = None,
    weights: "str | PathLike[str] | None" = None,
    seq_len: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    taps: str | None = None,
    call: str | None = None,
    mapping: "str | PathLike[str] | None" = None,
) -> "Report":
    """Check a model against its reference; return the report of a pass.

    A setting that is not given is that of the test's marker `parity`, else its default. One that
    has no effect on the check, or on these arguments, is an error.

    Args:
        model: A model with its weights; or a class, a function or `FILE.py` that makes one.
        reference: A model with the same weights; or the name of these weights, as `openai-gpt`.
            Without it the weights of `scratch_gpt.GPT` and of Hugging Face's GPT-1 are read from
            the model itself, except for the check `weights`, which needs others.
        ids: Token ids `[batch time]`, or rows of them. Default: drawn from `seed`.
        check: `layerwise` (default), `gradients`, `training`, `generation` or `weights`.
        weights: Name of weights, which both sides get. Default for what makes a model: `tiny`.
        seq_len: Drawn tokens in a row; by default 64, or fewer if the model takes fewer.
        batch_size: Drawn rows, by default 1.
        seed: Of the drawn ids, by default 0.
        dtype: The dtype whose rounding is checked: `float32` (default), `bfloat16`, `float16`; or
            `float64` for none.
        taps: Pattern of the names to compare, by default all.
        call: How the model is called, as `model(ids, targets=ids)`. Default: it is found out.
        mapping: File that says what the parameters of a made model hold, as `--map`.

    Raises:
        ParityFailedError: The verdict is no pass, or the check could not start. It is an
            `AssertionError` with the report as its text.
    """
    __tracebackhide__ = True
    arguments = {
        "check": check,
        "weights": weights,
        "seq_len": seq_len,
        "batch_size": batch_size,
        "seed": seed,
        "dtype": dtype,
        "taps": taps,
        "call": call,
        "mapping": mapping,
    }
    given = {**_defaults, **{k: value for k, value in arguments.items() if value is not None}}
    given = {k: value for k, value in given.items() if value is not None}  # a marker's None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of libraries, as they are imported
        from parity.api import run_check
        from parity.core.results import ParityFailedError, Verdict, error_report
        from parity.errors import ParityError
    try:
        report = run_check(model, reference, ids, given, SETTINGS)
    except ParityError as error:  # as a report, it is written and printed like the others
        report = error_report(error, str(given.get("check", SETTINGS["check"])))
    reasons = [
        dataclasses.replace(
            one, what=_in_python(one.what), where=_in_python(one.where), fix=_in_python(one.fix)
        )
        for one in report.reasons
    ]
    report = dataclasses.replace(report, reasons=reasons, summary=_in_python(report.summary))
    if _listener is not None:
        _listener(report)
    if report.verdict is not Verdict.PASS:
        raise ParityFailedError(report)
    return report


def _in_python(text: str) -> str:
    """Return an error's text with the names of parameters in place of options."""
    text = text.replace("; --debug shows the traceback", "")
    return re.sub(r"--([a-z-]+)", lambda found: _PARAMETERS.get(found[1], found[0]), text)
