"""A model as a folder: there and back, and into Hugging Face's loaders."""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.checkpoint import checkpoint, safetensors
from scratch_gpt.checkpoint.checkpoint import other_weight_files
from scratch_gpt.errors import CheckpointError, EmptyCheckpointError, OccupiedError, WriteError


@pytest.fixture
def saved(config: GPTConfig, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    GPT(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def parameters(model: GPT) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def error_of(folder: Path | str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        GPT.from_pretrained(folder)
    return caught.value


def test_comes_back_bit_for_bit(config: GPTConfig, tmp_path: Path) -> None:
    model = GPT(config)
    with torch.no_grad():
        model.h[0].ln_1.bias[:3] = torch.tensor([-0.0, 1e-45, 3.4e38])
    model.save_pretrained(tmp_path)
    back = GPT.from_pretrained(str(tmp_path), backend="tiled")
    assert (config, "tiled", False) == (back.config, back.backend, back.training)
    expected, actual = parameters(model), parameters(back)
    assert list(expected) == list(actual)
    for name, tensor in expected.items():
        assert torch.equal(tensor.view(torch.int32), actual[name].view(torch.int32)), name
    assert all(parameter.requires_grad for parameter in back.parameters())


def test_a_model_of_twelve_blocks_has_146_tensors(config: GPTConfig, tmp_path: Path) -> None:
    model = GPT(dataclasses.replace(config, n_layer=12))
    model.save_pretrained(tmp_path)
    expected = {"transformer." + name for name in parameters(model)}
    found = safetensors.read_safetensors(tmp_path / "model.safetensors")
    assert (expected, {"format": "pt"}) == (set(found.tensors), found.metadata)
    assert len(expected) == len(parameters(GPT.from_pretrained(tmp_path))) == 146


def test_the_way_there_and_back_ends(saved: Path, tmp_path: Path) -> None:
    GPT.from_pretrained(saved).save_pretrained(tmp_path / "again")
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (saved, tmp_path / "again")
    ]
    assert digests[0] == digests[1]
    assert {"config.json", "model.safetensors"} == {checkpoint.CONFIG, checkpoint.WEIGHTS}
    assert set(digests[0]) == {checkpoint.CONFIG, checkpoint.WEIGHTS}


def test_no_weights_are_drawn(saved: Path, recorded: Callable[[], TorchDispatchMode]) -> None:
    """The model is built without values: no initial weights, no second copy."""
    with recorded() as operations:
        GPT.from_pretrained(saved)
    names = {name for name, _ in operations.ran}
    assert "empty" in names
    assert not names & {"normal_", "fill_", "copy_", "clone", "_to_copy"}


def test_the_config_says_what_the_model_is(config: GPTConfig, saved: Path) -> None:
    fields = json.loads((saved / "config.json").read_text("utf-8"))
    assert fields.pop("architectures") == ["OpenAIGPTLMHeadModel"]
    assert fields.pop("dtype") == "float32"
    assert config.to_huggingface() == fields


@pytest.mark.reference
@pytest.mark.parametrize("loader", ["AutoModelForCausalLM", "OpenAIGPTLMHeadModel"])
def test_hugging_face_loads_it(loader: str, saved: Path, token_ids: Tensor) -> None:
    import transformers

    theirs, info = getattr(transformers, loader).from_pretrained(
        saved, output_loading_info=True, local_files_only=True
    )
    assert isinstance(theirs, transformers.OpenAIGPTLMHeadModel)
    assert {name: found for name, found in info.items() if found} == {}
    ours = GPT.from_pretrained(saved, backend="plain")
    with torch.no_grad():
        expected, actual = theirs.eval().double()(token_ids).logits, ours.double()(token_ids)
    assert float((expected - actual).abs().amax()) < 1e-12
    assert float(actual.abs().amax()) > 1e-3


@pytest.mark.reference
def test_what_hugging_face_saves_is_loaded(config: GPTConfig, saved: Path, tmp_path: Path) -> None:
    from transformers import OpenAIGPTLMHeadModel

    from reference.compat import dtype_keyword

    theirs = OpenAIGPTLMHeadModel.from_pretrained(saved, **dtype_keyword(torch.float32))
    theirs.save_pretrained(tmp_path / "theirs")
    back = GPT.from_pretrained(tmp_path / "theirs")
    assert config == back.config
    expected = parameters(GPT.from_pretrained(saved))
    assert all(torch.equal(expected[n], tensor) for n, tensor in parameters(back).items())


def test_the_released_files_form_is_loaded(saved: Path) -> None:
    """Names without a prefix, masks among the weights, the head as a second copy."""
    expected = parameters(GPT.from_pretrained(saved))

    def as_released(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for index in range(2):
            tensors[f"h.{index}.attn.bias"] = torch.ones(11, 11).tril().view(1, 1, 11, 11)
        tensors["position_ids"] = torch.arange(11)
        tensors["lm_head.weight"] = tensors["tokens_embed.weight"].clone()

    rewrite(saved, as_released)
    actual = parameters(GPT.from_pretrained(saved))
    assert set(expected) == set(actual)
    assert all(torch.equal(expected[name], tensor) for name, tensor in actual.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    """Every finite number of that precision, denormals and negative zero among them."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    every = every[every.isfinite()]
    width = {torch.float16: 992 // 4, torch.bfloat16: 255}[dtype]
    shape = GPTConfig(
        vocab_size=every.numel() // width, n_positions=2, n_embd=width, n_layer=1, n_head=1
    )
    GPT(shape).save_pretrained(tmp_path)
    kept = every[: shape.vocab_size * width].reshape(shape.vocab_size, width)
    rewrite(tmp_path, lambda tensors: tensors.update({"transformer.tokens_embed.weight": kept}))
    weights = parameters(GPT.from_pretrained(tmp_path))
    assert {torch.float32} == {tensor.dtype for tensor in weights.values()}
    widened = weights["tokens_embed.weight"]
    assert torch.equal(kept.view(torch.int16), widened.to(dtype).view(torch.int16))
    assert torch.equal(kept.double(), widened.double())


def test_saving_over_a_model_keeps_the_users_files(saved: Path, config: GPTConfig) -> None:
    (saved / "vocab.json").write_text("{}", "utf-8")
    model = GPT(config)
    model.save_pretrained(saved)
    assert (saved / "vocab.json").read_text("utf-8") == "{}"
    back = parameters(GPT.from_pretrained(saved))
    assert all(torch.equal(back[name], tensor) for name, tensor in parameters(model).items())


def test_nothing_is_overwritten_where_that_is_asked(saved: Path, config: GPTConfig) -> None:
    before = (saved / "model.safetensors").read_bytes()
    with pytest.raises(OccupiedError, match=r"^the folder is not empty"):
        checkpoint.save_pretrained(GPT(config), saved, overwrite=False)
    assert before == (saved / "model.safetensors").read_bytes()


def test_a_full_disk_leaves_the_old_model(saved: Path) -> None:
    model = GPT.from_pretrained(saved)
    before = (saved / "model.safetensors").read_bytes()
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
    try:
        with pytest.raises(WriteError) as caught:
            model.save_pretrained(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.what == "the file would be larger than is allowed"
    assert os.strerror(errno.EFBIG) in str(caught.value.__cause__)
    assert before == (saved / "model.safetensors").read_bytes()
    assert [saved] == list(saved.parent.iterdir())


def resized(model: GPT) -> None:
    table = model.tokens_embed.weight.detach()
    model.tokens_embed.weight = nn.Parameter(torch.cat([table, table[:1]]))


def shared(model: GPT) -> None:
    model.h[1] = model.h[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.double(), "tokens_embed.weight must be float32 .*got torch.float64"),
        (lambda model: model.half(), "tokens_embed.weight must be float32 .*got torch.float16"),
        (lambda model: model.h[1].ln_2.bias.data.fill_(float("nan")), "h.1.ln_2.bias .* in 21 of"),
        (resized, "not the one its config describes"),
        (lambda model: setattr(model, "extra", nn.Linear(2, 2)), "not the one its config"),
        (shared, "share memory"),
    ],
    ids=["float64", "float16", "NaN", "resized", "extended", "shared"],
)
def test_a_model_that_could_not_be_loaded_back_is_not_saved(
    spoil: Callable[[GPT], object], message: str, saved: Path
) -> None:
    before = (saved / "model.safetensors").read_bytes()
    model = GPT.from_pretrained(saved)
    spoil(model)
    errors = (ValueError, RuntimeError) if spoil is shared else ValueError
    with pytest.raises(errors, match=message):
        model.save_pretrained(saved)
    assert before == (saved / "model.safetensors").read_bytes()


def test_a_weight_in_another_layout_is_saved_as_it_reads(config: GPTConfig, tmp_path: Path) -> None:
    model = GPT(config)
    weight = model.h[0].attn.c_proj.weight
    weight.data = weight.data.T.contiguous().T
    model.save_pretrained(tmp_path)
    back = GPT.from_pretrained(tmp_path)
    assert torch.equal(weight, back.h[0].attn.c_proj.weight)


CONFIGS = {
    "empty": (b"", "Expecting value"),
    "not JSON": (b"{n_layer: 2}", "Expecting property name"),
    "not UTF-8": (b'{"afn": "\xff"}', "can't decode byte 0xff"),
    "a list": (b"[1]", "it is not a JSON object"),
    "nothing in it": (b"{}", "it gives none of vocab_size, n_positions, n_embd, n_layer, n_head"),
    "too large": (b'{"afn": "' + 1_000_000 * b"x" + b'"}', "it has more than 1000000 bytes"),
    "nested": (100_000 * b'{"a":', "it is nested too deeply"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_refuses_what_is_no_config(fault: str, saved: Path) -> None:
    text, message = CONFIGS[fault]
    (saved / "config.json").write_bytes(text)
    error = error_of(saved)
    assert message in error.what
    assert error.where == str(saved / "config.json")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_head", "NaN", "NaN is not JSON"),
        ("n_head", "2", "n_embd must be a multiple of n_head, got 21 and 2"),
        ("n_head", "1e400", "the number '1e400' is too large"),
        ("n_head", '3, "n_head": 3', "the key 'n_head' occurs twice"),
        ("n_layer", "0", "n_layer must be a whole number of at least 1, got 0"),
        ("n_layer", "1000000000", "n_layer=1000000000 is implausible; the limit is 833"),
        ("vocab_size", "1" + 40 * "0", "is implausible; the limit is 16777216"),
        ("afn", '"relu"', "afn must be 'gelu'"),
    ],
)
def test_refuses_another_models_config(field: str, value: str, message: str, saved: Path) -> None:
    path = saved / "config.json"
    others = json.loads(path.read_text("utf-8"))
    others.pop(field, None)
    path.write_text(json.dumps(others)[:-1] + f', "{field}": {value}}}', "utf-8")
    error = error_of(saved)
    assert message in error.what
    assert error.what.isprintable()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_refuses_a_folder_that_lacks_a_file(name: str, saved: Path) -> None:
    (saved / name).unlink()
    error = error_of(saved)
    assert ("there is no such file", str(saved / name)) == (error.what, error.where)


def test_refuses_weights_that_are_not_the_configs(saved: Path) -> None:
    path = saved / "config.json"
    text = path.read_text("utf-8")
    path.write_text(text.replace('"n_layer": 2', '"n_layer": 3'), "utf-8")
    assert "12 missing: 'h.2.attn.c_attn." in error_of(saved).what
    path.write_text(text.replace('"vocab_size": 37', '"vocab_size": 38'), "utf-8")
    assert "'tokens_embed.weight' is [37, 21], expected [38, 21]" in error_of(saved).what


def test_what_is_ignored_or_left_out_is_logged(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = GPT.from_pretrained(saved)
    assert caplog.messages == []
    path = saved / "config.json"
    fields = json.loads(path.read_text("utf-8")) | {"n\x1b[31m": 1, "model_type": "gpt2"}
    path.write_text(json.dumps(fields), "utf-8")
    rewrite(saved, lambda tensors: tensors.update({"score.weight": torch.ones(2, 21)}))
    model = GPT.from_pretrained(saved)
    assert all(map(torch.equal, parameters(expected).values(), parameters(model).values()))
    where = f"{saved / 'model.safetensors'}: "
    assert [message.removeprefix(where) for message in caplog.messages] == [
        "'score.weight': another head, not checked",
        r"config.json: model_type='gpt2' (the tensors are a GPT-1's), n\x1b[31m ignored",
    ]


def test_refuses_an_unsound_weight_file(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors["transformer.h.0.ln_1.bias"].fill_(float("inf")))
    assert "'transformer.h.0.ln_1.bias' holds NaN or infinity in 21 of 21" in error_of(saved).what
    save_file({}, saved / "model.safetensors")
    assert isinstance(error_of(saved), EmptyCheckpointError)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("openai-gpt", "openai-gpt@REVISION"),
        ("openai-gpt@main", "openai-gpt@main"),
        ("owner/name", "owner/name@REVISION"),
        ("owner/name@1f2e3d", "owner/name@1f2e3d"),
    ],
)
def test_a_name_on_the_hub_is_not_downloaded(
    name: str, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="nothing is downloaded here") as caught:
        GPT.from_pretrained(name)
    assert f'parity.load_pretrained("{named}")' in caught.value.fix


def test_a_folder_with_a_name_of_the_hub_is_a_folder(
    saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    saved.rename("openai-gpt")
    assert GPT.from_pretrained("openai-gpt").config.n_layer == 2
    for path in ("weights", "./owner/name", "/owner/name", "../owner/name", "a/b/c"):
        assert "there is no such file" in error_of(path).what


def test_an_unknown_backend_is_rejected(saved: Path) -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        GPT.from_pretrained(saved, backend="flash")


def test_weights_of_another_form_are_not_joined(saved: Path) -> None:
    model = GPT.from_pretrained(saved)
    (saved / "params_0.npy").write_bytes(b"x")
    with pytest.raises(OccupiedError, match="beside the new ones: params_0"):
        model.save_pretrained(saved)


# Other weights in a folder.


@pytest.mark.parametrize(
    "name",
    [
        *("model-00001-of-00002.safetensors", "pytorch_model.bin", "x.PT", "params_3.npy"),
        *("PARAMS_3.NPY", "tf_model.h5", "rust_model.ot", "flax_model.msgpack", "a.npz"),
        *("params_shapes.json", ".metadata", "model.safetensors.index.json"),
    ],
)
def test_weights_are_found(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert other_weight_files(tmp_path, ()) == [name]
    assert other_weight_files(tmp_path, {name}) == []


def test_other_files_and_a_missing_folder_are_no_weights(tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "merges.txt", "README.md", "npy"):
        (tmp_path / name).touch()
    assert other_weight_files(tmp_path, ()) == []
    assert other_weight_files(tmp_path / "nothing", ()) == []
