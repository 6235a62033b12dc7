"""What is measured: a task that several contestants do, and a row that holds two of them apart."""

import dataclasses

from bench.shapes import Shape

_NONE = Shape(batch=1, time=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What several contestants do.

    Attributes:
        room: Which kind of work; a key of `bench.rooms.ROOMS`.
        shape: Batch, time, dtype and direction; text to be encoded has none.
        label: What stands after the room in the names of its rows; made of the shape where empty.
        device: Where.
        rounds: How often each contestant is measured.
    """

    room: str
    shape: Shape = _NONE
    label: str = ""
    device: str = "cpu"
    rounds: int = 15

    def __str__(self) -> str:
        """Return the first part of the names of its rows."""
        if self.label:
            return f"{self.room}/{self.label}"
        shape = self.shape
        direction = "both" if shape.backward else "forward"
        where = "" if self.device == "cpu" else f"{self.device}-"
        dtype = "" if shape.dtype == "float32" else f"{shape.dtype}/"
        return f"{self.room}/{where}{direction}/{dtype}{shape.batch}x{shape.time}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        task: What is done.
        ours: Whose figure stands above the line.
        against: Whose stands below it.
        bound: The largest ratio held to; None where it is only reported.
        figure: `time`, `memory` or `exponent`.
        quick: Whether `--quick` has it.
    """

    task: Task
    ours: str
    against: str
    bound: float | None = None
    figure: str = "time"
    quick: bool = False

    @property
    def name(self) -> str:
        """What `--rows` selects by."""
        kind = "" if self.figure == "time" else f"{self.figure}-"
        return f"{self.task}/{kind}{self.ours}:{self.against}"
