"""What follows from the logits for a person: loss, probabilities and rankings."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_CONSEQUENCE_LABELS = {
    "loss_ours": "loss, ours",
    "loss_oracle": "loss, oracle",
    "log_softmax_largest": "largest change of a log-probability",
    "kl_largest": "largest KL divergence of a position",
    "top1_agreement": "same first choice",
    "top5_agreement": "same first five",
    "rank_change_largest": "largest change of rank in the first five",
}


def render_consequences(by_path: Mapping[str, Mapping[str, float]]) -> RenderableType:
    """Return what follows for loss, probabilities and rankings."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what follows from the logits")
    for path in by_path:
        table.add_column(path, justify="right", no_wrap=True)
    for name, label in _CONSEQUENCE_LABELS.items():
        table.add_row(label, *[f"{values[name]:.8g}" for values in by_path.values()])
    return Group(Text(), table)
