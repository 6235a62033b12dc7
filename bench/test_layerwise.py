"""The time of `layerwise` itself, by model size and selected taps. Run it with `make bench`."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from parity import layerwise
from parity.checkpoints.load import load_weights
from parity.core.inputs import seeded
from parity.core.results import Verdict
from parity.core.runners import build_huggingface, build_ours

CASES = {
    "smoke": [("tiny", 37, "*")],
    "default": [("tiny", 37, "*"), ("tiny", 37, "logits"), ("tiny", 37, "h.0.*")],
    "whole": [
        (source, time, taps)
        for source, times in (("tiny", (1, 37, 256)), ("surrogate", (1, 96, 512)))
        for time in times
        for taps in ("*", "logits", "h.0.*", "*.attn.scores")
    ],
}
"""Weights, tokens and tap pattern."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over the cases of the chosen grid."""
    metafunc.parametrize(
        ("source", "time", "taps"), CASES[metafunc.config.getoption("--grid")], ids=str
    )


@pytest.mark.timeout(1800)
def test_cost_of_layerwise(benchmark: BenchmarkFixture, source: str, time: int, taps: str) -> None:
    """The check, without building the models, does not fail."""
    weights = load_weights(source)
    ours, theirs = build_ours(weights), build_huggingface(weights)
    ids = seeded(batch=1, time=time, vocab_size=weights.config["vocab_size"], seed=0).token_ids
    benchmark.group = f"layerwise {source} 1x{time}"
    report = benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda: layerwise(ours, theirs, ids, select=taps), rounds=3, warmup_rounds=1
    )
    assert report.verdict is not Verdict.FAIL
    benchmark.extra_info.update(compared=report.plan.compared, planned=report.plan.planned)
