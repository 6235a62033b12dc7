"""The model is written from basic tensor operations: in its source, and in what it runs."""

import ast
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.generation.decoder import Step
from scratch_gpt.kernels.backends import BACKENDS
from scratch_gpt.loss import next_token_loss

pytestmark = pytest.mark.usefixtures("one_thread")

TORCH_NAMES = {
    # types and containers
    *("torch.Tensor", "torch.Generator", "torch.device", "torch.no_grad"),
    "torch.is_grad_enabled",
    *("torch.bool", "torch.float32", "torch.int32", "torch.int64"),
    *("torch.nn", "torch.nn.Module", "torch.nn.ModuleList", "torch.nn.Parameter", "torch.dtype"),
    # derivatives written by hand, and the engine that fuses formulas
    *("torch.autograd.Function", "torch.autograd.function.FunctionCtx"),
    *("torch.autograd.function.once_differentiable", "torch.compile"),
    # making and joining
    *("torch.arange", "torch.cat", "torch.empty", "torch.ones", "torch.rand_like"),
    *("torch.split", "torch.tensor"),
    # elementwise mathematics and products
    *("torch.addmm", "torch.baddbmm", "torch.bmm", "torch.exp", "torch.mm", "torch.rsqrt"),
    "torch.tanh",
    "torch.var_mean",
    "torch.sqrt",
    *("torch.add", "torch.addcmul", "torch.div", "torch.minimum", "torch.mul", "torch.sub"),
    # a checkpoint's bytes, and whether its numbers are finite
    *("torch.bfloat16", "torch.float16", "torch.uint8"),
    *("torch.aminmax", "torch.equal", "torch.isfinite"),
    # a kernel's device, the type of its sums, and the seed of its dropout
    *("torch.cuda", "torch.cuda.device_of", "torch.cuda.is_available", "torch.float64"),
    "torch.randint",
    # training: the engine of derivatives, of several processes, and what makes a run repeatable
    *("torch.func", "torch.func.functional_call", "torch.nn.parallel.DistributedDataParallel"),
    *("torch.distributed", "torch.distributed.init_process_group"),
    *("torch.distributed.group", "torch.distributed.group.WORLD"),
    *("torch.cuda.device_count", "torch.cuda.set_device"),
    *("torch.distributed.all_reduce", "torch.distributed.broadcast_object_list"),
    *("torch.distributed.group", "torch.distributed.group.WORLD"),
    *("torch.distributed.destroy_process_group", "torch.manual_seed"),
    *("torch.random", "torch.random.fork_rng", "torch.utils", "torch.utils.deterministic"),
    *("torch.use_deterministic_algorithms", "torch.are_deterministic_algorithms_enabled"),
    "torch.is_deterministic_algorithms_warn_only_enabled",
    *("torch.get_num_threads", "torch.set_num_threads", "torch.__version__", "torch.backends"),
    *("torch.backends.cpu", "torch.backends.cpu.get_cpu_capability"),
    # the second library of matrix products
    *(
        "torch.backends.mkldnn",
        "torch.backends.mkldnn.enabled",
        "torch.compiler",
        "torch.compiler.is_compiling",
    ),
    *("torch.ops", "torch.ops.mkldnn"),
    "torch.where",
}
"""Every name of torch that the model may use; each is an array operation or a container."""

TRITON_NAMES = {
    *("triton.jit", "triton.language", "triton.JITFunction", "triton.__version__"),
    # a kernel's place in the grid, its sizes, its types
    *("triton.language.program_id", "triton.language.num_programs", "triton.language.constexpr"),
    *("triton.language.tensor", "triton.language.tuple", "triton.language.int64"),
    # reading, writing, making
    *("triton.language.load", "triton.language.store", "triton.language.arange"),
    *("triton.language.full", "triton.language.rand"),
    # elementwise mathematics, reductions and products
    *("triton.language.exp", "triton.language.log", "triton.language.where"),
    *("triton.language.maximum", "triton.language.minimum", "triton.language.cdiv"),
    *("triton.language.max", "triton.language.sum", "triton.language.trans"),
    "triton.language.dot",
}
"""Every name of Triton that the kernels may use: its softmax is not among them."""

