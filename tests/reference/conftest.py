"""Fixtures of the references' tests: small models, and GPT-1's tensors written out by hand."""

import contextlib
import gc
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from reference import compat, hub, huggingface, published, surrogate
from reference.hub import FetchedFolder, Hub
from reference.surrogate import Surrogate

Shapes = dict[str, tuple[int, ...]]
ShapesOf = Callable[[Mapping[str, int]], Shapes]
Arrays = list[NDArray[np.floating]]


def block_shapes(width: int) -> Shapes:
    """Return a block's tensors in the release's order."""
    return {
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "attn.c_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "mlp.c_fc.weight": (width, 4 * width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (4 * width, width),
        "mlp.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
    }


@pytest.fixture(autouse=True)
def _small(one_thread: None) -> None: ...


@pytest.fixture(scope="session")
def tiny() -> Surrogate:
    """Return the small surrogate; its arrays refuse to be written to."""
    drawn = surrogate.load("tiny")
    for array in drawn.tensors.values():
        array.flags.writeable = False
    return drawn


@pytest.fixture(scope="session")
def shapes_of() -> ShapesOf:
    def write_out(config: Mapping[str, int]) -> Shapes:
        width = config["n_embd"]
        shapes: Shapes = {
            "tokens_embed.weight": (config["vocab_size"], width),
            "positions_embed.weight": (config["n_positions"], width),
        }
        for index in range(config["n_layer"]):
            block = block_shapes(width)
            shapes |= {f"h.{index}.{name}": shape for name, shape in block.items()}
        return shapes

    return write_out


@pytest.fixture(scope="session")
def released() -> Callable[[Mapping[str, NDArray[np.floating]], int], Arrays]:
    """Return the function that lists named tensors in the release's order and form.

    Positions first, then tokens, then twelve a block, in which each matrix is a convolution of
    width one: `[1, in, out]`.
    """

    def listed(tensors: Mapping[str, NDArray[np.floating]], n_layer: int) -> Arrays:
        blocks = [tensors[f"h.{i}.{name}"] for i in range(n_layer) for name in block_shapes(1)]
        convolutions = [tensor[None] if tensor.ndim == 2 else tensor for tensor in blocks]
        return [tensors["positions_embed.weight"], tensors["tokens_embed.weight"], *convolutions]

    return listed


@pytest.fixture
def config() -> dict[str, Any]:
    """Return a tiny config in Hugging Face's names, in which no two sizes are alike."""
    return {
        "vocab_size": 37,
        "n_positions": 11,
        "n_embd": 21,
        "n_layer": 2,
        "n_head": 3,
        "afn": "gelu",
        "layer_norm_epsilon": 0.03,
        "embd_pdrop": 0.25,
        "attn_pdrop": 0.375,
        "resid_pdrop": 0.5,
    }


@pytest.fixture
def state(config: dict[str, Any], shapes_of: ShapesOf) -> dict[str, Tensor]:
    """Return weights for that config under Hugging Face's names, none of them near 0 or 1."""
    generator = torch.Generator().manual_seed(20180611)
    drawn = {}
    for name, shape in shapes_of(config).items():
        scale = 0.5 if len(shape) == 1 else shape[0] ** -0.5
        middle = 2.0 if name.endswith(("ln_1.weight", "ln_2.weight")) else 0.0
        drawn[f"transformer.{name}"] = torch.randn(shape, generator=generator) * scale + middle
    return drawn


@pytest.fixture
def build(config: dict[str, Any], state: dict[str, Tensor]) -> Callable[..., OpenAIGPTLMHeadModel]:
    def built(
        given: Mapping[str, Tensor] = state, dtype: torch.dtype = torch.float32
    ) -> OpenAIGPTLMHeadModel:
        return huggingface.build(config, given, dtype=dtype)

    return built


@pytest.fixture
def token_ids() -> Tensor:
    return torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]])


@pytest.fixture(scope="module")
def released_vocabulary() -> Path:
    """Return the folder of the released vocabulary; skip the test without it."""
    folder = os.environ.get("GPT1_VOCABULARY")
    if not folder:
        pytest.skip("not run: GPT1_VOCABULARY names no folder with the released vocabulary")
    return Path(folder)


@pytest.fixture(scope="session")
def hub_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fake_hub", Path(__file__).with_name("fake_hub.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    # An abandoned download continues in its thread, and may log after pytest has ended.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    return module


@pytest.fixture
def serve(hub_module: ModuleType) -> Iterator[Callable[..., Any]]:
    """Return the function that serves a `FakeHub` with the given attributes until the test ends."""
    with contextlib.ExitStack() as stack:
        if compat.leaves_connections_open():
            stack.enter_context(_collected_quietly())
        yield lambda **given: stack.enter_context(hub_module.served(hub_module.FakeHub(**given)))


@contextlib.contextmanager
def _collected_quietly() -> Iterator[None]:
    """Keep the collector from warning of open connections, in this test or a later one."""
    gc.disable()
    try:
        yield
    finally:
        huggingface_hub.utils.reset_sessions()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        gc.enable()


@pytest.fixture
def fetch(serve: Callable[..., Any], tmp_path: Path) -> Callable[..., FetchedFolder]:
    """Return the function that fetches, by default the released model, from a fake hub.

    The hub is the given one, or a new one with the other arguments as attributes.
    """

    def fetched(
        *asked: str,
        fake: Any = None,  # noqa: ANN401 - a FakeHub, whose module is loaded by its path
        offline: bool | None = None,
        cache: Path = tmp_path,
        **attributes: object,
    ) -> FetchedFolder:
        at = Hub(endpoint=(fake or serve(**attributes)).address, cache=cache)
        return hub.fetch(*(asked or published.REPOSITORIES[-1:]), offline=offline, hub=at)

    return fetched
