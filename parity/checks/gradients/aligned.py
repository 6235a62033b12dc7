"""Compare gradients of a model that shows no taps: those of its parameters, found by their values.

The gradient of a parameter has the parameter's arrangement, and is taken apart in the same way.
Parameters that are copies of one tensor share its gradient: it is their sum.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from parity.align import Match, match_parameters
from parity.checkpoints.mapping import rows as mapping_rows
from parity.checks.gradients.backward import GradientCallback
from parity.core import candidates, inputs, runners
from parity.core.comparison import CANDIDATE, Comparison
from parity.core.inputs import Inputs
from parity.core.lockstep import TapFunction
from parity.core.results import Reason, Report, Section
from parity.core.tolerances import FEWEST_PREDICTIONS, Precision
from parity.errors import ExitCode, InconclusiveError
from parity.watch import Trace, watch
from parity.watch.calling import Way, find_way, logits_in
from parity.watched import check_repeatable, described

NO_TAPS = "the candidate shows no taps"
NOT_HELD = "no parameter of the candidate holds it"

_MOST_LISTED = 5
"""Names that a reason or a line of the report lists."""


class AlignedModel(candidates.PreparedCandidate):
    """A candidate of which the logits and the parameters are known, and nothing between.

    Attributes:
        matches: What its parameters are made of.
        held: Of each reference tensor, bool: which entries are in a parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        way: Way,
        matches: Sequence[Match],
        held: Mapping[str, Tensor],
        profile: candidates.Profile,
    ) -> None:
        super().__init__()
        self.model = model
        self.way, self.matches, self.held, self.profile = way, matches, held, profile

    def in_dtype(self, dtype: torch.dtype) -> "AlignedModel":
        """Return the candidate in another dtype."""
        model = runners.model_in_dtype({CANDIDATE: self.model}, dtype)[CANDIDATE]
        return AlignedModel(model, self.way, self.matches, self.held, self.profile).eval()

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        tap: TapFunction = lambda _name, value, /: value,
    ) -> Tensor:
        """Return the logits `[batch time vocab]`; show no other tap.

        Raises:
            InconclusiveError: No gradient can come from them.
        """
        given = Inputs(token_ids=token_ids, positions=positions, attention_mask=attention_mask)
        vocab_size = len(self.held["tokens_embed.weight"])
        logits = logits_in(self.way.call(self.model, given), token_ids, vocab_size).tensor
        if torch.is_grad_enabled() and not logits.requires_grad:
            raise InconclusiveError(
                "the candidate's logits have no gradient, so that none reaches a parameter",
                where=f"it is called as {self.way.text}",
                fix="leave torch.no_grad(), detach() and .data out of forward, and register the "
                "weights as parameters",
            )
        return tap("logits", logits)

    @property
    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The candidate's own parameters by name."""
        own = dict(self.model.named_parameters())
        return {match.name: own[match.name] for match in self.matches}

    def check_narrow(self, rounds: Precision | None) -> None:
        """Require that a dtype which enters the float64 run is the checked one.

        Raises:
            InconclusiveError: Another one enters, so that the size of its rounding is not known.
        """
        dtype, _, place = self.profile.narrow.partition(" enters at ")
        if place and (rounds is None or str(rounds.dtype)[6:] != dtype):
            raise InconclusiveError(
                f"{dtype} enters the float64 run of the candidate, so that its gradients are "
                "no finer than that",
                where=place,
                fix=f"compute in the input's dtype, or use --dtype {dtype} and at least "
                f"{FEWEST_PREDICTIONS + 1} tokens in a row",
            )

    def named(self, kind: str) -> list[str]:
        """Return the reference tensors of which the parameters hold `all`, `some` or `none`."""
        kinds = {
            name: "all" if mask.all() else "some" if mask.any() else "none"
            for name, mask in self.held.items()
        }
        return [name for name, own in kinds.items() if own == kind]


class JoinedGradients:
    """Turns the gradients of a candidate's parameters into those of the reference's tensors.

    Each one is handed to `see` when all parameters that hold a part of it have theirs.
    """

    def __init__(self, model: AlignedModel, see: GradientCallback) -> None:
        self._held, self._see = model.held, see
        self._matches = {match.name: match for match in model.matches}
        self._left = Counter(name for match in model.matches for name in _references(match))
        self._sums: dict[str, Tensor] = {}

    def see(self, name: str, gradient: Tensor) -> None:
        """Take the gradient of a parameter apart; hand over that of a tap."""
        if name == "logits":
            self._see(name, gradient)
            return
        match = self._matches.pop(name)
        for reference in _references(match):
            if reference not in self._sums:
                self._sums[reference] = gradient.new_zeros(self._held[reference].shape)
        add_parts(match, gradient, self._sums)
        for reference in _references(match):
            self._left[reference] -= 1
            if not self._left[reference]:
                self._see(reference, self._sums.pop(reference))

    def finish(self) -> list[str]:
        """Hand over what is incomplete; return the parameters that got no gradient."""
        for reference, gradient in self._sums.items():
            self._see(reference, gradient)
        return [name for name, match in self._matches.items() if match.parts]


def _references(match: Match) -> dict[str, None]:
    """Return the reference tensors of which a parameter has a part, each once."""
    return dict.fromkeys(part.reference for part in match.parts)


