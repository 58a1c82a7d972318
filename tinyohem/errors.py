"""Errors and warnings for users. Any other exception is a bug and shows its traceback."""


class TinyohemError(Exception):
    """An expected failure: one line of what happened, one of what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def plainly(error: BaseException) -> str:
    """Return what an exception says, without the number and the path that an OSError adds."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


class InputError(TinyohemError):
    """Wrong usage or input: the user can fix it. Exit code 2."""

    exit_code = 2


class RunError(TinyohemError):
    """The input was fine, the run failed (a loss that is not finite, say). Exit code 1."""


class RenamedKeyWarning(FutureWarning):
    """A key was called by the name that it had in the version before."""
