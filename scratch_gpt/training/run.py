"""A run from its first line to its last: prepare, go on from where it was, train, hand over."""

import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from scratch_gpt.cli import one_line
from scratch_gpt.data import TokenData
from scratch_gpt.errors import ExitCode
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training import checkpoints, log, reproducibility
from scratch_gpt.training.checkpoints import Checkpoint
from scratch_gpt.training.distributed import Group, join_group
from scratch_gpt.training.log import Log, ProgressLine, sample
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.reproducibility import (
    deterministic,
    device_of,
    names,
    reproducibility_settings,
    settle_recipe,
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
from scratch_gpt.training.trainer import Done, Trainer, require_work_for_all, windows_of

# Being told to stop: the step is finished, a checkpoint written, and only then the run ends.


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Whether somebody asked the run to end.

    Attributes:
        asked: True from the first signal on.
        patience: Seconds after the first signal in which a further one is no second request: a
            terminal and torchrun both send their own.
    """

    def __init__(self, *, patience: float = 0.0) -> None:
        self.asked = False
        self.patience = patience
        self._first = 0.0

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: It is the second one: somebody does not want to wait.
        """
        if not self.asked:
            self.asked, self._first = True, time.monotonic()
        elif time.monotonic() - self._first >= self.patience:
            raise KeyboardInterrupt


@contextmanager
def stoppable(*, patience: float = 0.0) -> Iterator[StopFlag]:
    """Let Ctrl-C and SIGTERM ask first; give what says whether they did."""
    stop = StopFlag(patience=patience)
    before = {number: signal.signal(number, stop.request) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, where there is nothing to finish first."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# The run itself: step after step, with a line, a check, a sample and a checkpoint when due.


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
    stop: StopFlag
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
        place = checkpoints.checkpoint_folder(self.folder.checkpoints, checkpoint.state.step)
        vocabulary: list[Path] = files_of(self.folder.vocabulary)
        checkpoints.write_checkpoint(place, checkpoint, beside=vocabulary)
        best = checkpoint.state.best
        checkpoints.prune_checkpoints(
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


_PATIENCE = 2.0
"""Seconds in which a second signal is the first one's echo: torchrun hands on what it gets."""

_PROMPT = 8
"""Tokens of the validation text that a sample begins with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked for.

    Attributes:
        recipe: What to do.
        output: The run's folder.
        sources: Where text and vocabulary come from.
        allow: Names of circumstances that may differ from the checkpoint's.
        timeout: Seconds after which a process that does not answer counts as lost.
        quiet: Whether to say nothing but warnings and errors.
    """

    recipe: Recipe
    output: Path
    sources: Sources = dataclasses.field(default_factory=Sources)
    allow: tuple[str, ...] = ()
    timeout: float = 1_800.0
    quiet: bool = False


def run(request: Request, progress: Progress) -> ExitCode:
    """Train, from the beginning or from the newest good checkpoint; return how it ended.

    Raises:
        CommandError: It cannot go on.
        CheckpointError: Every checkpoint, or what it was given, is unsound.
        WriteError: The file system refused.
        KeyboardInterrupt: Somebody did not want to wait.
    """
    recipe = request.recipe
    reproducibility.require_known_recipe(request.allow, names())
    device = device_of(recipe)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruptible())
        stack.enter_context(deterministic(recipe.threads))
        stack.enter_context(reproducibility.preserve_random_state())
        group = stack.enter_context(join_group(os.environ, device=device, timeout=request.timeout))
        require_work_for_all(recipe, group.processes)
        folder = group.by_first(lambda: stack.enter_context(lock_folder(request.output)))
        return _Run(request, folder, group, progress).trained()


class _Run:
    """What the phases of a run share."""

    def __init__(
        self, request: Request, folder: RunFolder, group: Group, progress: Progress
    ) -> None:
        self.request = request
        self.folder = folder
        self.group = group
        self.progress = progress if group.is_first else _silent
        self.is_new = True

    def trained(self) -> ExitCode:
        """Go through all phases."""
        trainer, tokenizer, data, found = self._begun()
        outcome = self._looped(trainer, tokenizer, data, found)
        self.group.by_first(lambda: self._handed_over(trainer, outcome))
        return outcome

    def _begun(self) -> tuple[Trainer, Tokenizer, TokenData, dict[str, Any]]:
        """Return the run where it stands, what it reads, and what its numbers hang on."""
        checkpoint = self._found()
        self.is_new = checkpoint is None
        self.group.by_first(self._vocabulary)
        pretokenizer = self.request.recipe.pretokenizer
        tokenizer = Tokenizer.from_pretrained(self.folder.vocabulary, pretokenizer=pretokenizer)
        data = self._data(tokenizer)
        recipe = settle_recipe(self.request.recipe, windows_of(data, self.request.recipe, "train"))
        found = reproducibility_settings(recipe, tokenizer, data, self.group)
        self.group.by_first(lambda: self._compared(checkpoint, found))
        trainer = Trainer(recipe, tokenizer.vocab_size, data, self.group)
        if checkpoint is not None:
            trainer.go_on_from(checkpoint)
        return trainer, tokenizer, data, found

    def _found(self) -> Checkpoint | None:
        """Return where the run goes on; the first process chooses, and every one reads."""
        chosen: list[Checkpoint] = []

        def place() -> Path | None:
            checkpoints.sweep_checkpoints(self.folder.checkpoints)
            checkpoint = checkpoints.newest_checkpoint(self.folder.checkpoints, _say)
            if checkpoint is None:
                return None
            chosen.append(checkpoint)
            return checkpoints.checkpoint_folder(self.folder.checkpoints, checkpoint.state.step)

        where = self.group.by_first(place)
        if where is None or chosen:
            return chosen[0] if chosen else None
        return checkpoints.read_checkpoint(where)

    def _vocabulary(self) -> None:
        prepare_vocabulary(
            self.request.sources,
            self.request.recipe,
            self.folder,
            resumed=not self.is_new,
            progress=self.progress,
        )

    def _data(self, tokenizer: Tokenizer) -> TokenData:
        """Return the data; the first process prepares it, and the others open what is there."""

        def prepared() -> Path:
            sources, recipe = self.request.sources, self.request.recipe
            return prepare_tokens(sources, recipe, self.folder, tokenizer, self.progress).directory

        return TokenData.open(self.group.by_first(prepared))

    def _compared(self, checkpoint: Checkpoint | None, found: dict[str, Any]) -> None:
        """Say where the run goes on, and that it is the same run."""
        recorded = found if checkpoint is None else checkpoint.state.circumstances
        step = 0 if checkpoint is None else checkpoint.state.step
        place = checkpoints.checkpoint_folder(self.folder.checkpoints, step)
        allowed = reproducibility.require_same_settings(
            recorded, found, allowed=self.request.allow, where=one_line(str(place))
        )
        for phrase in allowed:
            self._note(f"as allowed, {phrase}")
        if step:
            self._note(f"going on from step {step}")

    def _looped(
        self, trainer: Trainer, tokenizer: Tokenizer, data: TokenData, found: dict[str, Any]
    ) -> ExitCode:
        prompt = [int(token) for token in data.validation[:_PROMPT]]
        patience = _PATIENCE if self.group.processes > 1 else 0.0
        with contextlib.ExitStack() as stack:
            lines = None
            if self.group.is_first:
                lines = log.Log(self.folder.log, step=trainer.step, warn=_say)
                stack.callback(lines.close)
            loop = Loop(
                trainer=trainer,
                folder=self.folder,
                circumstances=found,
                stop=stack.enter_context(stoppable(patience=patience)),
                log=lines,
                sample=lambda: sample(trainer.model, tokenizer, prompt, trainer.recipe),
                shown=ProgressLine(self.progress, self._note),
                is_new=self.is_new,
            )
            return loop.run()

    def _handed_over(self, trainer: Trainer, outcome: ExitCode) -> None:
        """Write the model and the curve, or say how to go on."""
        if outcome is ExitCode.INTERRUPTED:
            self._note(f"stopped after step {trainer.step}; the same command goes on from there")
            return
        export(trainer.model, self.folder.vocabulary, self.folder.model)
        try:
            log.draw_loss_curve(log.read_log(self.folder.log), self.folder.curve)
        except ModuleNotFoundError:
            self._note("no loss curve was drawn: pip install matplotlib")

    def _note(self, text: str) -> None:
        if not self.request.quiet:
            _say(text)


def _say(text: str) -> None:
    sys.stderr.write(f"{one_line(text)}\n")
    sys.stderr.flush()


def _silent(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""
