"""What a run shows: a JSON log with each step once, a progress line, samples, a loss curve."""

import contextlib
import datetime as dt
import itertools
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.atomic import to_write_error
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.reproducibility import nondeterministic
from scratch_gpt.training.trainer import evaluation_mode


class Log:
    """An open log. A line that a killed process did not finish is dropped on resume.

    Raises:
        WriteError: The file system failed; from the constructor, `write` and `sync`.
    """

    def __init__(self, path: Path, *, step: int | None, warn: Callable[[str], None]) -> None:
        """Open or create a log for the steps after `step`, or for a new run.

        Later lines, left by a killed process, are dropped. `warn` is called with a message if
        earlier steps are missing, and if the file is kept under another name: because it has good
        lines behind one that is not of a log, or a step twice, or the run is new.

        Raises:
            CheckpointError: It is not a regular file.
        """
        self.path = path
        partial = path.with_name(f"{path.name}.partial")
        lines, is_mixed = _read(path)
        kept = [fields for fields in lines if step is not None and fields["step"] <= step]
        with _reporting_write_errors(path):
            if is_mixed or (step is None and lines):
                why = "holds lines that do not belong there" if is_mixed else "is of an earlier run"
                warn(f"{path.name} {why}; it is kept as {_keep_copy(path).name}")
            if step and len(kept) != step:
                warn(f"{path.name} holds {len(kept)} of the {step} steps done")
            partial.unlink(missing_ok=True)  # it may be a link, or a pipe that never opens
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(fields) + "\n" for fields in kept)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            self._file = path.open("a", encoding="utf-8")

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write one line; NaN and infinities become text."""
        is_text = {n for n, v in fields.items() if isinstance(v, float) and not math.isfinite(v)}
        strict = {name: repr(v) if name in is_text else v for name, v in fields.items()}
        with _reporting_write_errors(self.path):
            self._file.write(json.dumps(strict) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Flush to the disk; called before each checkpoint, which must not be ahead of the log."""
        with _reporting_write_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextlib.contextmanager
def _reporting_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise to_write_error(error, path) or error from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the log's lines by step, without those that are not of a log; none without a file."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return the lines by step, and whether good lines follow a bad one or a step is there twice.

    A bad line at the end is one that a killed process did not finish.
    """
    found: dict[int, dict[str, Any]] = {}
    is_bad = is_mixed = False
    if os.path.lexists(path):
        with open_regular(path) as file:
            while line := file.readline(_LONGEST_LINE):
                fields = _fields(line)
                if fields is None:
                    is_bad = True
                else:
                    is_mixed = is_mixed or is_bad or fields["step"] in found
                    found[fields["step"]] = fields
    return [found[step] for step in sorted(found)], is_mixed


_LONGEST_LINE = 1 << 24
"""Bytes of a line that are read at most."""


def _fields(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line, None if it is incomplete or not of a log."""
    try:
        fields = strict_io.load_strict_json(line)
    except ValueError:
        return None
    is_whole = line.endswith(b"\n") and isinstance(fields, dict)
    return fields if is_whole and type(fields.get("step")) is int and fields["step"] > 0 else None


def _keep_copy(path: Path) -> Path:
    """Copy a file beside itself, under a name that is free; return its path."""
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
    copy = next(name for name in names if not os.path.lexists(name))
    shutil.copyfile(path, copy)
    return copy


class ProgressLine:
    """Shows each step as a progress line, and validation losses and samples as lines that stay."""

    def __init__(self, progress: Progress, note: Callable[[str], None]) -> None:
        self._progress = progress
        self._note = note
        self._seconds: deque[float] = deque(maxlen=_AVERAGED)
        self._validation = ""

    def __call__(self, fields: Mapping[str, Any], steps: int) -> None:
        """Show a step, given its line of the log and the number of steps of the run."""
        self._seconds.append(fields["seconds"])
        if "validation_loss" in fields:
            self._validation = f", validation {fields['validation_loss']:.3f}"
            self._note(f"step {fields['step']}: loss {fields['loss']:.3f}{self._validation}")
        if "sample" in fields:
            self._note(f"step {fields['step']} writes: {fields['sample']}")
        left = (steps - fields["step"]) * sum(self._seconds) / len(self._seconds)
        text = (
            f"step {fields['step']} of {steps}: loss {fields['loss']:.3f}{self._validation}, "
            f"{fields['tokens_per_second']:,.0f} tokens/s, "
            f"{dt.timedelta(seconds=round(min(left, _FAR)))} left"
        )
        self._progress(text, fields["step"], steps)


_AVERAGED = 20
"""Steps over which the speed is averaged."""

_FAR = 1e12
"""Seconds; a `timedelta` holds some eighty times as many."""


def sample(model: GPT, tokenizer: Tokenizer, prompt: list[int], recipe: Recipe) -> str:
    """Return the prompt and its continuation by the model, sampled with the recipe's seed.

    The prompt has at least one token id. The model's mode and torch's random state do not change.
    """
    start = prompt[: max(1, model.config.n_positions - recipe.sample_tokens)]
    length = min(recipe.sample_tokens, model.config.n_positions - len(start))
    token_ids = torch.tensor([start], device=model.tokens_embed.weight.device)
    with evaluation_mode(model), nondeterministic():
        ids = model.generate(
            token_ids, max_new_tokens=length, sampled=True, top_p=0.9, seed=recipe.seed
        )
    return tokenizer.decode(ids[0].tolist())


_LARGEST_DRAWN = 1e300
"""Losses up to here; matplotlib multiplies them by the size of the picture."""


def draw_loss_curve(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write or replace a PNG with the training and validation losses in a log's lines.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        WriteError: The file system failed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for field, label, width, marker in (
        ("loss", "training", 0.7, ""),
        ("validation_loss", "validation", 1.5, "o"),
    ):
        # A loss that was not finite is text in the log.
        shown = [
            line
            for line in lines
            if isinstance(line.get(field), float) and abs(line[field]) < _LARGEST_DRAWN
        ]
        steps, losses = [line["step"] for line in shown], [line[field] for line in shown]
        axes.plot(steps, losses, label=label, linewidth=width, marker=marker, markersize=3.0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
    with _reporting_write_errors(path):
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
