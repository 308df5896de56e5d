"""The one error an artist is meant to read. Knows nothing about where it is shown."""


class UserError(Exception):
    """Something the artist can act on: `message` says what happened and to which file, `hint` what to do.

    Everything that is not a UserError is a bug of ours: it is logged with its traceback and shown as a code.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class DiskFull(UserError):
    """There is no room left to write. What was written before is whole, and the work can be continued."""
