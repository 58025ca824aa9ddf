"""The command line: thin over the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sigprop import __version__
from sigprop.cli.interrupts import INTERRUPTED, ended_at_once, said

USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: holds, done; 1: rejected, unhealthy; 2: bad usage; 130: ended by Ctrl-C.
    """
    options = argparse.Namespace(command="")
    try:
        reader = parser()
        _, rest = reader.parse_known_args(arguments, options)
        if rest:
            unknown(reader, options.command, rest)
        code: int = options.run(options)
    except OSError as error:
        words = str(error)
        if error.filename is not None and error.strerror:
            words = f"{error.filename}: {error.strerror}."
        print(f"sigprop {options.command}: {words}", file=sys.stderr)
        return USAGE
    except (ValueError, TypeError, ModuleNotFoundError, FloatingPointError) as error:
        print(f"sigprop {options.command}: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as error:
        if arguments is None:  # the process ends here
            ended_at_once()
        print(f"{f'sigprop {options.command}'.strip()}: {said(error)}", file=sys.stderr)
        return INTERRUPTED
    return code


def unknown(reader: argparse.ArgumentParser, command: str, rest: Sequence[str]) -> None:
    """End with what a command does not take, and the option of it that is nearest."""
    from sigprop._lazy import did_you_mean

    (commands,) = (a for a in reader._actions if isinstance(a, argparse._SubParsersAction))
    own: argparse.ArgumentParser = commands.choices[command]
    known = {word.lstrip("-"): word for action in own._actions for word in action.option_strings}
    hint = ""
    if rest[0].startswith("-"):
        hint = did_you_mean(rest[0].partition("=")[0].lstrip("-"), known)
        for bare, word in known.items():
            hint = hint.replace(f"'{bare}'", f"'{word}'")
    own.error(f"unrecognized arguments: {' '.join(rest)}.{hint}")


def parser() -> argparse.ArgumentParser:
    """What reads the arguments, with a subparser for each command."""
    # Here, so that a Ctrl-C while they load is answered like any other.
    from sigprop.cli import check, regions, sweep, theory, validate
    from sigprop.cli.parsing import CommandHelp

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
    sweep.add(commands)
    return found
