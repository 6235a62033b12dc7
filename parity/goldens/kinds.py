"""For each kind of golden, how our model's own value is got, and what is not asked of it.

A row of `KINDS` takes a golden and the model and returns what was got. A row of `EXEMPT` says
why a golden is not asked; such goldens are listed in the report with that reason.
"""

import statistics
from collections.abc import Callable

from torch import Tensor

from parity.goldens import files
from parity.goldens.greedy import greedy
from parity.goldens.norms import STATISTICS
from parity.goldens.rows import Measured, apart
from parity.goldens.subject import Subject, finite
from reference.golden_schema import Golden, Kind
from scratch_gpt.loss import log_softmax, next_token_loss

Evaluate = Callable[[Golden, Subject], Measured]


def _greedy_ids(golden: Golden, subject: Subject) -> Measured:
    prompt, total = golden.inputs["token_ids"], golden.inputs["total_length"]
    subject.require(golden.expected, length=total)
    no_repeat = golden.inputs["no_repeat_ngram_size"] == 1
    got, steps = greedy(subject.model, prompt, total_length=total, no_repeat=no_repeat)
    for logits in steps:
        finite(logits, "the logits")
    places = zip(got, golden.expected, strict=True)
    first = next((at for at, (ours, wanted) in enumerate(places) if ours != wanted), None)
    if first is None:
        return Measured(got=got, difference=0.0)
    here, wanted = got[first], golden.expected[first]
    lead = _lead(steps[first - len(prompt)], here, wanted)
    detail = f"first differs at place {first}: {here} for {wanted}, which it leads by {lead:.3g}"
    return Measured(got=got, difference=lead, detail=detail)


def _logits_shape(golden: Golden, subject: Subject) -> Measured:
    shape = list(subject.logits(golden.inputs["token_ids"]).shape)
    return Measured(got=shape, difference=None)


def _argmax(golden: Golden, subject: Subject) -> Measured:
    subject.require([golden.expected])
    logits = subject.last(golden.inputs["token_ids"])
    got = int(logits.argmax())
    lead = _lead(logits, got, golden.expected)
    detail = "" if got == golden.expected else f"it leads by {lead:.3g}"
    return Measured(got=got, difference=lead, detail=detail)


def _logit(golden: Golden, subject: Subject) -> Measured:
    subject.require(golden.inputs["token_ids"], id_=golden.inputs["id"])
    return _number(golden, float(subject.last(golden.inputs["token_ids"])[golden.inputs["id"]]))


def _word_probabilities(golden: Golden, subject: Subject) -> Measured:
    words = golden.inputs["words"]
    subject.require(words)
    logits = subject.last(golden.inputs["token_ids"])
    # In float64, so that the row shows the model's rounding and not the softmax's.
    got = log_softmax(logits.double())[words].exp().tolist()
    measure = golden.tolerance.measure
    worst = max(apart(measure, g, e) for g, e in zip(got, golden.expected, strict=True))
    return Measured(got=got, difference=worst)


def _median_difference(golden: Golden, subject: Subject) -> Measured:
    """Return the median over every word of a group: what moves all of them a little shows here."""
    rows = [
        row
        for row in subject.goldens
        if row.group == golden.inputs["group"] and row.kind is Kind.WORD_PROBABILITIES
    ]
    apart_by = [
        apart(row.tolerance.measure, got, wanted)
        for row in rows
        for got, wanted in zip(_word_probabilities(row, subject).got, row.expected, strict=True)
    ]
    return _number(golden, statistics.median(apart_by))


def _exp_loss(golden: Golden, subject: Subject) -> Measured:
    token_ids = golden.inputs["token_ids"]
    logits = subject.logits(token_ids).double()
    loss = next_token_loss(logits, subject.batch_of(token_ids))
    return _number(golden, float(loss.exp()))


def _matrix_norms(golden: Golden, subject: Subject) -> Measured:
    inputs = golden.inputs
    norms = [norm[inputs["quantity"]] for norm in subject.norms(inputs["matrices"])]
    return _number(golden, STATISTICS[inputs["statistic"]](norms))


def _first_parameters(golden: Golden, subject: Subject) -> Measured:
    name, count = golden.inputs["tensor"], len(golden.expected)
    tensor = finite(subject.tensor(name).flatten()[:count], name)
    got = tensor.double().tolist()
    measure = golden.tolerance.measure
    worst = max(apart(measure, g, e) for g, e in zip(got, golden.expected, strict=True))
    return Measured(got=got, difference=worst)


def _parameter_count(golden: Golden, subject: Subject) -> Measured:
    got = sum(parameter.numel() for parameter in subject.model.parameters())
    return Measured(got=got, difference=float(abs(got - golden.expected)))


def _number(golden: Golden, got: float) -> Measured:
    return Measured(got=got, difference=apart(golden.tolerance.measure, got, golden.expected))


def _lead(logits: Tensor, got: int, expected: int) -> float:
    """Return our logit of the id that was got, less that of the id that was expected."""
    return float(logits[got] - logits[expected])


KINDS: dict[Kind, Evaluate] = {
    Kind.GREEDY_IDS: _greedy_ids,
    Kind.LOGITS_SHAPE: _logits_shape,
    Kind.ARGMAX: _argmax,
    Kind.LOGIT: _logit,
    Kind.WORD_PROBABILITIES: _word_probabilities,
    Kind.MEDIAN_DIFFERENCE: _median_difference,
    Kind.EXP_LOSS: _exp_loss,
    Kind.MATRIX_NORMS: _matrix_norms,
    Kind.FIRST_PARAMETERS: _first_parameters,
    Kind.PARAMETER_COUNT: _parameter_count,
    Kind.FILE_DIGEST: files.digest_of,
}
"""Every kind that can be asked."""

_OTHER_SEARCH = (
    "the search that made it may finish texts by other rules than ours: they were never compared"
)

EXEMPT: dict[Kind, Callable[[Golden, Subject], str]] = {
    Kind.BEAM_TEXTS: lambda _golden, _subject: _OTHER_SEARCH,
    Kind.FILE_DIGEST: files.why_exempt,
}
"""Kinds that may not be asked: each gives the reason, or an empty text where there is none."""
