"""A training run from start to end: prepare, resume, train, export; and its signals."""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from scratch_gpt.cli import (
    SIGNALS,
    Interrupts,
    handling,
    interruptible,
    parse_device,
    print_stderr,
)
from scratch_gpt.data import TokenData
from scratch_gpt.errors import CheckpointError, ExitCode, one_line
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training import checkpoints
from scratch_gpt.training.checkpoints import Checkpoint
from scratch_gpt.training.distributed import Group, join_group
from scratch_gpt.training.log import Log, ProgressLine, draw_loss_curve, read_log, sample
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.reproducibility import (
    deterministic,
    reproducibility_settings,
    require_known_settings,
    require_same_settings,
)
from scratch_gpt.training.run_folder import (
    RunFolder,
    Sources,
    export,
    files_of,
    lock_folder,
    prepare_tokens,
    prepare_vocabulary,
)
from scratch_gpt.training.trainer import (
    Trainer,
    complete_recipe,
    require_memory_for,
    require_work_for_all,
    windows_of,
)

_PROMPT = 8
"""Tokens of the validation text that a sample begins with."""

_ECHO = 2.0
"""Seconds in which a second signal to a group counts as the first: torchrun forwards its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of a run."""

    recipe: Recipe
    output: Path
    sources: Sources = dataclasses.field(default_factory=Sources)
    allow: tuple[str, ...] = ()  # reproducibility settings that may differ from the checkpoint's
    timeout: float = 1_800.0  # seconds after which a process that does not answer counts as lost
    quiet: bool = False  # print only warnings and errors


def run(request: Request, progress: Progress) -> ExitCode:
    """Train from the start or from the newest undamaged checkpoint; return how the run ended.

    Raises:
        CommandError: The run cannot go on.
        CheckpointError: All checkpoints are damaged, or an input is invalid.
        WriteError: The file system failed.
        KeyboardInterrupt: A second signal came before the run ended.
    """
    require_known_settings(request.allow)
    device = parse_device(request.recipe.device)
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(interruptible(*SIGNALS))
        stack.enter_context(_ONE_AT_A_TIME)
        stack.enter_context(deterministic(request.recipe.threads))
        stack.enter_context(torch.random.fork_rng())
        group = stack.enter_context(join_group(os.environ, device=device, timeout=request.timeout))
        require_work_for_all(request.recipe, group.processes)
        require_memory_for(request.recipe, 1, group)
        group.on_first(lambda: stack.enter_context(lock_folder(request.output)))
        return _Run(request, group, progress, interrupts).run()


_ONE_AT_A_TIME = threading.Lock()
"""Held by a run: torch's deterministic mode and random state belong to the whole process."""


