"""What a run shows: a live line, and a line that stays for each validation loss and sample."""

import datetime as dt
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from scratch_gpt.command.progress import Progress

_REMEMBERED = 20
"""Steps whose speed is averaged."""


class Line:
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
