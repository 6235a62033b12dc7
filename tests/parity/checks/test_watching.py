"""What a report has of a model's own: the names in a fix."""

import pytest

from parity.align import Match, Part
from parity.checks.watching import in_own_names

MADE_OF = {
    "emb.words.weight": ["tokens_embed"],
    "layers.0.mix.proj.weight": ["h.0.attn.c_proj"],
    "layers.1.mix.proj.weight": ["h.1.attn.c_proj"],
    "layers.1.mix.q.weight": ["h.1.attn.c_attn", "cut"],
    "layers.1.wide.weight": ["h.1.mlp.c_fc"],
    "layers.1.narrow.weight": ["h.1.mlp.c_proj"],
    "layers.1.2.weight": ["h.1.ln_2"],
    "layers.1.norm.weight": ["h.1.ln_1"],
}


@pytest.fixture
def matches() -> list[Match]:
    parts = {
        name: Part(
            reference=f"{tensor}.weight", axis=1, start=0, stop=7, whole=not cut, turned=True
        )
        for name, (tensor, *cut) in MADE_OF.items()
    }
    return [Match(name=name, shape=(7, 5), parts=[part]) for name, part in parts.items()]


@pytest.mark.parametrize(
    ("code", "target", "own"),
    [
        ("c_proj(gelu(c_fc(x)))", "h.1.mlp.gelu", "narrow(gelu(wide(x)))"),
        ("c_proj(context)", "h.1.attn", "proj(context)"),
        ("c_attn(x).split(n_embd, dim=2)", "h.1.attn.query", "c_attn(x).split(n_embd, dim=2)"),
        ("x = ln_1(x); x = ln_2(x)", "h.1.ln_1.input", "x = norm(x); x = ln_2(x)"),
        ("ln_1(x)", "h.0.ln_1", "ln_1(x)"),
        ("ln_2_output @ tokens_embed.weight.T", "logits", "ln_2_output @ words.weight.T"),
    ],
)
def test_a_fix_has_the_names_of_the_model(
    code: str, target: str, own: str, matches: list[Match]
) -> None:
    """Of a module whose weight is cut or has a number for a name, the reference's stays."""
    assert in_own_names(code, target, matches) == own
