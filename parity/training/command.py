"""The verb `training` of the command line: its options, and what it says of itself."""

from typing import Annotated

import typer

from parity.options import (
    Attention,
    AttentionOption,
    BatchOption,
    CandidateOption,
    DebugOption,
    Dtype,
    DtypeOption,
    FingerprintsOption,
    FormatOption,
    OutputOption,
    QuietOption,
    SeedOption,
    TimeOption,
    WeightsOption,
)
from parity.shell import Options, run

TrainingPlantOption = Annotated[
    str | None,
    typer.Option(
        "--plant",
        help="Plant a fault into our side of the step first, to see what a failing verdict looks "
        "like. An unknown name lists them all.",
    ),
]


def training(
    weights: WeightsOption = "auto",
    candidate: CandidateOption = None,
    plant: TrainingPlantOption = None,
    attention: AttentionOption = Attention.DEFAULT,
    dtype: DtypeOption = Dtype.FLOAT32,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each run.")] = 3,
    parts: Annotated[
        int, typer.Option(min=1, help="Micro-batches that our side accumulates to a step.")
    ] = 2,
    dropout: Annotated[
        bool,
        typer.Option(
            "--dropout",
            help="Train with dropout, both sides given the same draws; on the path plain alone, "
            "whose draws can be given.",
        ),
    ] = False,
    batch: BatchOption = 1,
    time: TimeOption = 64,
    seed: SeedOption = 0,
    taps: Annotated[
        str, typer.Option("--taps", help="Compare only places that match: adamw.2.weight.*")
    ] = "*",
    fingerprints: FingerprintsOption = False,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """After optimizer steps, are the weights still the same?

    Our model, stepped by our optimizer, and Hugging Face's, stepped by a NumPy oracle of the
    release's Adam and then by torch.optim.AdamW: the same batches, clipping and schedule on. In
    float64 loss, gradients, norm, rate, moments and weights must agree after every step; in the
    dtype judged our rounding must be no worse than Hugging Face's. --batch is the rows of a part.
    Runs on the CPU; at full size two parts of 1 x 64 take about 10 GB and some minutes.
    """
    options = Options(
        verb="training",
        weights=weights,
        candidate=candidate,
        plant=plant,
        attention=attention.value,
        dtype=dtype.value,
        steps=steps,
        parts=parts,
        dropout=dropout,
        batch=batch,
        time=time,
        seed=seed,
        taps=taps,
        fingerprints=fingerprints,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))
