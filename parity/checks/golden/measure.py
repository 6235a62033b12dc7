"""How our model's value is computed for each kind of golden, and why some are not compared."""

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from parity.checkpoints.weights import FileDigest, Provenance, Standing
from parity.checks.golden.rows import MeasuredValue, NoValueError, apart
from parity.core.metrics import Status
from reference.published import Golden, Kind
from scratch_gpt.loss import log_softmax, next_token_loss
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

Prompt = tuple[int, ...]

TOKENS = 512
"""Positions of a batch, at most: longer batches save no time. At the released size the logits take
83 MB."""


def last_logits(
    model: GPT,
    prompts: Iterable[Prompt],
    on_batch: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[Prompt, Tensor]:
    """Return the logits `[vocab]` at each prompt's last token.

    Prompts are run together, padded on the right. Attention is causal, so a batch changes a
    prompt's logits only by rounding. `on_batch` is called with (prompts done, all prompts).
    """
    wanted = sorted(set(prompts), key=len)
    found: dict[Prompt, Tensor] = {}
    for batch in _batches(wanted):
        found |= dict(zip(batch, _last(model, batch), strict=True))
        on_batch(len(found), len(wanted))
    return found


def _batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Yield batches of prompts, which are sorted by length, of at most `TOKENS` positions."""
    batch: list[Prompt] = []
    for prompt in prompts:
        if batch and (len(batch) + 1) * len(prompt) > TOKENS:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def _last(model: GPT, batch: Sequence[Prompt]) -> Tensor:
    """Return the logits `[batch vocab]` at the last token of each prompt."""
    device = model.tokens_embed.weight.device
    longest = max(map(len, batch))
    lengths = torch.tensor([len(prompt) for prompt in batch], device=device)
    padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in batch]
    mask = torch.arange(longest, device=device) < lengths[:, None]
    logits = model(torch.tensor(padded, device=device), attention_mask=mask)
    last: Tensor = logits[torch.arange(len(batch), device=device), lengths - 1]
    return last


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter with two axes: both embeddings, and four in each block."""
    return {name: p.detach() for name, p in model.named_parameters() if p.ndim == 2}  # noqa: PLR2004


def quantities(matrix: Tensor) -> dict[str, float]:
    """Return the norms of a matrix W, keys of `reference.published.QUANTITIES`.

    With s the largest singular value and |W| the Frobenius norm: |W| / sqrt(numel), |W| / sqrt(2),
    s² / 2 and |W|² / s².

    Source: weightwatcher 0.2.7 divides W by the root of 2 before it computes norms.
    """
    wide = matrix.double()
    gram = wide.T @ wide if len(wide) >= wide.shape[1] else wide @ wide.T
    squared = float(gram.trace())
    largest = float(torch.linalg.eigvalsh(gram)[-1])
    return {
        "rms": math.sqrt(squared / matrix.numel()),
        "frobenius_over_sqrt2": math.sqrt(squared / 2.0),
        "half_sigma_max_squared": largest / 2.0,
        "stable_rank": squared / largest if largest else math.nan,
    }


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "least": min,
    "largest": max,
    "mean": statistics.fmean,
}
"""How the numbers of all matrices become one."""


_LAST = (Kind.ARGMAX, Kind.LOGIT, Kind.WORD_PROBABILITIES)
"""Kinds that need only the logits at a prompt's last token."""


