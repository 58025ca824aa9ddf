"""The command line: thin over the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sigprop import __version__
from sigprop.cli import check, regions, theory, validate
from sigprop.cli.interrupts import INTERRUPTED, said
from sigprop.cli.parsing import CommandHelp

USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: holds, done; 1: rejected, unhealthy; 2: bad usage; 130: ended by Ctrl-C.
    """
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        print(f"sigprop {options.command}: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as error:
        print(f"sigprop {options.command}: {said(error)}", file=sys.stderr)
        return INTERRUPTED
    return code


def parser() -> argparse.ArgumentParser:
    """What reads the arguments, with a subparser for each command."""
    found = argparse.ArgumentParser(
        prog="sigprop",
        usage="sigprop COMMAND [options]",
        description="Signal-propagation theory, initialization and measurement for deep networks. "
        "What a command takes: sigprop COMMAND --help.",
        formatter_class=CommandHelp,
    )
    found.add_argument("--version", action="version", version=f"sigprop {__version__}")
    commands = found.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog="sigprop", title="commands"
    )
    validate.add(commands)
    check.add(commands)
    theory.add(commands)
    regions.add(commands)
    return found
