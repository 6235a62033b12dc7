"""What was published: complete, in agreement with itself, and claimed of no other file."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from reference import published
from reference.files import digest_path

OTHER = "0" * 64


def test_every_file_of_the_release_has_its_id() -> None:
    shards = {f"params_{index}.npy" for index in range(10)}
    others = {"params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"}
    assert shards | others == set(published.GIT_BLOBS)
    assert len(set(published.GIT_BLOBS.values())) == 13


def test_every_digest_is_one() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in published.SHA256.values())
    assert all(re.fullmatch("[0-9a-f]{40}", digest) for digest in published.GIT_BLOBS.values())
    assert re.fullmatch("[0-9a-f]{40}", published.REVISION)
    assert published.SHA256["vocab.json"] == published.SHA256["encoder_bpe_40000.json"]
    assert published.SHA256["merges.txt"] == published.SHA256["vocab_40000.bpe"]
    assert len(set(published.SHA256.values())) == 4


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("name", published.SHA256)
def test_published_bytes_are_known(name: str, released: bool) -> None:  # noqa: FBT001 - a case
    sha256 = published.SHA256[name]
    assert published.standing(name, sha256=sha256, released=released) == "known"


@pytest.mark.parametrize("name", published.GIT_BLOBS)
def test_published_bytes_are_known_by_gits_id(name: str) -> None:
    """The shards' SHA-256 was never published."""
    blob = published.GIT_BLOBS[name]
    assert published.standing(name, sha256=OTHER, git_blob=blob) == "known"


@pytest.mark.parametrize("name", [*published.SHA256, *published.GIT_BLOBS])
def test_other_bytes_differ_only_if_they_are_said_to_be_released(name: str) -> None:
    """Every model has files of these names; the name alone claims nothing."""
    blob = "0" * 40
    assert published.standing(name, sha256=OTHER, git_blob=blob) == "unknown"
    assert published.standing(name, sha256=OTHER, git_blob=blob, released=True) == "differs"


def test_a_shard_under_anothers_name_differs() -> None:
    third = published.GIT_BLOBS["params_3.npy"]
    said = published.standing("params_4.npy", sha256=OTHER, git_blob=third, released=True)
    assert said == "differs"


def test_a_file_that_was_not_published_is_unknown() -> None:
    assert published.standing("config.json", sha256=OTHER, released=True) == "unknown"
    assert published.standing("mine.bin", sha256=OTHER, released=True) == "unknown"


def test_the_digests_are_those_of_the_released_vocabulary() -> None:
    vocabulary = os.environ.get("GPT1_VOCABULARY")
    if not vocabulary:
        pytest.skip("not run: GPT1_VOCABULARY names no folder with the released vocabulary")
    for name in ("encoder_bpe_40000.json", "vocab_40000.bpe", "params_shapes.json"):
        file = digest_path(Path(vocabulary) / name)
        assert published.GIT_BLOBS[name] == file.git_blob
        assert published.SHA256.get(name, file.sha256) == file.sha256
        data = (Path(vocabulary) / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256