class _Run:
    """One process's part of a run."""

    def __init__(
        self, request: Request, group: Group, progress: Progress, interrupts: Interrupts
    ) -> None:
        self.request = request
        self.interrupts = interrupts
        self.folder = RunFolder(request.output)
        self.group = group
        self.progress = progress if group.is_first else lambda _what, _done, _total: None

    def run(self) -> ExitCode:
        """Prepare or resume, train, and export the model if the last step was made."""
        self._begin()
        self.interrupts.check()
        with contextlib.ExitStack() as stack:
            self.log: Log | None = None
            if self.group.is_first:
                step = None if self.is_new else self.trainer.step
                self.log = Log(self.folder.log, step=step, warn=_print)
                stack.callback(self.log.close)
            echo = _ECHO if self.group.processes > 1 else 0.0
            outcome = self._train(stack.enter_context(stoppable(echo=echo)))
        self.group.on_first(lambda: self._finish(outcome))
        return outcome

    # Before the first step

    def _begin(self) -> None:
        """Prepare vocabulary and tokens, and make the trainer, resumed if there is a checkpoint."""
        self.group.on_first(self.folder.require_folders)
        checkpoint = self._newest_checkpoint()
        recipe, sources = self.request.recipe, self.request.sources
        # Passed on, not looked up later: another process may have written a checkpoint by then.
        self.is_new = checkpoint is None
        self.group.on_first(
            lambda: prepare_vocabulary(
                sources, recipe, self.folder, resumed=not self.is_new, progress=self.progress
            )
        )
        self.tokenizer = Tokenizer.from_pretrained(
            self.folder.vocabulary, pretokenizer=recipe.pretokenizer
        )
        prepared = (sources, recipe, self.folder, self.tokenizer, self.progress)
        data = TokenData.open(self.group.on_first(lambda: prepare_tokens(*prepared).directory))
        self.prompt = [int(token) for token in data.validation[:_PROMPT]]
        recipe = complete_recipe(recipe, windows_of(data, recipe, "train"))
        self.settings = reproducibility_settings(recipe, self.tokenizer, data, self.group)
        if checkpoint is not None:
            state = checkpoint.state
            self.group.on_first(lambda: self._require_same_settings(state))
        require_memory_for(recipe, self.tokenizer.vocab_size, self.group)
        self.trainer = Trainer(recipe, self.tokenizer.vocab_size, data, self.group)
        if checkpoint is not None:
            try:
                self.trainer.resume(checkpoint)
            except CheckpointError as error:
                raise CheckpointError(
                    f"the checkpoint does not fit this run: {error.what}",
                    where=one_line(str(self._checkpoint_folder(checkpoint.state.step))),
                    fix="move it away to resume from an older one, or train with another --output",
                ) from error

    def _newest_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that the first process finds; each process reads it."""
        read: list[Checkpoint] = []

        def find() -> Path | None:
            checkpoints.sweep_checkpoints(self.folder.checkpoints)
            found = checkpoints.newest_checkpoint(self.folder.checkpoints, _print)
            if found is None:
                return None
            read.append(found)
            return self._checkpoint_folder(found.state.step)

        # Only the path is sent: a pickled checkpoint would be gigabytes.
        path = self.group.on_first(find)
        if path is None or read:
            return read[0] if read else None
        return checkpoints.read_checkpoint(path)

    def _checkpoint_folder(self, step: int) -> Path:
        return checkpoints.checkpoint_folder(self.folder.checkpoints, step)

    def _require_same_settings(self, state: checkpoints.State) -> None:
        """Compare settings with the checkpoint's; print allowed changes and the step."""
        where = one_line(str(self._checkpoint_folder(state.step)))
        allowed = self.request.allow
        for change in require_same_settings(
            state.settings, self.settings, allowed=allowed, where=where
        ):
            self._note(f"allowed change: {change}")
        if state.step:
            self._note(f"resuming from step {state.step}")

    # Step after step

    def _train(self, stop: "StopFlag") -> ExitCode:
        """Make steps until the last one or a signal; end with a checkpoint either way."""
        trainer, recipe = self.trainer, self.trainer.recipe
        show = ProgressLine(self.progress, self._note)
        saved = trainer.step
        if self.is_new:
            self._save()
        # A signal to any process stops all of them, after the same step.
        while trainer.step < recipe.steps and not self.group.sum([float(stop.requested)])[0]:
            best = trainer.best
            line = self._step()
            if self.log is not None:
                self.log.write(line)
                show(line, recipe.steps)
            if self._is_due(recipe.checkpoint_every) or trainer.best != best:
                self._save()
                saved = trainer.step
        if saved != trainer.step:
            self._save()
        return ExitCode.PASS if trainer.step == recipe.steps else ExitCode.INTERRUPTED

    def _is_due(self, every: int) -> bool:
        """Return whether this step is one of `every`, or the last one."""
        return self.trainer.step % every == 0 or self.trainer.step == self.trainer.recipe.steps

    def _step(self) -> dict[str, Any]:
        """Make one step; return its line of the log, with the validation loss and sample due."""
        recipe = self.trainer.recipe
        began = time.perf_counter()
        result = self.trainer.advance()
        seconds = time.perf_counter() - began
        line: dict[str, Any] = {
            "step": result.step,
            "loss": result.loss,
            "learning_rate": result.learning_rate,
            "gradient_norm": result.gradient_norm,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(result.tokens / max(seconds, 1e-9), 1),
        }
        if self._is_due(recipe.evaluate_every):
            line["validation_loss"] = self.trainer.validate()
        if self.group.is_first and recipe.sample_every and self._is_due(recipe.sample_every):
            line["sample"] = sample(self.trainer.model, self.tokenizer, self.prompt, recipe)
        return line

    def _save(self) -> None:
        """Write a checkpoint, after the log, and remove old ones."""
        checkpoint = self.trainer.checkpoint(self.settings)

        def write() -> None:
            if self.log is not None:
                self.log.sync()
            step, best = checkpoint.state.step, checkpoint.state.best
            checkpoints.write_checkpoint(
                self._checkpoint_folder(step), checkpoint, beside=files_of(self.folder.vocabulary)
            )
            checkpoints.prune_checkpoints(
                self.folder.checkpoints,
                upto=step,
                keep=self.trainer.recipe.keep,
                best=best[1] if best else None,
            )

        self.group.on_first(write)

    # After the last step

    def _finish(self, outcome: ExitCode) -> None:
        """Write the model and the loss curve, or print how to resume."""
        if outcome is ExitCode.INTERRUPTED:
            self._note(f"stopped after step {self.trainer.step}; run the same command to resume")
            return
        export(self.trainer.model, self.folder)
        try:
            draw_loss_curve(read_log(self.folder.log), self.folder.curve)
        except ModuleNotFoundError:
            self._note("no loss curve was drawn: pip install matplotlib")

    def _note(self, text: str) -> None:
        if not self.request.quiet:
            _print(text)


def _print(text: str) -> None:
    print_stderr(f"{one_line(text)}\n")


# Signals


@dataclasses.dataclass
class StopFlag:
    """Whether a signal requested the run to stop after the current step."""

    echo: float = 0.0
    """Seconds in which more signals are ignored: a terminal and torchrun both send their own."""
    requested: bool = False
    _requested_at: float = 0.0

    def handle(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle a signal; the second one raises KeyboardInterrupt."""
        if not self.requested:
            self.requested, self._requested_at = True, time.monotonic()
        elif time.monotonic() - self._requested_at >= self.echo:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable(*, echo: float = 0.0) -> Iterator[StopFlag]:
    """Let the first of the signals set the flag that is returned, and the second interrupt."""
    stop = StopFlag(echo)
    with handling(stop.handle, *SIGNALS):
        yield stop
