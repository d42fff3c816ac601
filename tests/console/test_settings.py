"""Settings and applications that cannot be meant: refused by name, with what to do, exit 2."""

import pytest

from saga.settings import redacted
from tests.console.conftest import call
from tests.console.shop import SHOP

UNDO = SHOP.replace("receipt: str | None = None", "receipt: str")
TWICE = (
    SHOP
    + """
@saga("order", version=1, starts_on=OrderPlaced)
async def another(ctx, placed): ...
app = SagaApp(sagas=[order, another])
"""
)
LINE_OF_ANOTHER = TWICE.splitlines().index('@saga("order", version=1, starts_on=OrderPlaced)') + 1


def test_a_misspelt_variable_is_refused_with_a_suggestion(shop, monkeypatch):
    """A setting that does nothing would be worse."""
    monkeypatch.setenv("SAGA_STOER", "sqlite:///x.db")

    called = call("ls")

    assert called.code == 2
    assert "SAGA_STOER" in called.err
    assert "SAGA_STORE" in called.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store", "x.db"], "expected sqlite://"),
        (["--bus", "local://x.db"], "three slashes"),
        (["--log", "loud"], "SAGA_LOG"),
        (["--env", "Prod!"], "SAGA_ENV"),
        (["--app", "shop"], "module:name"),
        (["--store", "mysql://u@h/db"], "expected sqlite://"),
    ],
)
def test_an_illegal_setting_is_refused_by_name(shop, words, said):
    """Before anything is opened."""
    called = call("run", *words)

    assert called.code == 2
    assert said in called.err
    assert not (shop / ".saga").exists()


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        (None, "nowhere:app", "no module 'nowhere'"),
        (SHOP, "shop:ap", "did you mean shop:app"),
        ("app = 3", "shop:app", "no SagaApp but a int"),
        ("import nothere", "shop:app", "shop.py:1: ModuleNotFoundError: No module named 'nothere'"),
        ("def f(:", "shop:app", "shop.py:1: SyntaxError"),
        ("x = 1\n\ny = {}['k']", "shop:app", "shop.py:3: KeyError: 'k'"),
        ("import json\n\njson.loads('{')", "shop:app", "shop.py:3: JSONDecodeError"),
        ("raise SystemExit(3)", "shop:app", "shop.py:1: SystemExit"),
        (
            TWICE,
            "shop:app",
            f"shop.py:{LINE_OF_ANOTHER}: saga 'order' version 1 is also defined at",
        ),
        (UNDO, "shop:app", "undo Refund needs the field 'receipt'"),
    ],
    ids=[
        "module",
        "attribute",
        "no-app",
        "import",
        "syntax",
        "error",
        "error-in-library",
        "exit",
        "two-sagas",
        "undo",
    ],
)
def test_an_app_that_cannot_be_loaded_is_refused_with_the_place(shop, source, name, said):
    """The author's own file and line, not one of ours or of a library; no traceback."""
    if source is not None:
        (shop / "shop.py").write_text(source)

    called = call("run", "--app", name)

    assert called.code == 2
    assert said in called.err
    assert not (shop / ".saga").exists()


def test_config_show_has_every_setting(shop):
    """As one object, with what a command would use."""
    row = call("config", "show", "--json", "--env", "prod").row

    assert (row["app"], row["env"], row["namespace"]) == ("shop:app", "prod", "saga")
    assert row["effects_store"] == "sqlite:///.saga/saga-effects.db"
    table = call("config", "show", "--env", "prod").out
    assert "SAGA_ENV" in table
    assert "environment" in table


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///.saga/saga.db", "sqlite:///.saga/saga.db"),
        ("info", "info"),
    ],
)
def test_passwords_are_not_shown(address, shown):
    """Everything else is."""
    assert redacted(address) == shown
