"""Right GPT-1 models in the styles in which people write them, and edits that make them wrong.

Each style is a file beside this one. An edit replaces one piece of its text, as a person's mistake
would. The edited text is imported from a file, so that frames have its lines.
"""

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from parity.core.taps import BLOCK_KINDS
from scratch_gpt import GPTConfig

Build = Callable[[GPTConfig, Mapping[str, Tensor]], nn.Module]

HERE = Path(__file__).parent

STYLES = sorted(
    path.stem
    for path in HERE.glob("*.py")
    if path.stem != "edits" and not path.stem.startswith("test_")
)
"""Every style by the name of its file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
    """A fault put into the text of a style.

    Attributes:
        fault: What is wrong, a name in `FAULTS`; the harness's own name, where it has one.
        old: Replaced text, which is in the style exactly once.
        new: What replaces it.
        at: Text of the edited file, in it once, whose line computes the wrong tensor; "" if it is
            the first line of `new` that is not in `old`.
    """

    style: str
    fault: str
    old: str
    new: str
    at: str = ""

    def __str__(self) -> str:
        """Return the edit's name."""
        return f"{self.style} {self.fault}"

    @property
    def source(self) -> str:
        """The edited text of the style.

        Raises:
            ValueError: `old` is not in the style, or more than once.
        """
        right = source_of(self.style)
        if (count := right.count(self.old)) != 1:
            raise ValueError(f"{self}: {self.old!r} is in the style {count} times, it must be once")
        return right.replace(self.old, self.new)

    @property
    def line(self) -> int:
        """The line of the edited text, from 1, that computes the wrong tensor."""
        if self.at:
            assert self.source.count(self.at) == 1, f"{self}: {self.at!r} must be there once"
            return self.source[: self.source.index(self.at)].count("\n") + 1
        first = source_of(self.style)[: source_of(self.style).index(self.old)].count("\n") + 1
        old, new = self.old.splitlines(), self.new.splitlines()
        return first + next((i for i, text in enumerate(new) if text not in old), 0)

    @property
    def is_in_block(self) -> bool:
        """Whether it can be in one block alone."""
        is_shared = self.style in _WITHOUT_BLOCKS or (self.style, self.fault) in _SHARED
        return self._is_of_blocks and not is_shared

    @property
    def _is_of_blocks(self) -> bool:
        return FAULTS[self.fault] <= {kind.name for kind in BLOCK_KINDS}

    def taps(self, n_layer: int, block: int | None = None) -> set[str]:
        """Return the taps of which one is the first that is wrong.

        There are several where some styles do not form the first one, or where two are exchanged.
        """
        prefix = f"h.{block or 0}." if self._is_of_blocks else ""
        return {prefix + tap.replace("h.-1", f"h.{n_layer - 1}") for tap in FAULTS[self.fault]}

    @property
    def names(self) -> set[str]:
        """The names that a check may give the fault; empty if it knows none."""
        return _NAMES.get(self.fault, {self.fault})


def source_of(style: str) -> str:
    """Return the text of a style."""
    return (HERE / f"{style}.py").read_text(encoding="utf-8")


def load_style(
    folder: Path, style: str, edit: Edit | None = None, block: int | None = None
) -> Build:
    """Return the `build` of a style from a file in `folder`, with an edit in all blocks or in one.

    The file of an edit is named after it.
    """
    right = _imported(folder / f"{style}.py", source_of(style))
    if edit is None:
        return right
    name = f"{style}_{edit.fault}".replace("-", "_")
    wrong = _imported(folder / f"{name}.py", edit.source)
    if block is None:
        return wrong
    assert edit.is_in_block, f"{edit} is not in a block"

    def build(config: GPTConfig, weights: Mapping[str, Tensor]) -> nn.Module:
        model = right(config, weights)
        blocks_of(model, config.n_layer)[block] = blocks_of(wrong(config, weights), config.n_layer)[
            block
        ]
        return model

    return build


def blocks_of(model: nn.Module, n_layer: int) -> nn.ModuleList | nn.Sequential:
    """Return the list of a model's blocks: the first list of as many parts."""
    lists = (part for part in model.modules() if isinstance(part, nn.ModuleList | nn.Sequential))
    return next(part for part in lists if len(part) == n_layer)


@functools.cache
def _imported(path: Path, text: str) -> Build:
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"styles_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    build: Build = module.build
    return build


_WEIGHTS = {"attn.weights", "attn.context"}
_SCORES = {"attn.scores"} | _WEIGHTS

FAULTS: dict[str, set[str]] = {
    # Embeddings.
    "positions-from-one": {"embeddings.positions"},
    "positions-missing": {"embeddings.positions", "embeddings"},
    "positions-reversed": {"embeddings.positions", "embeddings"},
    "positions-sinusoidal": {"embeddings.positions"},
    "positions-scaled": {"embeddings"},
    "token-embeddings-scaled": {"embeddings"},
    "embedding-mean": {"embeddings"},
    "embeddings-normalized": {"embeddings", "h.0.attn.query"},
    "dropout-left-on": {"embeddings"},
    # Order of blocks.
    "blocks-reversed": {"h.0.attn.query"},
    "block-shared": {"h.1.attn.query"},
    "first-block-skipped": {"h.0.attn.query"},
    "string-order": {"h.2.attn.query"},
    "last-block-skipped": {"h.-1.attn.query"},
    # Attention.
    "pre-norm": {"attn.query"},
    "heads-interleaved": {"attn.query", "attn.scores"},
    "packed-by-head": {"attn.query", "attn.scores"},
    "heads-split-without-transpose": {"attn.query", "attn.scores"},
    "query-key-swapped": {"attn.query", "attn.key", "attn.scores"},
    "key-value-swapped": {"attn.key", "attn.value", "attn.scores"},
    "key-for-value": {"attn.context"},
    "query-bias-dropped": {"attn.query"},
    "value-bias-dropped": {"attn.value"},
    "scale-missing": _SCORES,
    "scale-twice": _SCORES,
    "scale-of-width": _SCORES,
    "scale-without-root": _SCORES,
    "scale-of-heads": _SCORES,
    "mask-missing": _WEIGHTS,
    "mask-off-by-one": _WEIGHTS,
    "mask-strict": _WEIGHTS,
    "mask-upside-down": _WEIGHTS,
    "mask-zero": _WEIGHTS,
    "mask-after-softmax": _WEIGHTS,
    "softmax-over-queries": _WEIGHTS,
    "softmax-over-heads": _WEIGHTS,
    "attention-dropout-left-on": _WEIGHTS,
    "heads-merged-without-transpose": {"attn.context", "attn"},
    "heads-merged-interleaved": {"attn.context", "attn"},
    "heads-reversed": {"attn.context", "attn"},
    "projection-transposed": {"attn"},
    "attn-c-proj-bias-dropped": {"attn"},
    "projection-missing": {"attn"},
    # Residuals and norms.
    "no-attention-residual": {"ln_1.input"},
    "attention-residual-twice": {"ln_1.input"},
    "norm-inside-residual": {"ln_1.input"},
    "no-mlp-residual": {"ln_2.input"},
    "mlp-residual-from-input": {"ln_2.input"},
    "residual-dropout-left-on": {"ln_2.input"},
    "epsilon": {"ln_1"},
    "epsilon-1e-3": {"ln_1"},
    "epsilon-1e-8": {"ln_1"},
    "epsilon-1e-12": {"ln_1"},
    "epsilon-outside-root": {"ln_1"},
    "unbiased-deviation": {"ln_1"},
    "unbiased-variance": {"ln_1"},
    "affine-ignored": {"ln_1"},
    "norm-bias-ignored": {"ln_1"},
    "rms-norm-with-bias": {"ln_1"},
    "rms-norm": {"ln_1"},
    "norms-swapped": {"ln_1"},
    "ln-2-for-both": {"ln_1"},
    # Feed-forward.
    "bias-dropped": {"mlp.c_fc"},
    "erf-gelu": {"mlp.gelu"},
    "quick-gelu": {"mlp.gelu"},
    "gelu-cubic": {"mlp.gelu"},
    "gelu-cubic-rounded": {"mlp.gelu"},
    "gelu-constant": {"mlp.gelu"},
    "gelu-not-halved": {"mlp.gelu"},
    "relu": {"mlp.gelu"},
    "silu": {"mlp.gelu"},
    "mlp-c-proj-bias-dropped": {"mlp"},
    # The head.
    "final-norm": {"logits"},
    "untied-head": {"logits"},
    "logits-scaled": {"logits"},
    "logits-shifted": {"logits"},
}
"""The first wrong tap of each fault, or its kind if it is in a block; several if one may lack."""

_NAMES: dict[str, set[str]] = {
    "positions-scaled": set(),
    "embedding-mean": set(),
    "first-block-skipped": {"block-skipped"},
    "last-block-skipped": {"block-skipped"},
    "key-for-value": set(),
    "query-bias-dropped": {"c-attn-bias-dropped"},
    "value-bias-dropped": {"c-attn-bias-dropped"},
    "scale-twice": {"scale-without-root"},
    "mask-strict": {"mask-strict", "mask-strict-empty"},
    "query-key-swapped": {"query-key-swapped", "scores-transposed"},
    "residual-dropout-left-on": set(),
    "heads-reversed": set(),
    "gelu-constant": set(),
}
"""Names of faults that the harness does not have, or has under other names."""

