"""`--weights NAME`: drawn weights, the hub's, a path, or an error."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

import parity.checkpoints.weights
from parity.checkpoints import huggingface_files, load
from parity.checkpoints.load import load_weights
from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.weights import Standing, Weights, digest
from parity.errors import ExitCode, ParityError, UsageError
from reference import compat, openai_release, published
from reference.errors import RejectedError, UnavailableError
from reference.files import digest_path
from reference.hub import FetchedFolder
from scratch_gpt import GPT, GPTConfig

Listed = Sequence[NDArray[np.float32]]
COMMIT = "1e0d4f3028acbffb47fe933cea64619c5ec1a002"


class FakeHub:
    """A hub that has one folder, or an error; it keeps the requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str | None, bool | None]] = []
        self.cached, self.answers = False, True
        self.unfinished: tuple[Path, ...] = ()
        self.error: Exception | None = None

    def fetch(
        self, repository: str, revision: str | None = None, *, offline: bool | None = None
    ) -> FetchedFolder:
        self.asked.append((repository, revision, offline))
        if self.error is not None:
            raise self.error
        if offline and not self.cached:
            raise UnavailableError("not cached", where=repository, fix="go online")
        paths = {path.name: path for path in self.folder.iterdir()}
        return FetchedFolder(
            repository=repository,
            commit=revision or COMMIT,
            paths=paths,
            digests={name: digest_path(path) for name, path in paths.items()},
            from_cache=self.cached,
            unfinished=self.unfinished,
        )


@pytest.fixture
def folder(tmp_path: Path, weights: Weights) -> Path:
    """The tiny weights in the form of the published file: bare names, no head."""
    tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(weights.config)), encoding="utf-8")
    return folder


@pytest.fixture
def fake_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(folder)
    monkeypatch.setattr(load.hub, "fetch", fake.fetch)
    monkeypatch.setattr(load.hub, "reachable", lambda: fake.answers)
    monkeypatch.setattr(load.hub, "describe_cache", "{} is not in the cache".format)
    monkeypatch.setattr(load.constants, "HF_HUB_OFFLINE", False)
    return fake


@pytest.fixture
def draws_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the tiny surrogate as `surrogate`: its size is not what is tested."""
    right = load.load_surrogate
    monkeypatch.setattr(
        load, "load_surrogate", lambda _size, *rest, **named: right("tiny", *rest, **named)
    )


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder's weights the published ones."""

    def publish(folder: Path) -> None:
        digest = digest_path(folder / "model.safetensors").sha256
        monkeypatch.setitem(published.SHA256, "model.safetensors", digest)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        monkeypatch.setattr(
            parity.checkpoints.weights,
            "RELEASED",
            GPTConfig.from_huggingface(config).to_huggingface(),
        )

    return publish


def error_of(name: str) -> ParityError:
    with pytest.raises(ParityError) as caught:
        load_weights(name)
    return caught.value


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("openai-gpt", "openai-gpt", None),
        ("openai-community/openai-gpt", "openai-community/openai-gpt", None),
        ("openai-community/openai-gpt@main", "openai-community/openai-gpt", "main"),
        ("openai-gpt@refs/pr/3", "openai-gpt", "refs/pr/3"),
        ("some.body/my-gpt1", "some.body/my-gpt1", None),
        ("owner/my_gpt1@v1.0", "owner/my_gpt1", "v1.0"),
        ("owner/my_gpt1@refs/pr/1", "owner/my_gpt1", "refs/pr/1"),
    ],
)
def test_a_repository_is_fetched_at_its_revision(
    name: str,
    repository: str,
    revision: str | None,
    fake_hub: FakeHub,
    publish: Callable[[Path], None],
) -> None:
    publish(fake_hub.folder)
    found = load_weights(name).provenance
    assert fake_hub.asked == [(repository, revision, None)]
    assert found.sha256 == load_weights("tiny").provenance.sha256
    assert found.revision == (revision or COMMIT)
    assert found.source == f"{repository}, from the hub, commit {found.revision}"
    assert found.standing is Standing.KNOWN
    fake_hub.unfinished = (Path("a.incomplete"), Path("b.incomplete"))
    source = load_weights(name).provenance.source
    assert source.endswith("(2 unfinished downloads lie in the cache)")
    fake_hub.error = UnavailableError("offline", where="hub", fix="go online")
    refusal = error_of(name)
    assert (refusal.exit_code, refusal.what) == (ExitCode.ENVIRONMENT, "offline")


