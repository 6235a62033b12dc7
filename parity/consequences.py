"""What a difference in the logits means for someone who uses the model.

Loss, probabilities and rankings are reported and never decide: on them most faults pass.
"""

import math

import torch
from torch import Tensor

_ROWS = 64
"""Rows per step, so that no copy of the vocabulary's width grows with time."""
_TOP = 5


def consequences(
    logits: Tensor, truth: Tensor, token_ids: Tensor, mask: Tensor | None
) -> dict[str, float]:
    """Compare two sets of logits as a user of the model would.

    Args:
        logits: `[batch time vocab]`, ours.
        truth: `[batch time vocab]`, the oracle's, float64.
        token_ids: `[batch time]`.
        mask: `[batch time]`, bool, False at padding.

    Returns:
        `loss_ours` and `loss_oracle` (mean, nats per predicted token; NaN at time 1),
        `log_softmax_largest`, `kl_mean` and `kl_largest` (nats per position), `top1_agreement`,
        `top5_agreement` (fractions), `rank_change_largest` (of the oracle's top five), and
        `flip_gap_largest` (the oracle's lead of its first choice over ours, where they differ).
    """
    real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
    targets = torch.full_like(token_ids, -1)
    targets[:, :-1] = torch.where(real[:, 1:], token_ids[:, 1:], -1)
    ours, oracle = logits.flatten(0, 1), truth.flatten(0, 1)
    # Rows are taken a few at a time: a copy of all logits is as large as everything else.
    parts = [
        _part(ours[rows].double(), oracle[rows], targets.flatten()[rows])
        for rows in torch.split(real.flatten().nonzero()[:, 0], _ROWS)
    ]
    return _gathered({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _part(ours: Tensor, oracle: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return every quantity for some rows, one value a row."""
    ours_log, oracle_log = torch.log_softmax(ours, -1), torch.log_softmax(oracle, -1)
    gap = ours_log - oracle_log
    top = min(_TOP, ours.shape[-1])
    oracle_top = oracle.topk(top, -1)
    ours_top = ours.topk(top, -1)
    places = torch.arange(top, device=ours.device)
    chosen = ours.gather(-1, oracle_top.indices)
    ranks = torch.stack([(ours > chosen[:, [place]]).sum(-1) for place in range(top)], -1)
    shared = (ours_top.indices[:, :, None] == oracle_top.indices[:, None, :]).any(-1)
    ours_choice = ours_top.indices[:, :1]
    predicted = (targets >= 0).nonzero()[:, 0]
    wanted = targets[predicted][:, None]
    return {
        "kl": -(oracle_log.exp() * gap).sum(-1),
        "log_softmax": gap.abs().amax(-1),
        "top1": (ours_choice[:, 0] == oracle_top.indices[:, 0]).double(),
        "top5": shared.double().mean(-1),
        "rank_change": (ranks - places).abs().amax(-1).double(),
        "flip_gap": oracle_top.values[:, 0] - oracle.gather(-1, ours_choice)[:, 0],
        "loss_ours": -ours_log[predicted].gather(-1, wanted)[:, 0],
        "loss_oracle": -oracle_log[predicted].gather(-1, wanted)[:, 0],
    }


def _gathered(rows: dict[str, Tensor]) -> dict[str, float]:
    def mean(name: str) -> float:
        return float(rows[name].mean()) if len(rows[name]) else math.nan

    def largest(name: str) -> float:
        return float(rows[name].max()) if len(rows[name]) else math.nan

    return {
        "loss_ours": mean("loss_ours"),
        "loss_oracle": mean("loss_oracle"),
        "log_softmax_largest": largest("log_softmax"),
        "kl_mean": mean("kl"),
        "kl_largest": largest("kl"),
        "top1_agreement": mean("top1"),
        "top5_agreement": mean("top5"),
        "rank_change_largest": largest("rank_change"),
        "flip_gap_largest": largest("flip_gap"),
    }
