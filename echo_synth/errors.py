"""Errors that a user can act on; the command line prints them in one or two lines, without a traceback."""

import re

_START, _END = 600, 250  # characters of a long message that are shown: what is wrong, and what to do
_COMMANDS = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)  # to a terminal; all but the end of a line


def shortened(message: str) -> str:
    """`message` to be printed: values and paths in it come from files, so it may be very long, or hold what terminals obey.

    The middle of a long one is left out, control characters are written as Python does (\\x1b).
    """
    message = _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), message)
    return message if len(message) <= _START + _END else f"{message[:_START]} … {message[-_END:]}"


class EchoSynthError(Exception):
    """Base of every expected error: says briefly what was found, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class SpecError(EchoSynthError):
    """A file under data_specs, or an option that names something in it, is wrong."""


class DataError(EchoSynthError):
    """An input file or folder is missing, damaged or not what it claims to be."""


class ExistsError(EchoSynthError):
    """Something would be overwritten without --overwrite."""


class LeakageError(EchoSynthError):
    """Held-out test patients were about to reach training or generation."""


class RunError(EchoSynthError):
    """A run folder (weights, state, settings) does not fit what was asked of it."""


class TrainingError(EchoSynthError):
    """Training cannot continue, e.g. a loss is not finite."""


class HeldError(EchoSynthError):
    """Another process works on the same folder."""
