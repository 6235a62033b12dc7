"""Watching: every operation is seen where it is written, and no bit of the result changes."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.errors import InconclusiveError
from parity.watch import Trace, replay, watch
from parity.watch.fingerprint import fingerprint_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6).double()
        self.register_buffer("scale", random(6))
        self.closure = lambda x: functional.gelu(x) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        made = self.inner(x)
        made[:, 1:] += 1.0  # the line that writes
        return self.closure(made)


def events(trace: Trace, operation: str) -> list:
    return [event for event in trace.events if event.kernel == operation]


def test_no_bit_changes_and_every_operation_is_recorded() -> None:
    model, x = Small().eval(), random(2, 3, 6)
    plain = model(x).detach()
    trace = watch(model, lambda: model(x))
    assert torch.equal(trace.result, plain)
    (product,) = events(trace, "addmm")
    assert (product.module, product.leaves) == ("inner", ("inner.bias", "inner.weight"))
    (activation,) = events(trace, "gelu")
    assert (activation.module, activation.operation) == ("", "torch.nn.functional.gelu")
    assert activation.site.split("/")[-1].startswith("test_trace.py:")
    last = trace.events[-1]
    assert (last.kernel, last.leaves) == ("mul", ("scale",))
    assert last.inputs == (activation.number,)
    assert last.fingerprint == fingerprint_of(plain)


def test_a_tensor_written_through_a_view_is_recorded_anew() -> None:
    model, x = Small().eval(), random(2, 3, 6)
    before = model.inner(x).detach()
    trace = watch(model, lambda: model(x))
    (activation,) = events(trace, "gelu")
    made = {event.number: event.fingerprint for event in trace.events}
    assert [made[number] for number in activation.inputs] == [
        fingerprint_of(torch.cat([before[:, :1], before[:, 1:] + 1.0], 1))
    ]


def test_a_second_run_has_the_same_events() -> None:
    model, x = Small().eval(), random(2, 3, 6)
    trace = watch(model, lambda: model(x))
    seen = {}
    replay(model, lambda: model(x), lambda n, tensor: seen.update({n: fingerprint_of(tensor)}))
    assert seen == {event.number: event.fingerprint for event in trace.events}


def test_conversions_do_not_change_the_numbers_of_a_run_in_another_dtype() -> None:
    class Inside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2.0).float().softmax(-1).to(x.dtype).exp()

    model, x = Inside(), random(3, 4)
    numbers = {}
    for dtype in (torch.float64, torch.float32):
        trace = watch(model, lambda dtype=dtype: model(x.to(dtype)))
        numbers[dtype] = {e.kernel: e.number for e in trace.events if e.number[1] == 0}
        assert trace.made[id(trace.result)] == trace.events[-1].number
    assert numbers[torch.float64] == numbers[torch.float32]
    assert [e.narrow for e in watch(model, lambda: model(x)).events][:2] == [None, torch.float32]


def test_a_change_reaches_the_operations_behind_it() -> None:
    model, x = Small().eval(), random(2, 3, 6)
    (first,) = events(watch(model, lambda: model(x)), "addmm")

    def change(number: tuple[int, int], tensor: Tensor) -> None:
        if number == first.number:
            tensor.fill_(0.5)

    result = replay(model, lambda: model(x), change)
    assert torch.equal(result[:, 0], functional.gelu(torch.full_like(x[:, 0], 0.5)) * model.scale)
    assert not torch.equal(model(x), result)


@pytest.mark.parametrize("causal", [False, True])
def test_a_fused_attention_is_opened(*, causal: bool) -> None:
    q, k, v = (random(1, 2, 5, 4, seed=s) for s in (1, 2, 3))

    class Attention(nn.Module):
        def forward(self) -> Tensor:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    model = Attention()
    trace = watch(model, model)
    scores = q @ k.mT / 2.0
    if causal:
        scores = scores.masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
    wanted = fingerprint_of(scores.softmax(-1))
    assert any(event.fingerprint.is_like(wanted) for event in trace.events)


def test_the_fast_path_of_a_transformer_layer_is_opened() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True).double().eval()
    x = random(2, 3, 6)
    enabled = torch.backends.mha.get_fastpath_enabled()
    trace = watch(layer, lambda: layer(x))
    assert {"norm1", "linear1", "self_attn"} <= {event.module for event in trace.events}
    assert torch.backends.mha.get_fastpath_enabled() is enabled


def test_a_scripted_module_is_rejected() -> None:
    with warnings.catch_warnings(action="ignore"):  # newer ones say that it is deprecated
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    model = nn.ModuleDict({"inner": scripted})
    with pytest.raises(
        InconclusiveError, match="inner is scripted: its operations cannot be watched"
    ):
        watch(model, lambda: None)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(1, 2),
    "flat": lambda x: x.reshape(-1),
    "permuted": lambda x: x[:, torch.randperm(x.shape[1], generator=torch.Generator())],
    "heads": lambda x: x.unflatten(-1, (2, -1)).transpose(1, 2).contiguous(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_is_that_of_the_numbers_in_any_order(change: str) -> None:
    tensor = random(2, 7, 6)
    mine = fingerprint_of(tensor)
    assert mine.is_like(fingerprint_of(CHANGES[change](tensor)))
    other = tensor.clone()
    other[1, 3, 2] += 1e-3
    assert not mine.is_like(fingerprint_of(CHANGES[change](other)))


def test_masked_entries_do_not_count() -> None:
    scores = random(1, 2, 5, 5)
    visible = torch.ones(5, 5).tril().bool()
    masked = [scores.masked_fill(~visible, v) for v in (-1e4, torch.finfo(torch.float64).min)]
    assert fingerprint_of(masked[0]).is_like(fingerprint_of(masked[1]))
    changed = masked[1].clone()
    changed[0, 1, 3, 2] += 1e-3
    assert not fingerprint_of(masked[0]).is_like(fingerprint_of(changed))
