"""``sigprop gain``, ``explain``, ``phase`` and ``activations``: the theory in the terminal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sigprop.activations import Activation


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
    )
    gain.add_argument("--q", type=float, default=1.0, help="second moment to keep; default 1")
    gain.add_argument("--width", type=int, default=None, help="units per layer (leaky family)")
    explain = _command(
        commands,
        "explain",
        _explain,
        "what a gain does to a deep net, in words and numbers",
        "Where the second moment settles with this gain, whether gradients explode or vanish "
        "there, what depth survives, and the gains to compare.",
    )
    explain.add_argument("--gain", type=float, required=True, help="the gain to explain")
    phase = _command(
        commands,
        "phase",
        _phase,
        "the edge of chaos, as a table and a phase diagram",
        "The critical gain for every bias standard deviation, and a picture of the phases.",
        bias=False,
    )
    phase.add_argument("--bias-max", type=float, default=1.0, help="largest bias; default 1")
    phase.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="for phase-NAME.png")
    table = commands.add_parser("activations", help="the activations known, with their gains")
    table.add_argument("--json", action="store_true", help="print JSON")
    table.set_defaults(run=_activations)


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    bias: bool = True,
) -> Any:
    command = commands.add_parser(name, help=summary, description=description)
    command.add_argument("--activation", default="leaky_relu", help="a name; default leaky_relu")
    command.add_argument("--alpha", type=float, default=None, help="its parameter of that name")
    if bias:
        command.add_argument("--bias-std", type=float, default=0.0, help="of biases; default 0")
    command.add_argument("--json", action="store_true", help="print JSON")
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
        print(json.dumps(row, indent=2))
        return 0
    parameters = ", ".join(f"{name} = {value:g}" for name, value in record.parameters.items())
    print(", ".join(filter(None, (options.activation, parameters, _bias(options.bias_std)))))
    print(f"  forward gain        {_digits(row['forward_gain'])}  keeps q = {options.q:g}")
    print(f"  critical gain       {_digits(row['critical_gain'])}  {row['critical_reason']}")
    print(f"  unit-variance gain  {_digits(row['unit_variance_gain'])}  for centred weights")
    if options.width is not None:
        print(
            f"  typical gain        {_digits(row['typical_gain'])}  no drift of log q in one net "
            f"of width {options.width}"
        )
    return 0


def _explain(options: argparse.Namespace) -> int:
    from sigprop.theory.explain import explain_gain

    report = explain_gain(_record(options), options.gain, bias_std=options.bias_std)
    print(json.dumps(report.records()[0], indent=2) if options.json else report)
    return 0


def _phase(options: argparse.Namespace) -> int:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from sigprop import plots
    from sigprop.checks import real_number
    from sigprop.records import table
    from sigprop.theory.critical import edge_of_chaos
    from sigprop.theory.mean_field import MeanField

    record = _record(options)
    most = real_number("--bias-max", options.bias_max, above=0)
    edge = edge_of_chaos(record, bias_std=np.linspace(0, most, 51))
    rows = edge.records()
    top = 2 * np.nanmax(edge.gain) if np.isfinite(edge.gain).any() else 4.0
    gains, biases = np.linspace(0.01, 1, 100) * top, np.linspace(0, most, 100)
    chi = MeanField(record, gain=gains[None, :], bias_std=biases[:, None]).chi()
    figure, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    plots.phase_diagram(gains, biases, chi, rows, name=record.name, ax=ax)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"phase-{record.name}.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    columns = {
        "bias_std": ".2f",
        "gain": ".6f",
        "q_star": ".6g",
        "chi_parallel": ".4f",
        "reason": "",
    }
    print(table(rows[::5], columns))
    print(f"wrote {path}")
    return 0


def _activations(options: argparse.Namespace) -> int:
    from sigprop.activations import ACTIVATIONS, activation
    from sigprop.records import table
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
        print(json.dumps(rows, indent=2))
        return 0
    digits = dict.fromkeys(("forward", "critical", "unit_variance"), ".6f")
    print(table(rows, {"name": "", "parameters": "", **digits, "stable": "", "torch": ""}))
    print("gains at q = 1 without biases; stable: whether a net of the critical gain settles there")
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
