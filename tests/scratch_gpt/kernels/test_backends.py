"""The tables of kernels and backends."""

import dataclasses

import pytest

from scratch_gpt.attention import Backend, plain_attention
from scratch_gpt.kernels.backends import BACKENDS, KERNELS, backend_named
from scratch_gpt.kernels.tiled_attention import tiled_attention


def test_kernels_have_their_names() -> None:
    """The tables hold the plain kernel and the tiled one, and every backend uses one of them."""
    assert KERNELS["plain"] is plain_attention
    assert KERNELS["tiled"] is tiled_attention
    assert {backend.attention for backend in BACKENDS.values()} == set(KERNELS.values())


def test_a_backend_is_fixed() -> None:
    """A model's backend cannot be changed in place, for every other model too."""
    backend = backend_named("plain")
    assert isinstance(backend, Backend)
    with pytest.raises(dataclasses.FrozenInstanceError):
        backend.compiled = True


def test_an_unknown_backend_is_rejected() -> None:
    """The error gives the known names and the one it got."""
    with pytest.raises(ValueError, match=r"backend must be one of \[.*'tiled'.*\], got 'flash'"):
        backend_named("flash")