def add_parts(match: Match, value: Tensor, sums: Mapping[str, Tensor]) -> None:
    """Add a value in a parameter's arrangement to those of the reference tensors; drop padding."""
    at = 0
    for part in match.parts:
        whole = sums[part.reference]
        lines = value.flatten() if whole.ndim == 1 else value.movedim(match.axis, -1).flatten(0, -2)
        count = part.stop - part.start
        whole.movedim(part.axis, 0)[part.start : part.stop] += lines[at : at + count]
        at += count


def not_compared(model: AlignedModel) -> Iterator[Reason]:
    """Yield a reason for parameters that are none of the reference's, and for the reverse."""
    fix = (
        "hold the weights as they are, cut, transposed or joined: a factor inside, such as "
        "1/sqrt(head_width) in the query's, hides them"
    )
    if unknown := [str(match) for match in model.matches if not match.parts]:
        yield Reason(
            what=f"{len(unknown)} parameters of the candidate are none of the reference's, so that "
            "their gradients have no reference",
            where=_listed(unknown),
            fix=fix,
            code=ExitCode.INCONCLUSIVE,
        )
    if absent := model.named("none"):
        yield Reason(
            what=f"{len(absent)} tensors of the reference are missing: no parameter of the "
            "candidate holds them, so that their gradients were not compared",
            where=_listed(absent),
            fix=f"register them as parameters; {fix}",
            code=ExitCode.INCONCLUSIVE,
        )
    if partly := model.named("some"):
        yield Reason(
            what=f"of {len(partly)} tensors of the reference the candidate's parameters hold a "
            "part, and only its gradient was compared",
            where=_listed(partly),
            fix=fix,
            code=ExitCode.INCONCLUSIVE,
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return "; ".join(names[:_MOST_LISTED]) + (f"; {more} more" if more > 0 else "")


def _narrow(run: Comparison, trace: Trace, token_ids: Tensor, logits: Tensor) -> str:
    """Return where a dtype narrower than float64 enters; "" if it does not move the logits.

    A mask of ones, for one, is the same in any dtype.
    """
    kinds = {event.number: event.dtype for event in trace.events}
    entering = (
        event
        for event in trace.events
        if event.narrow
        and (event.leaves or torch.float64 in {kinds.get(number) for number in event.inputs})
    )
    first = next(entering, None)
    if first is None:
        return ""
    model = runners.model_in_dtype({"huggingface": run.reference}, torch.float64)["huggingface"]
    with torch.no_grad():
        right = model(token_ids).logits
    error = float((logits - right).abs().amax() / right.square().mean().sqrt())
    moved = not error <= run.bounds.float64
    return f"{str(first.narrow)[6:]} enters at {described(first)}" if moved else ""


@dataclasses.dataclass
class Aligning:
    """Prepares a candidate, and keeps what was found.

    Attributes:
        call: How the candidate is called, as Python; None to find out.
    """

    call: str | None = None
    model: AlignedModel | None = None

    def prepare(self, run: Comparison, model: nn.Module) -> AlignedModel:
        """Return the candidate with its call and its parameters.

        Raises:
            InconclusiveError: It cannot be called, raises, draws random numbers, or returns the
                logits of the last position alone.
        """
        vocab_size = run.reference.config.vocab_size
        few = inputs.seeded(batch=2, time=5, vocab_size=vocab_size, seed=0).token_ids
        few = few.to(run.inputs.token_ids.device)
        whole = runners.model_in_dtype({CANDIDATE: model}, torch.float64)[CANDIDATE]
        runners.check_evaluating({CANDIDATE: whole})
        way = find_way(whole, few, vocab_size, self.call)
        trace, again = (
            watch(whole, lambda: way.call(whole, Inputs(token_ids=few))) for _ in range(2)
        )
        check_repeatable(trace, again)
        logits = logits_in(trace.result, few, vocab_size)
        if "last position" in logits.layout:
            raise InconclusiveError(
                "the candidate returns the logits of the last position alone, and the loss needs "
                "those of all",
                where=f"it is called as {way.text}",
                fix="return the logits of all positions, or say how: --call 'model(ids, ids)'",
            )
        own = dict(run.reference.named_parameters())
        table = mapping_rows(run.reference.config.n_layer)
        theirs = {row.ours: own[row.huggingface] for row in table}
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        matches = match_parameters(dict(model.named_parameters()), theirs)
        matches = [match for match in matches if match.parts or match.name not in frozen]
        held = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in theirs.items()}
        for match in matches:
            add_parts(match, torch.ones(match.shape, dtype=torch.bool), held)
        profile = candidates.Profile(shown=[], narrow=_narrow(run, trace, few, logits.tensor))
        self.model = AlignedModel(model, way, matches, held, profile).eval()
        return self.model

    def reported(self, report: Report, unreached: Sequence[str]) -> Report:
        """Return the report with what was found about the candidate."""
        if self.model is None:
            return report
        first = report.first_divergence
        known = [match for match in self.model.matches if match.parts]
        made_of = [str(match) for match in known if first and first.tap in _references(match)]
        facts = [
            ("called as", self.model.way.text),
            ("parameters", f"{len(known)} of {len(self.model.matches)} are the reference's"),
            ("activations", f"not compared: {NO_TAPS}"),
            ("first differs", _listed(made_of)),
            ("no gradient", _listed(unreached)),
        ]
        section = Section(
            title="the candidate's parameters", rows=[one for one in facts if one[1]], folds=(1,)
        )
        table = [str(match) for match in self.model.matches]
        return dataclasses.replace(
            report,
            appendix=[*report.appendix, section],
            details={**report.details, "parameters": table},
        )
