"""The run's log: a line of JSON for every step, each step once."""

import datetime as dt
import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.atomic import to_write_error
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.reproducibility import allow_any_order
from scratch_gpt.training.trainer import evaluation_mode


class Log:
    """An open log. Lines appear whole or, where the process is killed, not at all after a resume.

    Raises:
        WriteError: The file system refused a line.
    """

    def __init__(self, path: Path, *, step: int, warn: Callable[[str], None]) -> None:
        """Open a log behind the line of a step; what a killed process wrote further is dropped.

        Args:
            path: The file; made where it is missing.
            step: The last step that counts.
            warn: Is told where earlier steps are missing.
        """
        self.path = path
        try:
            _cut(path, step, warn)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._told(error) from error

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write one line; numbers that are not finite become text."""
        line = json.dumps({name: _strict(value) for name, value in fields.items()})
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise self._told(error) from error

    def settle(self) -> None:
        """Wait until all lines are on the disk: a checkpoint must not know more than the log."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._told(error) from error

    def close(self) -> None:
        """Close the file; what could not be written was already told."""
        self._file.close()

    def _told(self, error: OSError) -> OSError:
        return to_write_error(error, self.path) or error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole, in their order."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines(keepends=True):
        fields = _fields(line)
        if fields is None:
            break
        found.append(fields)
    return found


def _fields(line: bytes) -> dict[str, Any] | None:
    """Return a line's fields, None for a line that was never finished, or that is no step's."""
    try:
        fields = strict_io.load_strict_json(line)
    except ValueError:
        return None
    if not line.endswith(b"\n") or not isinstance(fields, dict):
        return None
    return fields if isinstance(fields.get("step"), int) else None


def _cut(path: Path, step: int, warn: Callable[[str], None]) -> None:
    """Keep the lines up to a step, in one step."""
    kept = [fields for fields in read_log(path) if fields["step"] <= step]
    if step and len(kept) != step:
        warn(f"{path.name} holds {len(kept)} of the {step} steps done")
    text = "".join(json.dumps(fields) + "\n" for fields in kept)
    aside = path.with_name(f"{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _strict(value: Any) -> Any:  # noqa: ANN401 - whatever is logged
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else repr(value)


# What a run shows: a live line, and a line that stays for each validation loss and sample.


_REMEMBERED = 20
"""Steps whose speed is averaged."""


class ProgressLine:
    """Turns lines of the log into what is shown.

    Args:
        progress: Shows the live line: loss, tokens per second, time left.
        note: Shows a line that stays.
    """

    def __init__(self, progress: Progress, note: Callable[[str], None]) -> None:
        self._progress = progress
        self._note = note
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._validation = ""

    def __call__(self, fields: Mapping[str, Any], steps: int) -> None:
        """Show a step.

        Args:
            fields: The step's line of the log.
            steps: How many steps the run has.
        """
        self._seconds.append(fields["seconds"])
        if "validation_loss" in fields:
            self._validation = f", validation {fields['validation_loss']:.3f}"
            self._note(f"step {fields['step']}: loss {fields['loss']:.3f}{self._validation}")
        if "sample" in fields:
            self._note(f"step {fields['step']} writes: {fields['sample']}")
        left = (steps - fields["step"]) * sum(self._seconds) / len(self._seconds)
        text = (
            f"step {fields['step']} of {steps}: loss {fields['loss']:.3f}{self._validation}, "
            f"{fields['tokens_per_second']:,.0f} tokens/s, {_duration(left)} left"
        )
        self._progress(text, fields["step"], steps)


def _duration(seconds: float) -> str:
    return str(dt.timedelta(seconds=round(seconds)))


# The loss curve as a picture: the one place that imports matplotlib.


def draw_loss_curve(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG with the training loss of every step and the validation losses.

    Args:
        lines: The log's lines.
        path: The picture; one that is there is replaced.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        WriteError: The file system refused.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for field, label, width, marker in (
        ("loss", "training", 0.7, ""),
        ("validation_loss", "validation", 1.5, "o"),
    ):
        points = [(line["step"], line[field]) for line in lines if _is_number(line.get(field))]
        steps, losses = [step for step, _ in points], [loss for _, loss in points]
        axes.plot(steps, losses, label=label, linewidth=width, marker=marker, markersize=3.0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
    try:
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise to_write_error(error, path) or error from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


# Text that the model writes while it learns, always from the same beginning.


def sample(model: GPT, tokenizer: Tokenizer, prompt: list[int], recipe: Recipe) -> str:
    """Return the prompt and what the model goes on with, drawn with the recipe's seed.

    Args:
        model: Any mode; it leaves as it came.
        tokenizer: The run's.
        prompt: Token ids, at least one.
        recipe: Says how many tokens.
    """
    start = prompt[: max(1, model.config.n_positions - recipe.sample_tokens)]
    room = min(recipe.sample_tokens, model.config.n_positions - len(start))
    token_ids = torch.tensor([start], device=model.tokens_embed.weight.device)
    with evaluation_mode(model), allow_any_order():
        ids = model.generate(
            token_ids, max_new_tokens=room, sampled=True, top_p=0.9, seed=recipe.seed
        )
    return tokenizer.decode(ids[0].tolist())