_SHARED = {
    ("annotated", "mask-off-by-one"),
    ("annotated", "mask-strict"),
    ("mha", "mask-off-by-one"),
    ("time_first", "mask-off-by-one"),
}
"""Edits of what all blocks share: the mask is made once."""

_WITHOUT_BLOCKS = {"closures", "functional"}
"""Styles whose blocks are no modules."""

_TABLE: dict[str, dict[str, tuple[str, ...]]] = {}
_TABLE["sdpa"] = {
    "positions-from-one": ("arange(T,", "arange(1, T + 1,", "self.wpe(pos)"),
    "positions-missing": ("x = tok_emb + pos_emb", "x = tok_emb"),
    "positions-reversed": ("self.wpe(pos)", "self.wpe(pos.flip(0))"),
    "positions-scaled": ("tok_emb + pos_emb", "tok_emb + pos_emb * 0.5"),
    "token-embeddings-scaled": ("tok_emb + pos_emb", "tok_emb * self.cfg.n_embd**0.5 + pos_emb"),
    "dropout-left-on": ("x = tok_emb + pos_emb", "x = F.dropout(tok_emb + pos_emb, 0.1)"),
    "blocks-reversed": ("in self.blocks:", "in reversed(self.blocks):", "qkv = self.qkv(x)"),
    "first-block-skipped": ("in self.blocks:", "in self.blocks[1:]:", "qkv = self.qkv(x)"),
    "last-block-skipped": ("in self.blocks:", "in self.blocks[:-1]:", "self.lm_head(x)"),
    "block-shared": (
        "x = block(x)",
        "x = self.blocks[0](x)",
        "qkv = self.qkv(x)",
    ),
    "pre-norm": (
        """\
        a = self.attn(x)
        x = x + a
        x = self.norm1(x)
        m = self.mlp(x)
        x = x + m
        x = self.norm2(x)
""",
        """\
        a = self.attn(self.norm1(x))
        x = x + a
        m = self.mlp(self.norm2(x))
        x = x + m
""",
    ),
    "heads-interleaved": (
        """\
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
""",
        """\
        q = q.view(B, T, C // self.n_head, self.n_head).permute(0, 3, 1, 2)
        k = k.view(B, T, C // self.n_head, self.n_head).permute(0, 3, 1, 2)
        v = v.view(B, T, C // self.n_head, self.n_head).permute(0, 3, 1, 2)
""",
    ),
    "heads-split-without-transpose": (
        """\
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
""",
        """\
        q = q.reshape(B, self.n_head, T, C // self.n_head)
        k = k.reshape(B, self.n_head, T, C // self.n_head)
        v = v.reshape(B, self.n_head, T, C // self.n_head)
""",
    ),
    "query-key-swapped": ("q, k, v = qkv.split", "k, q, v = qkv.split"),
    "key-value-swapped": ("q, k, v = qkv.split", "q, v, k = qkv.split"),
    "scale-missing": ("is_causal=True)", "is_causal=True, scale=1.0)"),
    "scale-of-width": ("is_causal=True)", "is_causal=True, scale=C**-0.5)"),
    "scale-without-root": ("is_causal=True)", "is_causal=True, scale=self.n_head / C)"),
    "scale-twice": (
        "attention(q, k, v, is",
        "attention(q * (C // self.n_head) ** -0.5, k, v, is",
    ),
    "mask-missing": ("(q, k, v, is_causal=True)", "(q, k, v)"),
    "mask-off-by-one": (
        "        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        """\
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril(diagonal=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)""",
        "attn_mask=mask",
    ),
    "mask-strict": (
        "        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        """\
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril(diagonal=-1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)""",
        "attn_mask=mask",
    ),
    "mask-upside-down": (
        "        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        """\
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)""",
        "attn_mask=mask",
    ),
    "attention-dropout-left-on": ("is_causal=True)", "is_causal=True, dropout_p=0.1)"),
    "heads-merged-without-transpose": (
        "y.transpose(1, 2).contiguous().view(B, T, C)",
        "y.contiguous().view(B, T, C)",
    ),
    "projection-transposed": (
        'weights[old + "attn.c_proj.weight"].t()',
        'weights[old + "attn.c_proj.weight"]',
        "y = self.proj(y)",
    ),
    "attn-c-proj-bias-dropped": ("y = self.proj(y)", "y = F.linear(y, self.proj.weight)"),
    "no-attention-residual": ("x = x + a", "x = a"),
    "attention-residual-twice": ("x = x + a", "x = x + x + a"),
    "norm-inside-residual": (
        """\
        x = x + a
        x = self.norm1(x)
        m = self.mlp(x)
        x = x + m
        x = self.norm2(x)
""",
        """\
        x = x + self.norm1(a)
        m = self.mlp(x)
        x = x + self.norm2(m)
""",
    ),
    "no-mlp-residual": ("x = x + m", "x = m"),
    "mlp-residual-from-input": (
        """\
        x = x + a
        x = self.norm1(x)
        m = self.mlp(x)
        x = x + m
""",
        """\
        h = x + a
        h = self.norm1(h)
        m = self.mlp(h)
        x = x + m
""",
        "x = x + m",
    ),
    "residual-dropout-left-on": ("x = x + m", "x = x + F.dropout(m, 0.1)"),
    "epsilon": (
        "self.norm1 = nn.LayerNorm(cfg.n_embd, eps=cfg.layer_norm_epsilon)",
        "self.norm1 = nn.LayerNorm(cfg.n_embd, eps=1e-6)",
        "x = self.norm1(x)",
    ),
    "affine-ignored": ("x = self.norm1(x)", "x = F.layer_norm(x, x.shape[-1:])"),
    "norm-bias-ignored": (
        "x = self.norm1(x)",
        "x = F.layer_norm(x, x.shape[-1:], self.norm1.weight)",
    ),
    "rms-norm": (
        "x = self.norm1(x)",
        "x = F.rms_norm(x, x.shape[-1:], self.norm1.weight, self.norm1.eps)",
    ),
    "norms-swapped": (
        """\
        x = self.norm1(x)
        m = self.mlp(x)
        x = x + m
        x = self.norm2(x)
""",
        """\
        x = self.norm2(x)
        m = self.mlp(x)
        x = x + m
        x = self.norm1(x)
""",
    ),
    "bias-dropped": ("x = self.up(x)", "x = F.linear(x, self.up.weight)"),
    "erf-gelu": ('F.gelu(x, approximate="tanh")', "F.gelu(x)"),
    "quick-gelu": ('x = F.gelu(x, approximate="tanh")', "x = x * torch.sigmoid(1.702 * x)"),
    "relu": ('F.gelu(x, approximate="tanh")', "F.relu(x)"),
    "silu": ('F.gelu(x, approximate="tanh")', "F.silu(x)"),
    "mlp-c-proj-bias-dropped": ("x = self.down(x)", "x = F.linear(x, self.down.weight)"),
    "final-norm": (
        "logits = self.lm_head(x)",
        "logits = self.lm_head(F.layer_norm(x, x.shape[-1:]))",
    ),
    "untied-head": ("self.lm_head(x)", "F.linear(x, self.wte.weight.flip(0))"),
    "logits-scaled": (
        "logits = self.lm_head(x)",
        "logits = self.lm_head(x) * self.cfg.n_embd**-0.5",
    ),
}
_TABLE["linear_qkv"] = {
    "positions-from-one": (
        "torch.arange(idx.size(1), device=idx.device)",
        "torch.arange(idx.size(1), device=idx.device) + 1",
        "self.position_embedding(positions)",
    ),
    "positions-missing": ("h = tok + pos.unsqueeze(0)", "h = tok"),
    "positions-sinusoidal": (
        "        pos = self.position_embedding(positions)",
        """\
        rates = torch.exp(torch.arange(0, self.d_model, 2) * (-math.log(1e4) / self.d_model))
        angles = positions[:, None] * rates.to(tok.dtype)
        pos = torch.cat([angles.sin(), angles.cos()], dim=-1)[:, : self.d_model]""",
        "pos = torch.cat",
    ),
    "positions-scaled": ("tok + pos.unsqueeze(0)", "tok + 0.1 * pos.unsqueeze(0)"),
    "token-embeddings-scaled": (
        "h = tok + pos.unsqueeze(0)",
        "h = tok * math.sqrt(self.d_model) + pos.unsqueeze(0)",
    ),
    "embeddings-normalized": (
        "h = tok + pos.unsqueeze(0)",
        "h = F.layer_norm(tok + pos.unsqueeze(0), (self.d_model,))",
    ),
    "dropout-left-on": (
        "h = tok + pos.unsqueeze(0)",
        "h = F.dropout(tok + pos.unsqueeze(0), p=0.1)",
    ),
    "blocks-reversed": (
        "for layer in self.layers:",
        "for layer in reversed(self.layers):",
        "q = self.split(self.W_q(x))",
    ),
    "last-block-skipped": (
        "for layer in self.layers:",
        "for layer in self.layers[:-1]:",
        "logits = F.linear",
    ),
    "pre-norm": (
        """\
        attn_out = self.self_attn(x)
        h = self.ln_attn(x + attn_out)
        ffn_out = self.ffn(h)
        return self.ln_ffn(h + ffn_out)
""",
        """\
        h = x + self.self_attn(self.ln_attn(x))
        return h + self.ffn(self.ln_ffn(h))
""",
    ),
    "heads-interleaved": (
        "x.view(b, t, self.num_heads, self.d_k).transpose(1, 2)",
        "x.view(b, t, self.d_k, self.num_heads).permute(0, 3, 1, 2)",
    ),
    "heads-split-without-transpose": (
        "x.view(b, t, self.num_heads, self.d_k).transpose(1, 2)",
        "x.view(b, self.num_heads, t, self.d_k)",
    ),
    "query-key-swapped": (
        """\
        q = self.split(self.W_q(x))
        k = self.split(self.W_k(x))
""",
        """\
        k = self.split(self.W_q(x))
        q = self.split(self.W_k(x))
""",
    ),
    "key-value-swapped": (
        """\
        load(layer.self_attn.W_k, wk, bk)
        load(layer.self_attn.W_v, wv, bv)
""",
        """\
        load(layer.self_attn.W_k, wv, bv)
        load(layer.self_attn.W_v, wk, bk)
""",
        "k = self.split(self.W_k(x))",
    ),
    "query-bias-dropped": ("self.split(self.W_q(x))", "self.split(F.linear(x, self.W_q.weight))"),
    "value-bias-dropped": ("self.split(self.W_v(x))", "self.split(F.linear(x, self.W_v.weight))"),
    "scale-missing": ("scores = scores / math.sqrt(self.d_k)", "scores = scores"),
    "scale-twice": ("scores / math.sqrt(self.d_k)", "scores / math.sqrt(self.d_k) ** 2"),
    "scale-of-width": (
        "scores / math.sqrt(self.d_k)",
        "scores / math.sqrt(self.d_k * self.num_heads)",
    ),
    "scale-without-root": ("scores / math.sqrt(self.d_k)", "scores / self.d_k"),
    "scale-of-heads": ("scores / math.sqrt(self.d_k)", "scores / math.sqrt(self.num_heads)"),
    "mask-missing": ('        scores = scores.masked_fill(mask, float("-inf"))\n', "", "att = F.s"),
    "mask-off-by-one": (
        "torch.tril(torch.ones(max_len, max_len))",
        "torch.tril(torch.ones(max_len, max_len), diagonal=1)",
        "masked_fill(mask",
    ),
    "mask-upside-down": (":t, :t] == 0", ":t, :t].transpose(-2, -1) == 0", "masked_fill(mask"),
    "mask-zero": ('masked_fill(mask, float("-inf"))', "masked_fill(mask, 0.0)"),
    "mask-after-softmax": (
        """\
        scores = scores.masked_fill(mask, float("-inf"))
        att = F.softmax(scores, dim=-1)
""",
        """\
        att = F.softmax(scores, dim=-1)
        att = att.masked_fill(mask, 0.0)
""",
    ),
    "softmax-over-queries": ("F.softmax(scores, dim=-1)", "F.softmax(scores, dim=-2)"),
    "attention-dropout-left-on": (
        "F.softmax(scores, dim=-1)",
        "F.dropout(F.softmax(scores, dim=-1), p=0.1)",
    ),
    "heads-merged-without-transpose": (
        """\
        x = x.transpose(1, 2)
        return x.reshape(b, t, h * d)
""",
        """\
        return x.reshape(b, t, h * d)
""",
        "x.reshape(b, t, h * d)",
    ),
    "projection-transposed": (
        "        layer.ln_attn.weight.copy_",
        """\
        layer.self_attn.W_o.weight.copy_(weights[prefix + "attn.c_proj.weight"])
        layer.ln_attn.weight.copy_""",
        "return self.W_o(out)",
    ),
    "attn-c-proj-bias-dropped": ("self.W_o(out)", "F.linear(out, self.W_o.weight)"),
    "no-attention-residual": ("self.ln_attn(x + attn_out)", "self.ln_attn(attn_out)"),
    "norm-inside-residual": (
        """\
        h = self.ln_attn(x + attn_out)
        ffn_out = self.ffn(h)
        return self.ln_ffn(h + ffn_out)
""",
        """\
        h = x + self.ln_attn(attn_out)
        ffn_out = self.ffn(h)
        return h + self.ln_ffn(ffn_out)
""",
    ),
    "no-mlp-residual": ("self.ln_ffn(h + ffn_out)", "self.ln_ffn(ffn_out)"),
    "mlp-residual-from-input": ("self.ln_ffn(h + ffn_out)", "self.ln_ffn(x + ffn_out)"),
    "epsilon-1e-12": (
        "self.ln_attn = nn.LayerNorm(d_model, eps=eps)",
        "self.ln_attn = nn.LayerNorm(d_model, eps=1e-12)",
        "self.ln_attn(x + attn_out)",
    ),
    "affine-ignored": (
        """\
        layer.ln_attn.weight.copy_(weights[prefix + "ln_1.weight"])
        layer.ln_attn.bias.copy_(weights[prefix + "ln_1.bias"])
""",
        "",
        "self.ln_attn(x + attn_out)",
    ),
    "norm-bias-ignored": (
        """\
        layer.ln_attn.bias.copy_(weights[prefix + "ln_1.bias"])
""",
        "",
        "self.ln_attn(x + attn_out)",
    ),
    "norms-swapped": (
        """\
        layer.ln_attn.weight.copy_(weights[prefix + "ln_1.weight"])
        layer.ln_attn.bias.copy_(weights[prefix + "ln_1.bias"])
        layer.ln_ffn.weight.copy_(weights[prefix + "ln_2.weight"])
        layer.ln_ffn.bias.copy_(weights[prefix + "ln_2.bias"])
""",
        """\
        layer.ln_attn.weight.copy_(weights[prefix + "ln_2.weight"])
        layer.ln_attn.bias.copy_(weights[prefix + "ln_2.bias"])
        layer.ln_ffn.weight.copy_(weights[prefix + "ln_1.weight"])
        layer.ln_ffn.bias.copy_(weights[prefix + "ln_1.bias"])
""",
        "self.ln_attn(x + attn_out)",
    ),
    "bias-dropped": ("h = self.fc1(x)", "h = F.linear(x, self.fc1.weight)"),
    "erf-gelu": ("h = self.act(h)", "h = F.gelu(h)"),
    "quick-gelu": ("h = self.act(h)", "h = h * torch.sigmoid(1.702 * h)"),
    "gelu-constant": (
        "0.044715",
        "0.04471",
        "return 0.5 * x * (1.0 + torch.tanh(inner))",
    ),
    "relu": ("h = self.act(h)", "h = F.relu(h)"),
    "silu": ("h = self.act(h)", "h = F.silu(h)"),
    "mlp-c-proj-bias-dropped": ("return self.fc2(h)", "return F.linear(h, self.fc2.weight)"),
    "final-norm": (
        "F.linear(h, self.token_embedding.weight)",
        "F.linear(F.layer_norm(h, (self.d_model,)), self.token_embedding.weight)",
    ),
    "untied-head": (
        "F.linear(h, self.token_embedding.weight)",
        "F.linear(h, self.token_embedding.weight.flip(0))",
    ),
    "logits-scaled": (
        "logits = F.linear(h, self.token_embedding.weight)",
        "logits = F.linear(h, self.token_embedding.weight) / math.sqrt(self.d_model)",
    ),
    "logits-shifted": ("return logits, loss", "return logits.roll(1, dims=1), loss"),
}
_TABLE["einsum"] = {
    "positions-from-one": ("self.W_pos[:seq]", "self.W_pos[1 : seq + 1]"),
    "positions-missing": ("residual = embed + pos_embed", "residual = embed"),
    "positions-reversed": ("self.W_pos[:seq]", "self.W_pos[:seq].flip(0)"),
    "positions-scaled": ("embed + pos_embed", "embed + pos_embed / seq"),
    "token-embeddings-scaled": (
        "embed + pos_embed",
        "embed * self.W_E.shape[1] ** 0.5 + pos_embed",
    ),
    "blocks-reversed": ("block in self.blocks:", "block in self.blocks[::-1]:", "q = einsum"),
    "first-block-skipped": ("block in self.blocks:", "block in self.blocks[1:]:", "q = einsum"),
    "block-shared": (
        "residual = block(residual)",
        "residual = self.blocks[0](residual)",
        "q = e",
    ),
    "pre-norm": (
        """\
        attn_out = self.attn(resid_pre)
        resid_mid = resid_pre + attn_out
        normed_mid = self.ln1(resid_mid)
        mlp_out = self.mlp(normed_mid)
        resid_post = normed_mid + mlp_out
        return self.ln2(resid_post)
""",
        """\
        normed_pre = self.ln1(resid_pre)
        resid_mid = resid_pre + self.attn(normed_pre)
        normed_mid = self.ln2(resid_mid)
        resid_post = resid_mid + self.mlp(normed_mid)
        return resid_post
""",
    ),
    "heads-interleaved": (
        """\
        state[f"blocks.{l}.attn.W_Q"] = W_Q.view(width, heads, -1).permute(1, 0, 2)
        state[f"blocks.{l}.attn.W_K"] = W_K.view(width, heads, -1).permute(1, 0, 2)
        state[f"blocks.{l}.attn.W_V"] = W_V.view(width, heads, -1).permute(1, 0, 2)
        state[f"blocks.{l}.attn.b_Q"] = b_Q.view(heads, -1)
        state[f"blocks.{l}.attn.b_K"] = b_K.view(heads, -1)
        state[f"blocks.{l}.attn.b_V"] = b_V.view(heads, -1)
""",
        """\
        state[f"blocks.{l}.attn.W_Q"] = W_Q.view(width, -1, heads).permute(2, 0, 1)
        state[f"blocks.{l}.attn.W_K"] = W_K.view(width, -1, heads).permute(2, 0, 1)
        state[f"blocks.{l}.attn.W_V"] = W_V.view(width, -1, heads).permute(2, 0, 1)
        state[f"blocks.{l}.attn.b_Q"] = b_Q.view(-1, heads).T
        state[f"blocks.{l}.attn.b_K"] = b_K.view(-1, heads).T
        state[f"blocks.{l}.attn.b_V"] = b_V.view(-1, heads).T
""",
        "q = einsum",
    ),
    "query-key-swapped": ('"bqnh,bknh->bnqk", q, k', '"bqnh,bknh->bnqk", k, q'),
    "key-for-value": ('"bnqk,bknh->bqnh", pattern, v', '"bnqk,bknh->bqnh", pattern, k'),
    "query-bias-dropped": (" + self.b_Q\n", "\n"),
    "value-bias-dropped": (" + self.b_V\n", "\n"),
    "scale-missing": ("attn_scores / self.d_head**0.5", "attn_scores"),
    "scale-twice": (
        """\
        attn_scores = einsum("bqnh,bknh->bnqk", q, k)
        attn_scores = attn_scores / self.d_head**0.5
""",
        """\
        q = q / self.d_head**0.5
        attn_scores = einsum("bqnh,bknh->bnqk", q, k)
        attn_scores = attn_scores / self.d_head**0.5
""",
        "attn_scores = attn_scores / ",
    ),
    "scale-of-width": ("/ self.d_head**0.5", "/ resid.shape[-1] ** 0.5"),
    "scale-without-root": ("/ self.d_head**0.5", "/ self.d_head"),
    "scale-of-heads": ("/ self.d_head**0.5", "/ q.shape[2] ** 0.5"),
    "mask-missing": (
        "attn_scores = attn_scores.masked_fill(hidden, -1e9)",
        "pass",
        "attn_scores.softmax(",
    ),
    "mask-off-by-one": ("diagonal=1", "diagonal=2", "masked_fill(hidden"),
    "mask-strict": ("diagonal=1", "diagonal=0", "masked_fill(hidden"),
    "mask-upside-down": ("masked_fill(hidden, -1e9)", "masked_fill(hidden.T, -1e9)"),
    "mask-zero": ("masked_fill(hidden, -1e9)", "masked_fill(hidden, 1e-9)"),
    "mask-after-softmax": (
        """\
        attn_scores = attn_scores.masked_fill(hidden, -1e9)
        pattern = attn_scores.softmax(dim=-1)
""",
        """\
        pattern = attn_scores.softmax(dim=-1)
        pattern = pattern * ~hidden
""",
    ),
    "softmax-over-queries": ("softmax(dim=-1)", "softmax(dim=2)"),
    "softmax-over-heads": ("softmax(dim=-1)", "softmax(dim=1)"),
    "attention-dropout-left-on": (
        "attn_scores.softmax(dim=-1)",
        "torch.dropout(attn_scores.softmax(dim=-1), 0.1, True)",
    ),
    "heads-merged-without-transpose": (
        """\
        attn_out = einsum("bqnh,nhm->bqm", z, self.W_O)
""",
        """\
        z = z.transpose(1, 2).reshape(z.shape)
        attn_out = einsum("bqnh,nhm->bqm", z, self.W_O)
""",
    ),
    "projection-transposed": (
        "W_O.view(heads, -1, width)",
        "W_O.T.reshape(heads, -1, width)",
        'attn_out = einsum("bqnh',
    ),
    "attn-c-proj-bias-dropped": ("        attn_out = attn_out + self.b_O\n", "", "z, self.W_O)"),
    "no-attention-residual": ("resid_mid = resid_pre + attn_out", "resid_mid = attn_out"),
    "attention-residual-twice": ("resid_pre + attn_out", "resid_pre + resid_pre + attn_out"),
    "norm-inside-residual": (
        """\
        resid_mid = resid_pre + attn_out
        normed_mid = self.ln1(resid_mid)
        mlp_out = self.mlp(normed_mid)
        resid_post = normed_mid + mlp_out
        return self.ln2(resid_post)
""",
        """\
        resid_mid = resid_pre + self.ln1(attn_out)
        mlp_out = self.mlp(resid_mid)
        resid_post = resid_mid + self.ln2(mlp_out)
        return resid_post
""",
    ),
    "no-mlp-residual": ("resid_post = normed_mid + mlp_out", "resid_post = mlp_out"),
    "mlp-residual-from-input": ("normed_mid + mlp_out", "resid_pre + mlp_out"),
    "epsilon": ("(var + self.eps).sqrt()", "(var + 1e-6).sqrt()"),
    "epsilon-outside-root": ("(var + self.eps).sqrt()", "(var.sqrt() + self.eps)"),
    "unbiased-variance": (
        "unbiased=False",
        "unbiased=True",
        "resid = (resid - mean) / (var",
    ),
    "affine-ignored": ("return resid * self.w + self.b", "return resid"),
    "norm-bias-ignored": ("return resid * self.w + self.b", "return resid * self.w"),
    "rms-norm-with-bias": (
        """\
        mean = resid.mean(dim=-1, keepdim=True)
        var = resid.var(dim=-1, keepdim=True, unbiased=False)
        resid = (resid - mean) / (var + self.eps).sqrt()
""",
        """\
        var = resid.pow(2).mean(dim=-1, keepdim=True)
        resid = resid / (var + self.eps).sqrt()
""",
        "resid = resid / (var",
    ),
    "norms-swapped": (
        """\
        normed_mid = self.ln1(resid_mid)
        mlp_out = self.mlp(normed_mid)
        resid_post = normed_mid + mlp_out
        return self.ln2(resid_post)
""",
        """\
        normed_mid = self.ln2(resid_mid)
        mlp_out = self.mlp(normed_mid)
        resid_post = normed_mid + mlp_out
        return self.ln1(resid_post)
""",
        "return resid * self.w + self.b",
    ),
    "bias-dropped": (" + self.b_in\n", "\n"),
    "erf-gelu": ("post = gelu_new(pre)", "post = nn.functional.gelu(pre)"),
    "quick-gelu": ("post = gelu_new(pre)", "post = pre * (1.702 * pre).sigmoid()"),
    "gelu-cubic-rounded": ("0.044715", "0.0447"),
    "relu": ("post = gelu_new(pre)", "post = pre.relu()"),
    "silu": ("post = gelu_new(pre)", "post = nn.functional.silu(pre)"),
    "mlp-c-proj-bias-dropped": (" + self.b_out\n", "\n"),
    "final-norm": (
        "        logits = einsum(",
        """\
        residual = nn.functional.layer_norm(residual, residual.shape[-1:])
        logits = einsum(""",
    ),
    "untied-head": (
        '"bpm,vm->bpv", residual, self.W_E',
        '"bpm,vm->bpv", residual, self.W_E.flip(0)',
    ),
    "logits-scaled": (
        'logits = einsum("bpm,vm->bpv", residual, self.W_E)',
        'logits = einsum("bpm,vm->bpv", residual, self.W_E) / residual.shape[-1] ** 0.5',
    ),
}
_TABLE["annotated"] = {
    "positions-from-one": (
        "torch.arange(x.size(1), device=x.device)",
        "torch.arange(1, x.size(1) + 1, device=x.device)",
        "self.pe(positions)",
    ),
    "positions-missing": ("self.dropout(tokens + places)", "self.dropout(tokens)"),
    "positions-sinusoidal": (
        """\
        places = self.pe(positions)
""",
        """\
        div = torch.exp(torch.arange(0, self.d_model) // 2 * 2 * -(math.log(1e4) / self.d_model))
        places = positions[:, None] * div.to(tokens.dtype)
        places = torch.where(torch.arange(self.d_model) % 2 == 0, places.sin(), places.cos())
""",
        "places = torch.where",
    ),
    "token-embeddings-scaled": (
        "tokens = self.lut(x)",
        "tokens = self.lut(x) * math.sqrt(self.d_model)",
    ),
    "dropout-left-on": (
        "return self.dropout(tokens + places)",
        "return nn.functional.dropout(tokens + places, 0.1)",
    ),
    "blocks-reversed": ("in self.layers:", "in reversed(self.layers):", "lin(x).view"),
    "last-block-skipped": ("in self.layers:", "in self.layers[:-1]:", "return self.proj(x)"),
    "block-shared": ("x = layer(x, mask)", "x = self.layers[0](x, mask)", "lin(x).view"),
    "pre-norm": (
        """\
        out = self.dropout(sublayer(x))
        return self.norm(x + out)
""",
        """\
        out = self.dropout(sublayer(self.norm(x)))
        return x + out
""",
    ),
    "heads-interleaved": (
        "lin(x).view(nbatches, -1, self.h, self.d_k).transpose(1, 2)",
        "lin(x).view(nbatches, -1, self.d_k, self.h).permute(0, 3, 1, 2)",
    ),
    "heads-split-without-transpose": (
        "lin(x).view(nbatches, -1, self.h, self.d_k).transpose(1, 2)",
        "lin(x).view(nbatches, self.h, -1, self.d_k)",
    ),
    "query-key-swapped": (
        "attention(query, key, value, mask=mask, dropout",
        "attention(key, query, value, mask=mask, dropout",
        "scores = torch.matmul",
    ),
    "key-value-swapped": (
        "attention(query, key, value, mask=mask, dropout",
        "attention(query, value, key, mask=mask, dropout",
        "scores = torch.matmul",
    ),
    "scale-missing": (" / math.sqrt(d_k)", ""),
    "scale-twice": (" / math.sqrt(d_k)", " / math.sqrt(d_k) / math.sqrt(d_k)"),
    "scale-of-width": (" / math.sqrt(d_k)", " / math.sqrt(d_k * query.size(1))"),
    "scale-without-root": (" / math.sqrt(d_k)", " / d_k"),
    "scale-of-heads": (" / math.sqrt(d_k)", " / math.sqrt(query.size(1))"),
    "mask-missing": ("self.self_attn(x, x, x, mask)", "self.self_attn(x, x, x)", "p_attn = scores"),
    "mask-off-by-one": ("diagonal=1", "diagonal=2", "masked_fill(mask == 0"),
    "mask-strict": ("diagonal=1", "diagonal=0", "masked_fill(mask == 0"),
    "mask-upside-down": ("masked_fill(mask == 0, -1e9)", "masked_fill(mask.mT == 0, -1e9)"),
    "mask-zero": ("masked_fill(mask == 0, -1e9)", "masked_fill(mask == 0, 1e-9)"),
    "mask-after-softmax": (
        """\
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9)
    p_attn = scores.softmax(dim=-1)
""",
        """\
    p_attn = scores.softmax(dim=-1)
    if mask is not None:
        p_attn = p_attn.masked_fill(mask == 0, 0)
""",
        "p_attn = scores.softmax",
    ),
    "softmax-over-queries": ("scores.softmax(dim=-1)", "scores.softmax(dim=-2)"),
    "softmax-over-heads": ("scores.softmax(dim=-1)", "scores.softmax(dim=1)"),
    "attention-dropout-left-on": ("dropout(p_attn)", "nn.functional.dropout(p_attn, 0.1)"),
    "heads-merged-without-transpose": (
        "x = x.transpose(1, 2).contiguous().view(",
        "x = x.contiguous().view(",
    ),
    "projection-transposed": (
        'w["attn.c_proj.weight"].T.clone()',
        'w["attn.c_proj.weight"].clone()',
        "return self.linears[-1](x)",
    ),
    "attn-c-proj-bias-dropped": (
        'linears[3].bias.data = w["attn.c_proj.bias"].clone()',
        "linears[3].bias.data = torch.zeros_like(qkv_b[0])",
        "return self.linears[-1](x)",
    ),
    "no-attention-residual": ("self.norm(x + out)", "self.norm(out)"),
    "attention-residual-twice": ("self.norm(x + out)", "self.norm(x + x + out)"),
    "norm-inside-residual": ("self.norm(x + out)", "x + self.norm(out)"),
    "no-mlp-residual": (
        "return self.sublayer[1](x, self.feed_forward)",
        "return self.sublayer[1].norm(self.feed_forward(x))",
    ),
    "mlp-residual-from-input": (
        """\
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))
        return self.sublayer[1](x, self.feed_forward)
