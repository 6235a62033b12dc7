"""The options of a training run, and named sets of them: `paper` and `small`.

Nothing here imports torch: the command line generates its options from these fields.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from scratch_gpt.errors import quote

KEPT = "kept"
"""In a field's metadata: whether a resumed run must have the checkpoint's value."""

HELP = "help"
"""In a field's metadata: its text in `--help`."""


def _choice(default: object, text: str, *, kept: bool = True) -> Any:  # noqa: ANN401 - a field
    return dataclasses.field(default=default, metadata={HELP: text, KEPT: kept})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of a training run; the defaults are the paper's.

    Raises:
        ValueError: A value is out of range; the message names field, range and value.

    Source: Radford et al. 2018, section 4.1.
    """

    n_layer: int = _choice(12, "transformer blocks")
    n_embd: int = _choice(768, "width of the model, a multiple of n_head")
    n_head: int = _choice(12, "attention heads of a block")
    n_positions: int = _choice(512, "tokens of a window, and the longest input of the model")
    dropout: float = _choice(0.1, "probability of each of the three dropouts")
    initializer_range: float = _choice(0.02, "standard deviation of the initial weights")
    merges: int = _choice(40_000, "merges of the vocabulary, if it is trained")
    pretokenizer: str = _choice(
        "huggingface", "how text is split into words, if the vocabulary is trained"
    )
    validation_fraction: float = _choice(0.05, "part of the corpus that is held out")
    batch_size: int = _choice(64, "windows of a step, over all processes")
    micro_batch: int = _choice(8, "windows of one forward; a step sums the gradients of several")
    epochs: float = _choice(100.0, "passes over the corpus, if steps is 0")
    steps: int = _choice(0, "steps of the run; 0: computed from epochs")
    learning_rate: float = _choice(2.5e-4, "highest learning rate")
    warmup: int = _choice(
        -1, "steps in which the learning rate rises; -1: 2,000, or a tenth of a shorter run"
    )
    schedule: str = _choice("cosine", "learning rate after the warm-up: cosine, linear or constant")
    optimizer: str = _choice("openai", "variant of Adam: released, or adamw as PyTorch has it")
    beta1: float = _choice(0.9, "decay of the gradients' mean")
    beta2: float = _choice(0.999, "decay of the squared gradients' mean")
    epsilon: float = _choice(1e-8, "added to the root of the squared gradients' mean")
    weight_decay: float = _choice(0.01, "decoupled weight decay of every matrix")
    clip_norm: float = _choice(1.0, "largest global norm of the gradients")
    dtype: str = _choice(
        "float32", "float32; bfloat16 for matrix products only; float64 for checking"
    )
    backend: str = _choice(
        "fused", "implementation of the model, as in scratch_gpt.kernels.backends"
    )
    device: str = _choice("cpu", "cpu, cuda, or auto: cuda if available")
    seed: int = _choice(0, "seed of the initial weights, the order of windows, and dropout")
    threads: int = _choice(0, "threads of each process; 0: torch's default")
    evaluate_every: int = _choice(1_000, "steps between validation losses", kept=False)
    evaluation_windows: int = _choice(64, "windows of a validation loss", kept=False)
    checkpoint_every: int = _choice(1_000, "steps between checkpoints", kept=False)
    keep: int = _choice(3, "newest checkpoints to keep, besides the best one", kept=False)
    sample_every: int = _choice(1_000, "steps between samples of text; 0: none", kept=False)
    sample_tokens: int = _choice(40, "tokens of a sample", kept=False)

    def __post_init__(self) -> None:
        for name, (is_allowed, allowed) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not is_allowed(value):
                raise ValueError(f"{name} must be {allowed}, got {quote(value)}")
        if self.n_embd % self.n_head:
            pair = f"{self.n_embd} and {self.n_head}"
            raise ValueError(f"n_embd must be a multiple of n_head, got {pair}")
        if self.steps and self.warmup >= self.steps:
            raise ValueError(f"warmup must be below steps, {self.steps}, got {self.warmup}")


def kept_fields() -> tuple[str, ...]:
    """Return the names of the fields in which a resumed run must agree with its checkpoint."""
    return tuple(field.name for field in dataclasses.fields(Recipe) if field.metadata[KEPT])


_Range = tuple[Callable[[Any], bool], str]


MOST_STEPS = 10**9
"""The largest number of steps; with one a second they take thirty years."""

_LARGEST_SIZE = 1 << 24
"""The largest size of a tensor's axis that `GPT.from_pretrained` accepts."""


