"""The errors that an artist is meant to read. Knows nothing about where they are shown."""


class UserError(Exception):
    """A problem that the artist can solve: `message` says what happened and to which file, `hint` what to do.

    Everything that is not a UserError is a bug of ours: it is logged with its traceback and shown as a code.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class DiskFull(UserError):
    """The disk is full. What was written before is whole, and the work can be resumed."""


def distinct_decimals(value: float, limit: float, places: int = 1) -> tuple[str, str]:
    """Return both numbers as text with the fewest decimals, at least `places`, that show which is larger: "2.04" and "2"."""
    for decimals in range(places, 400):
        shown = [f"{number:.{decimals}f}" for number in (value, limit)]
        left, right = map(float, shown)
        if (left > right, left < right) == (value > limit, value < limit):
            break
    left, right = (text.rstrip("0").rstrip(".") if "." in text else text for text in shown)
    return left, right