""",
        """\
        h = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))
        return self.sublayer[1](x, lambda x: self.feed_forward(h))
""",
        "return self.norm(x + out)",
    ),
    "epsilon": (
        """\
        config.layer_norm_epsilon,
""",
        """\
        1e-6,
""",
        "return self.a_2",
    ),
    "epsilon-outside-root": (
        "/ torch.sqrt(var + self.eps) +",
        "/ (torch.sqrt(var) + self.eps) +",
    ),
    "unbiased-deviation": (
        """\
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        return self.a_2 * (x - mean) / torch.sqrt(var + self.eps) + self.b_2
""",
        """\
        std = x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2
""",
        "return self.a_2",
    ),
    "affine-ignored": (
        "return self.a_2 * (x - mean) / torch.sqrt(var + self.eps) + self.b_2",
        "return (x - mean) / torch.sqrt(var + self.eps)",
    ),
    "norm-bias-ignored": ("torch.sqrt(var + self.eps) + self.b_2", "torch.sqrt(var + self.eps)"),
    "rms-norm-with-bias": (
        """\
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        return self.a_2 * (x - mean) / torch.sqrt(var + self.eps) + self.b_2
""",
        """\
        var = (x**2).mean(-1, keepdim=True)
        return self.a_2 * x / torch.sqrt(var + self.eps) + self.b_2
