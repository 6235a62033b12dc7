"""What the best guess that looks at no context loses: the mark that a trained model must beat."""

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20  # tokens counted at a time, so that a mapped file is never read in whole


def unigram_loss(
    train: NDArray[np.integer], validation: NDArray[np.integer], *, vocab_size: int
) -> float:
    """Return what guessing by frequency loses, in nats per token.

    A token's probability is its share among the training tokens, every count raised by one: a
    token that is only in the validation part has a loss too, not an infinite one.

        -mean over validation of log((count + 1) / (tokens + vocab_size))

    Args:
        train: Ids `[tokens]`, each below `vocab_size`.
        validation: Ids `[tokens]`, at least one.
        vocab_size: How many different ids there are.

    Raises:
        ValueError: There is no validation token, or an id is outside the vocabulary.

    Source: Laplace's rule of succession.
    """
    if not validation.shape[0]:
        raise ValueError("there is no validation token")
    seen, asked = (_counts(tokens, vocab_size) for tokens in (train, validation))
    probabilities = (seen + 1) / (int(seen.sum()) + vocab_size)
    return float(-(asked * np.log(probabilities)).sum() / validation.shape[0])


def _counts(tokens: NDArray[np.integer], vocab_size: int) -> NDArray[np.int64]:
    """Return how often each id occurs `[vocab_size]`."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens.shape[0], _PIECE):
        piece = np.bincount(tokens[start : start + _PIECE], minlength=vocab_size)
        if piece.shape[0] > vocab_size:
            raise ValueError(f"id {piece.shape[0] - 1} is outside a vocabulary of {vocab_size}")
        counts += piece
    return counts
