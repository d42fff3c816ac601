"""Settings and applications that cannot be meant: refused by name, with what to do, exit 2."""

from pathlib import Path

import pytest

from saga.adapters.postgres import EVENT_STORE, INBOX
from saga.adapters.sqlite.schema import STORE_VERSION
from saga.settings import redacted
from tests.console.conftest import call
from tests.console.toys import ORDER, TOYS

UNDO = TOYS.replace("receipt: str | None = None", "receipt: str")
TWICE = f"""{TOYS}
@saga("order", version=1, starts_on=OrderPlaced)
async def another(ctx, placed): ...
app = SagaApp(sagas=[order, another])
"""
LINE_OF_ANOTHER = TWICE.splitlines().index('@saga("order", version=1, starts_on=OrderPlaced)') + 1


def test_a_misspelt_variable_is_refused_with_a_suggestion(toys, monkeypatch):
    """A setting that does nothing would be worse."""
    monkeypatch.setenv("SAGA_STOER", "sqlite:///x.db")

    call("ls").fails(2, "SAGA_STOER", "SAGA_STORE")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--store", "x.db"], "expected sqlite://"),
        (["--bus", "local://x.db"], "three slashes"),
        (["--log", "loud"], "SAGA_LOG"),
        (["--env", "Prod!"], "SAGA_ENV"),
        (["--app", "toys"], "module:name"),
        (["--store", "mysql://u@h/db"], "expected sqlite://"),
    ],
)
def test_an_illegal_setting_is_refused_by_name(toys, words, expected):
    call("run", *words).fails(2, expected)
    assert not (toys / ".saga").exists()


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        (None, "nowhere:app", "no module 'nowhere'"),
        (TOYS, "toys:ap", "did you mean toys:app"),
        ("app = 3", "toys:app", "no SagaApp but a int"),
        ("import nothere", "toys:app", "toys.py:1: ModuleNotFoundError: No module named 'nothere'"),
        ("def f(:", "toys:app", "toys.py:1: SyntaxError"),
        ("x = 1\n\ny = {}['k']", "toys:app", "toys.py:3: KeyError: 'k'"),
        ("import json\n\njson.loads('{')", "toys:app", "toys.py:3: JSONDecodeError"),
        ("raise SystemExit(3)", "toys:app", "toys.py:1: SystemExit"),
        (
            TWICE,
            "toys:app",
            f"toys.py:{LINE_OF_ANOTHER}: saga 'order' version 1 is also defined at",
        ),
        (UNDO, "toys:app", "undo Refund needs the field 'receipt'"),
    ],
    ids=[
        *("module", "attribute", "no-app", "import", "syntax", "error", "error-in-library"),
        *("exit", "two-sagas", "undo"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_refused_with_the_place(toys, source, name, expected):
    if source is not None:
        (toys / "toys.py").write_text(source)

    call("run", "--app", name).fails(2, expected)
    assert not (toys / ".saga").exists()


def test_an_app_may_be_named_by_its_file(toys):
    """Also by one whose name no import statement could say, and by one inside a package."""
    (toys / "shops").mkdir()
    (toys / "shops" / "01_bakery.py").write_text(f"import beside\n\n{TOYS}")
    (toys / "shops" / "beside.py").write_text("")
    package = toys / "deep" / "wares"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "app.py").write_text(TOYS)

    for name in ("shops/01_bakery.py:app", str(package / "app.py") + ":app"):
        published = call("publish", ORDER, '{"order_id": "o-1", "amount": 1}', "--app", name)
        assert published.code == 0, published.err


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        ("bakery.py", "shops.py:app", "there is no file shops.py in"),
        ("bakery.py", "bakery.py:ap", "did you mean bakery:app"),
        ("json.py", "json.py:app", "give the file a name of its own"),
        ("a.b.py", "a.b.py:app", "give the file a name without"),
    ],
)
def test_a_file_that_is_no_app_is_refused_by_name(toys, file, name, expected):
    (toys / file).write_text(TOYS)

    call("run", "--app", name).fails(2, expected)


def test_config_show_has_every_setting(toys):
    """As one object, with what a command would use."""
    row = call("config", "show", "--json", "--env", "prod").row

    assert (row["app"], row["env"], row["namespace"]) == ("toys:app", "prod", "saga")
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
    assert redacted(address) == shown


@pytest.fixture
def toys_on_postgres(toys: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy application, with its bus in a file and everything else in an empty database."""
    monkeypatch.setenv("SAGA_STORE", postgres)
    return toys


def test_tables_are_made_once_and_looked_at(postgres):
    """The status says what to type, and ends with 1 until it was typed."""
    before = call("store", "status", "--store", postgres)
    assert before.code == 1
    assert "run `saga store migrate`" in before.out

    made = call("store", "migrate", "--store", postgres, "--json")
    again = call("store", "migrate", "--store", postgres, "--json")
    after = call("store", "status", "--store", postgres, "--json")

    assert (made.code, again.code, after.code) == (0, 0, 0)
    newest = {"event store": EVENT_STORE.version, "effects store": INBOX.version}
    for migrated, key, is_made in (
        (made, "before", False),
        (again, "before", True),
        (after, "version", True),
    ):
        assert migrated.rows == [
            {"component": name, key: version if is_made else 0, "needed": version}
            for name, version in newest.items()
        ]


def test_an_effects_store_is_migrated_where_it_is(postgres, tmp_path, monkeypatch):
    """The store may be a file, and effects in a database."""
    monkeypatch.setenv("SAGA_EFFECTS_STORE", postgres)

    made = call("store", "migrate", "--store", f"sqlite:///{tmp_path}/saga.db", "--json")

    assert made.rows == [
        {"component": "event store", "before": 0, "needed": STORE_VERSION},
        {"component": "effects store", "before": 0, "needed": INBOX.version},
    ]


def test_tables_in_a_file_are_made_once_and_looked_at(tmp_path):
    store = ("--store", f"sqlite:///{tmp_path}/saga.db", "--json")
    before = call("store", "status", *store)
    assert not list(tmp_path.iterdir())

    called = [call("store", word, *store) for word in ("migrate", "migrate", "status")]

    assert [before.code, *(each.code for each in called)] == [1, 0, 0, 0]
    assert [each.rows for each in (before, *called)] == [
        [
            {
                "component": "event store",
                key: STORE_VERSION if is_made else 0,
                "needed": STORE_VERSION,
            }
        ]
        for key, is_made in (("version", 0), ("before", 0), ("before", 1), ("version", 1))
    ]


def test_a_store_that_is_away_is_named_without_its_password():
    called = call("ls", "--store", "postgresql://toys:hunter2@127.0.0.1:1/toys")

    assert called.code == 3
    assert "postgresql://toys@127.0.0.1:1/toys: it cannot be reached" in called.err
    assert "hunter2" not in called.err + called.out
    wrong = call("ls", "--store", "postgresql://toys:hunter2@127.0.0.1:1/toys?nonsense=1")
    assert wrong.code == 2
    assert "hunter2" not in wrong.err + wrong.out


@pytest.mark.usefixtures("toys_on_postgres")
def test_a_whole_service_runs_on_an_empty_database():
    assert call("ls").code == 3, "a question makes no tables"
    lines = "".join(f'{{"order_id": "o-{number}", "amount": 1}}\n' for number in range(3))
    assert call("publish", ORDER, "-", stdin=lines).code == 0
    ran = call("run", "--until-idle", "--json")

    assert ran.code == 0, ran.err
    assert ran.row["completed"] == 3
    assert {row["status"] for row in call("ls", "--json").rows} == {"completed"}
    assert call("replay", "--jobs", "0", "--json").code == 0