@pytest.mark.parametrize("change", [{"n_head": 7}, {"layer_norm_epsilon": 1e-3}], ids=str)
def test_published_bytes_with_another_config_are_not_known(
    change: dict[str, float], fake_hub: FakeHub, publish: Callable[[Path], None]
) -> None:
    publish(fake_hub.folder)
    path = fake_hub.folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(fields), encoding="utf-8")
    assert "config.json is not the released model's" in error_of("openai-gpt").what
    assert load_weights("owner/model").provenance.standing is Standing.UNKNOWN
    assert load_weights(str(fake_hub.folder)).provenance.standing is Standing.UNKNOWN


def test_bytes_under_the_released_models_name_must_be_the_published_ones(
    fake_hub: FakeHub,
) -> None:
    refusal = error_of("openai-gpt")
    assert refusal.exit_code is ExitCode.REFUSED
    assert "model.safetensors: differs from the published file" in refusal.what
    assert digest_path(fake_hub.folder / "model.safetensors").sha256 in refusal.where
    assert load_weights("owner/model").provenance.standing is Standing.UNKNOWN


@pytest.mark.usefixtures("draws_tiny")
class TestAuto:
    @pytest.mark.parametrize(("cached", "answers"), [(True, False), (False, True), (True, True)])
    def test_cached_or_to_be_had_it_is_the_released(
        self, *, cached: bool, answers: bool, fake_hub: FakeHub, publish: Callable[[Path], None]
    ) -> None:
        publish(fake_hub.folder)
        fake_hub.cached, fake_hub.answers = cached, answers
        where = "the hub's cache" if cached else "the hub"
        assert f"openai-gpt, from {where}, commit" in load_weights("auto").provenance.source

    def test_neither_cached_nor_reachable_it_is_the_surrogate(self, fake_hub: FakeHub) -> None:
        fake_hub.answers = False
        source = load_weights("auto").provenance.source
        assert "seeded random weights, not the released ones; openai-gpt is not in" in source
        assert source.endswith("the hub cannot be connected to")

    def test_offline_it_is_the_surrogate(
        self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(load.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(load.hub, "reachable", lambda: pytest.fail("was asked"))
        assert load_weights("auto").provenance.source.endswith("and HF_HUB_OFFLINE is set")
        assert fake_hub.asked == [("openai-gpt", None, True)]

    def test_any_other_trouble_is_an_error(self, fake_hub: FakeHub) -> None:
        fake_hub.error = RejectedError("cache damaged", where="blob", fix="remove it")
        assert error_of("auto").exit_code is ExitCode.REFUSED

    def test_a_hub_that_answers_and_fails_is_an_error(
        self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fetch(repository: str, _revision: str | None = None, **_: object) -> FetchedFolder:
            raise UnavailableError("the hub is ill", where=repository, fix="wait")

        monkeypatch.setattr(load.hub, "fetch", fetch)
        assert fake_hub.answers
        assert error_of("auto").exit_code is ExitCode.ENVIRONMENT


def test_a_folder_is_no_reserved_name(
    fake_hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("openai-gpt", "owner/model"):
        shutil.copytree(folder, folder.parent / "here" / name)
    monkeypatch.chdir(folder.parent / "here")
    fake_hub.error = UnavailableError("asked the hub", where="hub", fix="-")
    assert error_of("openai-gpt").what == "asked the hub"
    sources = [load_weights(name).provenance.source for name in ("owner/model", "./openai-gpt")]
    assert sources == ["Hugging Face's form, model", "Hugging Face's form, openai-gpt"]
    assert len(fake_hub.asked) == 1


@pytest.mark.parametrize("name", ["./nothing", "/nothing/at/all", "~/nothing", "a/b/c", "x.bin"])
def test_a_path_to_nothing_is_refused(name: str, tmp_path: Path) -> None:
    refusal = error_of(name)
    assert (refusal.exit_code, refusal.what) == (ExitCode.REFUSED, "there is nothing at that path")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert error_of(str(tmp_path / "link")).what == "it is a link to nothing"


@pytest.mark.parametrize("name", ["", "tinier", "Tiny", "surrogate ", "openai-gpt2", "a b/c", "@x"])
def test_another_name_stands_for_nothing(name: str) -> None:
    refusal = error_of(name)
    assert isinstance(refusal, UsageError)
    assert repr(name) in refusal.what
    known = ("auto", "surrogate", "tiny", "openai-gpt", "owner/name", "path")
    assert not [word for word in known if word not in refusal.fix]


def test_the_surrogate_is_known_in_whatever_form(folder: Path, weights: Weights) -> None:
    """Its digest is over tensors, not files."""
    found = load_weights(str(folder))
    assert found.provenance.sha256 == weights.provenance.sha256
    moved = np.nextafter(found.tensors["h.0.ln_1.bias"], np.float32(9))
    assert digest({**found.tensors, "h.0.ln_1.bias": moved}) != weights.provenance.sha256


def test_two_forms_in_one_folder_are_refused(
    folder: Path, listed: Listed, weights: Weights
) -> None:
    openai_release.write_release(folder, listed, config=dict(weights.config))
    assert "OpenAI's shards and model.safetensors" in refusal(folder).what
    assert len(load_weights(str(folder / "model.safetensors")).tensors) == 146


@pytest.mark.parametrize(
    "name", ["~nobody-of-that-name/x", f"./{300 * 'a'}", "a\0b/c", "a/b..git"], ids=ascii
)
def test_a_name_that_no_file_can_have_is_an_error_with_a_code(name: str) -> None:
    assert error_of(name).exit_code in {ExitCode.USAGE, ExitCode.REFUSED, ExitCode.ENVIRONMENT}


# OpenAI's shards.


@pytest.fixture
def listed(weights: Weights) -> Listed:
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.RELEASE)
    return list(named.values())


@pytest.fixture
def shards(tmp_path: Path, listed: Listed, weights: Weights) -> Path:
    openai_release.write_release(tmp_path, listed, config=dict(weights.config))
    return tmp_path


def refusal(folder: Path) -> ParityError:
    caught = error_of(str(folder))
    assert caught.exit_code is ExitCode.REFUSED, caught
    return caught


def test_shards_are_read_to_the_bit(
    shards: Path, weights: Weights, assert_same_bits: Callable[[Weights, Weights], None]
) -> None:
    found = load_weights(str(shards))
    assert_same_bits(found, weights)
    files = found.provenance.files
    assert {file.name for file in files} == {path.name for path in shards.iterdir()}
    assert all(len(str(file.git_blob)) == 40 for file in files)
    assert found.provenance.standing is Standing.UNKNOWN
    size = sum(array.size for array in weights.tensors.values())
    assert sum(shard.length for shard in found.shards or ()) == size


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("params_3.npy", lambda path: path.unlink(), "params_3.npy"),
        ("params_shapes.json", lambda path: path.unlink(), "params_shapes.json"),
        ("params_3.npy", lambda path: path.write_bytes(b""), "params_3.npy"),
        ("params_shapes.json", lambda path: path.write_text("[]"), "params_shapes.json"),
        ("config.json", lambda path: path.unlink(), "config.json"),
        (
            "params_3.npy",
            lambda path: np.save(path, np.load(path)[:3]),
            "the shards hold 71,445 numbers",
        ),
        (
            "params_9.npy",
            lambda path: np.save(path, np.load(path) * np.float32(np.nan)),
            "numbers that are NaN",
        ),
    ],
    ids=["shard", "shapes", "empty", "no shapes", "no heads", "short", "nan"],
)
def test_an_unsound_release_is_refused(
    file: str, change: Callable[[Path], object], words: str, shards: Path
) -> None:
    change(shards / file)
    error = refusal(shards)
    assert words in error.what + error.where


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": 11}, "n_layer"),
        ({"n_embd": 42}, "n_embd"),
        ({"n_head": 4}, "multiple of n_head"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ],
    ids=str,
)
def test_a_config_of_another_model_is_refused(
    change: dict[str, Any], words: str, shards: Path, weights: Weights
) -> None:
    text = json.dumps(dict(weights.config) | change)
    (shards / "config.json").write_text(text, encoding="utf-8")
    assert words in refusal(shards).what


