"""Errors that a user can act on; the command line prints them in one or two lines, without a traceback."""

_START, _END = 600, 250  # characters of a long message that are shown: what is wrong, and what to do


def shortened(message: str) -> str:
    """`message`, without its middle where it is so long that nobody would read it: values and paths come from files."""
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
