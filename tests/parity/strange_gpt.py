"""A right GPT-1 on a dictionary of tensors, wrapped or broken in the way that `KIND` names.

It shows taps itself; tests/parity/test_candidates.py says what a check answers to each kind.
"""

import math
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from scratch_gpt import GPTConfig


class NoDerivative(torch.autograd.Function):
    @staticmethod
    def forward(_context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_context: object, _gradient: Tensor) -> Tensor:
        raise RuntimeError("no derivative")


class StrangeGPT(nn.Module):
    def __init__(self, config: GPTConfig, weights: Mapping[str, Tensor], kind: str) -> None:
        super().__init__()
        self.config = config
        self.kind = kind
        table = {name.replace(".", "/"): nn.Parameter(value) for name, value in weights.items()}
        self.table = nn.ParameterDict(table)
        self.root = torch.tensor(float(config.head_width)).sqrt()
        self.widen = lambda x, i: self.linear(x, f"h.{i}.mlp.c_fc")
        if kind == "closure":
            fixed = self.table
            self.widen = lambda x, i: (
                x @ fixed[f"h/{i}/mlp/c_fc/weight"] + fixed[f"h/{i}/mlp/c_fc/bias"]
            )

    def tensor(self, name: str) -> Tensor:
        return self.table[name.replace(".", "/")]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.tensor(f"{name}.weight") + self.tensor(f"{name}.bias")

    def norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        fault = 0.1 if self.kind == "float32 softmax and epsilon" else 1.0
        epsilon = fault * self.config.layer_norm_epsilon
        return functional.layer_norm(x, x.shape[-1:], gain, bias, epsilon)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        tap: Callable[[str, Tensor], Tensor] | None = None,
    ) -> object:
        show = tap or (lambda _, value: value)
        if self.kind == "nothing shown":
            show = lambda _, value: value  # noqa: E731
        inner = show if self.kind != "few" else (lambda _, value: value)
        time = ids.shape[1]
        places = torch.arange(time)[None] if positions is None else positions
        if self.kind == "positions by width":
            places = places % self.config.n_embd
        words = show("embeddings.tokens", self.tensor("tokens_embed.weight")[ids])
        where = show("embeddings.positions", self.tensor("positions_embed.weight")[places])
        x = show("embeddings", words + where)
        if self.kind == "dropout":
            x = functional.dropout(x, 0.1)
        visible = torch.ones(time, time, dtype=torch.bool).tril()
        if mask is not None:
            visible = visible & mask[:, None, None, :]
        for i in range(self.config.n_layer):
            if self.kind == "raises" and i == 1:
                x = x + self.tensor("positions_embed.weight")[: time + 1]  # the line that raises
            x = self.block(x, i, visible, inner, show)
        logits = self.head(NoDerivative.apply(x) if self.kind == "raises backward" else x)
        if self.kind == "logits not shown":
            return logits
        logits = show("logits", logits)
        if self.kind == "other logits":
            return logits + 1
        if self.kind == "tuple":
            return logits, None
        return {"loss": None, "logits": logits} if self.kind == "dict" else logits

    def head(self, x: Tensor) -> Tensor:
        if self.kind == "last":
            x = x[:, -1:]
        logits = x @ self.tensor("tokens_embed.weight").T
        if self.kind == "padded":
            logits = functional.pad(logits, (0, 7))
        return logits.transpose(0, 1) if self.kind == "time first" else logits

    def block(
        self,
        x: Tensor,
        i: int,
        visible: Tensor,
        inner: Callable[[str, Tensor], Tensor],
        show: Callable[[str, Tensor], Tensor],
    ) -> Tensor:
        prefix = f"layers.{i}" if self.kind == "other names" else f"h.{i}"

        def here(name: str, value: Tensor) -> Tensor:
            if self.kind == "answer unused" and name == "mlp.c_fc":
                inner(f"{prefix}.{name}", value)
                return value
            return inner(f"{prefix}.{name}", value)

        added = here("ln_1.input", x + self.attend(x, i, visible, here))
        x = here("ln_1", self.norm(added, f"h.{i}.ln_1"))
        y = here("mlp.c_fc", self.widen(x, i))
        form = "none" if self.kind in ("few", "float32 scale and erf") else "tanh"
        y = here("mlp.gelu", functional.gelu(y, approximate=form))
        y = here("ln_2.input", x + here("mlp", self.linear(y, f"h.{i}.mlp.c_proj")))
        return show(f"{prefix}.ln_2", self.norm(y, f"h.{i}.ln_2"))

    def attend(
        self, x: Tensor, i: int, visible: Tensor, here: Callable[[str, Tensor], Tensor]
    ) -> Tensor:
        parts = self.linear(x, f"h.{i}.attn.c_attn").chunk(3, -1)
        shape = (*x.shape[:2], self.config.n_head, self.config.head_width)
        if self.kind == "flat heads":
            here("attn.query", parts[0])
        heads = [part.view(shape).transpose(1, 2) for part in parts]
        names = ("attn.query", "attn.key", "attn.value")
        shown = [
            here(name, value) if (self.kind, name) != ("flat heads", "attn.query") else value
            for name, value in zip(names, heads, strict=True)
        ]
        if self.kind in ("sdpa", "few"):
            context = functional.scaled_dot_product_attention(*shown, attn_mask=visible)
        else:
            context = self.by_formula(*shown, visible, here)
        merged = here("attn.context", context.transpose(1, 2).flatten(-2))
        return here("attn", self.linear(merged, f"h.{i}.attn.c_proj"))

    def by_formula(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        visible: Tensor,
        here: Callable[[str, Tensor], Tensor],
    ) -> Tensor:
        scaled = self.kind == "float32 scale and erf"
        root = self.root if scaled else math.sqrt(self.config.head_width)
        scores = here("attn.scores", query @ key.mT / root).masked_fill(~visible, -math.inf)
        narrow = torch.float32 if self.kind.startswith("float32 softmax") else None
        weights = scores.softmax(-1, dtype=narrow).to(query.dtype)
        return here("attn.weights", weights) @ value


class OnlyIds(StrangeGPT):
    def forward(  # type: ignore[override]
        self, ids: Tensor, tap: Callable[[str, Tensor], Tensor] | None = None
    ) -> object:
        return super().forward(ids, tap=tap)


def build(config: GPTConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    kind = os.environ.get("KIND", "right")
    if kind == "prints":
        print("12.3M parameters")  # noqa: T201
        os.write(1, b"and through the descriptor\n")
    if kind == "leaves":
        os._exit(0)
    model = (OnlyIds if kind == "only ids" else StrangeGPT)(config, weights, kind)
    return model.half() if kind == "half" else model
