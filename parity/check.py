"""The command line: `python -m parity.check VERB`.

It parses, calls one function, prints and exits. Nothing that needs torch is imported before a
verb runs, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from parity.options import (
    BackendChoice,
    BackendOption,
    BatchOption,
    CandidateOption,
    CorpusOption,
    CountOption,
    DebugOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    FingerprintsOption,
    FormatOption,
    InjectFaultOption,
    OutputOption,
    PretokenizerOption,
    QuietOption,
    SeedOption,
    TapsOption,
    TextOption,
    TimeOption,
    TokenIdsOption,
    VocabularyOption,
    WeightsOption,
)
from parity.session import Options, run
from scratch_gpt.cli import PretokenizerName, run_app, typer_app

# The verb `training` of the command line: its options, and what it says of itself.


TrainingPlantOption = Annotated[
    str | None,
    typer.Option(
        "--inject-fault",
        help="Plant a fault into our side of the step first, to see what a failing verdict looks "
        "like. An unknown name lists them all.",
    ),
]


def training(
    weights: WeightsOption = "auto",
    candidate: CandidateOption = None,
    inject_fault: TrainingPlantOption = None,
    backend: BackendOption = BackendChoice.DEFAULT,
    dtype: DtypeOption = Dtype.FLOAT32,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each run.")] = 3,
    parts: Annotated[
        int,
        typer.Option(
            "--micro-batches", min=1, help="Micro-batches that our side accumulates to a step."
        ),
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
    dtype judged our rounding must be no worse than Hugging Face's. --batch-size is the rows of a
    part. Runs on the CPU; at full size two parts of 1 x 64 take about 10 GB and some minutes.
    """
    options = Options(
        verb="training",
        weights=weights,
        candidate=candidate,
        inject_fault=inject_fault,
        backend=backend.value,
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


# The command line's verb `tokens`. Nothing here imports torch.


def tokens(
    weights: WeightsOption = "auto",
    vocabulary: VocabularyOption = None,
    pretokenizer: PretokenizerOption = PretokenizerName.HUGGINGFACE,
    inject_fault: InjectFaultOption = None,
    text: TextOption = None,
    corpus: CorpusOption = None,
    count: CountOption = 2_000,
    seed: SeedOption = 0,
    fingerprints: FingerprintsOption = False,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Do both tokenizers give the same ids?

    Hard strings picked by hand, every token of the vocabulary as a word, generated strings and a
    corpus go through our tokenizer and Hugging Face's; with --pretokenizer original, through a
    second telling of the release's code. Every difference is cut down to the shortest string that
    shows it, and said with the step that it comes from. Nothing is downloaded.
    """
    options = Options(
        verb="tokens",
        weights=weights,
        vocabulary=vocabulary,
        pretokenizer=pretokenizer.value,
        inject_fault=inject_fault,
        text=text,
        corpus=tuple(corpus or ()),
        count=count,
        seed=seed,
        fingerprints=fingerprints,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


# The command line's verb `drift`. Nothing here imports torch.


def drift(
    rows: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Two or more rows: a folder of JSON reports, one a check, is one; so is a single "
            "report; a folder of such folders is as many.",
        ),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            help="Name of a row that has to be there: without it there is no verdict. Of a folder "
            "of rows those that are expected are read, and no others. May be given several times.",
        ),
    ] = None,
    same_code: Annotated[
        bool,
        typer.Option(
            "--same-code",
            help="Give no verdict on reports that other code made than this: older ones, say.",
        ),
    ] = False,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What moved between two torch versions, two machines, two states of the code?

    Reports of the other verbs are laid side by side, in the order given: every verdict; what
    differs between the environments; and where they were made with --fingerprints, which tap moved
    first between neighbours, how many did and how far, and which operations moved by themselves.
    Movement is no failure. No model is run.
    """
    options = Options(
        verb="drift",
        rows=tuple(rows or ()),
        expect=tuple(expect or ()),
        same_code=same_code,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


# The verb `generation` of the command line: its options, and what it says of itself.


GenerationPlantOption = Annotated[
    str | None,
    typer.Option(
        "--inject-fault",
        help="Plant a fault into our generator first, to see what a failing verdict looks like. "
        "An unknown name lists them all.",
    ),
]

VocabularyOfTextOption = Annotated[
    Path | None,
    typer.Option("--vocabulary", help="Folder of the vocabulary that --text is encoded with."),
]


def generation(
    weights: WeightsOption = "auto",
    inject_fault: GenerationPlantOption = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    prompts: Annotated[
        int,
        typer.Option(
            "--num-prompts",
            min=1,
            help="Prompts drawn from the seed, from one token to as many as there is room.",
        ),
    ] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to be made of each prompt.")] = 32,
    token_ids: TokenIdsOption = None,
    text: Annotated[
        str | None, typer.Option(help="A prompt instead of drawn ones; with --vocabulary.")
    ] = None,
    vocabulary: VocabularyOfTextOption = None,
    seed: SeedOption = 0,
    fingerprints: FingerprintsOption = False,
    form: FormatOption = "text",
    output: OutputOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Does the cached generator give what the uncached model and the reference give?

    Rules on shared logits, then texts token by token: greedy, under rules, drawn, by beam search.
    In float64 our decoder's logits must agree at every step with three models that have no cache;
    in the dtype judged its rounding must be no worse than Hugging Face's, and its ids those of
    Hugging Face's generate, but for ties. Runs on the CPU. Hugging Face runs each text anew for
    every token: at full size give few prompts (--num-prompts 3 --max-new-tokens 8).
    """
    options = Options(
        verb="generation",
        weights=weights,
        inject_fault=inject_fault,
        dtype=dtype.value,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        token_ids=token_ids,
        text=text,
        vocabulary=vocabulary,
        seed=seed,
        fingerprints=fingerprints,
        form=form,
        output=tuple(output or ()),
        quiet=quiet,
        debug=debug,
    )
    raise typer.Exit(run(options))


app = typer_app(
    "parity.check",
    "Is this GPT-1 the same function as Hugging Face's and the float64 oracle's, and if not, "
    "where do they part? Exit codes: 0 pass, 1 a real difference, 2 usage, 3 inconclusive, "
    "4 input refused, 5 environment, 70 internal error.",
)


@app.command()
def layerwise(
    weights: WeightsOption = "auto",
    candidate: CandidateOption = None,
    inject_fault: InjectFaultOption = None,
    backend: BackendOption = BackendChoice.DEFAULT,
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
        inject_fault=inject_fault,
        backend=backend.value,
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
    inject_fault: InjectFaultOption = None,
    backend: BackendOption = BackendChoice.DEFAULT,
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
        inject_fault=inject_fault,
        backend=backend.value,
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
    run_app(app)


if __name__ == "__main__":
    main()
