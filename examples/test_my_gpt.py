"""Parity in a test suite: run it with `pytest examples/test_my_gpt.py --parity-report=reports`.

Put your own model in place of `textbook_gpt.py`: a file, a class, or a model with its weights.
"""
# ruff: noqa: INP001, ANN001, ANN201, D103, S101 - a test file as its users write it

from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("textbook_gpt.py")


def test_forward(parity_check):
    parity_check(MODEL)


@pytest.mark.parity(dtype="bfloat16", seq_len=37)
def test_forward_in_bfloat16(parity_check):
    parity_check(MODEL)


def test_gradients(parity_check):
    report = parity_check(MODEL, check="gradients", seq_len=37)
    assert report.plan.compared == report.plan.planned
