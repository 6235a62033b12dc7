"""Hugging Face's tokenizer of GPT-1 as a witness: built from files, asked, and taken apart.

Version 5 takes `vocab_file=` and `merges_file=` without a word and builds a vocabulary of one
token, so what was built is counted. What prepares text is BERT's normalizer in nearly every
version; where it is another, the witness is given BERT's, and says so.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import normalizers, pre_tokenizers
from transformers import OpenAIGPTTokenizerFast  # type: ignore[attr-defined]

from reference import compat
from reference.huggingface_quiet import quiet
from reference.refusal import RefusedError

UNKNOWN = "<unk>"
"""The one special token. It is looked for in the text as it was given, before anything else."""

BERTS = "BertNormalizer"
"""The type of what has to prepare text: BERT's, in lower case."""

STEPS: Mapping[str, str] = {
    "cleaning": "clean_text",
    "CJK": "handle_chinese_chars",
    "accents": "strip_accents",
    "lower case": "lowercase",
}
"""What the normalizer does, in its order, and the name of the argument that each step is."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A text's ids, and where in the text each comes from: first character, and one past the last.

    Attributes:
        ids: One a piece.
        offsets: One a piece; None where the side does not tell.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...] | None


class HuggingFaceTokenizer:
    """`OpenAIGPTTokenizerFast`, which in version 5 is the only one, with a vocabulary's files.

    Attributes:
        tokenizer: The library's own.
        replaced: What the version's own normalizer is, where BERT's stands in for it; else "".

    Args:
        vocabulary: The vocabulary, under whichever name.
        merges: The merges, under whichever name.
        size: How many tokens there must be.

    Raises:
        RefusedError: It has another number of tokens, so the files were not taken; or prepares text
            as `reference.compat` does not know.
    """

    def __init__(self, vocabulary: Path, merges: Path, *, size: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "vocab.json").symlink_to(vocabulary.resolve())
            (folder / "merges.txt").symlink_to(merges.resolve())
            # On its way to this one, version 4 builds its slow one, which warns of what it lacks.
            with quiet():
                self.tokenizer: Any = OpenAIGPTTokenizerFast.from_pretrained(
                    folder, local_files_only=True
                )
        if len(self.tokenizer) != size:
            raise RefusedError(
                f"Hugging Face's tokenizer has {len(self.tokenizer)} tokens, the files have {size}",
                where=str(vocabulary),
                fix="look for tokens that its library adds or drops",
            )
        self.replaced = self._given_berts(vocabulary)

    def _given_berts(self, vocabulary: Path) -> str:
        """Let BERT's normalizer prepare text; return what did before, "" if it was that."""
        backend = self.tokenizer.backend_tokenizer
        found, expected = type(backend.normalizer).__name__, compat.tokenizer_normalizer()
        if found != expected:
            raise RefusedError(
                f"Hugging Face's tokenizer has a {found}, its version a {expected}",
                where=str(vocabulary),
                fix="use one of the versions of transformers that reference/compat.py lists",
            )
        if found == BERTS:
            return ""
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        return found

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids and offsets."""
        if not texts:
            return []
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [Encoding(tuple(ids), tuple(map(tuple, places))) for ids, places in pairs]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that its library makes of ids."""
        return str(self.tokenizer.decode(list(ids)))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of ids."""
        return list(self.tokenizer.convert_ids_to_tokens(list(ids)))

    def words(self, text: str) -> list[str]:
        """Return what is encoded piece by piece; the special token is a word of its own."""
        backend = self.tokenizer.backend_tokenizer
        parts: list[str] = []
        for place, plain in enumerate(text.split(UNKNOWN)):
            normal = backend.normalizer.normalize_str(plain)
            parts += [UNKNOWN] if place else []
            parts += [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
        return parts


def words_without(step: str, text: str) -> list[str]:
    """Return the words of a text that holds no special token, with one step left out.

    Args:
        step: One of `STEPS`.
        text: The text.
    """
    flags = {argument: name != step for name, argument in STEPS.items()}
    normal = normalizers.BertNormalizer(**flags).normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)]