""",
        "return self.a_2",
    ),
    "norms-swapped": (
        """\
            layer.sublayer[j].norm.a_2.data = w[f"ln_{j + 1}.weight"].clone()
            layer.sublayer[j].norm.b_2.data = w[f"ln_{j + 1}.bias"].clone()
""",
        """\
            layer.sublayer[j].norm.a_2.data = w[f"ln_{2 - j}.weight"].clone()
            layer.sublayer[j].norm.b_2.data = w[f"ln_{2 - j}.bias"].clone()
""",
        "return self.a_2",
    ),
    "bias-dropped": (
        'layer.feed_forward.w_1.bias.data = w["mlp.c_fc.bias"].clone()',
        'layer.feed_forward.w_1.bias.data = torch.zeros_like(w["mlp.c_fc.bias"])',
        "x = self.w_1(x)",
    ),
    "erf-gelu": ('nn.GELU(approximate="tanh")', "nn.GELU()", "x = self.activation(x)"),
    "quick-gelu": ("x = self.activation(x)", "x = x * torch.sigmoid(1.702 * x)"),
    "relu": ('nn.GELU(approximate="tanh")', "nn.ReLU()", "x = self.activation(x)"),
    "silu": ('nn.GELU(approximate="tanh")', "nn.SiLU()", "x = self.activation(x)"),
    "mlp-c-proj-bias-dropped": ("self.w_2(x)", "nn.functional.linear(x, self.w_2.weight)"),
    "final-norm": (
        "return self.generator(x)",
        "return self.generator(nn.functional.layer_norm(x, x.shape[-1:]))",
    ),
    "untied-head": (
        """\
    model.generator.proj.weight = model.embed.lut.weight
    for i,""",
        """\
    model.generator.proj.weight = nn.Parameter(weights["tokens_embed.weight"].flip(0))
    for i,""",
        "return self.proj(x)",
    ),
    "logits-scaled": ("return self.proj(x)", "return self.proj(x) * x.size(-1) ** -0.5"),
}
_TABLE["time_first"] = {
    "positions-from-one": (
        "torch.arange(src.size(0),",
        "torch.arange(1, 1 + src.size(0),",
        "p = s",
    ),
    "positions-missing": ("        x = x + p\n", "", "x = self.embed_tokens(src)"),
    "positions-reversed": ("self.embed_positions(steps)", "self.embed_positions(steps.flip(0))"),
    "positions-scaled": ("x = x + p", "x = x + p / math.sqrt(self.dim)"),
    "token-embeddings-scaled": ("x = x + p", "x = math.sqrt(self.dim) * x + p"),
    "embeddings-normalized": ("x = x + p", "x = F.layer_norm(x + p, (self.dim,))"),
    "first-block-skipped": ("in self.layers:", "in self.layers[1:]:", "q, k, v = self.in_proj"),
    "block-shared": ("x = layer(x, mask)", "x = self.layers[0](x, mask)", "q, k, v = self.in_"),
    "pre-norm": (
        """\
        residual = x
        x = self.attention(x, mask)
        x = residual + x
        x = self.layer_norm_1(x)
        residual = x
        x = self.fc1(x)
        x = F.gelu(x, approximate="tanh")
        x = self.fc2(x)
        x = residual + x
        x = self.layer_norm_2(x)
