"""What is known about a file of tokens: `manifest.json`, read strictly."""

import dataclasses
import json
from pathlib import Path

from scratch_gpt.data.strict_fields import from_json
from scratch_gpt.files import strict_json
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.regular_file import opened
from scratch_gpt.files.shown import one_line

NAME = "manifest.json"
PLAN = "plan.json"
"""What a preparation sets out to do; there until it is done."""

FORMAT = 1
"""Raised whenever the files change their meaning; others are refused."""

_LARGEST = 1 << 28
_TWO_BYTES = 1 << 16
_MOST_IDS = 1 << 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A document that tokens were made of.

    Attributes:
        name: Its path from the folder that was given, that folder's name first.
        length: In bytes.
        sha256: Of its bytes.
    """

    name: str
    length: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides which tokens there are, text apart.

    Attributes:
        vocabulary: The tokenizer's digest.
        splitting: The tokenizer's way of splitting text into words.
        vocab_size: How many ids it has.
        errors: What was done about bytes that are no UTF-8: `strict` or `replace`.
        validation_fraction: The share of tokens at the end that is not trained on.
    """

    vocabulary: str
    splitting: str
    vocab_size: int
    errors: str
    validation_fraction: float

    @property
    def bytes_per_token(self) -> int:
        """Two as long as every id fits into them, else four."""
        return 2 if self.vocab_size <= _TWO_BYTES else 4

    def validation_tokens(self, tokens: int) -> int:
        """Return how many of `tokens` are the validation part: the last ones."""
        return int(tokens * self.validation_fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known about a file of tokens.

    Attributes:
        format: `FORMAT`.
        recipe: What decides which tokens there are.
        tokens: How many there are.
        validation: How many of them, the last ones, are the validation part.
        unknown: How many stand for a word or a part of one that the vocabulary does not have.
        characters: How many characters they were made of.
        replaced: How many U+FFFD stand for bytes that were no UTF-8.
        sha256: Of the file of tokens.
        sampled_sha256: Of blocks of it, for a look that takes no time.
        sources: The documents in their order.
    """

    format: int
    recipe: Recipe
    tokens: int
    validation: int
    unknown: int
    characters: int
    replaced: int
    sha256: str
    sampled_sha256: str
    sources: tuple[Source, ...]

    @property
    def train(self) -> int:
        """How many tokens, the first ones, are trained on."""
        return self.tokens - self.validation

    @property
    def text(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Return the manifest in a file.

        Raises:
            CheckpointError: There is no such file, or not each of its fields and no other one is
                there and agrees with the rest.
        """
        with opened(path) as file:
            text = file.read(_LARGEST)
        try:
            manifest = from_json(cls, strict_json.loads(text))
            _require_consistent(manifest)
        except ValueError as error:
            raise CheckpointError(
                f"{path.name}: {one_line(error)}",
                where=one_line(path),
                fix="prepare the text again, in another folder",
            ) from error
        return manifest


def _require_consistent(manifest: Manifest) -> None:
    """Require that what can be told from other fields is what the field says."""
    recipe = manifest.recipe
    wrong = (
        ("format", manifest.format != FORMAT),
        ("errors", recipe.errors not in {"strict", "replace"}),
        ("vocab_size", not 0 < recipe.vocab_size <= _MOST_IDS),
        ("validation_fraction", not recipe.validation_fraction < 1),
        ("validation", manifest.validation != recipe.validation_tokens(manifest.tokens)),
        ("unknown", manifest.unknown > manifest.tokens),
        ("replaced", manifest.replaced > manifest.characters),
    )
    if names := [name for name, is_wrong in wrong if is_wrong]:
        raise ValueError(f"not what the rest of it tells: {', '.join(names)}")
