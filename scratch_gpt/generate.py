"""The command line: `python -m scratch_gpt.generate --weights DIRECTORY --prompt TEXT`.

Nothing that needs torch is imported before it runs.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from scratch_gpt.cli import run_app, run_reporting_errors, typer_app
from scratch_gpt.options import (
    DebugOption,
    Device,
    Pretokenizer,
    add_command,
    option,
    require_paths,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions(DebugOption):
    r"""Print what a model generates from a prompt, token by token.

    The most likely token is taken, unless --temperature, --top-k, --top-p or --samples ask for
    sampling. The same seed gives the same text, in any process, on the same kind of machine.

    Examples:
      python -m scratch_gpt.generate --weights weights --prompt "The fire was"
      python -m scratch_gpt.generate --weights weights --prompt "She said" \
          --temperature 0.8 --top-k 40 --samples 3 --seed 7 --stop "."
      echo "It was" | python -m scratch_gpt.generate --weights weights --beams 4

    Exit codes:
      0 printed  2 usage (no prompt, text that is not Unicode)
      4 weights or vocabulary rejected
      5 environment (no such device, missing package, disk full)
      70 internal error  130 interrupted  141 closed pipe
    """

    weights: str = option(
        ...,
        "Folder with config.json and model.safetensors, as parity.convert, scratch_gpt.train and "
        "save_pretrained write it.",
        metavar="DIRECTORY",
    )
    prompt: tuple[str, ...] = option((), "Text to continue. May be repeated.")
    prompt_file: str | None = option(
        None,
        "File that is one prompt; - is standard input, which is read by default if there is no "
        "prompt and it is not a terminal.",
        metavar="FILE",
        exists=True,
    )
    vocabulary: Path | None = option(
        None,
        "Folder of the vocabulary. Default: the weights' folder.",
        metavar="DIRECTORY",
        exists=True,
    )
    max_new_tokens: int = option(40, "Largest number of tokens to add.")
    temperature: float | None = option(
        None, "Sample tokens; a value below 1 makes unlikely tokens rarer.", metavar="T"
    )
    top_k: int | None = option(None, "Sample from the K most likely tokens.", metavar="K")
    top_p: float | None = option(
        None, "Sample from the fewest tokens whose total probability is P.", metavar="P"
    )
    repetition_penalty: float = option(1.0, "Above 1: tokens of the text become less likely.")
    no_repeat_ngram_size: int = option(
        0, "No sequence of N tokens occurs twice; 0 switches the rule off."
    )
    beams: int = option(1, "Beam search over N texts.")
    samples: int = option(1, "Texts for each prompt; sampled, except with beams.")
    stop: tuple[str, ...] = option((), "End before this text. May be repeated.")
    seed: int = option(0, "Seed of the sampling.")
    pretokenizer: Pretokenizer | None = option(
        None,
        "How text is split into words: as Hugging Face does (huggingface), or as in the released "
        "training (original). Default: recorded in the vocabulary's folder, else huggingface.",
    )
    dtype: Literal["float32", "bfloat16"] = option("float32", "Precision of the model.")
    device: Device = option("cpu", "Where the model runs.")
    overflow: Literal["stop", "slide", "error"] = option(
        "stop",
        "At the context limit: stop; slide, which reads the later half again and continues; or "
        "error, before anything is generated.",
    )
    json: bool = option(False, "Print one JSON document, at the end.")
    quiet: bool = option(False, "Print only the new text, without its prompt.")

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled: an option that only sampling uses was given."""
        drawn = (self.temperature, self.top_k, self.top_p) != (None, None, None)
        return drawn or (self.samples > 1 and self.beams == 1)


def generate(options: GenerateOptions) -> int:
    """Generate; return the exit code. Errors are printed, not raised."""

    def action() -> int:
        require_paths(options)
        from scratch_gpt.generation.command import print_texts

        return print_texts(options)

    return run_reporting_errors(
        action,
        name="generate",
        debug=options.debug,
        resume="run it again; the same --seed gives the same text",
    )


app = typer_app("scratch_gpt.generate")
add_command(app, GenerateOptions, generate)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