""",
        """\
        residual = x
        x = self.layer_norm_1(x)
        x = self.attention(x, mask)
        x = residual + x
        residual = x
        x = self.layer_norm_2(x)
        x = self.fc1(x)
        x = F.gelu(x, approximate="tanh")
        x = self.fc2(x)
        x = residual + x
""",
        "x = self.layer_norm_1(x)",
    ),
    "heads-split-without-transpose": (
        """\
        q = q.contiguous().view(tgt_len, bsz * self.heads, self.head_dim).transpose(0, 1)
        k = k.contiguous().view(tgt_len, bsz * self.heads, self.head_dim).transpose(0, 1)
        v = v.contiguous().view(tgt_len, bsz * self.heads, self.head_dim).transpose(0, 1)
""",
        """\
        q = q.transpose(0, 1).reshape(bsz * self.heads, tgt_len, self.head_dim)
        k = k.transpose(0, 1).reshape(bsz * self.heads, tgt_len, self.head_dim)
        v = v.transpose(0, 1).reshape(bsz * self.heads, tgt_len, self.head_dim)
""",
    ),
    "query-key-swapped": ("q, k, v = self.in_proj", "k, q, v = self.in_proj"),
    "key-value-swapped": ("q, k, v = self.in_proj", "q, v, k = self.in_proj"),
    "scale-missing": ("        q = q / math.sqrt(self.head_dim)\n", "", "weights = torch.bmm"),
    "scale-twice": (
        "weights = torch.bmm(q, k.transpose(1, 2))",
        "weights = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(self.head_dim)",
    ),
    "scale-of-width": ("q / math.sqrt(self.head_dim)", "q / math.sqrt(dim)", "weights = torch.bmm"),
    "scale-without-root": (
        "q / math.sqrt(self.head_dim)",
        "q / self.head_dim",
        "weights = torch.bmm",
    ),
    "scale-of-heads": (
        "q / math.sqrt(self.head_dim)",
        "q / math.sqrt(self.heads)",
        "weights = torch.bmm",
    ),
    "mask-missing": ("        weights = weights + mask\n", "", "weights = torch.softmax"),
    "mask-off-by-one": ("diagonal=1", "diagonal=2", "weights = weights + mask"),
    "mask-upside-down": ("weights = weights + mask", "weights = weights + mask.t()"),
    "mask-after-softmax": (
        """\
        weights = weights + mask
        weights = torch.softmax(weights, dim=-1)
