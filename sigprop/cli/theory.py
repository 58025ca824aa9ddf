"""``sigprop gain``, ``explain``, ``phase`` and ``activations``: the theory in the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.cli.interrupts import uninterrupted
from sigprop.cli.output import check_places, clear_partial, partial, show, write_figure
from sigprop.cli.parsing import add_command, add_force
from sigprop.records import json_text, table, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sigprop.activations import Activation
    from sigprop.records import Row


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    gain = _command(
        commands,
        "gain",
        _gain,
        "the gain to initialize with",
        "The three gains of an activation: forward (keeps a second moment of q), critical (keeps "
        "the gradient) and unit variance (for centred weights). For the leaky family with --width "
        "also the gain at which the typical net of that width neither grows nor dies.",
        "examples:\n  sigprop gain mish --bias-std 0.1\n"
        "  sigprop gain --activation leaky_relu --alpha 0.2 --width 64",
    )
    gain.add_argument("--q", type=float, default=1.0, metavar="Q", help="second moment to keep")
    gain.add_argument("--width", type=int, metavar="N", help="units per layer (leaky family)")
    explain = _command(
        commands,
        "explain",
        _explain,
        "what a gain does to a deep net, in words and numbers",
        "Where the second moment settles with this gain, whether gradients explode or vanish "
        "there, what depth survives, and the gains to compare.",
        "example:\n  sigprop explain --activation tanh --gain 1.6667",
        usage="--gain G [options]",
    )
    explain.add_argument("--gain", type=float, required=True, metavar="G", help="to be explained")
    phase = _command(
        commands,
        "phase",
        _phase,
        "the edge of chaos, as a table and a phase diagram",
        "The critical gain for every bias standard deviation, and a picture of the phases. Ctrl-C "
        "ends it with the biases that are finished. Exit code 0: done; 2: bad usage; 130: ended by "
        "Ctrl-C.",
        "example:\n  sigprop phase --activation tanh --bias-max 0.5",
        bias=False,
    )
    phase.add_argument("--bias-max", type=float, default=1.0, metavar="S", help="largest bias")
    phase.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder for phase-NAME.png and phase-NAME.csv (the edge)",
    )
    add_force(phase)
    known = add_command(
        commands,
        "activations",
        help="the activations known, with their gains",
        description="The activations known by name, with their parameters and their gains.",
        epilog="example:\n  sigprop activations",
    )
    known.add_argument("--json", action="store_true", help="print JSON")
    known.set_defaults(run=_activations)


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    examples: str,
    bias: bool = True,
    usage: str = "[options]",
) -> Any:
    usage = f"[NAME] {usage}"
    command = add_command(
        commands, name, help=summary, description=description, epilog=examples, usage=usage
    )
    add = command.add_argument
    add(
        "activation", nargs="?", default=argparse.SUPPRESS, metavar="NAME", help="of the activation"
    )
    add("--activation", default="leaky_relu", metavar="NAME", help="the same")
    add(
        "--alpha",
        "--negative-slope",
        type=float,
        metavar="A",
        help="its parameter of that name; if not given: its own default",
    )
    if bias:
        add("--bias-std", type=float, default=0.0, metavar="S", help="of biases")
    add("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)
    return command


def _record(options: argparse.Namespace) -> Activation:
    from sigprop.activations import activation

    given = {} if options.alpha is None else {"alpha": options.alpha}
    return activation(options.activation, **given)


def _gain(options: argparse.Namespace) -> int:
    from sigprop.activations import LEAKY_FAMILY, leaky_slopes
    from sigprop.theory.gains import gain
    from sigprop.theory.leaky import g_star

    if options.activation in LEAKY_FAMILY:
        leaky_slopes(options.activation, options.alpha)  # refuses a slope it cannot have
        if LEAKY_FAMILY[options.activation] is not None:
            options.alpha = None
    record = _record(options)
    row = {
        "activation": options.activation,
        **record.parameters,
        "q": options.q,
        "bias_std": options.bias_std,
        "forward_gain": _or_none(
            gain, record, kind="forward", q=options.q, bias_std=options.bias_std
        ),
        **_critical(record, options.bias_std),
        "unit_variance_gain": _or_none(
            gain, record, kind="unit_variance", q=options.q, bias_std=options.bias_std
        ),
    }
    if options.width is not None:
        if options.activation not in LEAKY_FAMILY:
            raise ValueError(f"--width is for the leaky family; got {options.activation!r}.")
        slope = float(leaky_slopes(options.activation, options.alpha))
        row |= {"width": options.width, "typical_gain": float(g_star(slope, width=options.width))}
    if options.json:
        show(json_text(row, indent=2))
        return 0
    parameters = ", ".join(f"{name} = {value:g}" for name, value in record.parameters.items())
    lines = [
        ", ".join(filter(None, (options.activation, parameters, _bias(options.bias_std)))),
        f"  forward gain        {_digits(row['forward_gain'])}  keeps q = {options.q:g}",
        f"  critical gain       {_digits(row['critical_gain'])}  {row['critical_reason']}",
        f"  unit-variance gain  {_digits(row['unit_variance_gain'])}  for centred weights",
    ]
    if options.width is not None:
        lines.append(
            f"  typical gain        {_digits(row['typical_gain'])}  no drift of log q in one net "
            f"of width {options.width}"
        )
    show("\n".join(lines))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from sigprop.theory.explain import explain_gain

    report = explain_gain(_record(options), options.gain, bias_std=options.bias_std)
    show(json_text(report.records()[0], indent=2) if options.json else str(report))
    return 0


def _phase(options: argparse.Namespace) -> int:
    """The edge bias by bias, then the picture.

    Raises:
        KeyboardInterrupt: with what is finished in words; it is printed and written.
    """
    import numpy as np

    from sigprop.checks import real_number
    from sigprop.theory.critical import edge_of_chaos

    record = _record(options)
    most = real_number("--bias-max", options.bias_max, above=0)
    drawn, rows_file = (options.out / f"phase-{record.name}.{ending}" for ending in ("png", "csv"))
    check_places([drawn, rows_file], force=options.force)
    biases = np.linspace(0, most, 51)
    rows: list[Row] = []
    figure: Figure | None = None
    try:
        for bias in biases:
            rows += edge_of_chaos(record, bias_std=bias).records()
        figure = _phase_figure(record, rows, most)
    except KeyboardInterrupt:
        if not rows:
            raise KeyboardInterrupt("nothing is finished, nothing is written") from None
    files = [partial(rows_file)] if figure is None else [rows_file, drawn]
    wrote = f"wrote {', '.join(map(str, files))}"
    words = f"the edge is found for {len(rows)} of {len(biases)} biases; {wrote}"
    columns = {"bias_std": ".2f", "gain": ".6f", "q_star": ".6g", "chi_parallel": ".4f"}
    with uninterrupted(words):
        text = table(rows[::5], columns | {"reason": ""})
        show(json_text(rows, indent=2) if options.json else text)
        write_csv(rows, files[0])
        if figure is not None:
            write_figure(figure, drawn)
            clear_partial([drawn, rows_file])
            if not options.json:
                show(wrote)
    if figure is None:
        raise KeyboardInterrupt(words)
    return 0


def _phase_figure(record: Activation, rows: list[Row], most: float) -> Figure:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from sigprop import plots
    from sigprop.theory.mean_field import MeanField

    known = [row["gain"] for row in rows if np.isfinite(row["gain"])]
    gains = np.linspace(0.01, 1, 100) * (2 * max(known, default=2.0))
    biases = np.linspace(0, most, 100)
    chi = MeanField(record, gain=gains[None, :], bias_std=biases[:, None]).chi()
    figure, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    plots.phase_diagram(gains, biases, chi, rows, name=record.name, ax=ax)
    return figure


def _activations(options: argparse.Namespace) -> int:
    from sigprop.activations import ACTIVATIONS, activation
    from sigprop.theory.gains import gain

    rows = []
    for name in ACTIVATIONS:
        record = activation(name)
        critical = _critical(record, 0.0)
        rows.append(
            {
                "name": name,
                "parameters": ", ".join(f"{k}={v:g}" for k, v in record.parameters.items()),
                "forward": _or_none(gain, record, kind="forward"),
                "critical": critical["critical_gain"],
                "unit_variance": _or_none(gain, record, kind="unit_variance"),
                "stable": critical["critical_stable"],
                "torch": record.torch_path,
            }
        )
    if options.json:
        show(json_text(rows, indent=2))
        return 0
    digits = dict.fromkeys(("forward", "critical", "unit_variance"), ".6f")
    text = table(rows, {"name": "", "parameters": "", **digits, "stable": "", "torch": ""})
    note = "gains at q = 1 without biases; stable: whether a net of the critical gain settles there"
    show(f"{text}\n{note}")
    return 0


def _critical(record: Activation, bias_std: float) -> dict[str, Any]:
    from sigprop.theory.critical import solve_critical

    point = solve_critical(record, bias_std=bias_std)
    return {
        "critical_gain": None if point.gain != point.gain else float(point.gain),
        "critical_stable": bool(point.stable),
        "critical_reason": point.reason,
    }


def _or_none(compute: Callable[..., float], *arguments: Any, **options: Any) -> float | None:
    from sigprop.theory.fixed_points import NoSolution

    try:
        return compute(*arguments, **options)
    except NoSolution:
        return None


def _digits(value: Any) -> str:
    return f"{'none':<12}" if value is None else f"{value:<12.10g}"


def _bias(bias_std: float) -> str:
    return f"bias_std = {bias_std:g}" if bias_std else ""
