"""The end of a run that another of its processes has to explain."""

from scratch_gpt.command.errors import CommandError, ExitCode


class ToldElsewhereError(CommandError):
    """Another process of the group met the error, and tells it."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__("another process ended the run", where="the group", fix="see its message")
        self.code = code
