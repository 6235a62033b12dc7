"""The command line: `python -m parity.check VERB`.

It parses, calls one function, prints and exits. Nothing that needs torch is imported before a
verb runs, so that `--help` answers at once.
"""

from typing import Annotated

import typer

from parity.drift.command import drift
from parity.generation.command import generation
from parity.options import (
    Attention,
    AttentionOption,
    BatchOption,
    CandidateOption,
    DebugOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    FingerprintsOption,
    FormatOption,
    OutputOption,
    PlantOption,
    QuietOption,
    SeedOption,
    TapsOption,
    TimeOption,
    TokenIdsOption,
    WeightsOption,
)
from parity.shell import Options, run
from parity.tokens.command import tokens
from parity.training.command import training
from scratch_gpt.command.application import application, start

app = application(
    "parity.check",
    "Is this GPT-1 the same function as Hugging Face's and the float64 oracle's, and if not, "
    "where do they part? Exit codes: 0 pass, 1 a real difference, 2 usage, 3 inconclusive, "
    "4 input refused, 5 environment, 70 internal error.",
)


@app.command()
def layerwise(
    weights: WeightsOption = "auto",
    candidate: CandidateOption = None,
    plant: PlantOption = None,
    attention: AttentionOption = Attention.DEFAULT,
    dtype: DtypeOption = Dtype.FLOAT32,
    device: DeviceOption = Device.CPU,
    batch: BatchOption = 1,
    time: TimeOption = 512,
    seed: SeedOption = 0,
    token_ids: TokenIdsOption = None,
    taps: TapsOption = "*",
    explain: Annotated[
        str | None,
        typer.Option(help="Look closely at one tap: histogram, worst elements, what fed it."),
    ] = None,
    fingerprints: FingerprintsOption = False,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Does every tap agree, and where is the first that does not?

    Every layer's activations, the logits and the loss of our model are compared with Hugging
    Face's OpenAIGPTLMHeadModel and a NumPy float64 oracle, all three on the same weights. In
    float64 they must agree to rounding; in the dtype judged, our error must be no worse than
    Hugging Face's, both end to end and operation by operation.
    """
    options = Options(
        verb="layerwise",
        weights=weights,
        candidate=candidate,
        plant=plant,
        attention=attention.value,
        dtype=dtype.value,
        device=device.value,
        batch=batch,
        time=time,
        seed=seed,
        token_ids=token_ids,
        taps=taps,
        explain=explain,
        fingerprints=fingerprints,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


@app.command()
def gradients(
    weights: WeightsOption = "auto",
    candidate: CandidateOption = None,
    plant: PlantOption = None,
    attention: AttentionOption = Attention.DEFAULT,
    dtype: DtypeOption = Dtype.FLOAT32,
    device: DeviceOption = Device.CPU,
    batch: BatchOption = 1,
    time: TimeOption = 512,
    seed: SeedOption = 0,
    token_ids: TokenIdsOption = None,
    taps: TapsOption = "*",
    fingerprints: FingerprintsOption = False,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Does every parameter's and every tap's gradient agree?

    The gradients of the mean next-token loss, of our model and of Hugging Face's, from the logits
    back to the embeddings. In float64 they must agree to rounding, and so must our gradient and
    the slope of the oracle's loss along a direction in all parameters; in the dtype judged, our
    error must be no worse than Hugging Face's.
    """
    options = Options(
        verb="gradients",
        weights=weights,
        candidate=candidate,
        plant=plant,
        attention=attention.value,
        dtype=dtype.value,
        device=device.value,
        batch=batch,
        time=time,
        seed=seed,
        token_ids=token_ids,
        taps=taps,
        fingerprints=fingerprints,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


@app.command()
def weights(
    weights: WeightsOption = "auto",
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Is every tensor in its place, bit for bit, and nothing left over?

    The tensors of our model, of Hugging Face's, and of the source after the way to the 2018
    release's form and back are each compared with the source's bits.
    """
    options = Options(
        verb="weights",
        weights=weights,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


app.command()(tokens)


@app.command()
def doctor(
    weights: WeightsOption = "auto",
    batch: BatchOption = 1,
    time: TimeOption = 512,
    seed: SeedOption = 0,
    token_ids: TokenIdsOption = None,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Are this machine, this torch, this reference and this checkpoint fit for a verdict?

    Lists the versions, every setting that moves numbers, and for each block of the model whether
    it is alive: how sharp its attention is, and how different its positions.
    """
    options = Options(
        verb="doctor",
        weights=weights,
        batch=batch,
        time=time,
        seed=seed,
        token_ids=token_ids,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


app.command()(training)
app.command()(generation)


@app.command()
def golden(
    weights: WeightsOption = "auto",
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Do the released weights still give the numbers that others published?

    Greedy ids, a logit, word probabilities, sentence losses, norms of the matrices and digests of
    the files, each beside who published it. It needs the released weights: auto is openai-gpt
    here, and the surrogate is refused.
    """
    options = Options(
        verb="golden",
        weights=weights,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


app.command()(drift)


def main() -> None:
    """Run the command line."""
    start(app)


if __name__ == "__main__":
    main()
