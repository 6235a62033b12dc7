"""Beam searches: the texts found and their scores, of ours, of the oracle, of Hugging Face's."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from parity.generation.continuations import WAYS, Way
from parity.generation.rules import expected
from parity.generation.witnesses import Forward
from reference import generation_oracle
from scratch_gpt.generation import beam
from scratch_gpt.generation.beam import Stepping
from scratch_gpt.generation.hypotheses import Hypothesis, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of searching.

    Attributes:
        name: What a report calls it.
        beams: Texts side by side.
        length_penalty: Above 0 longer texts gain.
        early_stopping: When a prompt is done.
        ends: Whether a token ends a text.
        way: Whose rules apply.
    """

    name: str
    beams: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    ends: bool = False
    way: Way = WAYS[0]

    def settings(self, *, new: int, end_id: int) -> Settings:
        """Return it as our search takes it; every beam's text is asked for."""
        return Settings(
            beams=self.beams,
            max_new_tokens=new,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            end_id=end_id if self.ends else None,
            returned=self.beams,
        )


SETTINGS = (
    Setting(name="plain", beams=4),
    Setting(name="ruled", beams=2, way=WAYS[1]),
    Setting(name="ends", beams=4, ends=True),
    Setting(name="longer", beams=3, length_penalty=2.0, ends=True),
    Setting(name="shorter", beams=3, length_penalty=-1.0, early_stopping="never", ends=True),
    Setting(name="early", beams=2, early_stopping=True, ends=True),
)
"""Widths, penalties, ways of stopping, with and without a token that ends a text."""

LONGEST = 12
"""New tokens of a search at most: transformers runs every text anew for each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        texts: The new tokens of each text, each prompt's best first; without what fills up.
        scores: Their scores, float64 `[1 texts]`.
        closest: The oracle's: the smallest difference of two scores that were ranked, over their
            size.
    """

    texts: Sequence[Sequence[int]]
    scores: Tensor
    closest: float = float("inf")

    @property
    def flat(self) -> list[int]:
        """All tokens, each text's behind its length."""
        return [token for text in self.texts for token in (len(text), *text)]


def found_by(
    decoder: Stepping, prompts: Tensor, setting: Setting, *, new: int, end_id: int
) -> Found:
    """Return what our search finds on a decoder, or on what stands in for one."""
    chosen = setting.settings(new=new, end_id=end_id)
    hypotheses = beam.search(decoder, prompts, chosen, setting.way.rules)
    best: list[Hypothesis] = [text for texts in hypotheses for text in texts]
    scores = torch.tensor([[text.score for text in best]], dtype=torch.float64)
    return Found(texts=[text.token_ids for text in best], scores=scores)


def found_by_oracle(
    truth: Forward, prompts: Tensor, setting: Setting, *, new: int, end_id: int
) -> Found:
    """Return what the NumPy oracle's search finds on the truth's logits: nothing of it is ours."""

    def scores(texts: Sequence[Sequence[int]]) -> generation_oracle.Array:
        ids = torch.tensor(texts)
        likelihoods = truth(ids)[:, -1].log_softmax(-1)
        left: generation_oracle.Array = expected(setting.way.fields, likelihoods, ids).numpy()
        return left

    search = generation_oracle.Search(
        beams=setting.beams,
        new=new,
        length_penalty=setting.length_penalty,
        early_stopping=setting.early_stopping,
        end_id=end_id if setting.ends else None,
    )
    best = [text for prompt in prompts.tolist() for text in search.best(scores, prompt)]
    return Found(
        texts=[list(text.tokens) for text in best],
        scores=torch.tensor([[text.score for text in best]], dtype=torch.float64),
        closest=search.closest,
    )


def unfilled(token_ids: Tensor, known: int, end_id: int | None) -> list[list[int]]:
    """Return the new tokens of each text, cut behind the token that ended it.

    Args:
        token_ids: `[texts length]`, prompts included.
        known: Tokens of a prompt.
        end_id: The token that ends a text, and fills up what is shorter.
    """
    rows: list[list[int]] = token_ids[:, known:].tolist()
    return [row[: row.index(end_id) + 1] if end_id in row else row for row in rows]


def rescored(truth: Forward, prompts: Tensor, found: Found, setting: Setting) -> Tensor:
    """Return the scores of found texts from the truth's logits, `[1 texts]`, float64.

    No search, and nothing of ours: each text's log-probability, after transformers' rules, over
    its length to the power of the penalty.
    """
    texts = found.texts
    longest = max(map(len, texts))
    new = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    whole = torch.cat([prompts.repeat_interleave(len(texts) // len(prompts), 0), new], dim=1)
    known = prompts.shape[1]
    logits = truth(whole[:, :-1])[:, known - 1 :]
    steps = [
        expected(setting.way.fields, logits[:, step].log_softmax(-1), whole[:, : known + step])
        .gather(1, new[:, step : step + 1])
        .squeeze(1)
        for step in range(longest)
    ]
    scores = [
        float(sum(steps[step][row] for step in range(len(text))))
        / len(text) ** setting.length_penalty
        for row, text in enumerate(texts)
    ]
    return torch.tensor([scores], dtype=torch.float64)