class GoldenModel:
    """A model in evaluation mode, and values that several goldens need."""

    def __init__(
        self,
        model: GPT,
        provenance: Provenance,
        goldens: Sequence[Golden],
        progress: Progress = lambda _what, _done, _total: None,
    ) -> None:
        self.model = model
        self.provenance = provenance
        self.goldens = goldens
        self._progress = progress

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return the logits `[1 time vocab]` of one prompt.

        Raises:
            NoValueError: The model cannot run it, or a value is not finite.
        """
        self.require(token_ids)
        return finite(self.model(self.batch_of(token_ids)), "the logits")

    def batch_of(self, token_ids: Sequence[int]) -> Tensor:
        """Return ids `[1 time]` on the model's device."""
        return torch.tensor([list(token_ids)], device=self.model.tokens_embed.weight.device)

    def last(self, token_ids: Sequence[int]) -> Tensor:
        """Return the logits `[vocab]` at the last token of a golden's prompt.

        Raises:
            NoValueError: The model cannot run it, or a value is not finite.
        """
        self.require(token_ids)
        return finite(self._last[tuple(token_ids)], "the logits at the last position")

    def tensor(self, name: str) -> Tensor:
        """Return one of the model's parameters.

        Raises:
            NoValueError: There is none of that name.
        """
        own = dict(self.model.named_parameters())
        if name not in own:
            raise NoValueError(Status.NOT_RUN, f"this model has no tensor {name}")
        return own[name].detach()

    def norms(self, expected: int) -> Sequence[Mapping[str, float]]:
        """Return the norms of every matrix.

        Raises:
            NoValueError: The number of matrices is not the expected one, or a value is not finite.
        """
        if len(self._norms) != expected:
            raise NoValueError(
                Status.NOT_RUN, f"this model has {len(self._norms)} matrices, not {expected}"
            )
        return self._norms

    def require(self, token_ids: Sequence[int], *, length: int = 0, id_: int = 0) -> None:
        """Require that ids, `id_` and `length` are within the vocabulary and the positions.

        Raises:
            NoValueError: One is not.
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
            self.model, filter(self._takes, prompts), self._counter("running the prompts")
        )

    @functools.cached_property
    def _norms(self) -> Sequence[Mapping[str, float]]:
        count, found = self._counter("norms of the matrices"), []
        own = matrices(self.model)
        for name, matrix in own.items():
            found.append(quantities(finite(matrix, name)))
            count(len(found), len(own))
        return found

    def _counter(self, what: str) -> Callable[[int, int], None]:
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


def digest_of(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    """Return the digest of the file that a golden names.

    Raises:
        NoValueError: That file was not read, or its digest was not computed.
    """
    file = _file(golden, subject)
    got = _digest(golden, file) if file is not None else None
    if got is None:
        raise NoValueError(Status.NOT_RUN, why_exempt(golden, subject))
    return MeasuredValue(got=got, difference=None)


def why_exempt(golden: Golden, subject: GoldenModel) -> str:
    """Return why the digest of a file is not compared; an empty text if it is."""
    file = _file(golden, subject)
    if file is None:
        return "no file of that name was read"
    got = _digest(golden, file)
    if got is None:
        return f"its {golden.inputs['algorithm']} was not taken"
    # Any file may be called `model.safetensors`: other bytes alone are no fault.
    if got != golden.expected and file.standing is Standing.UNKNOWN:
        return "a file of that name was read that does not claim to be the published one"
    return ""


def _file(golden: Golden, subject: GoldenModel) -> FileDigest | None:
    """Return the file of the golden's name, if it was read."""
    files = subject.provenance.files
    return next((file for file in files if file.name == golden.inputs["file"]), None)


def _digest(golden: Golden, file: FileDigest) -> str | None:
    return {"sha256": file.sha256, "git_blob": file.git_blob}[golden.inputs["algorithm"]]


def greedy(
    model: GPT, token_ids: Sequence[int], *, total_length: int, no_repeat: bool
) -> tuple[list[int], list[Tensor]]:
    """Return a prompt continued to `total_length` ids without a cache.

    With `no_repeat` no id occurs again, the prompt's included. Also returns the model's logits
    `[vocab]` for each new id.
    """
    ids = list(token_ids)
    steps = []
    while len(ids) < total_length:
        logits = model(torch.tensor([ids], device=model.tokens_embed.weight.device))[0, -1]
        steps.append(logits)
        allowed = logits.clone()
        if no_repeat:
            allowed[ids] = -torch.inf
        ids.append(int(allowed.argmax()))
    return ids, steps


Evaluate = Callable[[Golden, GoldenModel], MeasuredValue]