def _integers(least: int, most: int = MOST_STEPS) -> _Range:
    return (
        lambda n: isinstance(n, int) and least <= n <= most,
        f"a whole number from {least:,} to {most:,}",
    )


def _numbers(least: float, most: float) -> _Range:
    return (
        lambda x: isinstance(x, int | float) and least <= x <= most,
        f"a number from {least:g} to {most:g}",
    )


def _one_of(*names: str) -> _Range:
    return lambda name: name in names, f"one of {', '.join(names)}"


_RANGES: dict[str, _Range] = {
    "n_layer": _integers(1, 833),  # 12 tensors each; a file holds at most 10,000
    "n_positions": _integers(2, _LARGEST_SIZE),  # one token predicts nothing
    **dict.fromkeys(("n_embd", "n_head"), _integers(1, _LARGEST_SIZE)),
    "merges": _integers(0, _LARGEST_SIZE),
    **dict.fromkeys(("batch_size", "micro_batch"), _integers(1, 1_000_000)),
    **dict.fromkeys(("keep", "sample_tokens"), _integers(1)),
    **dict.fromkeys(("evaluate_every", "evaluation_windows", "checkpoint_every"), _integers(1)),
    **dict.fromkeys(("steps", "sample_every"), _integers(0)),
    "warmup": _integers(-1),
    "threads": _integers(0, 1_024),  # torch reserves memory for each, also for idle ones
    "seed": (lambda n: isinstance(n, int) and 0 <= n < 2**64, "a whole number from 0 to 2**64 - 1"),
    **dict.fromkeys(
        ("dropout", "beta1", "beta2"), (lambda x: 0.0 <= x < 1.0, "a number in [0, 1)")
    ),
    "validation_fraction": (lambda x: 0.0 < x < 1.0, "a number between 0 and 1"),
    # Smaller numbers are 0 in float32: with such an epsilon, 0 / 0 would be a step.
    **dict.fromkeys(("epsilon", "clip_norm"), _numbers(1e-30, 1e30)),
    **dict.fromkeys(("initializer_range", "learning_rate"), _numbers(1e-30, 1e3)),
    "weight_decay": _numbers(0.0, 1e3),
    "epochs": _numbers(1e-9, 1e9),
    "schedule": _one_of("cosine", "linear", "constant"),
    "optimizer": _one_of("openai", "adamw"),
    "pretokenizer": _one_of("huggingface", "original"),
    "dtype": _one_of("float32", "bfloat16", "float64"),
    "device": _one_of("cpu", "cuda", "auto"),
    "backend": _one_of("plain", "tiled", "fused", "compiled", "triton"),
}
"""Each field's range: a test of a value, and the range in words."""

RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    "small": Recipe(
        n_layer=2,
        n_embd=128,
        n_head=4,
        n_positions=128,
        dropout=0.0,
        initializer_range=0.05,  # at 0.02, so narrow a model long stays at the unigram loss
        merges=2_000,
        batch_size=8,
        micro_batch=8,
        steps=1_000,
        learning_rate=5e-3,
        warmup=60,
        evaluate_every=100,
        evaluation_windows=32,
        checkpoint_every=250,
        sample_every=250,
    ),
}
"""Every recipe by name; `small` takes about a minute on two cores."""
