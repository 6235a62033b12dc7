"""The command line's options as a request, and what is wrong with them in their own names."""

from scratch_gpt.command.errors import CommandError, InputRefusedError, UsageError
from scratch_gpt.generation.asked import Asked
from scratch_gpt.generation.refusal import NoChoiceError, SettingError
from scratch_gpt.generation.request import Request
from scratch_gpt.generation.text import Stops
from scratch_gpt.sampling import Rules

_HELP = "python -m scratch_gpt.generate --help says what each takes"


def request_of(asked: Asked) -> Request:
    """Return the request, before anything is read.

    Raises:
        UsageError: An option has a value that it cannot have.
    """
    try:
        Stops(asked.stop)
        return Request(
            max_new_tokens=asked.max_new_tokens,
            rules=Rules(
                temperature=1.0 if asked.temperature is None else asked.temperature,
                top_k=asked.top_k,
                top_p=asked.top_p,
                repetition_penalty=asked.repetition_penalty,
                no_repeat_ngram_size=asked.no_repeat_ngram_size,
                sampled=asked.sampled,
            ),
            seed=asked.seed,
            samples=asked.samples,
            beams=asked.beams,
            overflow=asked.overflow,
        )
    except SettingError as error:
        raise usage(error) from error


def usage(error: SettingError) -> UsageError:
    """Return the error that names the options: they are called what the settings are."""
    flags = {f"--{name.replace('_', '-')}": value for name, value in error.got.items()}
    values = " and ".join(f"{flag} is {value!r}" for flag, value in flags.items())
    return UsageError(f"{values}; allowed: {error.allowed}", where=" and ".join(flags), fix=_HELP)


def no_choice(error: NoChoiceError) -> CommandError:
    """Return whose fault it is that nothing can be chosen: the rules', or the weights'."""
    if error.excluded:
        return UsageError(
            str(error),
            where="--no-repeat-ngram-size",
            fix="give a larger size, or fewer --max-new-tokens",
        )
    return InputRefusedError(
        str(error),
        where="--weights",
        fix="use --dtype float32 where it was another; else make the weights anew",
    )
