"""The command line's verb `tokens`. Nothing here imports torch."""

import typer

from parity.options import (
    CorpusOption,
    CountOption,
    DebugOption,
    FingerprintsOption,
    FormatOption,
    OutputOption,
    PlantOption,
    QuietOption,
    SeedOption,
    SplittingOption,
    TextOption,
    VocabularyOption,
    WeightsOption,
)
from parity.shell import Options, run
from scratch_gpt.command.choices import Splitting


def tokens(
    weights: WeightsOption = "auto",
    vocabulary: VocabularyOption = None,
    splitting: SplittingOption = Splitting.BERT,
    plant: PlantOption = None,
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
    corpus go through our tokenizer and Hugging Face's; with --splitting original, through a second
    telling of the release's code. Every difference is cut down to the shortest string that shows
    it, and said with the step that it comes from. Nothing is downloaded.
    """
    options = Options(
        verb="tokens",
        weights=weights,
        vocabulary=vocabulary,
        splitting=splitting.value,
        plant=plant,
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
