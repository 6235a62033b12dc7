"""A training step in NumPy, written from the release's optimizer and from AdamW's paper.

It imports numpy alone and shares no code with the trainer. The order of the windows is that of
`docs/data.md`. The schedule counts steps as the
release does, `t` from 0; each formula of Adam is one line; no array is changed in place.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """The optimizer's constants under opt.py's names, with the values of pre-training."""

    variant: str = "openai"  # or "adamw"
    b1: float = 0.9
    b2: float = 0.999
    e: float = 1e-8  # outside the root
    l2: float = 0.01  # decoupled decay of tensors of rank above 1
    vector_l2: bool = False  # whether vectors decay as well
    max_grad_norm: float = 1.0  # bound of the global norm


@dataclasses.dataclass(frozen=True)
class State:
    """The number of steps made, the parameters, and both moments of each."""

    t: int
    parameters: Arrays
    first: Arrays
    second: Arrays


def begin(parameters: Arrays) -> State:
    """Return the state before the first step."""
    copies = {name: np.array(p, dtype=np.float64) for name, p in parameters.items()}
    zeros = {name: np.zeros_like(p) for name, p in copies.items()}
    return State(0, copies, zeros, zeros)


def step(state: State, gradients: Arrays, learning_rate: float, constants: Constants) -> State:
    """Return the state after one step; gradients are clipped by their global norm first."""
    clipped, _ = clip_by_global_norm(gradients, constants.max_grad_norm)
    after = {}
    for name, p in state.parameters.items():
        m, v, g = state.first[name], state.second[name], clipped[name]
        after[name] = step_all(p, m, v, g, state.t, learning_rate, constants)
    parts = ({name: made[at] for name, made in after.items()} for at in range(3))
    return State(state.t + 1, *parts)


def step_all(  # noqa: PLR0913 - the variables of the formula
    p: Array, m: Array, v: Array, g: Array, t: int, lr: float, c: Constants
) -> tuple[Array, Array, Array]:
    """Return one parameter and its moments after step `t`, from 0, in the arrays' own dtype."""
    m = c.b1 * m + (1 - c.b1) * g
    v = c.b2 * v + (1 - c.b2) * g * g
    l2 = c.l2 if c.vector_l2 or p.ndim > 1 else 0.0
    formula = {"openai": _released, "adamw": _adamw}[c.variant]
    return formula(p, m, v, t, lr, l2, c), m, v


def _released(  # noqa: PLR0913 - the variables of the formula
    p: Array, m: Array, v: Array, t: int, lr: float, l2: float, c: Constants
) -> Array:
    """Return the parameter after the release's step.

    Source: finetune-transformer-lm opt.py `adam` (a69b5c4).
    """
    lrt = lr * math.sqrt(1 - c.b2 ** (t + 1)) / (1 - c.b1 ** (t + 1))
    return p - lrt * (m / (np.sqrt(v) + c.e) + l2 * p)


def _adamw(  # noqa: PLR0913 - the variables of the formula
    p: Array, m: Array, v: Array, t: int, lr: float, l2: float, c: Constants
) -> Array:
    """Return the parameter after AdamW's step.

    Source: Loshchilov and Hutter 2019, algorithm 2, the decay scaled by the learning rate.
    """
    m_hat = m / (1 - c.b1 ** (t + 1))
    v_hat = v / (1 - c.b2 ** (t + 1))
    return p - lr * (m_hat / (np.sqrt(v_hat) + c.e) + l2 * p)


def clip_by_global_norm(gradients: Arrays, max_norm: float) -> tuple[dict[str, Array], float]:
    """Return the gradients, scaled down together to `max_norm`, and their norm before.

    Source: TensorFlow's `clip_by_global_norm`, which opt.py calls (a69b5c4).
    """
    norm = math.sqrt(math.fsum(float(np.sum(np.square(g))) for g in gradients.values()))
    scale = max_norm / max(norm, max_norm)
    return {name: g * scale for name, g in gradients.items()}, norm


def learning_rate(t: int, t_total: int, warmup: int, peak: float, shape: str) -> float:
    """Return the rate of step `t`, from 0; `warmup` is in steps.

    Source: finetune-transformer-lm opt.py `warmup_cosine`, `warmup_linear`, `warmup_constant`
    (a69b5c4), whose warm-up is a fraction of all steps.
    """
    x, w = t / t_total, warmup / t_total
    s = 1.0 if w > 0 and t <= warmup else 0.0
    rise = x / w if w > 0 else 0.0
    factors = {
        "cosine": s * rise + (1 - s) * 0.5 * (1 + math.cos(math.pi * x)),
        "linear": (s * rise + (1 - s)) * (1 - x),
        "constant": s * rise + (1 - s) * 1.0,
    }
    return peak * factors[shape]


def window_starts(tokens: int, time: int, seed: int, epoch: int) -> list[int]:
    """Return where each window of an epoch begins, in order.

    An epoch has one window fewer than fit, so that its first may begin at any of `time` places. The
    words of a counter-based generator decide where it begins, and sort the windows.

    Source: Salmon et al. 2011, Philox4x64-10, with the first half of a SHA-256 as the key.
    """
    windows = max(1, (tokens + 1) // time - 1)
    key = hashlib.sha256(f"windows/{seed}/{epoch}".encode()).hexdigest()[:32]
    low_first = int.from_bytes(bytes.fromhex(key), "little")
    generator = np.random.Philox(key=low_first)
    begins, *words = (int(word) for word in generator.random_raw(windows + 1))
    places = [begins % (tokens - windows * time + 1) + time * at for at in range(windows)]
    return [place for _, place in sorted(zip(words, places, strict=True))]
