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
