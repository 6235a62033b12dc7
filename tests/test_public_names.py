"""The names that the packages export exist."""

from importlib import import_module

import pytest


@pytest.mark.parametrize("package", ["scratch_gpt", "parity"])
def test_every_name_is_there(package: str) -> None:
    module = import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert callable(getattr(module, name)), name