TENSOR_ATTRIBUTES = {
    # what a tensor is
    *("device", "dtype", "element_size", "ndim", "numel", "shape", "T", "tolist"),
    # the same numbers in another shape, place or type
    *("chunk", "flatten", "gather", "long", "nonzero", "reshape", "squeeze", "transpose"),
    *("detach", "new_empty", "new_full", "new_zeros", "repeat_interleave", "roll", "scatter_"),
    *("to", "view_as", "expand", "stride"),
    # elementwise mathematics and reductions
    *("amax", "any", "exp_", "log", "masked_fill", "masked_fill_", "mean", "sum"),
    *("add_", "exp2_", "log2", "log_", "mul_", "rsqrt_", "sigmoid_", "sub_", "triu_"),
    # the next token: sums from one end, an order, the largest, windows of a text
    *("all", "argmax", "cumsum", "scatter", "scatter_add_", "sort", "topk", "unbind", "unfold"),
    # a step of the optimizer, in place, and what it may be made of
    *("addcdiv_", "addcmul_", "copy_", "div_", "lerp_"),
    *("data_ptr", "grad", "is_contiguous", "is_sparse"),
    # initial values
    *("fill_", "normal_"),
    # the engine of derivatives
    *("backward", "requires_grad"),
    # a checkpoint's bytes, to be digested, and its numbers in the model's type
    *("contiguous", "float", "is_floating_point", "nbytes", "numpy", "view"),
    # attributes of other objects with the same spelling: a dataclass field's name, a device's
    # type, an error's parts, a dictionary's values, a text's words, a path (torch 2.6 renames
    # axes), a tile's size
    *("name", "type", "fix", "where", "values", "split", "rename", "tile"),
}
"""Every attribute of a tensor that the model may use, on any object."""

FORBIDDEN_OPERATIONS = (
    *("softmax", "layer_norm", "gelu", "dropout", "bernoulli", "embedding", "cross_entropy"),
    *("nll_loss", "attention"),
)
"""Parts of the names of forbidden aten operations; dropout decomposes to bernoulli."""


def imported(tree: ast.AST) -> dict[str, str]:
    """Return the full name of whatever each import binds, by the name it is bound to."""
    meanings = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                meanings[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                meanings[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return meanings


def forbidden_names(source: str) -> set[str]:
    """Return the names of torch and the attributes of tensors that `source` may not use."""
    tree = ast.parse(source)
    meanings = imported(tree)
    names, attributes = set(meanings.values()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *others = ast.unparse(node).split(".")
            if first in meanings and all(map(str.isidentifier, others)):
                names.add(".".join([meanings[first], *others]))
            elif hasattr(Tensor, node.attr) and not node.attr.startswith("__"):
                attributes.add(node.attr)
    known = {name for name in names if name.startswith(("torch.", "triton."))}
    return (known - TORCH_NAMES - TRITON_NAMES) | (attributes - TENSOR_ATTRIBUTES)


def test_the_source_uses_allowed_names_only(home_of: Callable) -> None:
    home = home_of("scratch_gpt")
    sources = sorted(home.rglob("*.py"))
    assert home / "model.py" in sources
    found = {path: forbidden_names(path.read_text(encoding="utf-8")) for path in sources}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from torch import nn\nlayer = nn.Linear(2, 3)", "torch.nn.Linear"),
        ("import torch.nn.functional as F\ny = F.gelu(x)", "torch.nn.functional.gelu"),
        ("from torch.nn.functional import gelu as f\ny = f(x)", "torch.nn.functional.gelu"),
        ("from torch.nn import *", "torch.nn.*"),
        ("import torch\ny = torch.softmax(x, -1)", "torch.softmax"),
        ("import torch as math\ny = math.log_softmax(x, -1)", "torch.log_softmax"),
        ("from torch import Tensor\ny = Tensor.softmax(x, -1)", "torch.Tensor.softmax"),
        (
            "def f():\n    import torch\n    return torch.ops.aten._softmax(x, -1, False)",
            "torch.ops.aten._softmax",
        ),
        ("import triton.language as tl\ny = tl.softmax(x)", "triton.language.softmax"),
        ("y = x.softmax(-1)", "softmax"),
        ("y = (x + 1).log_softmax(-1)", "log_softmax"),
        ("f = rows[0].bernoulli_", "bernoulli_"),
    ],
    ids=lambda value: value.splitlines()[-1] if "\n" in value else None,
)
def test_an_injected_use_is_found_in_the_source(source: str, name: str) -> None:
    assert name in forbidden_names(source)


def operations_of_a_step(recorded: Callable, backend: str, *, training: bool) -> set[str]:
    config = GPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3)
    model = GPT(config, backend=backend).train(training)
    token_ids = torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]])
    mask = torch.tensor([[False, True, True, True, True], [True] * 5])
    with recorded() as operations:
        next_token_loss(model(token_ids, attention_mask=mask), token_ids).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad)
    return {name for name, _ in operations.ran}


