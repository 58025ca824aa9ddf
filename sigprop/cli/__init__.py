"""The command line: thin over the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sigprop import __version__
from sigprop.cli import check, regions, theory, validate

USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 (holds, done), 1 (rejected, unhealthy) or 2 (bad usage)."""
    parser = argparse.ArgumentParser(
        prog="sigprop",
        description="Signal-propagation theory, initialization and measurement for deep networks.",
    )
    parser.add_argument("--version", action="version", version=f"sigprop {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    validate.add(commands)
    check.add(commands)
    theory.add(commands)
    regions.add(commands)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        print(f"sigprop {options.command}: {error}", file=sys.stderr)
        return USAGE
    return code
