"""Prepare a GPT-1 that shows no taps for a comparison: find its call, its taps and its mistakes."""

import dataclasses
import linecache
import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from parity.align import Match, match_parameters
from parity.checkpoints.mapping import Side, convert
from parity.core import candidates, inputs, runners
from parity.core.comparison import Comparison
from parity.core.inputs import Inputs
from parity.core.lockstep import capture
from parity.core.results import Reason, Report, Section, Verdict, WrongOperation
from parity.core.taps import Axes
from parity.diagnose import GPT1Explainer, gpt1_targets
from parity.errors import ExitCode
from parity.faults.forward import FORWARD_FAULTS
from parity.operations import Call
from parity.watch import Trace
from parity.watch.calling import Way, find_way
from parity.watched import Judgement, Mistake, WatchedModel, described, in_dtype, judge

_MOST_LISTED = 5
"""Parameters without a match that a report lists."""

_WIDEST = 160
"""Characters of a note on the weights that a text has; JSON has all."""

_MOST_LINES = 24
"""Lines of the table of parameters that a text has; JSON has all."""


def wrong_operations(
    mistakes: Sequence[Mistake], matches: Sequence[Match] = ()
) -> Iterator[WrongOperation]:
    """Yield each mistake once, with the blocks that have it; `matches` give the model's names."""
    alike: dict[object, list[Mistake]] = defaultdict(list)
    for one in mistakes:
        kind = re.sub(r"(?<=\.)\d+(?=[.:])", "*", one.target)
        name = one.explanation.name if one.explanation else None
        alike[name or kind, one.sites].append(one)
    for group in alike.values():
        first = group[0]
        found = (re.search(r"(?<=\.)\d+(?=[.:])", one.target) for one in group)
        blocks = [int(block.group()) for block in found if block is not None]
        tap = first.target + (f", and in blocks {ranges(blocks[1:])}" if blocks[1:] else "")
        diagnosis = next((one.hint for one in group if one.hint), "")
        diagnosis, fix = diagnosis or "no known mistake reproduces what it makes", ""
        if (why := first.explanation) is not None:
            numbers = []
            if first.reproduced is not None:
                numbers.append(f"with this mistake the numbers agree to {first.reproduced:.0e}")
            if first.gap is not None:
                numbers.append(f"without it they differ by {first.gap:.0e}")
            diagnosis = f"{why.what}; {why.right}" + f" ({'; '.join(numbers)})" * bool(numbers)
            fix = in_own_names(why.fix, first.target, matches)
        yield WrongOperation(
            tap=tap,
            place=described(first.event, first.sites) if first.event else "",
            code=" ... ".join(linecache.getline(s.file, s.line).strip() for s in first.sites),
            fault=why.name if why else "",
            diagnosis=diagnosis,
            fix=fix,
            file=first.sites[0].file if first.sites else "",
            line=first.sites[0].line if first.sites else 0,
        )


def in_own_names(code: str, target: str, matches: Sequence[Match]) -> str:
    """Return code with the model's own names in place of the reference's modules.

    A module is known by its weight, if that is one whole tensor of the block of `target`.
    """
    block = re.match(r"(h\.\d+\.)?", target)[0]  # type: ignore[index]  # it fits any text
    layer = "mlp" if ".mlp" in target else "attn"
    own: dict[str, str] = {}
    for match in matches:
        path, _, kind = match.name.rpartition(".")
        name = path.rpartition(".")[2]
        is_whole = [one.whole for one in match.parts] == [True]
        if is_whole and kind == "weight" and name.isidentifier():
            whole = match.parts[0].reference.removeprefix(block).removeprefix(f"{layer}.")
            own.setdefault(whole.removesuffix(".weight"), name)
    return re.sub(r"\b[a-z]+_\w+\b", lambda found: own.get(found[0], found[0]), code)


def ranges(numbers: Sequence[int]) -> str:
    """Return whole numbers in ascending order as ranges: `0, 2 to 5`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if run[1:] else str(run[0]) for run in runs)


def folded_by_block(matches: Sequence[Match]) -> list[str]:
    """Return the table of parameters, those that differ in the block's number alone as one line."""
    alike: dict[str, list[str]] = defaultdict(list)
    for match in matches:
        if not match.parts:
            continue
        block = re.search(r"(?<=\.)\d+(?=\.)", match.parts[0].reference)
        number = block.group() if block else "(?!)"
        name, _, made_of = str(match).partition(" = ")
        name = re.sub(rf"(?:(?<=[._/])|^){number}(?=[._/])", "*", name, count=1)
        made_of = re.sub(rf"(?<=\.){number}(?=\.)", "*", made_of)
        alike[f"{name} = {made_of}"].append(str(match))
    return [line if len(lines) > 1 else lines[0] for line, lines in alike.items()]