def forbidden(operations: set[str]) -> set[str]:
    return {name for name in operations if any(part in name for part in FORBIDDEN_OPERATIONS)}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize(
    ("backend", "activation"),
    [
        ("plain", {"tanh", "tanh_backward"}),
        ("tiled", {"sigmoid_", "exp2_"}),
        ("fused", {"sigmoid_", "exp2_"}),
    ],
)
def test_no_ready_made_operation_runs(
    backend: str, activation: set[str], *, training: bool, recorded: Callable
) -> None:
    ran = operations_of_a_step(recorded, backend, training=training)
    assert not forbidden(ran)
    assert activation | {"sub_"} <= ran


def test_an_injected_kernel_is_found(recorded: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(query: Tensor, key: Tensor, value: Tensor, *_others: object) -> Tensor:
        return torch.softmax(query @ key.transpose(-2, -1), -1) @ value

    monkeypatch.setitem(BACKENDS, "ready-made", replace(BACKENDS["tiled"], attention=attention))
    expected = {"_softmax", "_softmax_backward_data"}
    assert expected == forbidden(operations_of_a_step(recorded, "ready-made", training=False))


def operations_of_a_generation(recorded: Callable) -> set[str]:
    config = GPTConfig(vocab_size=37, n_positions=7, n_embd=21, n_layer=2, n_head=3)
    model, token_ids = GPT(config), torch.tensor([[3, 36, 0], [12, 5, 21]])
    rules = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.2}
    rules |= {"sampled": True, "no_repeat_ngram_size": 2}
    with recorded() as operations:
        model.generate(token_ids, max_new_tokens=6, overflow="slide", **rules)
        model.generate(token_ids, max_new_tokens=3, beams=3)
    return {name for name, _ in operations.ran}


def test_generation_runs_nothing_ready_made(recorded: Callable) -> None:
    ran = operations_of_a_generation(recorded)
    assert not forbidden(ran)
    assert {"var_mean", "exp2_", "sigmoid_", "cumsum", "sort"} <= ran
    assert ran & {"addmm", "_linear_pointwise"}


def test_a_fault_injected_in_a_step_is_found_in_what_runs(
    recorded: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def activate(step: Step) -> None:
        step.buffers.gate.copy_(functional.gelu(step.buffers.hidden, approximate="tanh"))

    monkeypatch.setattr(Step, "_activate", activate)
    assert forbidden(operations_of_a_generation(recorded)) == {"gelu"}


READY_MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "layer_norm": lambda x: functional.layer_norm(x, (4,)),
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "dropout": lambda x: functional.dropout(x, 0.5),
    "embedding": lambda x: functional.embedding(torch.tensor([1]), x[0]),
    "cross-entropy": lambda x: functional.nll_loss(x[0], torch.tensor([1, 2, 3])),
    "attention": lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None]),
}


@pytest.mark.parametrize("name", READY_MADE)
def test_each_ready_made_operation_is_found(name: str, recorded: Callable) -> None:
    with recorded() as operations:
        READY_MADE[name](torch.ones(2, 3, 4))
    assert forbidden({name for name, _ in operations.ran})
