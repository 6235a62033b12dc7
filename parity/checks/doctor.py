"""The environment check: machine, torch settings, reference and weights."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import OpenAIGPTLMHeadModel

from parity.core import environment, liveness
from parity.core.inputs import Inputs
from parity.core.lockstep import Pass, walk_in_lockstep
from parity.core.results import Finding, Plan, Report, finish
from parity.core.runners import oracle_run
from parity.core.taps import taps, undefined_taps

_GIB = 2**30


def doctor(reference: OpenAIGPTLMHeadModel, inputs: Inputs, identity: Mapping[str, Any]) -> Report:
    """Check everything that the results of the other checks depend on.

    Args:
        reference: Hugging Face's model with the weights to be checked.
        inputs: Token ids of a forward check.
        identity: Weights, config and code, for the report.
    """
    settings = environment.environment()
    machine = [Finding(name=name, found=value) for name, value in settings.items()]
    machine.append(_memory())
    with environment.pinned_settings():
        blocks = _life(reference, inputs)
    notes = [
        Finding(name="note of the weights", found=note)
        for note in identity.get("weights", {}).get("notes", ())
    ]
    weights = [*_settings(), _float64(), _constant(reference), *map(_block_finding, blocks)]
    findings = [*machine, *notes, *weights]
    checked = sum(finding.fit is not None for finding in findings)
    report = finish(
        "doctor",
        rows=[],
        plan=Plan.of({"doctor": (checked, checked)}),
        identity=identity,
        environment=settings,
        findings=findings,
    )
    return dataclasses.replace(report, liveness=blocks)  # a degenerate block is a finding here


def _memory() -> Finding:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    return Finding(name="free memory", found=f"{free:.1f} GiB")


def _settings() -> list[Finding]:
    """Return every torch setting with its value now and during a check."""
    with environment.pinned_settings():
        pinned = [setting.read() for setting in environment.SETTINGS]
    return [
        Finding(
            name=setting.name,
            found=f"{setting.read()}; {setting.wanted} in a check",
            fit=value == setting.wanted,
            why=setting.why,
        )
        for setting, value in zip(environment.SETTINGS, pinned, strict=True)
    ]


def _float64() -> Finding:
    """Multiply in float64 by torch and by NumPy: the two libraries share no code."""
    left, right = (np.random.Generator(np.random.Philox(s)).normal(size=(192, 192)) for s in (0, 1))
    apart = np.abs((torch.from_numpy(left) @ torch.from_numpy(right)).numpy() - left @ right).max()
    return Finding(
        name="float64 product, torch and NumPy",
        found=f"{apart:.1e} apart",
        fit=bool(apart <= _FLOAT64_NOISE),
        why="mode float64 needs it",
    )


_FLOAT64_NOISE = 1e-11
"""192 products of numbers near 1 in another order differ by some 1e-13; a float32 product by
1e-5."""


def _constant(reference: OpenAIGPTLMHeadModel) -> Finding:
    constant = liveness.constant_tensors(dict(reference.named_parameters()))
    return Finding(
        name="tensors that hold one value",
        found=f"{len(constant)}" + (f": {', '.join(constant[:3])}" if constant else ""),
        fit=not constant,
        why="a bias of 0 or a gain of 1 hides that it is not used",
    )


def _life(reference: OpenAIGPTLMHeadModel, inputs: Inputs) -> list[liveness.BlockHealth]:
    signs = liveness.HealthMonitor(inputs.attention_mask)
    time = inputs.token_ids.shape[1]
    alone = Pass(
        oracle=oracle_run(reference, inputs),
        subjects=[],
        plan=[
            tap for tap in taps(reference.config.n_layer) if tap.name not in undefined_taps(time)
        ],
        time=time,
        mask=inputs.attention_mask,
        selected=frozenset(),
    )
    walk_in_lockstep(
        alone, progress=lambda _tap: None, look=lambda _s, tap, _t, truth: signs.look(tap, truth)
    )
    return signs.blocks()


def _block_finding(block: liveness.BlockHealth) -> Finding:
    weight = "-" if block.largest_weight is None else f"{block.largest_weight:.2f}"
    cosine = "-" if block.cosine is None else f"{block.cosine:.2f}"
    return Finding(
        name=f"{block.block} healthy",
        found=f"largest attention weight {weight}, cosine between positions {cosine}",
        fit=block.dead is None,
        why=block.dead or "a degenerate block hides faults",
    )
