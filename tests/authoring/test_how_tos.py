"""The code blocks of the how-tos about runs, changes and determinism, run as they are printed."""

import re
import warnings
from pathlib import Path

import pytest

from saga.console.cli.migrating import read_steps
from saga.errors import DeterminismWarning

HOW_TOS = Path(__file__).parents[2] / "docs" / "how-to"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """All blocks of a page as one module: what it has in the end."""
    blocks = BLOCK.findall((HOW_TOS / page).read_text("utf-8"))
    assert blocks
    name = page.removesuffix(".md").replace("-", "_")
    (tmp_path / f"{name}.py").write_text("\n\n".join(blocks), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return vars(__import__(name))


def test_run_for_long(tmp_path, monkeypatch):
    """Its tests are part of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeterminismWarning)
        assert "running" in run("run-for-long.md", tmp_path, monkeypatch)


async def test_change_a_running_saga(tmp_path, monkeypatch):
    """Its tests pass, and its file has the names that they move."""
    page = run("change-a-running-saga.md", tmp_path, monkeypatch)
    await page["test_orders_go_on_with_version_2"](tmp_path)
    page["test_an_order_that_waits_for_its_money_is_wrapped"]()

    text = (HOW_TOS / "change-a-running-saga.md").read_text("utf-8")
    [moves] = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "moves.yaml").write_text(moves)
    steps = read_steps(tmp_path / "moves.yaml")
    assert {old: new for old, (new, _) in steps.items()} == {"reserve": "hold"}


async def test_keep_sagas_deterministic(tmp_path, monkeypatch):
    """What it allows is not warned of, and its test passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeterminismWarning)
        page = run("keep-sagas-deterministic.md", tmp_path, monkeypatch)
    await page["test_orders"](tmp_path)
