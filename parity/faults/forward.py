"""Faults of the forward pass, from the residuals on, and how any of them is injected.

Those of the embeddings, attention and linear layers are in `parity.faults.forward_faults`.
"""

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.core.lockstep import TapFunction
from parity.faults.conditional_faults import INPUTS
from parity.faults.forward_faults import (
    ForwardFault,
    TensorFault,
    bare_norm,
    family,
    linear_of,
    narrow,
    normed_by,
    projected,
    sum_of,
)
from parity.faults.registry import faults_of
from parity.operations import OPERATIONS, Call, Op, Operation, layer_norm, linear, normed, replacing
from scratch_gpt.kv_cache import KVCache
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, no_tap

__all__ = ["FORWARD_FAULTS", "INPUTS", "ForwardFault", "TensorFault", "inject", "with_tap"]

# Residuals, and where the norms are.

_PRE_NORM: dict[str, Operation] = {
    **projected(linear, norm="ln_1"),
    "ln_1": lambda op: normed(op, "ln_1.input", "ln_2"),
    "ln_2.input": sum_of("ln_1.input", "mlp"),
    "ln_2": sum_of("ln_2.input"),
}
"""The block of GPT-2: the MLP's input is what its ln_2 makes."""

family(
    "h.{i}.attn.query",
    "GPT-1 has them after each sum, and none before the head",
    "x = ln_1(x + attn(x)); x = ln_2(x + mlp(x))",
    {
        "pre-norm": ("norms before attention and MLP, as in GPT-2", _PRE_NORM),
        "pre-norm-final-norm": (
            "norms before attention, MLP and head, as in GPT-2",
            {**_PRE_NORM, "logits": lambda op: bare_norm(op.input("<x")) @ _table(op).T},
        ),
    },
    look_for="norm before attention",
    family="residual",
)
family(
    "h.{i}.ln_1.input",
    "GPT-1 has ln_1(x + attn(x))",
    "x = ln_1(x + attn(x))",
    {
        "no-attention-residual": ("attention's residual missing", sum_of("attn")),
        "attention-residual-twice": (
            "attention's residual added twice",
            sum_of("<x", "<x", "attn"),
        ),
        "norm-inside-residual": (
            "x + ln_1(attn(x))",
            {
                "ln_1.input": sum_of("attn"),
                "ln_1": lambda op: op.input("<x") + normed(op, "ln_1.input", "ln_1"),
            },
        ),
    },
    look_for=("the residual missing", "added twice", "not x + ln_1(attn(x))"),
    family="residual",
)
family(
    "h.{i}.mlp.c_fc",
    "in GPT-1 the MLP gets the output of ln_1",
    "x = ln_1(x + attn(x)); x = ln_2(x + mlp(x))",
    {
        "mlp-of-block-input": ("the MLP gets the block's input", linear_of("<x", "mlp.c_fc")),
        "mlp-before-norm": (
            "the MLP gets the sum before ln_1",
            linear_of("ln_1.input", "mlp.c_fc"),
        ),
        "mlp-in-parallel": (
            "attention and MLP in parallel, in one sum",
            {"mlp.c_fc": linear_of("<x", "mlp.c_fc"), "ln_2.input": sum_of("ln_1.input", "mlp")},
        ),
    },
    look_for="ln_1's output",
    family="residual",
)
family(
    "h.{i}.ln_2.input",
    "GPT-1 has ln_2(x + mlp(x)), with x after ln_1",
    "x = ln_2(x + mlp(x))",
    {
        "no-mlp-residual": ("the MLP's residual missing", sum_of("mlp")),
        "mlp-residual-twice": ("the MLP's residual added twice", sum_of("ln_1", "ln_1", "mlp")),
        "mlp-residual-from-input": (
            "the MLP's residual from the block's input",
            sum_of("<x", "mlp"),
        ),
        "mlp-residual-before-norm": (
            "the MLP's residual from before ln_1",
            sum_of("ln_1.input", "mlp"),
        ),
        "mlp-norm-inside-residual": (
            "x + ln_2(mlp(x))",
            {
                "ln_2.input": sum_of("mlp"),
                "ln_2": lambda op: op.input("ln_1") + normed(op, "ln_2.input", "ln_2"),
            },
        ),
    },
    look_for=(
        "the residual missing",
        "added twice",
        "not ln_1's output",
        "not ln_1's output",
        "GPT-1 has ln_2(x + mlp(x))",
    ),
    family="residual",
)


