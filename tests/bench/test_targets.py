"""The table of targets."""

from bench.runner import WORKLOADS
from bench.targets import TARGETS

BOUNDS = {row.name: row.bound for row in TARGETS}


def test_names_are_unique() -> None:
    """A baseline is compared by name."""
    assert len(BOUNDS) == len(TARGETS)


FIXED = {
    "core/forward/1x512/tiled:huggingface": 0.30,
    "core/forward/4x512/tiled:huggingface": 0.30,
    "core/forward/1x128/tiled:huggingface": 0.90,
    "core/forward/1x16/tiled:sdpa": 1.5,
    "core/forward/1x64/tiled:sdpa": 1.3,
    "core/forward/1x128/tiled:sdpa": 1.35,
    "core/forward/1x192/tiled:sdpa": 1.2,
    "core/forward/1x256/tiled:sdpa": 1.1,
    "core/forward/1x512/tiled:sdpa": 0.9,
    "core/forward/4x128/tiled:sdpa": 1.2,
    "core/forward/4x192/tiled:sdpa": 0.9,
    "core/forward/4x512/tiled:sdpa": 0.85,
    "core/both/1x512/tiled:sdpa": 1.25,
    "model/forward/1x512/fused:huggingface": 0.92,
    "model/forward/4x512/fused:huggingface": 0.92,
    "model/forward/1x128/fused:textbook": 0.97,
    "model/forward/1x512/fused:torch.compile(textbook)": 0.92,
    "model/both/2x512/fused:torch.compile(huggingface)": 0.95,
    "model/forward/1x512/fused:products alone": 1.06,
    "model/forward/4x512/fused:products alone": 1.12,
    "model/both/2x512/fused:huggingface": 0.95,
    "model/both/2x512/memory-fused:huggingface": 0.60,
    "model/forward/1x512/fused in bfloat16:fused": 0.55,
    "core/forward/1x8192/exponent-tiled:time": 1.05,
    "decode/1x64/fused:huggingface": 0.30,
    "decode/1x448/fused:huggingface": 0.06,
    "decode/8x64/fused:huggingface": 0.20,
    "decode/1x64/fused:bare read": 1.05,
    "decode/1x64/fused in bfloat16:fused": 0.65,
    "train/2x512/fused:huggingface": 0.90,
    "train/2x512/memory-fused:huggingface": 0.80,
    "train/2x512-dropout/fused:huggingface": None,
    "tokens/warm/scratch_gpt:huggingface": 2.5,
    "tokens/cold/scratch_gpt:huggingface": 2.5,
    "tokens/drawn-word/exponent-scratch_gpt:length": 1.15,
    "tokens/one-letter-word/exponent-scratch_gpt:length": 1.15,
    "core/cuda-forward/bfloat16/32x512/triton:huggingface": 0.25,
    "core/cuda-forward/bfloat16/32x512/triton:sdpa": 1.3,
}
"""Changing a bound needs a reason and a change here."""


def test_bounds_are_fixed() -> None:
    assert {name: BOUNDS[name] for name in FIXED} == FIXED


def test_every_contender_exists() -> None:
    """An unknown name would otherwise fail only after minutes."""
    assert {row.task.workload for row in TARGETS} == set(WORKLOADS)
    for row in TARGETS:
        known = {*WORKLOADS[row.task.workload].names, "time", "length"}
        for name in (row.ours, row.against):
            assert name.partition(" in ")[0] in known, row.name
        assert row.figure == "time" or row.figure in WORKLOADS[row.task.workload].figures
        assert WORKLOADS[row.task.workload].ours(row.ours)


def test_a_quick_run_has_targets() -> None:
    quick = [row for row in TARGETS if row.quick]
    assert any(row.bound is not None for row in quick)
    assert len(quick) < len(TARGETS) / 2
    assert all(row.figure == "time" for row in quick)