@pytest.mark.parametrize("twice", [True, False])
def test_a_config_without_its_number_of_heads_is_refused(*, twice: bool, shards: Path) -> None:
    """12 heads, which transformers assumes, do not divide this width."""
    path = shards / "config.json"
    text = path.read_text(encoding="utf-8").replace('"n_head": 3,', "")
    if twice:
        text = text.replace("{", '{"n_head": 3, "n_head": 7,', 1)
    path.write_text(text, encoding="utf-8")
    assert "n_head" in refusal(shards).what


def test_blocks_in_another_order_are_other_weights(
    shards: Path, listed: Listed, weights: Weights
) -> None:
    swapped = [*listed[:2], *listed[14:26], *listed[2:14], *listed[26:]]
    openai_release.write_release(shards, swapped, config=dict(weights.config))
    found = load_weights(str(shards))
    assert np.array_equal(found.tensors["h.0.ln_1.bias"], weights.tensors["h.1.ln_1.bias"])
    assert found.provenance.sha256 != weights.provenance.sha256


def test_bare_shards_must_be_the_published_ones(
    shards: Path, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a config they claim it: other bytes are refused, the published ones known."""
    release = openai_release.read_release(shards)
    bare = openai_release.Release(
        tensors=release.tensors,
        config=None,
        files=[file for file in release.files if file.name != "config.json"],
        lengths=release.lengths,
        headers=release.headers,
    )
    monkeypatch.setattr(openai_release, "read_release", lambda _folder: bare)
    monkeypatch.setattr(load.huggingface_files, "vocabulary_notes", lambda *_: [])
    found = load.read_openai(shards, source="shards")
    assert found.fields["n_head"] == 12
    assert {file.standing for file in found.files} == {Standing.DIFFERS}
    blobs = {file.name: file.git_blob for file in bare.files}
    for name, blob in blobs.items():
        monkeypatch.setitem(published.GIT_BLOBS, name, blob)
    files = load.read_openai(shards, source="shards").files
    assert {file.standing for file in files} == {Standing.KNOWN}
    assert len(listed) == 146


@pytest.mark.parametrize("name", ["params_shapes.json", "params_0.npy", "params_7.npy"])
def test_what_was_meant_as_a_release_is_read_as_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    assert load.is_openai_folder(tmp_path)
    assert "params_" in refusal(tmp_path).what


# Memory.


MEASURED = """
import sys
from pathlib import Path

from parity.checkpoints.load import load_weights


def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) << 10


