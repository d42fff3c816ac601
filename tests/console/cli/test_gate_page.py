"""The page on the deploy gate: its pipelines, its role and its golden histories work as printed."""

import re
import secrets
import subprocess
import sys
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import yaml

from saga.audit.differences import Kind
from saga.console.cli.session import load_app
from saga.errors import UnknownEntry
from saga.testing import given, history_from
from tests.connected import database_on
from tests.console.cli.test_snapshots import C_1, MACHINES, WRONG, keep
from tests.console.conftest import call, start
from tests.console.toys import ORDER, TOYS
from tests.test_readme import BLOCK, ROOT, command_at, words_of

PAGE = (ROOT / "docs/how-to/gate-a-deploy.md").read_text()


def block(language, having=""):
    """The only block of the page in *language* that has this text."""
    [text] = [
        found["text"]
        for found in BLOCK.finditer(PAGE)
        if found["language"] == language and having in found["text"]
    ]
    return text


def check_call(line):
    """That `saga` has the command and its options."""
    command, left = command_at(words_of(line))
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in left if word.startswith("-")} <= known, line


def test_the_github_workflow_calls_the_gate_and_keeps_its_report():
    workflow = yaml.safe_load(block("yaml", "runs-on"))

    job = workflow["jobs"]["replay"]
    [gate] = [step["run"] for step in job["steps"] if step.get("run", "").startswith("saga replay")]
    check_call(gate)
    [report] = re.findall(r"--junit (\S+)", gate)
    [kept] = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert (kept["if"], kept["with"]["path"]) == ("always()", report)
    assert set(job["env"]) == {"SAGA_APP", "SAGA_STORE", "SAGA_STORE_PASSWORD"}


def test_the_gitlab_job_calls_the_gate_and_keeps_its_report():
    job = yaml.safe_load(block("yaml", "stage:"))["replay"]

    [gate] = [line for line in job["script"] if line.startswith("saga replay")]
    check_call(gate)
    assert re.findall(r"--junit (\S+)", gate) == [job["artifacts"]["reports"]["junit"]]
    assert re.findall(r"--resume (\S+)", gate) == job["cache"]["paths"]
    assert job["artifacts"]["when"] == job["cache"]["when"] == "always"


def test_every_kind_of_difference_is_explained():
    rows = re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}

    assert set(Kind) <= explained


@pytest.fixture
def exported(looking, tmp_path):
    """A golden history of an order, in a folder with the code that wrote it."""
    called = call("history", "order/far-1", "--json")
    assert called.code == 0
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden/far-1.jsonl").write_text(called.out)
    (tmp_path / "shop.py").write_text(TOYS)
    return tmp_path


def run_pytest(folder):
    (folder / "test_golden.py").write_text(block("python", "history_from"))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_golden.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_golden_histories_fail_under_code_that_decides_otherwise(exported):
    same = run_pytest(exported)
    assert same.returncode == 0, same.stdout
    assert "1 passed" in same.stdout

    (exported / "shop.py").write_text(TOYS.replace("amount=placed.amount)", "amount=7)"))
    other = run_pytest(exported)

    assert other.returncode == 1
    assert "ReplayMismatch" in other.stdout
    assert '"amount":7' in other.stdout
    assert "shop.py:" in other.stdout


def test_an_exported_history_is_the_stored_one(exported):
    order = load_app("toys:app").registry.find("order", 1).saga
    lines = (exported / "golden/far-1.jsonl").read_text().splitlines()
    history = history_from(exported / "golden/far-1.jsonl")

    assert [entry.version for entry in history] == list(range(1, len(lines) + 1))
    assert given(order, history=history).status == "rolled_back"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], "no line has the start"),
        (lambda lines: [*lines[:1], "{", *lines[2:]], ":2:"),
        (lambda lines: [*lines[:1], *lines[2:]], ":2: it is entry 3"),
        (lambda lines: [lines[0], lines[1].replace('"cause":', '"other":'), *lines[2:]], ":2:"),
        (lambda lines: ['{"data": []}', *lines[1:]], ":1: data is no object"),
    ],
    ids=["empty", "no JSON", "a gap", "no cause", "no object"],
)
def test_a_file_that_is_no_exported_history_is_refused_by_line(exported, change, said):
    file = exported / "golden/far-1.jsonl"
    file.write_text("\n".join(change(file.read_text().splitlines())))

    with pytest.raises(ValueError, match=re.escape(said)):
        history_from(file)


