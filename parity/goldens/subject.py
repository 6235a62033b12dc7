"""The model that goldens are asked of: what several of them need is computed once."""

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from parity.compare import Status
from parity.goldens.batches import Prompt, last_logits
from parity.goldens.norms import matrices, quantities
from parity.goldens.rows import NoValueError
from parity.provenance import Provenance
from reference.golden_schema import Golden, Kind
from scratch_gpt.command.progress import Progress
from scratch_gpt.model import GPT

_LAST = (Kind.ARGMAX, Kind.LOGIT, Kind.WORD_PROBABILITIES)
"""Kinds that need the logits at a prompt's last token, and nothing else."""


class Subject:
    """A model with its weights' provenance, and what was computed of it."""

    def __init__(
        self,
        model: GPT,
        provenance: Provenance,
        goldens: Sequence[Golden],
        progress: Progress = lambda _what, _done, _total: None,
    ) -> None:
        """Compute nothing yet.

        Args:
            model: In evaluation mode.
            provenance: Where its weights came from.
            goldens: What it will be asked; prompts are run together.
            progress: Called as that goes on.
        """
        self.model = model
        self.provenance = provenance
        self.goldens = goldens
        self._progress = progress

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return the logits `[1 time vocab]` of one prompt.

        Raises:
            NoValueError: The model cannot take it, or gives a value that is not finite.
        """
        self.require(token_ids)
        return finite(self.model(self.batch_of(token_ids)), "the logits")

    def batch_of(self, token_ids: Sequence[int]) -> Tensor:
        """Return ids `[1 time]` where the model is."""
        return torch.tensor([list(token_ids)], device=self.model.tokens_embed.weight.device)

    def last(self, token_ids: Sequence[int]) -> Tensor:
        """Return the logits `[vocab]` at the last token of a golden's prompt.

        Raises:
            NoValueError: The model cannot take it, or gives a value that is not finite.
        """
        self.require(token_ids)
        return finite(self._last[tuple(token_ids)], "the logits at the last position")

    def tensor(self, name: str) -> Tensor:
        """Return one of the model's parameters.

        Raises:
            NoValueError: It has none of that name.
        """
        held = dict(self.model.named_parameters())
        if name not in held:
            raise NoValueError(Status.NOT_RUN, f"this model has no tensor {name}")
        return held[name].detach()

    def norms(self, expected: int) -> Sequence[Mapping[str, float]]:
        """Return the norms of every matrix.

        Args:
            expected: How many matrices there must be.

        Raises:
            NoValueError: There are more or fewer, or one holds a value that is not finite.
        """
        if len(self._norms) != expected:
            raise NoValueError(
                Status.NOT_RUN, f"this model has {len(self._norms)} matrices, not {expected}"
            )
        return self._norms

    def require(self, token_ids: Sequence[int], *, length: int = 0, id_: int = 0) -> None:
        """Require that the model can take ids, and grow to `length`, and knows `id_`.

        Raises:
            NoValueError: It cannot.
        """
        config = self.model.config
        largest, longest = max(*token_ids, id_), max(len(token_ids), length)
        if largest >= config.vocab_size:
            why = f"id {largest} is not in this model's vocabulary of {config.vocab_size}"
            raise NoValueError(Status.NOT_RUN, why)
        if longest > config.n_positions:
            why = f"{longest} tokens are more than this model's {config.n_positions} positions"
            raise NoValueError(Status.NOT_RUN, why)

    def _takes(self, token_ids: Sequence[int]) -> bool:
        try:
            self.require(token_ids)
        except NoValueError:
            return False
        return True

    @functools.cached_property
    def _last(self) -> dict[Prompt, Tensor]:
        prompts = [tuple(g.inputs["token_ids"]) for g in self.goldens if g.kind in _LAST]
        return last_logits(
            self.model, filter(self._takes, prompts), self._told("running the prompts")
        )

    @functools.cached_property
    def _norms(self) -> Sequence[Mapping[str, float]]:
        told, found = self._told("norms of the matrices"), []
        held = matrices(self.model)
        for name, matrix in held.items():
            found.append(quantities(finite(matrix, name)))
            told(len(found), len(held))
        return found

    def _told(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(what, done, total)


def finite(tensor: Tensor, name: str) -> Tensor:
    """Return the tensor.

    Raises:
        NoValueError: A value is not finite.
    """
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise NoValueError(Status.NONFINITE, f"{bad:,} values of {name} are not finite")
    return tensor