load_weights("tiny")
before = memory("VmRSS:")
for form in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    load_weights(form)
    print(memory("VmHWM:") - before)
"""


def write_forms(folder: Path) -> None:
    """Write one random model of 65 MB in every form that is read."""
    config = GPTConfig(vocab_size=3000, n_positions=64, n_embd=512, n_layer=5, n_head=8)
    model = GPT(config)
    drawn = torch.Generator().manual_seed(7)
    state = {n: torch.randn(p.shape, generator=drawn) for n, p in model.named_parameters()}
    halves = [dict(list(state.items())[place::2]) for place in range(2)]
    places = {name: f"part-{place}.safetensors" for place in range(2) for name in halves[place]}
    fields = config.to_huggingface()
    for form in ("safetensors", "archive", "legacy", "half", "index", "openai"):
        (folder / form).mkdir()
        (folder / form / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    save_file(state, folder / "safetensors/model.safetensors")
    half = {name: tensor.half() for name, tensor in state.items()}
    torch.save(state, folder / "archive/pytorch_model.bin")
    torch.save(state, folder / "legacy/pytorch_model.bin", _use_new_zipfile_serialization=False)
    torch.save(half, folder / "half/pytorch_model.bin")
    for place, part in enumerate(halves):
        save_file(part, folder / f"index/part-{place}.safetensors")
    index = json.dumps({"weight_map": places})
    (folder / "index/model.safetensors.index.json").write_text(index, encoding="utf-8")
    released = convert(state, fields, source=Side.OURS, target=Side.RELEASE)
    arrays = [tensor.numpy() for tensor in released.values()]
    openai_release.write_release(folder / "openai", arrays, config=fields)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.skipif(not compat.unpickles_safely(), reason="two of the forms are refused")
def test_reading_takes_less_than_three_times_the_file(
    tmp_path: Path, python: Callable[..., Any]
) -> None:
    write_forms(tmp_path)
    forms = sorted(tmp_path.iterdir())
    found = python("-c", MEASURED, *forms).stdout.split()
    peaks = dict(zip(forms, map(int, found), strict=True))
    for form, peak in peaks.items():
        size = sum(path.stat().st_size for path in form.iterdir())
        assert 0.9 * size < peak < 3 * size, (form.name, peak / size)


def spread(path: Path, size: int) -> None:
    """Make a file as large as that; nothing is written, so it takes no space."""
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "index"])
def test_a_file_far_larger_than_its_model_is_not_read(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = {
        suffix: lambda _path: pytest.fail("it was read") for suffix in (".safetensors", ".bin")
    }
    monkeypatch.setattr(huggingface_files, "READERS", readers)
    if name == "index":
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        spread(folder / "a.safetensors", 200 << 20)
        spread(folder / "b.safetensors", 200 << 20)
        index = {"weight_map": {"h.0.a": "a.safetensors", "h.0.b": "b.safetensors"}}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index), encoding="utf-8")
    else:
        (folder / "model.safetensors").rename(folder / name)
        spread(folder / name, 100 << 30)
    error = error_of(str(folder))
    assert error.exit_code is ExitCode.REFUSED
    assert "bytes, the limit for this config is" in error.what


def test_more_bytes_than_memory_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda _name: 300)  # 300 pages of 300 bytes
    error = error_of(str(folder))
    assert error.exit_code is ExitCode.ENVIRONMENT
    assert "this machine has" in error.what


def test_shards_of_more_bytes_than_memory_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards, shapes and config agree on a model of 77 GB."""
    sizes = {"n_positions": 8, "vocab_size": 20, "n_embd": 40_000, "n_layer": 1}
    shapes = openai_release.gpt_shapes(**sizes)
    (tmp_path / "params_shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
    fields = GPTConfig(**sizes, n_head=8).to_huggingface()
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    total = openai_release.count_parameters(shapes)
    for place in range(10):
        length = total // 10 + (total % 10 if place == 9 else 0)
        header = openai_release.npy_header(length)
        (tmp_path / f"params_{place}.npy").write_bytes(header)
        spread(tmp_path / f"params_{place}.npy", len(header) + 4 * length)
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1 << 22))
    error = error_of(str(tmp_path))
    assert error.exit_code is ExitCode.ENVIRONMENT
    assert "76,806,560,000 bytes; this machine has 17,179,869,184" in error.what
