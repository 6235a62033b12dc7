"""What a run shows: a JSON log with each step once, a progress line, samples, a loss curve."""

import contextlib
import datetime as dt
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.atomic import to_write_error
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

    def __init__(self, path: Path, *, step: int, warn: Callable[[str], None]) -> None:
        """Open or create a log for the steps after `step`.

        Later lines, left by a killed process, are dropped. `warn` is called with a message if
        earlier steps are missing.
        """
        self.path = path
        partial = path.with_name(f"{path.name}.partial")
        with _reporting_write_errors(path):
            kept = [fields for fields in read_log(path) if fields["step"] <= step]
            if step and len(kept) != step:
                warn(f"{path.name} holds {len(kept)} of the {step} steps done")
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
    """Return the log's lines up to the first one that is incomplete; none without a file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            fields = strict_io.load_strict_json(line)
        except ValueError:
            break
        is_whole = line.endswith(b"\n") and isinstance(fields, dict)
        if not is_whole or not isinstance(fields.get("step"), int):
            break
        found.append(fields)
    return found


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
            f"{dt.timedelta(seconds=round(left))} left"
        )
        self._progress(text, fields["step"], steps)


_AVERAGED = 20
"""Steps over which the speed is averaged."""


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
        shown = [line for line in lines if isinstance(line.get(field), int | float)]
        steps, losses = [line["step"] for line in shown], [line[field] for line in shown]
        axes.plot(steps, losses, label=label, linewidth=width, marker=marker, markersize=3.0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
    with _reporting_write_errors(path):
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