""",
        """\
        weights = torch.softmax(weights, dim=-1)
        weights = weights * mask.exp()
""",
        "weights = torch.softmax",
    ),
    "softmax-over-queries": ("softmax(weights, dim=-1)", "softmax(weights, dim=1)"),
    "attention-dropout-left-on": (
        "out = torch.bmm(weights, v)",
        "out = torch.bmm(F.dropout(weights), v)",
    ),
    "heads-merged-without-transpose": (
        "out = out.transpose(0, 1).contiguous().view(",
        "out = out.contiguous().view(",
    ),
    "projection-transposed": (
        'not name.startswith("embed")',
        'not name.startswith("embed") and "out_proj" not in name',
        "return self.out_proj(out)",
    ),
    "attn-c-proj-bias-dropped": ("self.out_proj(out)", "F.linear(out, self.out_proj.weight)"),
    "no-attention-residual": (
        """\
        x = residual + x
        x = self.layer_norm_1(x)
""",
        """\
        x = self.layer_norm_1(x)
""",
    ),
    "norm-inside-residual": (
        """\
        x = residual + x
        x = self.layer_norm_1(x)
""",
        """\
        x = self.layer_norm_1(x)
        x = residual + x
""",
    ),
    "no-mlp-residual": (
        """\
        x = residual + x
        x = self.layer_norm_2(x)
""",
        """\
        x = self.layer_norm_2(x)
""",
    ),
    "mlp-residual-from-input": (
        """\
        residual = x
        x = self.fc1(x)
""",
        """\
        x = self.fc1(x)
""",
        """\
x = residual + x
        x = self.layer_norm_2(x)""",
    ),
    "residual-dropout-left-on": ("x = self.fc2(x)\n", "x = F.dropout(self.fc2(x), 0.1)\n"),
    "epsilon-1e-3": (
        "self.layer_norm_1 = nn.LayerNorm(dim, eps=eps)",
        "self.layer_norm_1 = nn.LayerNorm(dim, eps=1e-3)",
        "x = self.layer_norm_1(x)",
    ),
    "unbiased-variance": (
        "        x = self.layer_norm_1(x)\n",
        """\
        var, mean = torch.var_mean(x, dim=-1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.layer_norm_1.eps)
        x = x * self.layer_norm_1.weight + self.layer_norm_1.bias
""",
        "x = (x - mean)",
    ),
    "affine-ignored": ("x = self.layer_norm_1(x)", "x = F.layer_norm(x, x.shape[-1:])"),
    "rms-norm": (
        "x = self.layer_norm_1(x)",
        "x = F.rms_norm(x, x.shape[-1:], self.layer_norm_1.weight, eps=1e-5)",
    ),
    "norms-swapped": (
        'name.replace("ln_", "layer_norm_")',
        'name.replace("ln_1", "layer_norm_2").replace("ln_2", "layer_norm_1")',
        "x = self.layer_norm_1(x)",
    ),
    "bias-dropped": ("x = self.fc1(x)", "x = F.linear(x, self.fc1.weight)"),
    "erf-gelu": ('F.gelu(x, approximate="tanh")', "F.gelu(x)"),
    "quick-gelu": ('x = F.gelu(x, approximate="tanh")', "x = x * torch.sigmoid(1.702 * x)"),
    "relu": ('F.gelu(x, approximate="tanh")', "F.relu(x)"),
    "silu": ('F.gelu(x, approximate="tanh")', "F.silu(x)"),
    "mlp-c-proj-bias-dropped": ("x = self.fc2(x)", "x = F.linear(x, self.fc2.weight)"),
    "final-norm": ("F.linear(x, self", "F.linear(F.layer_norm(x, (self.dim,)), self"),
    "untied-head": ("(x, self.embed_tokens.weight)", "(x, self.embed_tokens.weight.flip(0))"),
    "logits-scaled": (
        "out = F.linear(x, self.embed_tokens.weight)",
        "out = F.linear(x, self.embed_tokens.weight) / math.sqrt(self.dim)",
    ),
}
_TABLE["heads"] = {
    "positions-from-one": ("torch.arange(T,", "torch.arange(1, T + 1,", "pos_emb = self"),
    "token-embeddings-scaled": (
        "x = tok_emb + pos_emb",
        "x = tok_emb * tok_emb.shape[-1] ** 0.5 + pos_emb",
    ),
    "query-key-swapped": ("q @ k.transpose(-2, -1)", "k @ q.transpose(-2, -1)"),
    "key-for-value": ("out = wei @ v", "out = wei @ k"),
    "scale-missing": (" * k.shape[-1] ** -0.5", ""),
    "scale-of-width": ("k.shape[-1] ** -0.5", "C**-0.5"),
    "scale-without-root": ("k.shape[-1] ** -0.5", "k.shape[-1] ** -1"),
    "mask-missing": (
        """\
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
""",
        "",
        "wei = F.softmax",
    ),
    "mask-upside-down": ("self.tril[:T, :T] == 0", "self.tril[:T, :T].T == 0"),
    "mask-zero": ('float("-inf")', "0.0"),
    "softmax-over-queries": ("dim=-1)\n        # perform", "dim=1)\n        # perform"),
    "heads-merged-interleaved": (
        "out = torch.cat([h(x) for h in self.heads], dim=-1)",
        "out = torch.stack([h(x) for h in self.heads], dim=-1).flatten(-2)",
    ),
    "heads-reversed": ("for h in self.heads], dim", "for h in self.heads[::-1]], dim"),
    "projection-transposed": (
        'weights[f"h.{i}.attn.c_proj.weight"].T',
        'weights[f"h.{i}.attn.c_proj.weight"]',
        "out = self.proj(out)",
    ),
    "projection-missing": (
        """\
        out = self.proj(out)
        return out
""",
        """\
        return out
""",
        "out = torch.cat",
    ),
    "pre-norm": (
        """\
        x = self.ln1(x + self.sa(x))
        x = self.ln2(x + self.ffwd(x))
""",
        """\
        x = x + self.sa(self.ln1(x))
        x = x + self.ffwd(self.ln2(x))
""",
    ),
    "no-attention-residual": ("self.ln1(x + self.sa(x))", "self.ln1(self.sa(x))"),
    "no-mlp-residual": ("self.ln2(x + self.ffwd(x))", "self.ln2(self.ffwd(x))"),
    "norm-inside-residual": ("self.ln1(x + self.sa(x))", "x + self.ln1(self.sa(x))"),
    "epsilon": (
        "self.ln1 = nn.LayerNorm(n_embd, eps=eps)",
        "self.ln1 = nn.LayerNorm(n_embd, 1e-6)",
        "x = self.ln1(",
    ),
    "erf-gelu": ('nn.GELU(approximate="tanh")', "nn.GELU()", "return self.net(x)"),
    "relu": ('nn.GELU(approximate="tanh")', "nn.ReLU()", "return self.net(x)"),
    "last-block-skipped": (
        "x = self.blocks(x)",
        "x = self.blocks[:-1](x)",
        "logits = self.lm_head",
    ),
    "untied-head": (
        'sd["lm_head.weight"] = weights["tokens_embed.weight"]',
        'sd["lm_head.weight"] = weights["tokens_embed.weight"].flip(0)',
        "logits = self.lm_head",
    ),
}
_TABLE["mha"] = {
    "positions-from-one": (
        "torch.arange(seq_len, device=x.device)",
        "torch.arange(1, seq_len + 1, device=x.device)",
        "hidden = self.token_emb",
    ),
    "positions-missing": (" + self.pos_emb(positions)", ""),
    "blocks-reversed": (
        "in self.transformer_blocks:",
        "in reversed(self.transformer_blocks):",
        "attention_output, _",
    ),
    "mask-missing": ("attn_mask=attn_mask, need", "need", "attention_output, _"),
    "mask-off-by-one": ("diagonal=1", "diagonal=2", "attention_output, _"),
    "mask-upside-down": (
        "attn_mask=attn_mask, need",
        "attn_mask=attn_mask.T, need",
        "attention_output, _",
    ),
    "query-key-swapped": (
        """\
            block.att.in_proj_weight.copy_(weights[f"{h}.attn.c_attn.weight"].T)
            block.att.in_proj_bias.copy_(weights[f"{h}.attn.c_attn.bias"])
