"""The command line: `python -m parity.check VERB`.

`VERBS` registers every verb. Nothing that needs torch is imported before a verb runs, so that
`--help` answers at once.
"""

import gc
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from parity import options, session
from parity.options import EXIT_CODES, ReportOptions
from parity.validation import check_options, described_faults
from scratch_gpt.cli import run_app, typer_app
from scratch_gpt.options import add_command, add_version


@dataclass(frozen=True)
class Verb:
    """One verb: its options, whose docstring is its help, and its functions as `MODULE:NAME`.

    `faults` are the kinds of fault that `--inject-fault` takes, for verbs that have it.
    """

    options: type[ReportOptions]
    function: str
    faults: tuple[str, ...] = ()


VERBS = {
    "layerwise": Verb(options.LayerwiseOptions, "parity.verbs:layerwise", ("forward",)),
    "gradients": Verb(options.GradientsOptions, "parity.verbs:gradients", ("forward", "backward")),
    "invariants": Verb(options.InvariantsOptions, "parity.verbs:invariants", ("invariants",)),
    "weights": Verb(options.WeightsOptions, "parity.verbs:weights"),
    "tokens": Verb(options.TokensOptions, "parity.verbs:tokens", ("tokenizer",)),
    "doctor": Verb(options.DoctorOptions, "parity.verbs:doctor"),
    "training": Verb(options.TrainingOptions, "parity.verbs:training", ("training",)),
    "generation": Verb(options.GenerationOptions, "parity.verbs:generation", ("generation",)),
    "golden": Verb(options.GoldenOptions, "parity.verbs:golden"),
    "drift": Verb(options.DriftOptions, "parity.verbs:drift"),
    "selftest": Verb(options.SelftestOptions, "parity.verbs:selftest"),
    "all": Verb(
        options.AllOptions,
        "parity.verbs:all_checks",
        ("forward", "backward", "invariants", "tokenizer", "training", "generation"),
    ),
}
"""Every verb; its functions are imported when it runs."""

app = typer_app(
    "parity.check",
    "Is this GPT-1 the same function as Hugging Face's and as a NumPy float64 oracle, and if not, "
    "where do they first differ?\n\n"
    "Each verb answers one question; VERB --help has examples. "
    "Start with: python -m parity.check layerwise --weights tiny\n\n\b" + EXIT_CODES,
)
add_version(app)


def _run(name: str, asked: ReportOptions) -> int:
    verb = VERBS[name]
    return session.run(
        asked,
        name=name,
        load=partial(_loaded, verb, asked),
        faults=(lambda: partial(described_faults, verb.faults)) if verb.faults else None,
    )


def _loaded(verb: Verb, asked: ReportOptions) -> Callable[..., Any]:
    check_options(asked, verb.faults)
    module, _, name = verb.function.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    return found


for _name, _verb in VERBS.items():
    _text = f"{inspect.getdoc(_verb.options)}\n{EXIT_CODES}"
    add_command(app, _verb.options, partial(_run, _name), name=_name, text=_text)


def main() -> None:
    """Run the command line.

    Importing torch and transformers makes a million objects that stay. Until a verb is loaded no
    garbage is collected, and later searches leave those objects out. It saves a third of the
    processor time of `layerwise --weights tiny`, half of that when the process ends.
    """
    gc.disable()
    try:
        run_app(app)
    except SystemExit as ended:
        if any(argument.startswith(("--candidate", "--kernel")) for argument in sys.argv):
            session.end_process(ended.code)
        raise
    finally:
        gc.enable()


if __name__ == "__main__":
    main()