def block_order(trace: Trace, matches: Sequence[Match]) -> list[int]:
    """Return the blocks whose `c_fc` a run uses, in order."""
    holds: dict[str, int] = {}
    for match in matches:
        whose = match.parts[0].reference if match.parts else ""
        if named := re.fullmatch(r"h\.(\d+)\.mlp\.c_fc\.weight", whose):
            holds[match.name] = int(named.group(1))
    uses = (event for event in trace.events if not event.shares)
    return [holds[leaf] for event in uses for leaf in event.leaves if leaf in holds]


def wrong_order(
    order: Sequence[int], n_layer: int, batch: int, mistakes: Sequence[Mistake]
) -> WrongOperation | None:
    """Return what is wrong if a run does not use the blocks one after the other.

    A model may compute one row of the batch after the other, in all blocks or within each.
    """
    right = list(range(n_layer))
    by_rows = right * batch, sorted(right * batch)
    if not order or list(order) in (right, *by_rows):
        return None
    kinds = {
        "blocks-reversed": right[::-1],
        "string-order": sorted(right, key=str),
        "block-skipped": [block for block in right if block in order],
        "block-shared": [order[0]] * n_layer,
    }
    fault = next((name for name, of in kinds.items() if list(order) == list(of)), "blocks-swapped")
    listed = ", ".join(map(str, order))
    first = next((one for one in mistakes if one.event is not None), None)
    same = [one == other for one, other in zip(order, right, strict=False)]
    differs = same.index(False) if False in same else min(len(order), n_layer - 1)
    return WrongOperation(
        tap=f"h.{differs}.attn.query",
        place=described(first.event, first.sites) if first and first.event else "",
        code="",
        fault=fault,
        diagnosis=f"the weights of these blocks are used: {listed}; "
        f"GPT-1 runs blocks 0 to {n_layer - 1}, each once",
        fix=FORWARD_FAULTS[fault].fix,
    )


def narrow_words(judgement: Judgement) -> str:
    """Return where a dtype narrower than float64 enters; "" if none does."""
    event = next(iter(judgement.narrow.values()), None)
    if event is None:
        return ""
    return f"{str(event.narrow).removeprefix('torch.')} enters at {described(event)}"


def _loading(notes: Sequence[str]) -> Section:
    """Return how the weights came into a candidate that does not take them."""
    special = [note for note in notes if " = " not in note]
    count = len(notes) - len(special)
    lines = [f"its parameters are filled by names, shapes and order: {count} lines"]
    lines += [textwrap.shorten(note, _WIDEST, placeholder=" ...") for note in special]
    return Section(
        title="the weights, as proposed",
        rows=[("", line) for line in lines],
        folds=(1,),
        note="another proposal: --map FILE; all lines are in the JSON report",
    )


def appendix(
    report: Report,
    way: str,
    matches: Sequence[Match],
    judgement: Judgement,
    short: Judgement | None = None,
) -> Section:
    """Return what was found about a watched candidate beside its mistakes."""
    known = [one for one in matches if one.parts or one.constant is not None]
    unknown = [one for one in matches if one not in known]
    facts = [
        ("called as", way),
        ("parameters", f"{len(known)} of {len(matches)} are the reference's"),
        *(("  no match", str(one)) for one in unknown[:_MOST_LISTED]),
        ("logits", judgement.layout),
        ("narrow", narrow_words(judgement)),
        ("not seen", judgement.unseen),
        ("a short text", "agrees, too" if short is not None and not short.mistakes else ""),
    ]
    if report.verdict is Verdict.PASS:
        facts.append(("rests on", f"{report.plan.compared} taps, the logits among them"))
        facts += [("", line) for line in folded_by_block(matches)[:_MOST_LINES]]
    return Section(
        title="the candidate, as watched", rows=[one for one in facts if one[1]], folds=(1,)
    )


