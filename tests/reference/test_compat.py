"""What differs between versions of transformers."""

import runpy

import pytest
import torch
import transformers

from reference import compat


@pytest.mark.parametrize(
    ("version", "keyword"),
    [
        ("4.6.1", "torch_dtype"),
        ("4.55.4", "torch_dtype"),
        ("4.56.0", "dtype"),
        ("4.57.0.dev0", "dtype"),
        ("4.100.0", "dtype"),
        ("5.0.0rc1", "dtype"),
        ("5.23.0", "dtype"),
    ],
)
def test_the_dtype_is_stated_under_the_versions_name(
    version: str, keyword: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until 4.55 the keyword is `torch_dtype`, from 4.56 on it is `dtype`."""
    monkeypatch.setattr(transformers, "__version__", version)
    fresh = runpy.run_path(compat.__file__)
    expected = {keyword: torch.bfloat16}
    assert expected == fresh["dtype_keyword"](torch.bfloat16)


@pytest.mark.parametrize(
    ("version", "normalizer"),
    [
        ("4.57.6", "BertNormalizer"),
        ("5.0.0rc1", "Sequence"),
        ("5.5.4", "Sequence"),
        ("5.6.0", "BertNormalizer"),
        ("5.23.0", "BertNormalizer"),
    ],
)
def test_the_tokenizers_normalizer_is_the_versions(
    version: str, normalizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 5.0 to 5.5 it was a sequence of three, and BERT's before and after."""
    monkeypatch.setattr(transformers, "__version__", version)
    fresh = runpy.run_path(compat.__file__)
    assert normalizer == fresh["TOKENIZER_NORMALIZER"]
