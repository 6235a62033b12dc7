"""What a file is by its first bytes, for a message better than "not safetensors"."""

HEAD = 512
"""How many of a file's first bytes `kind_of` looks at."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs.github.com/", "a Git LFS pointer"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x1f\x8b", "gzip data"),
    (257, b"ustar", "a tar archive"),
    *((0, b"\x80" + bytes([protocol]), "a pickle") for protocol in range(2, 6)),
)
"""Offset, bytes found there, and what has them."""

_PAGE_OPENINGS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")

ADVICE = {
    "a Git LFS pointer": "run git lfs pull in its repository",
    "an HTML page": "download it again: a login or error page was saved in its place",
    "a pickle": "a pickle can run code and is never opened here; convert it to safetensors",
    "a zip archive": "a PyTorch .bin is one: convert it to safetensors",
    "a NumPy array": "give the folder of the release whose shard it is",
    "a tar archive": "unpack it first",
    "gzip data": "unpack it first",
}
"""What the user can do, by the kind."""

_LARGEST_HEADER = 100_000_000


def kind_of(first_bytes: bytes) -> str | None:
    """Return what the file is in words, a key of `ADVICE`, or None where nothing is recognised.

    A safetensors file gives None, also one whose header's length begins as a pickle does.

    Args:
        first_bytes: The file's beginning: `HEAD` bytes, or all of a shorter file.
    """
    if opens_like_safetensors(first_bytes):
        return None
    if first_bytes.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE_OPENINGS):
        return "an HTML page"
    return next(
        (kind for at, magic, kind in _MAGIC if first_bytes[at : at + len(magic)] == magic), None
    )


def opens_like_safetensors(first_bytes: bytes) -> bool:
    """Return whether a header of plausible length begins where safetensors has it."""
    length = int.from_bytes(first_bytes[:8], "little")
    return first_bytes[8:9] == b"{" and 0 < length <= _LARGEST_HEADER