@dataclasses.dataclass
class Watching:
    """Prepares candidates, and keeps what was found.

    Attributes:
        call: How the candidate is called, as Python; None to find out.
        judgement: What it does on the inputs.
        short: What it does on a short text, if it is right on the inputs.
        matches: What its parameters are made of.
    """

    call: str | None = None
    judgement: Judgement | None = None
    short: Judgement | None = None
    matches: list[Match] = dataclasses.field(default_factory=list)
    way: str = ""
    n_layer: int = 0
    batch: int = 1
    notes: Sequence[str] = ()

    def prepare(self, run: Comparison, model: nn.Module) -> WatchedModel:
        """Return the candidate with its taps.

        Raises:
            InconclusiveError: It cannot be called, raises, or draws random numbers.
        """
        config = run.reference.config
        self.n_layer = config.n_layer
        self.batch = len(run.inputs.token_ids)
        self.notes = candidates.loading_notes(model)
        few = inputs.seeded(batch=2, time=5, vocab_size=config.vocab_size, seed=0).token_ids
        given = Inputs(token_ids=run.inputs.token_ids, positions=run.inputs.positions)
        again = candidates.rebuilt(model, torch.float64)
        whole = model if again is None else again
        with in_dtype(whole, torch.float64):
            way = find_way(whole, few, config.vocab_size, self.call)
            self.way = way.text
            ours = self._reference_parameters(run)
            parameters = match_parameters(dict(whole.named_parameters()), ours)
            buffers = match_parameters(dict(whole.named_buffers()), ours)  # a mask is none of ours
            self.matches = [*parameters, *(match for match in buffers if match.parts)]
            self.judgement = self._judge(run, whole, way, given, ours)
            if not self.judgement.mistakes:
                self.short = self._judge(run, whole, way, self._short(run), ours)
        padded = run.inputs.attention_mask is not None
        order = [tap.name for tap in run.plan if tap.name not in ("logits", "loss")]
        places = {} if padded else self.judgement.places
        return WatchedModel(
            model,
            way,
            places,
            order=order,
            causal=[tap.name for tap in run.plan if tap.kind.axes is Axes.SCORES],
            vocab_size=config.vocab_size,
            profile=candidates.Profile(
                shown=[name for name in order if name in places],
                narrow=narrow_words(self.judgement),
                reasons=list(self._reasons()),
            ),
            last_only="last position" in self.judgement.layout,
            dtype=next((p.dtype for p in model.parameters()), torch.float32),
        ).eval()

    @staticmethod
    def _reference_parameters(run: Comparison) -> dict[str, Tensor]:
        state = {n: runners.array(t) for n, t in run.reference.state_dict().items()}
        config = run.reference.config.to_dict()
        ours = convert(state, config, source=Side.HUGGINGFACE, target=Side.OURS)
        return {name: torch.from_numpy(array) for name, array in ours.items()}

    @staticmethod
    def _judge(
        run: Comparison, model: nn.Module, way: Way, given: Inputs, ours: Mapping[str, Tensor]
    ) -> Judgement:
        config = run.reference.config
        values = capture(runners.oracle_run(run.reference, given))
        call = Call(
            parameters=ours,
            n_layer=config.n_layer,
            n_head=config.n_head,
            epsilon=config.layer_norm_epsilon,
            token_ids=given.token_ids,
            positions=given.positions,
        )
        targets = gpt1_targets(run.plan, values, call)
        return judge(model, way, given, targets, GPT1Explainer(call, ours, values))

    @staticmethod
    def _short(run: Comparison) -> Inputs:
        """Return a short text with the first and the last id.

        Its length has no common factor with the sizes of the model, so that no two axes are
        exchanged in silence.
        """
        config = run.reference.config
        sizes = math.prod((config.n_embd, config.n_head, run.inputs.token_ids.shape[1]))
        fits = (time for time in range(5, config.n_positions + 1) if math.gcd(time, sizes) == 1)
        time = next(fits, config.n_positions)
        return inputs.seeded(batch=2, time=time, vocab_size=config.vocab_size, seed=1)

    def reported(self, report: Report) -> Report:
        """Return the report with what was found about the candidate.

        Operations that make something else are wrong only if a compared tensor is: a model may
        arrange its operations in another way.
        """
        if self.judgement is None:
            return report
        wrong: list[WrongOperation] = []
        if report.verdict is Verdict.FAIL:
            order = block_order(self.judgement.trace, self.matches)
            mistakes = self.judgement.mistakes
            structural = wrong_order(order, self.n_layer, self.batch, mistakes)
            wrong = [structural] if structural else list(wrong_operations(mistakes, self.matches))
        return dataclasses.replace(
            report,
            wrong=wrong,
            appendix=[
                *([_loading(self.notes)] if self.notes else []),
                appendix(report, self.way, self.matches, self.judgement, self.short),
            ],
            details={
                **report.details,
                "parameters": [str(match) for match in self.matches],
                "loaded": self.notes,
            },
        )

    def _reasons(self) -> Iterator[Reason]:
        for mistake in self.short.mistakes if self.short else ():
            yield Reason(
                what=f"on a short text it departs at {mistake.target}",
                where=described(mistake.event) if mistake.event else "the model",
                fix=in_own_names(mistake.explanation.fix, mistake.target, self.matches)
                if mistake.explanation
                else "compare both there",
                code=ExitCode.FAIL,
            )
