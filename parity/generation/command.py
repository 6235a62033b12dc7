"""The verb `generation` of the command line: its options, and what it says of itself."""

from pathlib import Path
from typing import Annotated

import typer

from parity.options import (
    DebugOption,
    Dtype,
    DtypeOption,
    FingerprintsOption,
    FormatOption,
    OutputOption,
    QuietOption,
    SeedOption,
    TokenIdsOption,
    WeightsOption,
)
from parity.shell import Options, run

GenerationPlantOption = Annotated[
    str | None,
    typer.Option(
        "--plant",
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
    plant: GenerationPlantOption = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    prompts: Annotated[
        int,
        typer.Option(
            min=1, help="Prompts drawn from the seed, from one token to as many as there is room."
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
    every token: at full size give few prompts (--prompts 3 --max-new-tokens 8).
    """
    options = Options(
        verb="generation",
        weights=weights,
        plant=plant,
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