""",
        """\
            q, k, v = weights[f"{h}.attn.c_attn.weight"].chunk(3, 1)
            block.att.in_proj_weight.copy_(torch.cat([k, q, v], 1).T)
            q, k, v = weights[f"{h}.attn.c_attn.bias"].chunk(3)
            block.att.in_proj_bias.copy_(torch.cat([k, q, v]))
""",
        "attention_output, _",
    ),
    "projection-transposed": (
        'copy_(weights[f"{h}.attn.c_proj.weight"].T)',
        'copy_(weights[f"{h}.attn.c_proj.weight"])',
        "attention_output, _",
    ),
    "attn-c-proj-bias-dropped": (
        'block.att.out_proj.bias.copy_(weights[f"{h}.attn.c_proj.bias"])',
        "block.att.out_proj.bias.zero_()",
        "attention_output, _",
    ),
    "no-attention-residual": ("(inputs + attention_output)", "(attention_output)"),
    "mlp-residual-from-input": ("(out1 + ffn_output)", "(inputs + ffn_output)"),
    "pre-norm": (
        """\
        attention_output, _ = self.att(
            inputs, inputs, inputs, attn_mask=attn_mask, need_weights=False
        )
        out1 = self.layernorm1(inputs + attention_output)
        ffn_output = self.ffn(out1)
        return self.layernorm2(out1 + ffn_output)
""",
        """\
        x = self.layernorm1(inputs)
        attention_output, _ = self.att(x, x, x, attn_mask=attn_mask, need_weights=False)
        out1 = inputs + attention_output
        ffn_output = self.ffn(self.layernorm2(out1))
        return out1 + ffn_output
""",
    ),
    "epsilon": (
        "self.layernorm1 = nn.LayerNorm(embed_dim, eps)",
        "self.layernorm1 = nn.LayerNorm(embed_dim, 1e-6)",
        "out1 = self.layernorm1(",
    ),
    "norms-swapped": (
        """\
        out1 = self.layernorm1(inputs + attention_output)
        ffn_output = self.ffn(out1)
        return self.layernorm2(out1 + ffn_output)
""",
        """\
        out1 = self.layernorm2(inputs + attention_output)
        ffn_output = self.ffn(out1)
        return self.layernorm1(out1 + ffn_output)
""",
    ),
    "erf-gelu": ('nn.GELU("tanh")', "nn.GELU()", "ffn_output = self.ffn(out1)"),
    "relu": ('nn.GELU("tanh")', "nn.ReLU()", "ffn_output = self.ffn(out1)"),
    "final-norm": (
        "return self.head(hidden)",
        "return self.head(nn.functional.layer_norm(hidden, hidden.shape[-1:]))",
    ),
}
_TABLE["functional"] = {
    "positions-from-one": ("wpe[range(len(inputs))]", "wpe[range(1, len(inputs) + 1)]"),
    "token-embeddings-scaled": ("x = wte[inputs] +", "x = wte[inputs] * wte.shape[1] ** 0.5 +"),
    "scale-missing": (" / q.shape[-1] ** 0.5", ""),
    "scale-of-width": ("q.shape[-1] ** 0.5", "(3 * q.shape[-1]) ** 0.5"),
    "mask-missing": (" + mask)", ")"),
    "mask-off-by-one": (
        "torch.ones(x.shape[0], x.shape[0], dtype=x.dtype)",
        "torch.ones(x.shape[0], x.shape[0], dtype=x.dtype), 1",
        "return softmax(q @ k.T",
    ),
    "query-key-swapped": ("softmax(q @ k.T", "softmax(k @ q.T"),
    "key-value-swapped": ("for q, k, v in zip", "for q, v, k in zip", "return softmax(q @ k.T"),
    "heads-merged-without-transpose": (
        "torch.hstack(out_heads)",
        "torch.stack(out_heads).reshape(x.shape[0], -1)",
    ),
    "pre-norm": (
        """\
    x = layer_norm(x + mha(x, **attn, n_head=n_head), **ln_1, eps=eps)
    x = layer_norm(x + ffn(x, **mlp), **ln_2, eps=eps)
""",
        """\
    x = x + mha(layer_norm(x, **ln_1, eps=eps), **attn, n_head=n_head)
    x = x + ffn(layer_norm(x, **ln_2, eps=eps), **mlp)
""",
    ),
    "norms-swapped": (
        """\
                "ln_1": pair(f"h.{i}.ln_1", "g"),
                "ln_2": pair(f"h.{i}.ln_2", "g"),
""",
        """\
                "ln_1": pair(f"h.{i}.ln_2", "g"),
                "ln_2": pair(f"h.{i}.ln_1", "g"),
