"""How help texts of commands look: defaults where there are any, examples as they are typed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


class CommandHelp(argparse.HelpFormatter):
    """Tells a default only where there is one; keeps the lines of paragraphs that are indented."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        if text is None or not action.option_strings or _is_nothing(default):
            return text
        return f"{text} (default: {_words(default)})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            part if "\n " in part else super(CommandHelp, self)._fill_text(part, width, indent)
            for part in paragraphs
        )


def add_command(commands: Any, name: str, **texts: Any) -> Any:
    """A subparser of this name; ``usage`` is what stands behind the name.

    A positional argument stands first there: behind an option that takes several values, it would
    be taken for one of them.
    """
    usage = texts.pop("usage", "[options]")
    return commands.add_parser(
        name, usage=f"sigprop {name} {usage}", formatter_class=CommandHelp, **texts
    )


def add_force(command: Any) -> None:
    """The option to replace results that are there."""
    command.add_argument(
        "--force", action="store_true", help="replace results that are there already"
    )


def _is_nothing(default: object) -> bool:
    return default is None or default is argparse.SUPPRESS or isinstance(default, bool)


def _words(default: object) -> str:
    if isinstance(default, tuple | list):
        return " ".join(map(_words, default))
    if isinstance(default, Path):
        return str(default)
    return f"{default:g}" if isinstance(default, float) else str(default)