def _greedy_ids(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    prompt, total = golden.inputs["token_ids"], golden.inputs["total_length"]
    subject.require(golden.expected, length=total)
    no_repeat = golden.inputs["no_repeat_ngram_size"] == 1
    got, steps = greedy(subject.model, prompt, total_length=total, no_repeat=no_repeat)
    for logits in steps:
        finite(logits, "the logits")
    places = zip(got, golden.expected, strict=True)
    first = next((at for at, (ours, wanted) in enumerate(places) if ours != wanted), None)
    if first is None:
        return MeasuredValue(got=got, difference=0.0)
    here, wanted = got[first], golden.expected[first]
    lead = _lead(steps[first - len(prompt)], here, wanted)
    detail = f"first differs at place {first}: {here} for {wanted}, which it leads by {lead:.3g}"
    return MeasuredValue(got=got, difference=lead, detail=detail)


def _logits_shape(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    shape = list(subject.logits(golden.inputs["token_ids"]).shape)
    return MeasuredValue(got=shape, difference=None)


def _argmax(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    subject.require([golden.expected])
    logits = subject.last(golden.inputs["token_ids"])
    got = int(logits.argmax())
    lead = _lead(logits, got, golden.expected)
    detail = "" if got == golden.expected else f"it leads by {lead:.3g}"
    return MeasuredValue(got=got, difference=lead, detail=detail)


def _logit(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    subject.require(golden.inputs["token_ids"], id_=golden.inputs["id"])
    return _number(golden, float(subject.last(golden.inputs["token_ids"])[golden.inputs["id"]]))


def _word_probabilities(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    words = golden.inputs["words"]
    subject.require(words)
    logits = subject.last(golden.inputs["token_ids"])
    # In float64, so that the row shows the model's rounding and not the softmax's.
    got = log_softmax(logits.double())[words].exp().tolist()
    measure = golden.tolerance.measure
    worst = max(apart(measure, g, e) for g, e in zip(got, golden.expected, strict=True))
    return MeasuredValue(got=got, difference=worst)


def _median_difference(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    """Return the median over every word of a group, which a small shift of all words changes."""
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


def _exp_loss(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    token_ids = golden.inputs["token_ids"]
    logits = subject.logits(token_ids).double()
    loss = next_token_loss(logits, subject.batch_of(token_ids))
    return _number(golden, float(loss.exp()))


def _matrix_norms(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    inputs = golden.inputs
    norms = [norm[inputs["quantity"]] for norm in subject.norms(inputs["matrices"])]
    return _number(golden, STATISTICS[inputs["statistic"]](norms))


def _first_parameters(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    name, count = golden.inputs["tensor"], len(golden.expected)
    tensor = finite(subject.tensor(name).flatten()[:count], name)
    got = tensor.double().tolist()
    measure = golden.tolerance.measure
    worst = max(apart(measure, g, e) for g, e in zip(got, golden.expected, strict=True))
    return MeasuredValue(got=got, difference=worst)


def _parameter_count(golden: Golden, subject: GoldenModel) -> MeasuredValue:
    got = sum(parameter.numel() for parameter in subject.model.parameters())
    return MeasuredValue(got=got, difference=float(abs(got - golden.expected)))


def _number(golden: Golden, got: float) -> MeasuredValue:
    return MeasuredValue(got=got, difference=apart(golden.tolerance.measure, got, golden.expected))


def _lead(logits: Tensor, got: int, expected: int) -> float:
    """Return our logit of our id minus our logit of the expected id."""
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
    Kind.FILE_DIGEST: digest_of,
}
"""How the value of each kind is computed."""

_OTHER_SEARCH = (
    "the search that made it may finish texts by other rules than ours: they were never compared"
)

NOT_COMPARED: dict[Kind, Callable[[Golden, GoldenModel], str]] = {
    Kind.BEAM_TEXTS: lambda _golden, _subject: _OTHER_SEARCH,
    Kind.FILE_DIGEST: why_exempt,
}
"""Kinds with exempt goldens; each function returns the reason, or an empty text."""