def test_an_entry_of_a_newer_release_is_told(exported):
    file = exported / "golden/far-1.jsonl"
    file.write_text(file.read_text().replace('"type":"intent-issued"', '"type":"new-thing"'))

    with pytest.raises(UnknownEntry, match="new-thing"):
        history_from(file)


@pytest.fixture
def production(toys, monkeypatch, postgres_server):
    """The address of a store on PostgreSQL in which some orders have run."""
    with database_on(postgres_server) as address:
        monkeypatch.setenv("SAGA_STORE", address)
        monkeypatch.setenv("SAGA_BUS", "local:///.saga/bus.db")
        monkeypatch.setenv("SAGA_EFFECTS_STORE", "sqlite:///.saga/effects.db")
        lines = "".join(f'{{"order_id": "o-{n}", "amount": {n}}}\n' for n in range(1, 8))
        assert call("publish", ORDER, "-", stdin=lines).code == 0
        assert call("run", "--until-idle").code == 0
        yield address


@pytest.fixture
def reader(production):
    """The address for the role of the page, under a name of its own, made as printed there."""
    name = f"saga_reader_{secrets.token_hex(4)}"
    database = urlsplit(production).path.removeprefix("/")
    sql = block("sql", "GRANT").replace("saga_reader", name)
    sql = sql.replace("DATABASE saga ", f"DATABASE {database} ")
    with psycopg.connect(production, autocommit=True) as connection:
        for statement in filter(str.strip, sql.split(";")):
            connection.execute(statement)
        place = urlsplit(production)
        host = place.netloc.rpartition("@")[2]
        yield urlunsplit(place._replace(netloc=f"{name}:of%20your%20own@{host}"))
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


@pytest.mark.connected
def test_a_role_that_can_only_read_is_enough(reader, toys):
    called = call("replay", "--jobs", "0", "--store", reader, "--json")

    assert called.code == 0, called.err
    assert called.rows[-1]["sagas"] == 7
    assert call("replay", "--jobs", "0", "--open", "--store", reader).code == 0


@pytest.mark.connected
@pytest.mark.slow
def test_a_role_that_can_only_read_is_told_of_a_wrong_snapshot_and_leaves_it(
    production, reader, toys
):
    """It may look at them, and not remove them; who may write does."""
    (toys / "toys.py").write_text(MACHINES)
    assert call("publish", "clocks.evt.begun.v1", '{"name": "c-1"}').code == 0
    assert call("run", "--until-idle").code == 0
    keep(C_1, state=WRONG)
    clocks = ("replay", "--definition", "clock", "--json")

    read = call(*clocks, "--store", reader)
    written = call(*clocks)

    for called, so in ((read, "stays ("), (written, "is removed: ")):
        assert (called.code, called.rows[-1]["snapshots"]["wrong"]) == (1, 1), called
        assert f"the snapshot of saga {C_1} is wrong, and {so}" in called.err
    assert call(*clocks).rows[-1]["snapshots"] == {"compared": 0, "wrong": 0, "not_compared": 0}


@pytest.mark.connected
@pytest.mark.slow
def test_processes_replay_postgresql_side_by_side(reader, toys, monkeypatch):
    (toys / "toys.py").write_text(
        TOYS.replace("amount=placed.amount)", "amount=placed.amount + placed.amount // 7)")
    )
    gate = start(toys, "replay", "--jobs", "2", "--store", reader, "--json")
    out, err = gate.communicate()

    assert gate.returncode == 1, err
    assert '"kind":"other payload"' in out
    assert '"sagas":7' in out.splitlines()[-1]
