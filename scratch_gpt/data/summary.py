"""What was prepared, in a few lines."""

from scratch_gpt.data.entropy import unigram_loss
from scratch_gpt.data.token_data import TokenData
from scratch_gpt.files.shown import one_line


def of(data: TokenData) -> str:
    """Return how much text there was, how many tokens it gave, and how it was parted."""
    manifest = data.manifest
    each = manifest.characters / manifest.tokens
    share = 100 * manifest.unknown / manifest.tokens
    rows = [
        ("documents", len(manifest.sources), ""),
        ("characters", manifest.characters, _replaced(manifest.replaced)),
        ("tokens", manifest.tokens, f"{each:.2f} characters each"),
        ("unknown", manifest.unknown, f"{share:.2f} % of the tokens"),
        ("train", manifest.train, ""),
        ("validation", manifest.validation, _guessing(data)),
    ]
    lines = [f"{name:<12}{count:>15,}  {note}".rstrip() for name, count, note in rows]
    return "\n".join([*lines, f"written to  {one_line(data.directory)}", ""])


def _replaced(count: int) -> str:
    return f"{count:,} of them stand for bytes that are no UTF-8" if count else ""


def _guessing(data: TokenData) -> str:
    """Return what a trained model must beat, where there are tokens to tell it by."""
    if not data.manifest.train or not data.manifest.validation:
        return ""
    vocab_size = data.manifest.recipe.vocab_size
    loss = unigram_loss(data.train, data.validation, vocab_size=vocab_size)
    return f"guessing by frequency loses {loss:.2f} nats a token"
