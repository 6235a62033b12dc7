"""What differs between versions of transformers, in one place.

Every line has the versions it is for and the reason. Nothing else asks for a version.
"""

from typing import Any

import transformers

TRANSFORMERS = tuple(int(part) for part in transformers.__version__.split(".")[:2])
"""Major and minor version of what is installed."""

_DTYPE_SPELLED_OUT = (4, 56)
"""From here on `from_pretrained` calls it `dtype`; before, `torch_dtype`."""


def dtype_keyword(dtype: object) -> dict[str, Any]:
    """Return the keyword that states the dtype: 5.x would otherwise take it from the file."""
    return {"dtype" if TRANSFORMERS >= _DTYPE_SPELLED_OUT else "torch_dtype": dtype}


_NFD_SEQUENCE = ((5, 0), (5, 6))
"""From the first and before the second, GPT-1's tokenizer decomposes, lowers and strips accents,
and does not clean: zero-width and control characters stay. Before and after, it is BERT's."""

TOKENIZER_NORMALIZER = (
    "Sequence" if _NFD_SEQUENCE[0] <= TRANSFORMERS < _NFD_SEQUENCE[1] else "BertNormalizer"
)
"""What prepares text in this version's `OpenAIGPTTokenizerFast`."""
