"""How costs grow: curves over sizes, the fit of each, a table and a picture of all.

A module `benchmarks/growth*.py` has `CURVES`, functions by name, and `SIZES`, at least six of them
on a logarithmic axis. A function takes sizes and gives points `(size, cost)`. Each curve is drawn
in a process of its own. Those of `benchmarks.server_growth` take the address of a PostgreSQL, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from benchmarks.growth import exponent
from benchmarks.measuring import Bar, Plan, circumstances
from benchmarks.tables import Table
from saga.console.cli.output import Printer

FOLDER: Final = Path(__file__).parent
PICTURE: Final = FOLDER.parent / "docs" / "assets" / "growth.svg"
QUICK: Final = (1, 2, 3, 5, 7, 10)
"""Of the smallest size."""
ON_SERVER: Final = "server_growth"
FLAT: Final = 0.1
"""The exponent from which on a curve has a colour and a name in the picture."""

Curve = dict[str, Any]


def modules() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("growth*.py"))


def points_of(module: str, name: str, sizes: Sequence[int], *server: str) -> dict[str, Any]:
    """What a process is asked for."""
    found = import_module(f"benchmarks.{module}").CURVES[name](sizes, *server)
    return {"points": [list(point) for point in found]}


def measure(
    plan: Plan, printer: Printer, *, is_quick: bool, server: str | None = None
) -> dict[str, Any]:
    """All curves, or those of a PostgreSQL *server*; NotSo if one cannot be drawn."""
    names, given = (modules(), ()) if server is None else ([ON_SERVER], (server,))
    found = {name: import_module(f"benchmarks.{name}") for name in names}
    with Progress(console=printer.err, transient=True) as progress:
        bar = Bar(progress, sum(len(module.CURVES) for module in found.values()))
        groups = []
        for module, content in found.items():
            smallest = content.SIZES[0]
            sizes = [smallest * times for times in QUICK] if is_quick else content.SIZES
            drawn = [_curve(bar, name, module, sizes, given) for name in content.CURVES]
            groups.append({"about": _about(content.__doc__ or module), "curves": drawn})
    return circumstances(plan) | {"runs": 1, "groups": groups}


def parts(report: Mapping[str, Any]) -> Sequence[str | Table]:
    """The report for people."""
    counted = f"Python {report['python']}, commit {report['commit']}; costs are counted, not timed"
    told: list[str | Table] = [counted]
    columns = ("", "at", "cost", "at", "cost", "grows with size to the power of")
    for group in report["groups"]:
        rows = []
        for curve in group["curves"]:
            (first, least), *_, (last, most) = curve["points"]
            ends = (first, f"{least:,.0f}", last, f"{most:,.0f}")
            rows.append((curve["name"], *ends, f"{round(curve['exponent'], 2) + 0.0:.2f}"))
        told += [f"{group['about']}:", Table(columns, rows)]
    return told


def draw(report: Mapping[str, Any], path: Path = PICTURE) -> None:
    """The picture of all curves, byte for byte the same for the same points."""
    from matplotlib import rc_context  # only whoever draws needs it
    from matplotlib.figure import Figure

    groups = report["groups"]
    # Text stays text: the file is small, and its numbers can be read and searched.
    style: dict[Any, Any] = {"svg.hashsalt": "saga", "svg.fonttype": "none", "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=(8, 4.2 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False)
        for panel, group in zip(panels[:, 0], groups, strict=True):
            _draw_group(panel, group)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw_group(panel: Any, group: Mapping[str, Any]) -> None:
    for curve in group["curves"]:
        sizes, costs = zip(*curve["points"], strict=True)
        relative = [cost / costs[0] for cost in costs]
        if abs(curve["exponent"]) < FLAT:
            panel.plot(sizes, relative, color="0.6", linewidth=0.8, marker=".", markersize=2)
        else:
            name = f"{curve['name']}: {curve['exponent']:.2f}"
            panel.plot(sizes, relative, label=name, linewidth=1.2, marker=".", markersize=4)
    panel.set_xscale("log")
    panel.set_yscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_title(group["about"], loc="left")
    panel.set_xlabel("size")
    panel.set_ylabel("cost, of that of the smallest size")
    panel.set_ylim(bottom=0.5, top=max(2.0, panel.get_ylim()[1]))
    panel.grid(visible=True, color="0.92")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False)


def _curve(
    bar: Bar, name: str, module: str, sizes: Sequence[int], server: tuple[str, ...]
) -> Curve:
    text = f"drawing: {name}"
    measured: dict[str, Any] = bar.run(text, "curve", module, name, sizes, *server)
    points = [(size, cost) for size, cost in measured["points"]]
    return {"name": name, "points": points, "exponent": exponent(points)}


def _about(docstring: str) -> str:
    """The first line of a module, without its word for what it is."""
    line = docstring.strip().splitlines()[0].rstrip(".").partition(": ")[2]
    return line[:1].upper() + line[1:]
