"""What moved between two rows, for a person: a line a run, or a line a path."""

from collections.abc import Callable
from typing import Any

import pytest

from parity.core.results import Report
from parity.report.text import render
from scratch_gpt.cli import render_rich

Made = Any
Document = dict[str, Any]
Laid = Callable[..., Report]


def shown(report: Report) -> str:
    return render_rich(lambda console: render(report, console), None)


def line_of(text: str, *words: str) -> str:
    (found,) = (line for line in text.splitlines() if all(word in line for word in words))
    return " ".join(found.split())


def test_a_pair_is_told_in_lines(made: Made, laid: Laid) -> None:
    other = made.moved(made.report(), made.THEIRS, "h.0.attn.query", 3e-7)
    other = made.moved(other, made.THEIRS, "logits", 4e-6)
    other = made.moved(other, made.ALONE, "h.0.attn.query", 2e-7)
    text = shown(laid(a=[made.report()], b=[made.on(other, torch="2.8.0")]))
    expected = (
        "1→2 torch 2.6.0 → 2.8.0",
        "layerwise ours no change 0/12",
        "Hugging Face float32 h.0.attn.query 3e-7 2/6 4e-6",
        "Hugging Face per-op by themselves: attn.query 1/6",
        "1",
    )
    assert expected == (
        line_of(text, "1→2  torch"),
        line_of(text, "ours", "no change"),
        line_of(text, "float32", "4e-6"),
        line_of(text, "per-op ", "1/6"),
        str(text.count("changed: tensors that are not equal")),
    )


def test_paths_that_moved_otherwise_have_lines_of_their_own(made: Made, laid: Laid) -> None:
    tiled = made.moved(made.report(), made.TILED, "logits", 5e-7)
    both = made.moved(tiled, made.OURS, "h.0.attn.query", 1e-7)
    expected = (
        "layerwise ours (plain) float32 h.0.attn.query 1e-7 1/6 1e-7",
        "ours (tiled) float32 logits 5e-7 1/6 5e-7",
        "layerwise ours (plain) float32 no change 0/6",
    )
    differ, one = (shown(laid(a=[made.report()], b=[other])) for other in (both, tiled))
    assert expected == (
        line_of(differ, "ours (plain)"),
        line_of(differ, "ours (tiled)"),
        line_of(one, "ours (plain)"),
    )


def test_paths_that_moved_alike_have_one_line(made: Made, laid: Laid) -> None:
    other = made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)
    both = made.moved(other, made.TILED, "h.0.attn.query", 5e-7)
    alone = [
        made.report(fingerprints=[f for f in found["fingerprints"] if "tiled" not in f["subject"]])
        for found in (made.report(), other)
    ]
    expected = (
        "layerwise ours float32 h.0.attn.query 5e-7 1/6 5e-7",
        "layerwise ours (plain) float32 h.0.attn.query 1e-7 1/6 1e-7",
    )
    assert expected == (
        line_of(shown(laid(a=[made.report()], b=[both])), "ours", "float32 "),
        line_of(shown(laid(c=[alone[0]], d=[alone[1]])), "ours ("),
    )


@pytest.fixture
def beside_both(made: Made) -> Document:
    runs = [(f"{side}/plain", made.TAPS) for side in ("oracle", "huggingface", "ours")]
    coarse = [tap for tap in made.TAPS if "attn" not in tap]
    runs += [(f"{side}/tiled", coarse) for side in ("oracle", "huggingface", "ours")]
    taken = [
        made.fingerprint((subject, "float32", "per-op"), tap)
        for subject, taps in runs
        for tap in taps
    ]
    found: Document = made.report(fingerprints=taken)
    return found


def test_a_witness_is_told_of_by_its_finest_walk(
    beside_both: Document, made: Made, laid: Laid
) -> None:
    fused = made.moved(beside_both, ("huggingface/tiled", "float32", "per-op"), "logits", 1e-6)
    finest = made.moved(fused, ("huggingface/plain", "float32", "per-op"), "h.0.mlp.gelu", 1e-6)
    expected = (
        "Hugging Face per-op no operation by itself 0/6",
        "Hugging Face per-op by themselves: mlp.gelu 1/6",
    )
    assert expected == (
        line_of(shown(laid(a=[beside_both], b=[fused])), "Hugging Face ", "per-op "),
        line_of(shown(laid(c=[beside_both], d=[finest])), "Hugging Face ", "per-op "),
    )


def test_ours_alone_are_told_of_by_path(beside_both: Document, made: Made, laid: Laid) -> None:
    other = made.moved(beside_both, ("ours/tiled", "float32", "per-op"), "logits", 1e-6)
    given = made.moved(other, ("oracle/tiled", "float32", "per-op"), "logits", 1e-6)
    known, unknown = (shown(laid(a=[beside_both], b=[found])) for found in (other, given))
    expected = (
        "layerwise ours (plain) per-op no operation by itself 0/6",
        "ours (tiled) per-op by themselves: logits 1/4",
        "ours (tiled) per-op unknown: their input may have changed 1/4",
        "oracle (tiled) per-op logits 1e-6 1/4 1e-6",
    )
    assert expected == (
        line_of(known, "ours (plain)"),
        line_of(known, "ours (tiled)"),
        line_of(unknown, "ours (tiled)"),
        line_of(unknown, "oracle (tiled)"),
    )


def test_ids_are_told_in_a_line(made: Made, laid: Laid) -> None:
    one = made.ids("tokens", ("hand-picked", "corpus"))
    other = made.moved(one, made.IDS, "corpus", 0.0)
    numbers = made.report()
    pushed = made.moved(numbers, made.OURS, "logits", 1e-7)
    same = shown(laid(a=[one, numbers], b=[one, pushed]))
    moved = shown(laid(a=[one], b=[other]))
    expected = ("tokens ids the same ids 0/2", "tokens Hugging Face ids corpus 1/2")
    assert expected == (line_of(same, "the same ids"), line_of(moved, "corpus"))


def test_a_pair_that_did_not_move_is_one_line(made: Made, laid: Laid) -> None:
    both = [made.report(), made.ids()]
    expected = "all no change 0/37"
    assert expected == line_of(shown(laid(a=both, b=both)), "no change")


def test_a_pair_that_moved_as_another_did_says_so(made: Made, laid: Laid) -> None:
    later = [made.moved(made.report(), made.OURS, "h.0.attn.query", 1e-7)]
    text = shown(laid(a=[made.report()], b=later, c=later))
    expected = ["the same lines as 1→2"]
    assert expected == [line for line in text.splitlines() if "same lines" in line]
    assert text.index("1→3  nothing else differs") < text.index("the same lines")
    assert text.count("first change, largest: ") == 1  # what the columns are is told once, too


def test_what_is_not_known_is_not_nought(made: Made, laid: Laid) -> None:
    text = shown(laid(a=[made.report()], b=[made.report(fingerprints=[])]))
    assert "unknown: b was written without" in text
    assert "no change" not in text


def test_what_is_not_known_shows_beside_what_did_not_move(made: Made, laid: Laid) -> None:
    bare = made.report("training", fingerprints=[])
    text = shown(laid(a=[made.report(), bare], b=[made.report(), bare]))
    expected = "layerwise no change 0/36"
    assert expected == line_of(text, "no change")
    assert "unknown: a was written without" in text
