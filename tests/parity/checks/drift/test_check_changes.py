"""Rows side by side: what moved first, how far, and where nobody can say."""

from collections.abc import Callable
from typing import Any

import pytest

from parity.checks.drift.changes import Change
from parity.core.fingerprints import ROUNDING
from parity.core.results import Report, Verdict
from parity.errors import ExitCode

Made = Any
Laid = Callable[..., Report]


def of(report: Report, subject: str, mode: str = "end-to-end", pair: int = 0) -> Change:
    (found,) = (
        move
        for move in report.details["moves"]
        if (move.subject, move.mode, move.pair) == (subject, mode, pair)
    )
    return found


def test_the_first_tap_that_moved_is_named(made: Made, laid: Laid) -> None:
    other = made.moved(made.report(), made.OURS, "h.1.mlp.gelu", 3e-6)
    other = made.moved(other, made.OURS, "h.0.mlp.gelu", 2e-7)
    move = of(laid(a=[made.report()], b=[other]), "ours/plain")
    expected = (2, 6, "h.0.mlp.gelu", "h.1.mlp.gelu")
    assert expected == (
        move.moved,
        move.compared,
        move.first,
        move.largest,
    )
    assert (pytest.approx(2e-7), pytest.approx(3e-6)) == (move.first_change, move.largest_change)


def test_the_order_is_the_reports(made: Made, laid: Laid) -> None:
    """Gradients run from the loss backwards."""
    names = ["logits", "h.1.mlp.gelu", "embeddings"]
    one = made.report("gradients", fingerprints=[made.fingerprint(made.OURS, n) for n in names])
    other = one
    for name in names[::-1]:
        other = made.moved(other, made.OURS, name, 1e-6)
    expected = "logits"
    assert expected == of(laid(a=[one], b=[other]), "ours/plain").first


def test_what_did_not_move_is_said_too(made: Made, laid: Laid) -> None:
    report = laid(a=[made.report()], b=[made.moved(made.report(), made.OURS, "logits", 1e-6)])
    still = of(report, "huggingface")
    expected = (0, 6, "", 0.0, "", {})
    assert expected == (
        still.moved,
        still.compared,
        still.first,
        still.largest_change,
        still.largest,
        still.kinds,
    )


def test_operations_that_moved_by_themselves_are_counted_by_kind(made: Made, laid: Laid) -> None:
    other = made.report()
    for tap in ("h.0.mlp.gelu", "h.1.mlp.gelu", "logits"):
        other = made.moved(other, made.ALONE, tap, 1e-7)
        other = made.moved(other, made.THEIRS, tap, 1e-7)
    report = laid(a=[made.report()], b=[other])
    expected = ({"mlp.gelu": 2, "logits": 1}, {})
    alone, theirs = of(report, "huggingface/plain", "per-op"), of(report, "huggingface")
    assert expected == (alone.kinds, theirs.kinds)
    assert (alone.alone, theirs.alone) == (True, False)


@pytest.mark.parametrize("known", [True, False])
def test_what_was_given_another_input_did_not_move_by_itself(
    *, known: bool, made: Made, laid: Laid
) -> None:
    one = made.report()
    if not known:
        taken = [f for f in one["fingerprints"] if f["subject"] != "oracle/plain"]
        one = made.report(fingerprints=taken)
    other = made.moved(one, made.ALONE, "h.1.mlp.gelu", 1e-7)
    other = made.moved(other, made.GIVEN, "h.0.mlp.gelu", 1e-8)
    move = of(laid(a=[one], b=[other]), "huggingface/plain", "per-op")
    expected = (False, {}, 1, 6)
    assert expected == (move.alone, move.kinds, move.moved, move.compared)


def test_pairs_are_neighbours_and_both_ends(made: Made, laid: Laid) -> None:
    rows = {name: [made.report()] for name in "abc"}
    three, two = laid(**rows).details, laid(a=rows["a"], b=rows["b"]).details
    expected = [("a", "b"), ("b", "c"), ("a", "c")], [("a", "b")]
    assert expected == (
        [(pair.first, pair.second) for pair in three["pairs"]],
        [(pair.first, pair.second) for pair in two["pairs"]],
    )


