"""The tables of kernels and backends."""

import dataclasses

import pytest

from scratch_gpt.attention import Backend, plain_attention
from scratch_gpt.kernels.backends import BACKENDS, KERNELS, backend_named
from scratch_gpt.kernels.tiled_attention import tiled_attention


def test_kernels_have_their_names() -> None:
    assert KERNELS["plain"] is plain_attention
    assert KERNELS["tiled"] is tiled_attention
    assert {backend.attention for backend in BACKENDS.values()} == set(KERNELS.values())


def test_a_backend_is_fixed() -> None:
    backend = backend_named("plain")
    assert isinstance(backend, Backend)
    with pytest.raises(dataclasses.FrozenInstanceError):
        backend.compiled = True


def test_an_unknown_backend_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"backend must be one of \[.*'tiled'.*\], got 'flash'"):
        backend_named("flash")
