"""What BERT's normalizer makes of a text: cleaned, ideographs apart, no accents, lower case.

Source: the tokenizers library, `BertNormalizer` with `lowercase=True`: clean text, handle Chinese
characters, strip accents (NFD first), lower case, in this order.
"""

from scratch_gpt.tokenization.canonical_decomposition import decomposed
from scratch_gpt.tokenization.character_classes import CharacterClasses, character_classes


def normalized(text: str) -> tuple[str, list[int]]:
    """Return the normalized text, and for each of its characters the place of its origin.

    Args:
        text: Any text without surrogates.
    """
    classes = character_classes()
    cleaned = [
        (character, place)
        for place, given in enumerate(text)
        for character in _cleaned(given, classes)
    ]
    characters = "".join(character for character, _ in cleaned)
    parts, places = decomposed(characters, [place for _, place in cleaned])
    lowered = [
        (character, place)
        for part, place in zip(parts, places, strict=True)
        if ord(part) not in classes.nonspacing
        for character in classes.lowercase.get(ord(part), part)
    ]
    return "".join(character for character, _ in lowered), [place for _, place in lowered]


def _cleaned(character: str, classes: CharacterClasses) -> str:
    """Return nothing for a control character, a space for a white one, space about ideographs."""
    code = ord(character)
    if code in classes.removed:
        return ""
    if code in classes.white:
        return " "
    return f" {character} " if code in classes.ideographs else character
