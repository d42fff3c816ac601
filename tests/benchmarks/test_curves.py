"""Growth curves: each of every module is drawn, fitted, put into a table and into the picture."""

import importlib

import pytest

from benchmarks import curves, tables
from benchmarks.tables import Table, put_into_page
from saga.console.cli.output import NotSo
from tests.benchmarks.conftest import call

POINTS = [(10, 5.0), (100, 50.0), (1_000, 500.0)]


@pytest.fixture
def growth(monkeypatch):
    """One curve of one module."""
    monkeypatch.setattr(curves, "modules", lambda: ["growth"])
    found = importlib.import_module("benchmarks.growth")
    monkeypatch.setattr(found, "CURVES", {"a step": found.CURVES["a step"]})
    return found


@pytest.mark.parametrize("name", [*curves.modules(), curves.ON_SERVER])
def test_every_curve_has_six_sizes_on_a_logarithmic_axis(name):
    """Over two decades at least."""
    module = importlib.import_module(f"benchmarks.{name}")

    assert module.CURVES
    assert len(module.SIZES) >= 6
    assert module.SIZES[-1] >= 100 * module.SIZES[0]


def test_quick_curves_are_drawn_and_nothing_is_written(growth):
    """Each with at least six points and its exponent."""
    before = tables.PAGE.read_bytes()

    report = call("--curves", "--quick", "--json").row

    (group,) = report["groups"]
    assert group["about"] == "What one more turn costs a saga that is long or wide already"
    (curve,) = group["curves"]
    assert curve["name"] == "a step"
    assert [size for size, _ in curve["points"]] == [10, 20, 30, 50, 70, 100]
    assert abs(curve["exponent"]) < 0.1
    assert tables.PAGE.read_bytes() == before


def test_the_picture_of_the_same_points_is_the_same(tmp_path):
    """Byte for byte; what grows is named in it."""
    steep = {"name": "a steep one", "points": POINTS, "exponent": 1.0}
    flat = {"name": "a flat one", "points": [(size, 5.0) for size, _ in POINTS], "exponent": 0.0}
    report = {"groups": [{"about": "What grows", "curves": [steep, flat]}]}

    curves.draw(report, tmp_path / "one.svg")
    curves.draw(report, tmp_path / "other.svg")

    picture = (tmp_path / "one.svg").read_text("utf-8")
    assert picture == (tmp_path / "other.svg").read_text("utf-8")
    assert "a steep one: 1.00" in picture
    assert "a flat one" not in picture


def test_tables_take_their_place_in_the_page(tmp_path):
    """As often as they are measured; everything else stays."""
    page = tmp_path / "page.md"
    page.write_text("# Costs\n\n<!-- measured: growth -->\nold\n<!-- end -->\n\nAfter.\n", "utf-8")
    table = Table(("", "cost"), [("a step", 1_745), (None, 2)])

    for _ in range(2):
        put_into_page("growth", ["Under load.", table], page)

    assert page.read_text("utf-8") == (
        "# Costs\n\n<!-- measured: growth -->\n\nUnder load.\n\n"
        "|  | cost |\n| --- | --- |\n| a step | 1,745 |\n|  | 2 |\n\n<!-- end -->\n\nAfter.\n"
    )
    with pytest.raises(NotSo, match="servers"):
        put_into_page("servers", [table], page)


@pytest.mark.parametrize("name", ["embedded", "servers", "loaded", "growth", "growth-servers"])
def test_the_page_has_a_place_for_every_table(name):
    """Where `--docs` writes it."""
    assert f"<!-- measured: {name} -->\n" in tables.PAGE.read_text("utf-8")
