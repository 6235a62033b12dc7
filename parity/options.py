"""The options that several verbs of the command line share. Nothing here imports torch."""

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from parity.errors import mapped_errors
from parity.session import Options
from scratch_gpt.cli import PretokenizerName


class Dtype(StrEnum):
    """Dtypes whose rounding can be judged; with float64 identity alone is."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Device(StrEnum):
    """Where the models run."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class BackendChoice(StrEnum):
    """The backends of our model, and two sets of them."""

    DEFAULT = "default"
    ALL = "all"
    PLAIN = "plain"
    TILED = "tiled"
    FUSED = "fused"
    COMPILED = "compiled"
    TRITON = "triton"


WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        help="openai-gpt (the released weights, from the hub or its cache), another hub repository "
        "owner/name[@revision], a folder or file (Hugging Face's form, OpenAI's ten shards, or "
        "ours), surrogate (seeded, full size), tiny; or auto: openai-gpt, and the surrogate where "
        "neither cache nor hub has it.",
    ),
]
CandidateOption = Annotated[
    str | None,
    typer.Option(
        "--candidate",
        help="A model to judge instead of ours: FILE.py, whose function build(config, weights) "
        "returns it, or MODULE:NAME.",
    ),
]
InjectFaultOption = Annotated[
    str | None,
    typer.Option(
        "--inject-fault",
        help="Plant a fault into our model first, NAME or NAME@BLOCK, to see what a failing "
        "verdict looks like. An unknown name lists them all.",
    ),
]
BackendOption = Annotated[
    BackendChoice,
    typer.Option(
        "--backend",
        help="Which way to run our model: plain (every operation by its formula), tiled (no matrix "
        "of scores, hand-written derivatives), fused (residual sums inside the products), compiled "
        "(torch.compile, a block at a time), triton (a GPU kernel); default is plain and tiled, "
        "all is every one that this machine can run.",
    ),
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Dtype whose rounding is judged.")]
TapsOption = Annotated[
    str, typer.Option("--taps", help="Compare only taps that match this pattern.")
]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Rows of token ids.")]
TimeOption = Annotated[int, typer.Option("--seq-len", min=1, help="Tokens in each row.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the token ids.")]
TokenIdsOption = Annotated[
    str | None,
    typer.Option(help="Token ids instead of seeded ones: 481,4735,544;12,7 is two rows."),
]
DeviceOption = Annotated[Device, typer.Option(help="Where the models run.")]
VocabularyOption = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary",
        help="Folder of vocab.json and merges.txt, or of OpenAI's two files. Without it: the one "
        "beside the weights, or in the hub's cache; else one is learned on the spot.",
    ),
]
PretokenizerOption = Annotated[
    PretokenizerName,
    typer.Option(
        "--pretokenizer",
        help="How text becomes words: huggingface (what its tokenizer does) or original (what "
        "the model was trained with; needs the extra original-text).",
    ),
]
TextOption = Annotated[
    str | None, typer.Option("--text", help="Compare this text, and nothing else.")
]
CorpusOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--corpus",
        help="A text file, or a folder of .txt and .md files, instead of a million characters of "
        "the standard library's documentation. May be given several times.",
    ),
]
CountOption = Annotated[int, typer.Option("--num-strings", min=0, help="Strings to generate.")]
FingerprintsOption = Annotated[
    bool,
    typer.Option(
        "--fingerprints",
        help="Put a digest and a sketch of every tensor that is compared into the JSON report, by "
        "which runs on other versions or machines can be compared with this one.",
    ),
]
FormatOption = Annotated[
    str, typer.Option("--format", help="What standard output gets: text or json.")
]
OutputOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--output",
        help="Write the report to this file as well, in the form of its suffix: .json or .txt. "
        "May be given several times.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


# Options that decide what a verdict is about: a report that is passed on has to say them.


def recorded_options(options: Options, names: Iterable[str]) -> dict[str, object]:
    """Return those that are not at their default, by name.

    A candidate's file has a digest beside its path, `candidate_file`: elsewhere the same file has
    another path, and another file the same. What the file imports is not in it.

    Args:
        options: Of the run.
        names: Which of them decide.

    Raises:
        ParityError: The candidate's file cannot be read.
    """
    default = Options(verb=options.verb)
    said = {name: getattr(options, name) for name in names}
    said = {name: value for name, value in said.items() if value != getattr(default, name)}
    file = said.get("candidate", "")
    if not file.endswith(".py"):
        return said
    return {"candidate": file, "candidate_file": _digest(Path(file))} | said


def _digest(file: Path) -> str:
    from parity.core.fingerprints import DIGITS

    with mapped_errors():
        return f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]}"
