"""A conversion as text: every tensor, from what to what."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.mapping import Side, rows, sizes


def render(config: Mapping[str, Any], target: Side, console: Console) -> None:
    """Print the table of tensors: our name, the target's, and the shape there.

    Args:
        config: The model's fields, in Hugging Face's names.
        target: Whose names and shapes are wanted.
        console: Where to.
    """
    axis_sizes = sizes(config)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("tensor", f"in the {target} form", "shape"):
        table.add_column(heading, no_wrap=True)
    for row in rows(config["n_layer"]):
        shape = str(list(row.shape(target, axis_sizes)))
        table.add_row(row.ours, Text(row.name(target)), Text(shape))  # not markup: [positions]
    console.print(table)
