"""A run from its first line to its last: prepare, go on from where it was, train, hand over."""

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from scratch_gpt.command.errors import ExitCode
from scratch_gpt.command.progress import Progress
from scratch_gpt.command.telling import one_line
from scratch_gpt.data import TokenData
from scratch_gpt.distributed import Group, joined
from scratch_gpt.tokenizer import Tokenizer
from scratch_gpt.training import (
    checkpoint_folders,
    checkpoints,
    log,
    loss_curve,
    random_numbers,
    resuming,
)
from scratch_gpt.training.checkpoints import Checkpoint
from scratch_gpt.training.circumstances import circumstances, device_of, names, settled
from scratch_gpt.training.determinism import deterministic
from scratch_gpt.training.export import export
from scratch_gpt.training.loop import Loop
from scratch_gpt.training.preparation import Sources, tokens_of, vocabulary_of
from scratch_gpt.training.progress import Line
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.run_folder import RunFolder, owned
from scratch_gpt.training.samples import sample
from scratch_gpt.training.stopping import interruptible, stoppable
from scratch_gpt.training.trainer import Trainer, require_work_for_all, windows_of

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
    resuming.require_known(request.allow, names())
    device = device_of(recipe)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruptible())
        stack.enter_context(deterministic(recipe.threads))
        stack.enter_context(random_numbers.kept_aside())
        group = stack.enter_context(joined(os.environ, device=device, timeout=request.timeout))
        require_work_for_all(recipe, group.processes)
        folder = group.by_first(lambda: stack.enter_context(owned(request.output)))
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
        splitting = self.request.recipe.splitting
        tokenizer = Tokenizer.from_pretrained(self.folder.vocabulary, splitting=splitting)
        data = self._data(tokenizer)
        recipe = settled(self.request.recipe, windows_of(data, self.request.recipe, "train"))
        found = circumstances(recipe, tokenizer, data, self.group)
        self.group.by_first(lambda: self._compared(checkpoint, found))
        trainer = Trainer(recipe, tokenizer.vocab_size, data, self.group)
        if checkpoint is not None:
            trainer.go_on_from(checkpoint)
        return trainer, tokenizer, data, found

    def _found(self) -> Checkpoint | None:
        """Return where the run goes on; the first process chooses, and every one reads."""
        chosen: list[Checkpoint] = []

        def place() -> Path | None:
            checkpoint_folders.sweep(self.folder.checkpoints)
            checkpoint = checkpoint_folders.newest(self.folder.checkpoints, _say)
            if checkpoint is None:
                return None
            chosen.append(checkpoint)
            return checkpoint_folders.folder_of(self.folder.checkpoints, checkpoint.state.step)

        where = self.group.by_first(place)
        if where is None or chosen:
            return chosen[0] if chosen else None
        return checkpoints.read(where)

    def _vocabulary(self) -> None:
        vocabulary_of(
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
            return tokens_of(sources, recipe, self.folder, tokenizer, self.progress).directory

        return TokenData.open(self.group.by_first(prepared))

    def _compared(self, checkpoint: Checkpoint | None, found: dict[str, Any]) -> None:
        """Say where the run goes on, and that it is the same run."""
        recorded = found if checkpoint is None else checkpoint.state.circumstances
        step = 0 if checkpoint is None else checkpoint.state.step
        place = checkpoint_folders.folder_of(self.folder.checkpoints, step)
        allowed = resuming.require_same(
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
                shown=Line(self.progress, self._note),
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
            loss_curve.draw(log.read(self.folder.log), self.folder.curve)
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