# Norms.


def _epsilon(epsilon: float) -> dict[str, Operation]:
    return normed_by(lambda x, gain, bias, _: layer_norm(x, gain, bias, epsilon))


def _affine(function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> dict[str, Operation]:
    """Return norms whose gain and bias are a function of the right ones."""
    return normed_by(lambda x, gain, bias, epsilon: layer_norm(x, *function(gain, bias), epsilon))


def _divided(divisor: Callable[[Tensor, float], Tensor]) -> dict[str, Operation]:
    """Return norms that divide centered rows by a function of the rows and epsilon."""
    return normed_by(
        lambda x, gain, bias, epsilon: (
            (x - x.mean(-1, keepdim=True)) / divisor(x, epsilon) * gain + bias
        )
    )


def _over(*axes: int) -> dict[str, Operation]:
    """Return norms over other axes."""

    def norm(x: Tensor, gain: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        variance = x.var(axes, keepdim=True, unbiased=False)
        centered = x - x.mean(axes, keepdim=True)
        return centered * torch.rsqrt(variance + epsilon) * gain + bias

    return normed_by(norm)


def _variance(x: Tensor) -> Tensor:
    return x.var(-1, keepdim=True, unbiased=False)


def _rms(x: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


def _ln_1_by_2(op: Op) -> Tensor:
    return normed(op, "ln_1.input", "ln_2")


def _ln_2_by_1(op: Op) -> Tensor:
    return normed(op, "ln_2.input", "ln_1")


family(
    "h.{i}.ln_1",
    "GPT-1 has 1e-5",
    "nn.LayerNorm(n_embd, eps=1e-5)",
    {
        "epsilon": ("layer-norm epsilon 1e-6", _epsilon(1e-6)),
        "epsilon-1e-8": ("layer-norm epsilon 1e-8", _epsilon(1e-8)),
        "epsilon-1e-12": ("layer-norm epsilon 1e-12, as in BERT", _epsilon(1e-12)),
        "epsilon-1e-3": ("layer-norm epsilon 1e-3", _epsilon(1e-3)),
    },
    look_for="epsilon not 1e-5",
)
family(
    "h.{i}.ln_1",
    "GPT-1 divides by sqrt(variance + 1e-5), biased",
    "(x - mean) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)",
    {
        "epsilon-outside-root": (
            "epsilon outside the root",
            _divided(lambda x, epsilon: _variance(x).sqrt() + epsilon),
        ),
        "unbiased-variance": (
            "variance divided by width - 1",
            _divided(lambda x, epsilon: torch.sqrt(x.var(-1, keepdim=True) + epsilon)),
        ),
        "unbiased-deviation": (
            "norm by x.std() + epsilon",
            _divided(lambda x, epsilon: x.std(-1, keepdim=True) + epsilon),
        ),
        "variance-without-root": (
            "norm by the variance, without the root",
            _divided(lambda x, epsilon: _variance(x) + epsilon),
        ),
    },
    look_for=("outside the root", "unbiased=False", "unbiased=False", "without the root"),
)
family(
    "h.{i}.ln_1",
    "GPT-1 has layer norm, which subtracts the mean",
    "nn.LayerNorm(n_embd, eps=1e-5)",
    {
        "rms-norm": ("RMS norm", normed_by(lambda x, gain, _, epsilon: _rms(x, epsilon) * gain)),
        "rms-norm-with-bias": (
            "RMS norm with a bias",
            normed_by(lambda x, gain, bias, epsilon: _rms(x, epsilon) * gain + bias),
        ),
        "norm-not-centered": (
            "the mean not subtracted",
            normed_by(lambda x, gain, bias, e: x * torch.rsqrt(_variance(x) + e) * gain + bias),
        ),
    },
    look_for="mean not subtracted",
)
family(
    "h.{i}.ln_1",
    "GPT-1 normalizes each position by itself",
    "nn.LayerNorm(n_embd, eps=1e-5)",
    {
        "norm-over-time": ("norm over positions", _over(1)),
        "norm-over-both": ("norm over positions and features at once", _over(1, 2)),
    },
    look_for="over another axis",
)
family(
    "h.{i}.ln_1",
    "GPT-1 multiplies by the gain, as stored, and adds the bias",
    "normalized * norm.weight + norm.bias",
    {
        "affine-ignored": (
            "gain and bias of the norms ignored",
            _affine(lambda gain, bias: (torch.ones_like(gain), torch.zeros_like(bias))),
        ),
        "gain-ignored": (
            "the gain of the norms ignored",
            _affine(lambda gain, bias: (torch.ones_like(gain), bias)),
        ),
        "norm-bias-ignored": (
            "the bias of the norms ignored",
            _affine(lambda gain, bias: (gain, torch.zeros_like(bias))),
        ),
        "gain-bias-swapped": (
            "gain and bias of the norms swapped",
            _affine(lambda gain, bias: (bias, gain)),
        ),
        "gain-plus-one": (
            "1 added to the gain of the norms",
            _affine(lambda gain, bias: (1.0 + gain, bias)),
        ),
    },
    look_for="gain or bias",
)
family(
    "h.{i}.ln_1",
    "the model has a wider dtype",
    "norm(x.float()), outside autocast",
    {
        "norm-bfloat16": ("the norms in bfloat16", narrow("ln_1", "ln_2", dtype=torch.bfloat16)),
        "norm-float16": ("the norms in float16", narrow("ln_1", "ln_2", dtype=torch.float16)),
    },
    look_for="an operation computes in it",
    family="precision",
)
family(
    "h.{i}.ln_1",
    "ln_1 follows attention and ln_2 the MLP",
    "x = ln_1(x + attn(x)); x = ln_2(x + mlp(x))",
    {
        "norms-swapped": ("ln_1 and ln_2 swapped", {"ln_1": _ln_1_by_2, "ln_2": _ln_2_by_1}),
        "ln-2-for-both": ("ln_2 after attention too", _ln_1_by_2),
        "ln-1-missing": ("no ln_1", sum_of("ln_1.input")),
        "norms-missing": ("no norms", {"ln_1": sum_of("ln_1.input"), "ln_2": sum_of("ln_2.input")}),
    },
    look_for=("ln_1 and ln_2 swapped", "ln_1 and ln_2 swapped", "or missing", "or missing"),
)
family(
    "h.{i}.ln_2",
    "ln_2 follows the MLP, once",
    "x = ln_2(x + mlp(x))",
    {
        "ln-1-for-both": ("ln_1 after the MLP too", _ln_2_by_1),
        "ln-2-missing": ("no ln_2", sum_of("ln_2.input")),
    },
    look_for=("ln_1 and ln_2 swapped", "missing"),
)


# The MLP.


def _active(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda op: function(op.input("mlp.c_fc"))


def _gelu(x: Tensor, *, root: float = math.sqrt(2.0 / math.pi), cubic: float = 0.044715) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(root * (x + cubic * x**3)))


def _gelu_parenthesis(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * x + 0.044715 * x**3))


@TensorFault.register(
    right="weights are those of the checkpoint, to the bit",
    fix="load the weights again",
    look_for="a wrong element",
    family="mlp",
    at="h.{i}.mlp.c_fc",
)
def weight_off(parameters: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    """One weight of c_fc off by 1e-4."""
    name = f"h.{block}.mlp.c_fc.weight"
    weight = parameters[name].clone()
    weight[1, 2] += 1e-4
    return {name: weight}


family(
    "h.{i}.mlp.gelu",
    "GPT-1 has the tanh form of GELU",
    'functional.gelu(x, approximate="tanh")',
    {
        "erf-gelu": (
            "the erf form of GELU",
            _active(lambda x: 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))),
        ),
        "quick-gelu": ("x * sigmoid(1.702 * x)", _active(lambda x: x * torch.sigmoid(1.702 * x))),
        "relu": ("ReLU", _active(functional.relu)),
        "silu": ("SiLU", _active(functional.silu)),
        "leaky-relu": ("leaky ReLU", _active(functional.leaky_relu)),
        "relu-squared": ("squared ReLU", _active(lambda x: functional.relu(x).square())),
        "tanh": ("tanh alone", _active(torch.tanh)),
        "activation-missing": ("no activation", sum_of("mlp.c_fc")),
    },
    look_for="gelu(approximate='tanh')",
)
family(
    "h.{i}.mlp.gelu",
    "GPT-1 has 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))",
    'functional.gelu(x, approximate="tanh")',
    {
        "gelu-cubic": ("0.44715 in GELU, for 0.044715", _active(partial(_gelu, cubic=0.44715))),
        "gelu-cubic-rounded": ("0.0447 in GELU", _active(partial(_gelu, cubic=0.0447))),
        "gelu-root-rounded": ("0.8 for sqrt(2 / pi) in GELU", _active(partial(_gelu, root=0.8))),
        "gelu-root-inverted": (
            "sqrt(pi / 2) for sqrt(2 / pi) in GELU",
            _active(partial(_gelu, root=math.sqrt(math.pi / 2.0))),
        ),
        "gelu-parenthesis": (
            "sqrt(2 / pi) multiplies x alone in GELU, not the cube",
            _active(_gelu_parenthesis),
        ),
        "gelu-not-halved": ("GELU without the factor 0.5", _active(lambda x: 2.0 * _gelu(x))),
    },
    look_for="gelu(approximate='tanh')",
)
family(
    "h.{i}.mlp.gelu",
    "GPT-1 has it between the two",
    "c_proj(gelu(c_fc(x)))",
    {
        "gelu-after-c-proj": (
            "GELU after the second linear layer",
            {
                "mlp.gelu": sum_of("mlp.c_fc"),
                "mlp": linear_of("mlp.gelu", "mlp.c_proj", lambda *layer: _gelu(linear(*layer))),
            },
        )
    },
    look_for="gelu(approximate='tanh')",
)
family(
    "h.{i}.mlp.gelu",
    "the model has a wider dtype",
    "gelu(x.float()), outside autocast",
    {
        "gelu-bfloat16": ("GELU in bfloat16", narrow("mlp.gelu", dtype=torch.bfloat16)),
        "gelu-float16": ("GELU in float16", narrow("mlp.gelu", dtype=torch.float16)),
    },
    look_for="an operation computes in it",
    family="precision",
)


# Blocks.


def _blocks(parameters: Mapping[str, Tensor], order: Callable[..., list[int]]) -> dict[str, Tensor]:
    """Return the parameters of blocks in another order, a function of the right one."""
    names = [name.split(".", 2) for name in parameters if name.startswith("h.")]
    source = order(sorted({int(index) for _, index, _ in names}))
    return {
        f"h.{index}.{part}": parameters[f"h.{source[int(index)]}.{part}"]
        for _, index, part in names
    }


family(
    "h.{i}.ln_2",
    "each block runs, once",
    "for block in self.h: x = block(x)",
    {"block-skipped": ("a block skipped", sum_of("<x"))},
    look_for="a block skipped",
    family="blocks",
)


@TensorFault.register(
    right="block 0 is the first",
    fix="for block in self.h: x = block(x)",
    look_for="blocks in another order",
    family="blocks",
    at="h.0.attn.query",
)
def blocks_reversed(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    """Blocks in reverse order."""
    return _blocks(parameters, lambda order: order[::-1])


@TensorFault.register(
    right="block 0 is the first",
    fix="load the tensors h.0.* into block 0",
    look_for="blocks in another order",
    family="blocks",
    at="h.0.attn.query",
)
def blocks_swapped(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    """Blocks 0 and 1 swapped."""
    return _blocks(parameters, lambda order: [1, 0, *order[2:]])


@TensorFault.register(
    right="each block has weights of its own",
    fix="nn.ModuleList([Block() for _ in range(n_layer)])",
    look_for="blocks in another order",
    family="blocks",
    at="h.1.attn.query",
)
def block_shared(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    """One block in place of all."""
    return _blocks(parameters, lambda order: [0] * len(order))


@TensorFault.register(
    right="their order is that of the numbers",
    fix='sorted(names, key=lambda name: int(name.split(".")[1]))',
    look_for="blocks sorted as strings",
    family="blocks",
    at="h.2.attn.query",
)
def string_order(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    """Blocks sorted as strings: 0 1 10 11 2."""
    return _blocks(parameters, lambda order: sorted(order, key=str))


# The head.


def _table(op: Op) -> Tensor:
    return op.parameter("tokens_embed.weight")


def _of_logits(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda op: function(OPERATIONS["logits"](op))


family(
    "logits",
    "the last ln_2 is GPT-1's last norm",
    "ln_2_output @ tokens_embed.weight.T",
    {
        "final-norm": (
            "an extra norm before the head",
            lambda op: bare_norm(op.input("<x")) @ _table(op).T,
        ),
        "final-norm-repeated": (
            "the last ln_2 applied twice",
            lambda op: normed(op, "<x", f"h.{op.n_layer - 1}.ln_2") @ _table(op).T,
        ),
    },
    look_for="final norm",
)


@TensorFault.register(
    right="GPT-1 multiplies by the token table",
    fix="lm_head.weight = tokens_embed.weight",
    look_for="not tokens_embed.weight transposed",
    family="head",
    at="logits",
    reads={"embeddings.tokens": lambda op: op.parameter("tokens_embed.table")[op.token_ids]},
)
def untied_head(parameters: Mapping[str, Tensor], _block: int) -> dict[str, Tensor]:
    """A head that is not the embedding."""
    table = parameters["tokens_embed.weight"]
    return {"tokens_embed.weight": table.flip(0), "tokens_embed.table": table}


family(
    "logits",
    "GPT-1 multiplies by the token table, and that is all",
    "x @ tokens_embed.weight.T",
    {
        "head-bias": (
            "a bias at the head",
            _of_logits(
                lambda logits: logits + torch.linspace(-1.0, 1.0, logits.shape[-1]).to(logits)
            ),
        ),
        "logits-scaled": (
            "logits divided by sqrt(n_embd)",
            lambda op: OPERATIONS["logits"](op) / math.sqrt(op.input("<x").shape[-1]),
        ),
        "logits-capped": (
            "logits capped by a tanh",
            _of_logits(lambda logits: 30.0 * torch.tanh(logits / 30.0)),
        ),
    },
    look_for=("a bias", "scaled", "capped"),
)
family(
    "logits",
    "the softmax is in the loss alone",
    "x @ tokens_embed.weight.T",
    {
        "logits-softmax": ("probabilities for logits", _of_logits(partial(torch.softmax, dim=-1))),
        "logits-log-softmax": (
            "logarithms of probabilities for logits",
            _of_logits(partial(torch.log_softmax, dim=-1)),
        ),
    },
    look_for="softmax",
)
family(
    "logits",
    "those of a position predict the token after it",
    "functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())",
    {
        "logits-shifted": (
            "logits of the position before",
            _of_logits(lambda logits: logits.roll(1, 1)),
        )
    },
    look_for="position before",
)


FORWARD_FAULTS = faults_of(ForwardFault)
"""Every fault of the forward pass by name."""


# Injection.


def inject(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of a model, with storage of its own, that has a fault in one block.

    Copies of it have the fault too. Only `forward` has it; `hidden`, a generator or another backend
    made of the model have wrong tensors alone.

    Raises:
        ValueError: The model has too few blocks for the fault.
    """
    chosen = FORWARD_FAULTS[name]
    faulty = with_tap(model, lambda call, tap: replacing(chosen.operations, call, tap, block))
    held = dict(faulty.named_parameters())
    with torch.no_grad():
        try:
            wrong = {key: t.clone() for key, t in chosen.tensors(held, block).items()}
        except KeyError as error:
            message = f"{name} needs the tensor {error}, which the model does not have"
            raise ValueError(message) from error
        for key, tensor in wrong.items():
            if key in held:
                held[key].copy_(tensor)
            else:
                owner, _, attribute = key.rpartition(".")
                faulty.get_submodule(owner).register_parameter(attribute, nn.Parameter(tensor))
    return faulty


def with_tap(model: GPT, tap_of: Callable[[Call, TapFunction], TapFunction]) -> GPT:
    """Return a copy of a model whose forward pass runs inside a tap of its own.

    `tap_of` makes the tap of one forward pass from the call and the caller's tap.
    """
    right = model.forward.__func__  # type: ignore[attr-defined]

    def forward(  # noqa: PLR0913 - the model's own signature
        self: GPT,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        if cache is not None:
            message = "a model with an injected fault runs without a cache"
            raise ValueError(message)
        call = Call(
            parameters=dict(self.named_parameters()),
            n_layer=self.config.n_layer,
            n_head=self.config.n_head,
            epsilon=self.config.layer_norm_epsilon,
            token_ids=token_ids,
            positions=positions,
            mask=attention_mask,
        )
        inner = tap_of(call, tap or no_tap)
        logits: Tensor = right(self, token_ids, positions, attention_mask, tap=inner)
        return logits

    faulty = copy.deepcopy(model)
    faulty.forward = MethodType(forward, faulty)  # type: ignore[method-assign]
    return faulty
