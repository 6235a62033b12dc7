"""Products by oneDNN: the numbers, the gradients, and where it is used."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratch_gpt import GPT
from scratch_gpt.config import GPTConfig
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.kernels import onednn
from scratch_gpt.kernels.fused_ops import fused_head, fused_linear
from scratch_gpt.linear import linear
from scratch_gpt.loss import next_token_loss

needs_onednn = pytest.mark.skipif(
    not onednn.suits(torch.zeros(1, dtype=torch.float32)),
    reason="not run: no oneDNN, or no AVX-512",
)
SIZES = [(1, 7, 13), (2, 1, 1), (5, 7, 3), (17, 64, 31), (128, 96, 257)]
"""Rows, fan in, fan out."""


@pytest.fixture
def drawn() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float32)


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def either_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def near(actual: Tensor, expected: Tensor) -> None:
    """Require float32 rounding of a sum of at most some hundred numbers."""
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("either_library")
def test_a_record_has_the_library() -> None:
    used = onednn.processor()
    assert ("without oneDNN" in used) is not torch.backends.mkldnn.enabled
    assert used.startswith(torch.backends.cpu.get_cpu_capability())


@needs_onednn
@pytest.mark.parametrize(("rows", "fan_in", "fan_out"), SIZES)
def test_it_is_the_product(
    rows: int, fan_in: int, fan_out: int, drawn: Callable[..., Tensor]
) -> None:
    x, weight, bias = drawn(rows, fan_in), drawn(fan_in, fan_out), drawn(fan_out)
    expected = x.double() @ weight.double()
    near(onednn.product(x, weight), expected)
    near(onednn.product(x, weight, bias), expected + bias)
    near(onednn.product(x, weight.T.contiguous().T), expected)
    near(onednn.product(x.T.contiguous().T, weight), expected)
    apart = torch.stack([x, drawn(rows, fan_in)], dim=2)[..., 0]
    near(onednn.product(apart, weight), expected)


@pytest.mark.usefixtures("either_library")
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (2, 3, 5)], ids=str)
def test_a_fused_linear_layer_and_its_gradients(
    leading: tuple[int, ...], *, with_residual: bool, drawn: Callable[..., Tensor]
) -> None:
    x, weight, bias, residual = drawn(*leading, 7), drawn(7, 13), drawn(13), drawn(*leading, 13)
    upstream = drawn(*leading, 13)
    results = []
    for function, dtype in ((fused_linear, torch.float32), (linear, torch.float64)):
        given = [t.to(dtype, copy=True).requires_grad_() for t in (x, weight, bias, residual)]
        made = function(*(given if with_residual else given[:3]))
        made.backward(upstream.to(dtype))
        results.append((made.detach(), *(t.grad for t in given[: 3 + with_residual])))
        with torch.no_grad():
            assert torch.equal(made, function(*(given if with_residual else given[:3])))
    for ours, expected in zip(*results, strict=True):
        near(ours, expected)  # type: ignore[arg-type]


@pytest.mark.usefixtures("either_library")
def test_an_upstream_of_one_number_is_a_gradient(drawn: Callable[..., Tensor]) -> None:
    """That of a sum has strides of 0."""
    x, weight, bias = (t.requires_grad_() for t in (drawn(5, 7), drawn(7, 13), drawn(13)))
    fused_linear(x, weight, bias).sum().backward()
    ones = torch.ones(5, 13)
    for found, expected in ((x, ones @ weight.T), (weight, x.T @ ones), (bias, ones.sum(0))):
        near(found.grad, expected.detach())  # type: ignore[arg-type]


@needs_onednn
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_factor_costs_no_product(
    frozen: int, drawn: Callable[..., Tensor], recorded: Callable[[], object]
) -> None:
    given = [drawn(5, 7), drawn(7, 13), drawn(13)]
    for place, tensor in enumerate(given):
        tensor.requires_grad_(place != frozen)
    made = fused_linear(*given)
    with recorded() as operations:  # type: ignore[attr-defined]
        made.backward(drawn(5, 13))
    ran = [name for name, _ in operations.ran]
    assert ran.count("_linear_pointwise") == (2 if frozen == 2 else 1)
    assert given[frozen].grad is None
    table = drawn(37, 7).requires_grad_()
    made = fused_head(given[0].detach()[None], table)
    with recorded() as operations:  # type: ignore[attr-defined]
        made.backward(drawn(1, 5, 37))
    assert [name for name, _ in operations.ran].count("_linear_pointwise") == 1


@pytest.mark.usefixtures("either_library")
def test_the_head_and_its_gradients(drawn: Callable[..., Tensor]) -> None:
    x, table, upstream = drawn(2, 5, 7), drawn(37, 7), drawn(2, 5, 37)
    results = []
    for dtype in (torch.float32, torch.float64):
        given = [t.to(dtype, copy=True).requires_grad_() for t in (x, table)]
        made = fused_head(*given) if dtype is torch.float32 else given[0] @ given[1].T
        made.backward(upstream.to(dtype))
        results.append((made.detach(), *(t.grad for t in given)))
    for ours, expected in zip(*results, strict=True):
        near(ours, expected)  # type: ignore[arg-type]


CONFIG = GPTConfig(vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=3)


@pytest.fixture
def products(recorded: Callable[[], object]) -> Callable[[Callable[[], object]], set[str]]:
    """Returns the products that a function runs."""

    def names(run: Callable[[], object]) -> set[str]:
        with recorded() as operations:  # type: ignore[attr-defined]
            run()
        return {name for name, _ in operations.ran} & {"_linear_pointwise", "addmm", "mm", "bmm"}

    return names


@needs_onednn
def test_what_uses_it(
    products: Callable[[Callable[[], object]], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(0, 61, (3, 9))
    model = GPT(CONFIG, backend="fused").eval().float()
    step = Decoder(model, batch=3)
    step.start(ids)

    def train() -> None:
        next_token_loss(model(ids), ids).backward()

    only = {"_linear_pointwise", "bmm"}  # attention's products are batches
    assert products(train) == only
    assert products(torch.no_grad()(lambda: model(ids))) == only
    assert products(lambda: step.step(ids[:, 0])) == only
    assert "_linear_pointwise" not in products(lambda: model.with_backend("plain")(ids))
    assert "_linear_pointwise" not in products(lambda: model.double()(ids))
    model.float()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert "_linear_pointwise" not in products(train)


def test_it_suits_no_other_type_and_no_other_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert not onednn.suits(torch.zeros(1, dtype=torch.float32), torch.zeros(1, dtype=dtype))
    assert not onednn.suits(torch.zeros(1, device="meta", dtype=torch.float32))
    monkeypatch.setattr(onednn, "_FITS", False)
    assert not onednn.suits(torch.zeros(1, dtype=torch.float32))
