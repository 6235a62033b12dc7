"""What is wrong with a command line's options, in their own names."""

import torch

from scratch_gpt.errors import ExitCode, NoChoiceError, SettingError
from scratch_gpt.generation.command import no_choice_error, usage_error
from scratch_gpt.generation.sampling import Rules, choose


def choice_of(value: float) -> NoChoiceError:
    """Return the error of logits that are all this value."""
    try:
        choose(torch.full((1, 3), value), Rules())
    except NoChoiceError as error:
        return error
    message = "something was chosen"
    raise AssertionError(message)


def test_rules_that_exclude_everything_are_the_options_fault() -> None:
    """Minus infinity everywhere is the rules' doing; NaN and infinity are the weights'."""
    excluded, *broken = (
        no_choice_error(choice_of(float(value))) for value in ("-inf", "nan", "inf")
    )
    assert (excluded.exit_code, excluded.where) == (ExitCode.USAGE, "--no-repeat-ngram-size")
    for error in broken:
        assert (error.exit_code, error.where) == (ExitCode.REFUSED, "--weights")
        assert "--dtype float32" in error.fix


def test_settings_are_called_what_their_options_are() -> None:
    """Every name as an option, in what and in where."""
    error = usage_error(SettingError({"no_repeat_ngram_size": -1, "beams": 2}, "peace"))
    assert error.what == "--no-repeat-ngram-size is -1 and --beams is 2; allowed: peace"
    assert error.where == "--no-repeat-ngram-size and --beams"
