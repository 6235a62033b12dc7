"""Prepare a GPT-1 that shows no taps for a comparison: find its call, its taps and its mistakes."""

import dataclasses
import math
from collections import ChainMap
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from parity.align import Match, match_parameters
from parity.checkpoints.mapping import Side, convert
from parity.core import candidates, inputs, runners
from parity.core.comparison import Comparison
from parity.core.inputs import Inputs
from parity.core.lockstep import capture
from parity.core.results import Reason
from parity.diagnose import GPT1Explainer, gpt1_targets
from parity.errors import ExitCode
from parity.operations import Call
from parity.watch.calling import Way, find_way
from parity.watched import Judgement, WatchedModel, described, in_dtype, judge


class Widened(Mapping[str, Tensor]):
    """Tensors by name, in float64 when they are read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].double()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


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

    def prepare(self, run: Comparison, model: nn.Module) -> WatchedModel:
        """Return the candidate with its taps.

        Raises:
            InconclusiveError: It cannot be called, raises, or draws random numbers.
        """
        config = run.reference.config
        few = inputs.seeded(batch=2, time=5, vocab_size=config.vocab_size, seed=0).token_ids
        given = Inputs(token_ids=run.inputs.token_ids, positions=run.inputs.positions)
        whole = candidates.rebuilt(model, torch.float64) or model
        with in_dtype(whole, torch.float64):
            way = find_way(whole, few, config.vocab_size, self.call)
            ours = self._reference_parameters(run)
            named = [*whole.named_parameters(), *whole.named_buffers()]
            self.matches = match_parameters(dict(named), ours)
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
            vocab_size=config.vocab_size,
            profile=candidates.Profile(
                shown=[name for name in order if name in places],
                narrow=self._narrow(),
                reasons=list(self._reasons()),
            ),
            last_only="last position" in self.judgement.layout,
            dtype=next(model.parameters()).dtype,
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
            parameters=ChainMap({}, Widened(ours)),  # type: ignore[arg-type] # it is only read
            n_layer=config.n_layer,
            n_head=config.n_head,
            epsilon=config.layer_norm_epsilon,
            token_ids=given.token_ids,
            positions=given.positions,
        )
        targets = gpt1_targets(run.plan, values, call)
        return judge(model, way, given, targets, GPT1Explainer(call, values))

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

    def _narrow(self) -> str:
        events = list(self.judgement.narrow.values()) if self.judgement else []
        if not events:
            return ""
        kind = str(events[0].narrow).removeprefix("torch.")
        return f"{kind} enters at {described(events[0])}"

    def _reasons(self) -> Iterator[Reason]:
        for mistake in self.short.mistakes if self.short else ():
            yield Reason(
                what=f"on a short text it departs at {mistake.target}",
                where=described(mistake.event) if mistake.event else "the model",
                fix=mistake.explanation.fix if mistake.explanation else "compare both there",
                code=ExitCode.FAIL,
            )
