"""The run itself: step after step, with a line, a check, a sample and a checkpoint when due."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scratch_gpt.command.errors import ExitCode
from scratch_gpt.training import checkpoint_folders, checkpoints
from scratch_gpt.training.export import files_of
from scratch_gpt.training.log import Log
from scratch_gpt.training.run_folder import RunFolder
from scratch_gpt.training.stopping import Stop
from scratch_gpt.training.trainer import Done, Trainer


@dataclasses.dataclass(kw_only=True)
class Loop:
    """A trainer, and all that goes on around it.

    Attributes:
        trainer: Model, optimizer and data.
        folder: The run's.
        circumstances: What its numbers hang on.
        stop: Whether somebody asked to end.
        log: Where lines go; None in every process but the first.
        sample: Gives a sample of text.
        shown: Is told of each step, its line, and how many steps there are.
        is_new: Whether there is no checkpoint yet. Each process is told: what one finds on the
            disk, another may just have written.
    """

    trainer: Trainer
    folder: RunFolder
    circumstances: dict[str, object]
    stop: Stop
    log: Log | None
    sample: Callable[[], str]
    shown: Callable[[dict[str, Any], int], None]
    is_new: bool

    def run(self) -> ExitCode:
        """Go on to the last step, or to where somebody asks to stop; save either way.

        Raises:
            DivergedError: Loss or gradients are not finite.
            WriteError: The file system refused; the newest checkpoint is intact.
        """
        trainer, last = self.trainer, self.trainer.recipe.steps
        saved = trainer.step
        if self.is_new:
            self._save()
        while trainer.step < last and not self._is_asked_to_stop():
            best = trainer.best
            self._one_step()
            is_due = trainer.step % trainer.recipe.checkpoint_every == 0 or trainer.step == last
            if is_due or trainer.best != best:
                self._save()
                saved = trainer.step
        if saved != trainer.step:
            self._save()
        return ExitCode.PASS if trainer.step == last else ExitCode.INTERRUPTED

    def _one_step(self) -> None:
        began = time.perf_counter()
        done = self.trainer.advance()
        seconds = time.perf_counter() - began
        line = _line(done, seconds) | self._looked_at(done.step)
        if self.log is not None:
            self.log.write(line)
            self.shown(line, self.trainer.recipe.steps)

    def _looked_at(self, step: int) -> dict[str, Any]:
        """Return the validation loss and the sample that are due, also after the last step."""
        recipe, last = self.trainer.recipe, self.trainer.recipe.steps
        found: dict[str, Any] = {}
        if step % recipe.evaluate_every == 0 or step == last:
            found["validation_loss"] = self.trainer.validate()
        is_due = recipe.sample_every and (step % recipe.sample_every == 0 or step == last)
        if is_due and self.log is not None:
            found["sample"] = self.sample()
        return found

    def _is_asked_to_stop(self) -> bool:
        """Return whether any process was asked to: all have to end after the same step."""
        return self.trainer.group.summed([float(self.stop.asked)])[0] > 0

    def _save(self) -> None:
        checkpoint = self.trainer.checkpoint(self.circumstances)
        self.trainer.group.by_first(lambda: self._write(checkpoint))

    def _write(self, checkpoint: checkpoints.Checkpoint) -> None:
        if self.log is not None:
            self.log.settle()
        place = checkpoint_folders.folder_of(self.folder.checkpoints, checkpoint.state.step)
        vocabulary: list[Path] = files_of(self.folder.vocabulary)
        checkpoints.write(place, checkpoint, beside=vocabulary)
        best = checkpoint.state.best
        checkpoint_folders.prune(
            self.folder.checkpoints,
            upto=checkpoint.state.step,
            keep=self.trainer.recipe.keep,
            best=best[1] if best else None,
        )


def _line(done: Done, seconds: float) -> dict[str, Any]:
    return {
        "step": done.step,
        "loss": done.loss,
        "learning_rate": done.learning_rate,
        "gradient_norm": done.gradient_norm,
        "seconds": round(seconds, 4),
        "tokens_per_second": round(done.tokens / max(seconds, 1e-9), 1),
    }
