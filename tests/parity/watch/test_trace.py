"""Watching: every operation is seen where it is written, and no bit of the result changes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.watch import Trace, fetch, watch
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
    return [event for event in trace.events if event.operation == operation]


def test_no_bit_changes_and_every_operation_is_recorded() -> None:
    model, x = Small().eval(), random(2, 3, 6)
    plain = model(x).detach()
    trace = watch(model, lambda: model(x))
    assert torch.equal(trace.result, plain)
    (product,) = events(trace, "addmm")
    assert (product.module, product.leaves) == ("inner", ("inner.bias", "inner.weight"))
    (activation,) = events(trace, "gelu")
    assert activation.module == ""
    assert activation.site.split("/")[-1].startswith("test_trace.py:")
    last = trace.events[-1]
    assert (last.operation, last.leaves) == ("mul", ("scale",))
    assert last.inputs == (activation.number,)
    assert last.fingerprint == fingerprint_of(plain)


def test_a_tensor_written_through_a_view_is_recorded_anew() -> None:
    model, x = Small().eval(), random(2, 3, 6)
    before = model.inner(x).detach()
    trace = watch(model, lambda: model(x))
    (activation,) = events(trace, "gelu")
    assert [trace.events[n].fingerprint for n in activation.inputs] == [
        fingerprint_of(torch.cat([before[:, :1], before[:, 1:] + 1.0], 1))
    ]


def test_wanted_tensors_are_fetched_in_a_second_run() -> None:
    model, x = Small().eval(), random(2, 3, 6)
    trace = watch(model, lambda: model(x))
    numbers = {event.number for event in trace.events}
    tensors = fetch(model, lambda: model(x), numbers)
    assert set(tensors) == numbers
    assert all(fingerprint_of(tensors[e.number]) == e.fingerprint for e in trace.events)


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
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    model = nn.ModuleDict({"inner": scripted})
    with pytest.raises(TypeError, match="inner is scripted: its operations cannot be watched"):
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
