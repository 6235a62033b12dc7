"""The command line: `python -m scratch_gpt.generate --weights DIRECTORY --prompt TEXT`.

It parses, generates, prints and exits. Nothing that needs torch is imported before that.
"""

import dataclasses
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from scratch_gpt.cli import PretokenizerName, run_app, run_reporting_errors, typer_app

# What the command line was asked for; imports no torch.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of `python -m scratch_gpt.generate`, where each is described."""

    weights: str
    prompts: tuple[str, ...]
    prompt_file: str | None
    vocabulary: Path | None
    max_new_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    beams: int
    samples: int
    stop: tuple[str, ...]
    seed: int
    pretokenizer: str | None
    dtype: str
    device: str
    overflow: str
    as_json: bool
    quiet: bool

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn: where an option that only a draw heeds was given."""
        drawn = (self.temperature, self.top_k, self.top_p) != (None, None, None)
        return drawn or (self.samples > 1 and self.beams == 1)


app = typer_app("scratch_gpt.generate")


class Dtype(StrEnum):
    """The precisions to run in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Device(StrEnum):
    """The devices to run on."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class Overflow(StrEnum):
    """What may happen when every position is taken."""

    STOP = "stop"
    SLIDE = "slide"
    ERROR = "error"


@app.command()
def generate(
    weights: Annotated[
        str,
        typer.Option(
            metavar="DIRECTORY",
            help="A folder with config.json and model.safetensors: what parity.convert, "
            "scratch_gpt.train and save_pretrained write.",
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What to go on from. May be given several times."),
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A file that is one prompt; - is standard input, read anyway "
            "where no prompt is given and it is no terminal.",
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Where the vocabulary is: the weights' folder."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens to add at most.")] = 40,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", help="Draw tokens; below 1 bolder choices are rarer."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Draw from the K likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Draw from the fewest tokens of probability P together."),
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(metavar="X", help="Above 1: tokens of the text are less likely.")
    ] = 1.0,
    no_repeat_ngram_size: Annotated[
        int, typer.Option(metavar="N", help="No N tokens in a row come twice; 0 is no such rule.")
    ] = 0,
    beams: Annotated[
        int, typer.Option(metavar="N", help="Beam search with N texts side by side.")
    ] = 1,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Texts of each prompt; drawn, unless there are beams.")
    ] = 1,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="End before this text. May be given several times."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Fixes what is drawn.")] = 0,
    pretokenizer: Annotated[
        PretokenizerName | None,
        typer.Option(
            help="How text is split: as Hugging Face, or as in training; as the folder of the "
            "vocabulary says, else huggingface."
        ),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Precision to run_reporting_errors in.")
    ] = Dtype.FLOAT32,
    device: Annotated[Device, typer.Option(help="Where to run_reporting_errors.")] = Device.CPU,
    overflow: Annotated[
        Overflow,
        typer.Option(
            help="When every position is taken: stop; slide, to go on from the later half, read "
            "again; or error, beforehand."
        ),
    ] = Overflow.STOP,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, at the end.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print the new text alone, without its prompt.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Print what a model makes of a prompt, as it comes.

    The likeliest token is taken, always, unless --temperature, --top-k, --top-p or --samples ask
    for draws. The same seed gives the same text, in any process, on the same kind of machine.

    \b
    Examples:
      python -m scratch_gpt.generate --weights weights --prompt "The fire was"
      python -m scratch_gpt.generate --weights weights --prompt "She said" \\
          --temperature 0.8 --top-k 40 --samples 3 --seed 7 --stop "." --max-new-tokens 60
      echo "It was late" | python -m scratch_gpt.generate --weights weights --beams 4

    Exit codes: 0 printed, 2 usage (no prompt, no such option, text that is not Unicode),
    4 weights or vocabulary refused, 5 environment (no such device, missing package, disk full),
    70 internal error, 130 interrupted, 141 nobody reads any more.
    """  # noqa: D301 - \b keeps the lines of the examples apart
    asked = GenerateOptions(
        weights=weights,
        prompts=tuple(prompt or ()),
        prompt_file=prompt_file,
        vocabulary=vocabulary,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        beams=beams,
        samples=samples,
        stop=tuple(stop or ()),
        seed=seed,
        pretokenizer=None if pretokenizer is None else pretokenizer.value,
        dtype=dtype.value,
        device=device.value,
        overflow=overflow.value,
        as_json=as_json,
        quiet=quiet,
    )
    again = "run it again; the same --seed gives the same text"
    raise typer.Exit(
        run_reporting_errors(partial(_run, asked), name="generate", debug=debug, resume=again)
    )


def _run(asked: GenerateOptions) -> int:
    from scratch_gpt.generation.command import print_texts

    return print_texts(asked)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