def test_each_pair_has_its_own_movement(made: Made, laid: Laid) -> None:
    later = made.moved(made.report(), made.OURS, "logits", 1e-6)
    report = laid(a=[made.report()], b=[later], c=[later])
    expected = [1, 0, 1]
    assert expected == [of(report, "ours/plain", pair=pair).moved for pair in range(3)]


def test_ids_moved_or_did_not(made: Made, laid: Laid) -> None:
    texts = made.ids("tokens", ("hand-picked", "generated", "corpus"))
    other = made.moved(texts, made.IDS, "generated", 0.0)
    move = of(laid(a=[texts], b=[other]), "huggingface", "exact")
    expected = (1, "generated", None, "generated", None)
    assert expected == (
        move.moved,
        move.first,
        move.first_change,
        move.largest,
        move.largest_change,
    )


def test_without_fingerprints_nobody_knows(made: Made, laid: Laid) -> None:
    bare = made.report(fingerprints=[])
    report = laid(a=[made.report()], b=[bare], c=[made.report()])
    expected = (Verdict.INCONCLUSIVE, [(0, True), (1, True)], {2})
    assert expected == (
        report.verdict,
        [
            (u.pair, "b was written without --fingerprints" in u.why)
            for u in report.details["unknown"]
        ],
        {move.pair for move in report.details["moves"]},
    )
    blocks = [changes for entry in report.details["largest"] for changes in entry.blocks.values()]
    assert {(None, None, 0.0)} == {tuple(changes) for changes in blocks}


def test_a_report_without_verdict_has_no_movement(made: Made, laid: Laid) -> None:
    broken = made.report(verdict="error", identity={}, environment={}, plan={"per_backend": {}})
    report = laid(a=[made.report()], b=[broken])
    expected = (ExitCode.FAIL, ["b has no report with a verdict"], [])
    assert expected == (
        report.exit_code,
        [unknown.why for unknown in report.details["unknown"]],
        report.details["moves"],
    )


def test_the_largest_changes_are_folded(made: Made, laid: Laid) -> None:
    second = made.moved(made.report(), made.OURS, "h.0.mlp.gelu", 2e-7)
    second = made.moved(second, made.TILED, "h.0.attn.query", 4e-7)
    third = made.moved(second, made.TILED, "h.0.attn.query", 1.4e-6)
    report = laid(a=[made.report()], b=[second], c=[third])
    (ours,) = (e for e in report.details["largest"] if (e.side, e.mode) == ("ours", "end-to-end"))
    still = [0.0, 0.0, 0.0]
    expected = (
        {"embeddings": still, "h.0": [4e-7, 1e-6, 1.4e-6], "h.1": still, "logits": still},
        {"h.0.attn.query": 1.4e-6, "h.0.mlp.gelu": 2e-7},
    )
    assert expected == (ours.blocks, ours.taps)


def test_training_is_folded_by_step_and_quantity(made: Made, laid: Laid) -> None:
    names = [
        *("openai.1.loss", "openai.1.gradient.h.0.ln_1.bias"),
        *("openai.1.gradient.h.0.mlp.c_fc.weight", "openai.2.gradient.tokens_embed.weight"),
    ]
    one = made.report("training", fingerprints=[made.fingerprint(made.OURS, n) for n in names])
    other = one
    for size, name in enumerate(names):
        other = made.moved(other, made.OURS, name, 1e-6 * size or 1e-17)
    report = laid(a=[one], b=[other])
    (ours,) = report.details["largest"]
    expected = (
        {"openai.loss": [ROUNDING], "openai.gradient": [3e-6]},
        {
            "openai.1.loss": ROUNDING,
            "openai.1.gradient.h.0": 2e-6,
            "openai.2.gradient.tokens_embed.weight": 3e-6,
        },
    )
    assert expected == (ours.blocks, ours.taps)
