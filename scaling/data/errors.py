"""The error that bad or missing data ends in."""


class DataError(ValueError):
    """Data that cannot be used as asked; the message says what, where, and the remedy.

    It is the user's data or disk that is at fault, not the program: front doors print the message
    without a traceback and exit with 1.
    """