""",
        "return g * x + b",
    ),
    "unbiased-variance": (", correction=0", "", "x = (x - mean) / "),
    "epsilon-outside-root": ("torch.sqrt(variance + eps)", "(torch.sqrt(variance) + eps)"),
    "norm-bias-ignored": ("return g * x + b", "return g * x"),
    "no-mlp-residual": ("layer_norm(x + ffn", "layer_norm(ffn"),
    "bias-dropped": ("linear(x, **c_fc)", 'linear(x, c_fc["w"], 0.0)'),
    "gelu-cubic": ("0.044715", "0.44715"),
    "gelu-not-halved": ("return 0.5 * x * (1 +", "return x * (1 +"),
    "untied-head": ("x @ wte.T", "x @ wte.flip(0).T"),
    "logits-scaled": ("return x @ wte.T", "return x @ wte.T * 1.1"),
}
_TABLE["conv1d"] = {
    "dropout-left-on": ("self.drop(hidden_states)", "nn.functional.dropout(hidden_states)"),
    "positions-from-one": (
        "self.position_ids[None, : input_ids.shape[-1]]",
        "self.position_ids[None, 1 : input_ids.shape[-1] + 1]",
        "position_embeds = self",
    ),
    "first-block-skipped": ("in self.h:", "in self.h[1:]:", "torch.addmm"),
    "scale-missing": ("        w = w / math.sqrt(v.size(-1))\n", "", "w = torch.matmul(q, k)"),
    "scale-of-width": ("math.sqrt(v.size(-1))", "math.sqrt(self.split_size)"),
    "mask-strict": ("(torch.ones(n_ctx, n_ctx))", "(torch.ones(n_ctx, n_ctx), -1)", "w = w * b +"),
    "mask-zero": ("w * b + -1e9 * (1 - b)", "w * b"),
    "softmax-over-queries": ("softmax(w, dim=-1)", "softmax(w, dim=-2)"),
    "heads-merged-without-transpose": (
        "x.permute(0, 2, 1, 3).contiguous()",
        "x.contiguous().view(x.size(0), x.size(2), x.size(1), x.size(3))",
        "return x.view(*new_x_shape)\n\n    def split",
    ),
    "heads-interleaved": (
        """\
        new_x_shape = x.size()[:-1] + (self.n_head, x.size(-1) // self.n_head)
        x = x.view(*new_x_shape)
""",
        """\
        new_x_shape = x.size()[:-1] + (x.size(-1) // self.n_head, self.n_head)
        x = x.view(*new_x_shape).transpose(-2, -1)
""",
        "return x.permute(0, 2, 1, 3)",
    ),
    "pre-norm": (
        """\
        a = self.attn(x)
        n = self.ln_1(x + a)
        m = self.mlp(n)
        h = self.ln_2(n + m)
        return h
""",
        """\
        a = self.attn(self.ln_1(x))
        x = x + a
        m = self.mlp(self.ln_2(x))
        return x + m
""",
    ),
    "mlp-residual-from-input": ("self.ln_2(n + m)", "self.ln_2(x + m)"),
    "no-attention-residual": ("self.ln_1(x + a)", "self.ln_1(a)"),
    "projection-transposed": (
        "        a = self.c_proj(a)",
        "        a = nn.functional.linear(a, self.c_proj.weight, self.c_proj.bias)",
    ),
    "erf-gelu": ("self.act = gelu", "self.act = nn.functional.gelu", "h = self.act("),
    "quick-gelu": (
        "self.act = gelu",
        "self.act = lambda x: x * torch.sigmoid(1.702 * x)",
        "self.act = lambda",
    ),
    "logits-shifted": (
        "CausalLMOutput(loss, lm_logits,",
        "CausalLMOutput(loss, lm_logits.roll(1, 1),",
    ),
}
_TABLE["joined_table"] = {
    "positions-from-one": (
        "self.n_vocab + torch.arange(tokens.shape[1], device=tokens.device)",
        "self.n_vocab + 1 + torch.arange(tokens.shape[1], device=tokens.device)",
        "e = self.we[x]",
    ),
    "positions-missing": ("h = e.sum(2)", "h = e[:, :, 0]"),
    "embedding-mean": ("h = e.sum(2)", "h = e.mean(2)"),
    "query-key-swapped": ("w = q @ k.mT", "w = k @ q.mT"),
    "heads-interleaved": (
        """\
        qkv = qkv.reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
""",
        """\
        qkv = qkv.reshape(n, length, 3, width // self.heads, self.heads)
        q, k, v = qkv.permute(2, 0, 4, 1, 3)
""",
    ),
    "packed-by-head": (
        """\
        qkv = qkv.reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
""",
        """\
        qkv = qkv.reshape(n, length, self.heads, 3, width // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
""",
    ),
    "scale-without-root": (
        "(1.0 / math.sqrt(width // self.heads))",
        "(1.0 / (width // self.heads))",
    ),
    "mask-off-by-one": (".tril()", ".tril(1)", "w = w * b +"),
    "mask-upside-down": (".tril()", ".triu()", "w = w * b +"),
    "softmax-over-queries": ("w.softmax(-1)", "w.softmax(-2)"),
    "heads-merged-without-transpose": (
        "a.transpose(1, 2).flatten(2)",
        "a.reshape(n, length, width)",
    ),
    "projection-transposed": ("a @ self.out_w + self.out_b", "a @ self.out_w.T + self.out_b"),
    "attn-c-proj-bias-dropped": ("a @ self.out_w + self.out_b", "a @ self.out_w"),
    "bias-dropped": ("n @ self.fc_w + self.fc_b", "n @ self.fc_w"),
    "mlp-c-proj-bias-dropped": ("h @ self.proj_w + self.proj_b", "h @ self.proj_w"),
    "norm-bias-ignored": ("return x * g + b", "return x * g"),
    "ln-2-for-both": (
        """\
        "g1": "ln_1.weight",
        "b1": "ln_1.bias",
""",
        """\
        "g1": "ln_2.weight",
        "b1": "ln_2.bias",
""",
        "return x * g + b",
    ),
    "rms-norm-with-bias": (
        """\
        u = x.mean(-1, keepdim=True)
        s =""",
        """\
        u = 0.0
        s =""",
        "x = (x - u) * torch.rsqrt(",
    ),
    "epsilon-1e-8": ("torch.rsqrt(s + self.e)", "torch.rsqrt(s + 1e-8)"),
    "silu": ('F.gelu(h, approximate="tanh")', "F.silu(h)"),
    "untied-head": ("self.we[: self.n_vocab]", "self.we[: self.n_vocab].flip(0)"),
}
_TABLE["closures"] = {
    "positions-from-one": ("places()[: ids.shape[-1]]", "places()[1 : ids.shape[-1] + 1]"),
    "positions-missing": ("words()[ids] + places()[: ids.shape[-1]]", "words()[ids]"),
    "scale-missing": ("(q / scale)", "q"),
    "scale-of-width": (
        "math.sqrt(config.n_embd // config.n_head)",
        "math.sqrt(config.n_embd)",
        "logits = (q",
    ),
    "mask-off-by-one": (".triu(1)", ".triu(2)", "probs = torch.where"),
    "mask-missing": ("torch.where(future, -torch.inf, logits).softmax(-1)", "logits.softmax(-1)"),
    "key-value-swapped": ("q, k, v = map", "q, v, k = map"),
    "heads-interleaved": (
        "x.unflatten(-1, (config.n_head, -1)).movedim(-2, -3)",
        "x.unflatten(-1, (-1, config.n_head)).movedim(-1, -3)",
    ),
    "norm-inside-residual": (
        """\
            attn = residual(attention(name + ".attn"))
            ln_1 = norm(name + ".ln_1")
""",
        """\
            ln_1 = residual(sequence(attention(name + ".attn"), norm(name + ".ln_1")))
            attn = lambda x: x
""",
        "residual = lambda",
    ),
    "no-mlp-residual": ("mlp = residual(sequence(", "mlp = (sequence(", "centered = x - x.mean"),
    "epsilon-outside-root": (
        "(centered.square().mean(-1, keepdim=True) + eps).sqrt()",
        "centered.square().mean(-1, keepdim=True).sqrt() + eps",
    ),
    "unbiased-variance": (
        "(centered.square().mean(-1, keepdim=True) + eps).sqrt()",
        "(x.var(-1, keepdim=True) + eps).sqrt()",
    ),
    "affine-ignored": ("return g() * centered / std + b()", "return centered / std"),
    "quick-gelu": (
        "x / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))",
        "x * torch.sigmoid(1.702 * x)",
    ),
    "gelu-constant": ("0.044715", "0.044"),
    "blocks-reversed": (
        "for i in range(config.n_layer)",
        "for i in reversed(range(config.n_layer))",
        "return lambda x: x @ w() + b()",
    ),
    "string-order": (
        "for i in range(config.n_layer)",
        "for i in sorted(range(config.n_layer), key=str)",
        "return lambda x: x @ w() + b()",
    ),
    "untied-head": ("x @ words().T", "x @ words().flip(0).T"),
    "final-norm": (
        "self.unembed(self.body(self.embed(inputs)))",
        "self.unembed(nn.functional.layer_norm(h := self.body(self.embed(inputs)), h.shape[-1:]))",
    ),
}
_TABLE["last_only"] = {
    "positions-from-one": ("torch.arange(0, t,", "torch.arange(1, t + 1,", "pos_emb = self"),
    "scale-twice": (
        "att = q @ k.transpose(-2, -1)",
        "att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))",
    ),
    "scale-missing": ("value[..., : config.n_embd] *= scale", "pass", "att = q @ k"),
    "query-key-swapped": ("q, k, v = self.c_attn(x)", "k, q, v = self.c_attn(x)"),
    "mask-upside-down": ("self.bias[:, :, :T, :T] == 0", "self.bias[:, :, :T, :T].mT == 0"),
    "pre-norm": (
        """\
        x = self.ln_1(x + self.attn(x))
        x = self.ln_2(x + self.mlp(x))
""",
        """\
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
""",
    ),
    "norms-swapped": (
        """\
        x = self.ln_1(x + self.attn(x))
        x = self.ln_2(x + self.mlp(x))
""",
        """\
        x = self.ln_2(x + self.attn(x))
        x = self.ln_1(x + self.mlp(x))
""",
    ),
    "erf-gelu": ('nn.GELU(approximate="tanh")', "nn.GELU()", "x = self.gelu(x)"),
    "projection-transposed": (
        "value.t() if value.ndim == 2 else value",
        'value.t() if value.ndim == 2 and "attn.c_proj" not in name else value',
        "y = self.c_proj(y)",
    ),
    "last-block-skipped": (
        "in self.transformer.h:",
        "in self.transformer.h[:-1]:",
        "logits = self.lm_head(x)\n",
    ),
    "final-norm": (
        """\
        if targets is not None:
            logits = self.lm_head(x)
""",
        """\
        x = F.layer_norm(x, x.shape[-1:])
        if targets is not None:
            logits = self.lm_head(x)
""",
    ),
}
_TABLE["half_inside"] = {
    "scale-missing": (" / math.sqrt(self.head_dim)", ""),
    "mask-off-by-one": ("diagonal=1", "diagonal=2", "attn_weights.float() + mask"),
    "softmax-over-queries": ("F.softmax(attn_weights, dim=-1)", "F.softmax(attn_weights, dim=-2)"),
    "heads-merged-without-transpose": (
        "attn_output.transpose(1, 2).reshape",
        "attn_output.reshape",
    ),
    "no-attention-residual": (
        "(residual + hidden_states)\n        residual =",
        "(hidden_states)\n        residual =",
    ),
    "epsilon": (
        "self.post_attention_norm = Fp32LayerNorm(hidden_size, eps=eps)",
        "self.post_attention_norm = Fp32LayerNorm(hidden_size, eps=1e-6)",
        "out = F.layer_norm(",
    ),
    "erf-gelu": ('F.gelu(hidden_states, approximate="tanh")', "F.gelu(hidden_states)"),
    "bias-dropped": ("self.up_proj(hidden_states)", "F.linear(hidden_states, self.up_proj.weight)"),
    "untied-head": ("self.embed_tokens.weight)", "self.embed_tokens.weight.flip(0))"),
}

EDITS = [
    Edit(style=style, fault=fault, old=old, new=new, at="".join(at))
    for style, faults in _TABLE.items()
    for fault, (old, new, *at) in faults.items()
]
"""Every fault that a style can express: a fault's old text, new text, and the place of its line."""
