"""Whether a run that goes on is still the run that the checkpoint was written by."""

from collections.abc import Collection, Mapping
from typing import Any

from scratch_gpt.command.errors import InputRefusedError, UsageError

_NEVER = {
    **dict.fromkeys(
        ("n_layer", "n_embd", "n_head", "n_positions"), "the weights have the other shape"
    ),
    "vocabulary": "ids would mean other tokens",
    "optimizer": "its moments mean something else",
    "dtype": "its moments are in the other precision",
}
"""What no `--allow` can make right, and why."""


def require_known(allowed: Collection[str], names: Collection[str]) -> None:
    """Require that what is to be allowed is the name of a circumstance.

    Raises:
        UsageError: A name is none.
    """
    if strange := sorted(set(allowed) - set(names)):
        raise UsageError(
            f"there is nothing called {', '.join(strange)} to allow",
            where="--allow",
            fix=f"use one of {', '.join(sorted(set(names) - set(_NEVER)))}",
        )


def require_same(
    recorded: Mapping[str, Any], found: Mapping[str, Any], *, allowed: Collection[str], where: str
) -> list[str]:
    """Require that nothing that the run's numbers hang on has changed.

    Args:
        recorded: The checkpoint's circumstances by name.
        found: Those of now.
        allowed: Names that may differ.
        where: The checkpoint, for the message.

    Returns:
        One phrase for each difference that was allowed.

    Raises:
        InputRefusedError: Something differs that is not allowed to; all such are listed.
    """
    differing = sorted(
        name for name in {**recorded, **found} if recorded.get(name) != found.get(name)
    )
    hopeless = [name for name in differing if _is_hopeless(name, recorded, found)]
    refused = [name for name in differing if name not in allowed or name in hopeless]
    if refused:
        phrases = "; ".join(_phrase(name, recorded, found) for name in refused)
        raise InputRefusedError(
            f"the run is not the one that the checkpoint is from: {phrases}",
            where=where,
            fix=_fix(refused, hopeless),
        )
    return [_phrase(name, recorded, found) for name in differing]


def _phrase(name: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return f"{name} was {recorded.get(name)!r} and is {found.get(name)!r}"


def _is_hopeless(name: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether a difference can never be allowed; bfloat16 keeps its moments in float32."""
    narrow = {"float32", "bfloat16"}
    return name in _NEVER and not (name == "dtype" and {recorded.get(name), found[name]} <= narrow)


def _fix(refused: Collection[str], hopeless: Collection[str]) -> str:
    """Return the way out: what can be allowed, or why it cannot."""
    if hopeless:
        reasons = ", ".join(f"{name} ({_NEVER[name]})" for name in hopeless)
        return f"give {reasons} as before, or train anew with another --output"
    options = " ".join(f"--allow {name}" for name in refused)
    return f"give them as before, or go on with other numbers by {options}"
