"""JSON as its specification has it."""

import json

import pytest

from scratch_gpt.checkpoint import strict_io


def test_reads_what_json_is() -> None:
    text = '{"a": [1, -2.5e3, true, null], "é": {"a": "\\u00e9"}}'
    assert json.loads(text) == strict_io.load_strict_json(text.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "^the key 'a' occurs twice$"),
        (b'{"b": {"x\\n": 1, "x\\n": 2}}', r"^the key 'x\\n' occurs twice$"),
        (b'{"a": NaN}', "^NaN is not JSON$"),
        (b"[-Infinity]", "^-Infinity is not JSON$"),
        (b"[1e999]", "^the number '1e999' is too large$"),
        (b"[" + 5000 * b"9" + b"]", "^Exceeds the limit"),
        (100_000 * b"[", "^it is nested too deeply$"),
        (100_000 * b'{"a":', "^it is nested too deeply$"),
        (b'{"a": 1', "^Expecting ',' delimiter"),
        (b"", "^Expecting value"),
        (b'"\xff"', "can't decode byte 0xff"),
        ('{"é": 1}'.encode("utf-16"), "can't decode byte"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_refuses_what_json_is_not(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        strict_io.load_strict_json(text)
    assert "\n" not in str(refusal.value)


def test_a_repeated_key_is_found_at_once_in_a_large_object() -> None:
    """The last of 100,000 keys: to count each would take minutes."""
    text = "{" + ", ".join(f'"k{number}": 0' for number in range(100_000)) + ', "k99999": 1}'
    with pytest.raises(ValueError, match="the key 'k99999' occurs twice"):
        strict_io.load_strict_json(text.encode())
