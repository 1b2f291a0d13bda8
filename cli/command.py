"""What every command does around its work: check its options, explain itself in full, and say how to go on after Ctrl-C."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli.groups import GROUPS
from cli.limits import refusal
from echo_synth.errors import shortened

if TYPE_CHECKING:
    from typer._click.core import Context
    from typer._click.exceptions import UsageError as _UsageError
    from typer._click.formatting import HelpFormatter
else:
    _UsageError = typer.BadParameter.__base__  # whichever click it is that typer brings


class Command(TyperCommand):
    """A command whose options are checked against `limits` before its function is called."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        _refuse_empty(args)
        typed = list(args)  # parsing takes them away
        with _readable(typed):
            rest = super().parse_args(ctx, args)
        for parameter in () if ctx.resilient_parsing else self.params:
            value = ctx.params.get(parameter.name or "")
            why = refusal(self.name or "", parameter.name or "", value)
            if why:
                option = max(parameter.opts, key=len)
                raise typer.BadParameter(f"'{_shown(value)}'; {why}", ctx=ctx, param_hint=option)
        return rest

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell_interrupted()
            raise typer.Exit(130) from None

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first paragraph of the help, whole."""
        return " ".join((self.help or "").partition("\n\n")[0].split())


class _Commands(TyperGroup):
    """The commands by name; help lists them in `GROUPS`."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        width = max(map(len, self.commands))  # one column of names in every group
        for title, names in GROUPS.items():
            rows = [(name.ljust(width), self.commands[name].get_short_help_str()) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)

    def resolve_command(self, ctx: Context, args: list[str]) -> Any:
        with _readable():
            return super().resolve_command(ctx, args)


class Application(typer.Typer):
    """A Typer application whose commands are `Command`s."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Commands, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=Command, **settings)


def tell_interrupted() -> None:
    """What the interrupted work saved, and the command that continues it."""
    from echo_synth import interrupt
    from echo_synth.progress import close_all

    close_all()
    if os.environ.get(interrupt.WITHIN):
        return
    told = interrupt.message() or f"continue with: {interrupt.continue_with()}"
    print(f"interrupted; {told}", file=sys.stderr)


@contextmanager
def _readable(args: Sequence[str] = ()) -> Iterator[None]:
    """Usage errors show the value that was typed for the option they refuse, and repeat it up to a length."""
    try:
        yield
    except _UsageError as e:
        value = _value_of(getattr(getattr(e, "param", None), "opts", ()), args)
        shown = f"'{_shown(value)}'; " if value is not None and value not in e.message else ""
        e.message = shown + shortened(e.message)
        raise


def _value_of(names: Sequence[str], args: Sequence[str]) -> str | None:
    """What was typed for the option of these names; None where it was not."""
    found = None
    for word, following in zip(args, [*args[1:], None], strict=True):
        name, equals, given = word.partition("=")
        if name.startswith("-") and name in names:
            found = given if equals else following
    return found


def _refuse_empty(args: list[str]) -> None:
    """No option takes an empty value, and an empty path would be the current folder."""
    for before, value in zip(["", *args], args, strict=False):
        name, equals, given = value.partition("=")
        if value == "" or (name.startswith("--") and equals and not given):
            option = name if name.startswith("--") else before
            raise typer.BadParameter("''; expected a value", param_hint=option if option.startswith("--") else None)


def _shown(value: object) -> str:
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
