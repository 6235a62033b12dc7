"""What the command line was asked for; imports no torch."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of `python -m scratch_gpt.generate`, where each is described."""

    weights: str
    prompts: tuple[str, ...]
    prompt_file: str | None
    vocabulary: Path | None
    max_new_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    beams: int
    samples: int
    stop: tuple[str, ...]
    seed: int
    splitting: str | None
    dtype: str
    device: str
    overflow: str
    as_json: bool
    quiet: bool

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn: where an option that only a draw heeds was given."""
        drawn = (self.temperature, self.top_k, self.top_p) != (None, None, None)
        return drawn or (self.samples > 1 and self.beams == 1)
