"""Rows of beam searches on drawn logits, without a model: many settings on few tokens.

A model's searches show a setting only by chance: "never" and False, for example, often give the
same texts. Here every setting is searched on many tables, some with equal scores.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from parity.checks.generation.rows import attempt, ids_row
from parity.core.results import Row
from reference import generation_oracle
from scratch_gpt.generation import beam_search
from scratch_gpt.generation.beam_search import Settings

_VOCAB, _NEW, _END, _TABLES = 7, 6, 3, 6
_PROMPTS = torch.tensor([[5, 1], [2, 2], [5, 1]])
_TWICE = torch.tensor([0, 0, 1, 1, 2, 2, 3])
"""The rows of a table with ties: two tokens each continue alike."""

_PLAIN = [Settings(beams=beams, max_new_tokens=_NEW, returned=beams) for beams in (1, 2, 3, 4)]
_ENDING = [
    dataclasses.replace(one, end_id=_END, early_stopping=True, length_penalty=0.0)
    for one in _PLAIN[1:]
]


def _each(settings: Sequence[Settings], **values: Sequence[object]) -> list[Settings]:
    """Return all settings with all combinations of other values."""
    made = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    return [dataclasses.replace(one, **other) for one in settings for other in made]  # type: ignore[arg-type]


SEARCHES = {
    "choices": _PLAIN,
    "ties": _PLAIN,
    "ends": _ENDING,
    "penalties": _each(_ENDING, length_penalty=(-1.0, 0.5, 2.0)),
    "stopping": _each(_ENDING, length_penalty=(0.5, 2.0), early_stopping=(False, "never")),
    "fill": _each(_ENDING, returned=(1, 2)),
}
"""The settings of each row. Only in the last one is the fill after an end token compared."""


class Scripted:
    """A decoder whose logits depend on the last token and the number of tokens.

    `table` is `[new vocab vocab]`; a search needs no cache then, and nothing is reordered.
    """

    def __init__(self, table: Tensor) -> None:
        self.table, self.count = table, 0

    def start(self, token_ids: Tensor) -> Tensor:
        """Return the first logits `[rows vocab]` for texts `[rows time]`."""
        self.count = 0
        return self.table[0, token_ids[:, -1]]

    def step(self, token_ids: Tensor) -> Tensor:
        """Return the logits `[rows vocab]` after these tokens `[rows]`."""
        self.count += 1
        return self.table[self.count, token_ids]

    def reorder(self, rows: Tensor) -> None:
        """Keep everything."""


def search_rows(seed: int) -> Iterator[Row]:
    """Yield a row for each group of settings: the texts of `beam_search`, filled, in float64."""
    generator = np.random.Generator(np.random.Philox([seed, 2]))
    drawn = generator.standard_normal((_TABLES, _NEW, _VOCAB, _VOCAB))
    for name, settings in SEARCHES.items():
        tables = torch.from_numpy(drawn * 2.0)
        if name == "ties":
            tables = tables.round()[:, :, _TWICE]
        tap = f"beams.{name}"
        cases: list[tuple[Settings, Tensor]] = []
        due: list[list[list[int]]] = []
        for case in itertools.product(settings, tables):
            texts, closest = _due(*case)
            if closest > _CLOSE:
                cases.append(case)
                due.append(texts)
        found: list[list[list[int]]] = []

        def compute(
            cases: Sequence[tuple[Settings, Tensor]] = cases,
            found: list[list[list[int]]] = found,
        ) -> None:
            for setting, table in cases:
                made = beam_search.beam_search(Scripted(table), _PROMPTS, setting)
                found.append(made.tolist())

        def place(
            cases: Sequence[tuple[Settings, Tensor]] = cases,
            found: list[list[list[int]]] = found,
        ) -> str:
            return _words(cases[len(found)][0])

        raised = attempt(compute, tap=tap, dtype="float64", place=place)
        if raised is not None:
            yield raised
            continue
        if name != "fill":
            found, due = (
                [_ended(case, side) for case, side in zip(cases, sides, strict=True)]
                for sides in (found, due)
            )
        mine, right = (
            [token for texts in side for text in texts for token in (len(text), *text)]
            for side in (found, due)
        )
        row = ids_row(mine, right, tap=tap, dtype="float64", against="oracle")
        wrong = [
            f"{_words(case[0])}: ours {ours}, oracle {its}"
            for case, mades, dues in zip(cases, found, due, strict=True)
            for ours, its in itertools.zip_longest(mades, dues)
            if ours != its
        ]
        yield dataclasses.replace(row, detail="".join(wrong[:1]))


def _ended(case: tuple[Settings, Tensor], texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the new tokens of texts, cut after the one that ends each."""
    new = [list(text[_PROMPTS.shape[1] :]) for text in texts]
    return [ids[: ids.index(_END) + 1] if case[0].end_id in ids else ids for ids in new]


_CLOSE, _MOVED = 1e-7, 1e-9


class _Search(generation_oracle.Search):
    """A search whose `closest` leaves out scores that are equal to the bit."""

    def _look_at(self, ranked: Sequence[generation_oracle.Text]) -> None:
        super()._look_at(
            [next(of_it) for _, of_it in itertools.groupby(ranked, lambda one: one.score)]
        )


def _moved(table: Tensor) -> generation_oracle.Array:
    """Return log-probabilities, changed a little: alike for equal numbers of equal rows."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(_NEW, _VOCAB, 64, generator=draws, dtype=torch.float64)
    which = table.round().long().clamp(-32, 31) + 32
    moved = table.log_softmax(-1) + _MOVED * noise[:, _TWICE].gather(-1, which)
    scores: generation_oracle.Array = moved.numpy()
    return scores


def _due(setting: Settings, table: Tensor) -> tuple[list[list[int]], float]:
    """Return the texts that the oracle finds, prompts included, filled to one length.

    The number is the smallest difference that decides. Scores are equal to the bit if they are
    sums of the same numbers. Of other equal sums the rounding decides, which is no rule: the
    changes of the scores let them differ a little.
    """
    known = _PROMPTS.shape[1]
    likelihoods = _moved(table)

    def scores(texts: Sequence[Sequence[int]]) -> generation_oracle.Array:
        rows: generation_oracle.Array = np.stack(
            [likelihoods[len(text) - known, text[-1]] for text in texts]
        )
        return rows

    search = _Search(
        beams=setting.beams,
        new=setting.max_new_tokens,
        length_penalty=setting.length_penalty,
        early_stopping=setting.early_stopping,
        end_id=setting.end_id,
    )
    texts = [
        [*prompt, *text.tokens]
        for prompt in _PROMPTS.tolist()
        for text in search.best(scores, prompt)[: setting.returned]
    ]
    longest = max(map(len, texts))
    filled = [[*text, *[setting.end_id or 0] * (longest - len(text))] for text in texts]
    return filled, search.closest


def _words(setting: Settings) -> str:
    fields = dataclasses.asdict(setting).items()
    return ", ".join(f"{name} {value}" for name, value in fields)
