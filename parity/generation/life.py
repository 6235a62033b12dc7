"""Would a fault show here? Weights, texts or rules that hide faults are no ground for a pass."""

from collections.abc import Iterator, Sequence

from torch import nn

from parity.errors import ExitCode
from parity.generation import rules
from parity.liveness import constant_tensors
from parity.results import Reason


def reasons(
    reference: nn.Module, texts: Sequence[Sequence[int]], *, vocab_size: int, seed: int
) -> Iterator[Reason]:
    """Yield why a run cannot be a pass.

    Args:
        reference: Hugging Face's model.
        texts: The new tokens of every greedy text.
        vocab_size: Of the model.
        seed: Of the logits that the rules were tried on.
    """
    constant = constant_tensors(dict(reference.named_parameters()))
    if constant:
        yield _reason(
            f"{len(constant)} tensors hold one value throughout and can hide faults",
            f"the weights: {', '.join(constant[:3])}",
            "compare on trained or surrogate weights: gains not 1, biases not 0",
        )
    if len({token for text in texts for token in text}) < _FEWEST:
        yield _reason(
            "every text goes on with one token over and over: ids could not differ",
            f"the greedy texts of {len(texts)} prompts",
            "give other prompts, or more of them",
        )
    if alike(texts) and len(texts) > 1:
        yield _reason(
            "every prompt is continued alike: what was before does not matter",
            f"the greedy texts of {len(texts)} prompts",
            "give other prompts, or other weights",
        )
    idle = rules.idle(vocab_size, seed)
    if idle:
        yield _reason(
            f"{len(idle)} rules change nothing on the logits drawn",
            ", ".join(idle),
            "use another --seed",
        )


_FEWEST = 2


def alike(texts: Sequence[Sequence[int]]) -> bool:
    """Return whether all texts are the same."""
    return len({tuple(text) for text in texts}) <= 1


def _reason(what: str, where: str, fix: str) -> Reason:
    return Reason(what=what, where=where, fix=fix, code=ExitCode.INCONCLUSIVE)
