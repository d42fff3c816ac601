"""`contract check|graph|schema`, and an application that is a contract file."""

import asyncio
import json
from pathlib import Path

import pytest

from saga import Event, Intent
from saga.console.cli.session import load_app
from saga.contracts import ContractRegistry
from saga.contracts.lockfile import lock_of, lock_text
from tests.authoring.graphs.orders import ORDER
from tests.console.conftest import call
from tests.examples.no_python import SERVICES_STORE, services_of
from tests.patience import HANG_S

EXAMPLES = Path(__file__).parents[3] / "examples" / "graphs"
PLACED = "shop.evt.order-placed.v1"
APP = """\
from saga import SagaApp, contract
from tests.authoring.graphs.orders import MODELS

app = SagaApp(sagas=[contract("order.yaml")], contracts=MODELS)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the order's file, and an application of it under a name of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "order.yaml").write_text(ORDER)
    name = f"orders_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(APP)
    monkeypatch.setenv("SAGA_APP", f"{name}:app")
    return tmp_path


def test_a_file_without_mistakes(folder):
    called = call("contract", "check", "order.yaml")

    assert called.code == 0
    assert called.out == "order.yaml: saga order, version 1, 7 nodes, no mistakes\n"
    assert call("contract", "check", "order.yaml", "--json").row == {
        "file": "order.yaml",
        "name": "order",
        "version": 1,
        "nodes": 7,
        "ok": True,
    }


def test_a_lock_file_gives_way(folder):
    """It has a newer version of an intent, and an event that a pattern fits, too."""

    class PayByTransfer(Intent[None], topic="payments.pay", version=2):
        iban: str

    class Returned(Event, topic="returns.delivered", version=1, key="id"):
        id: str

    (folder / "topics").mkdir()
    lock = lock_text(lock_of(ContractRegistry([PayByTransfer, Returned])))
    (folder / "topics/contracts.lock.json").write_text(lock)

    assert call("contract", "check", "order.yaml").code == 0


def test_all_mistakes_are_told(folder):
    text = ORDER.replace("payments.pay,", "payments.pya,").replace("parcels.ship", "parcels.shp")
    (folder / "order.yaml").write_text(text)

    called = call("contract", "check", "order.yaml")
    rows = call("contract", "check", "order.yaml", "--json").rows

    assert called.code == 1
    assert [line.rpartition("[")[2] for line in called.out.splitlines()] == [
        "unknown-contract]",
        "unknown-contract]",
    ]
    assert [(row["line"], row["column"], row["code"]) for row in rows] == [
        (11, 61, "unknown-contract"),
        (12, 48, "unknown-contract"),
    ]


def test_mistakes_of_form_are_told_of_the_application_s_own_file(folder):
    (folder / "order.yaml").write_text(ORDER.replace("depends_on: [pay]", "depends_on: [paid]"))

    called = call("contract", "check", "order.yaml")

    assert called.code == 1
    assert "`paid` in depends_on is no node" in called.out


@pytest.mark.parametrize("is_app", [False, True])
def test_mistakes_of_form_and_unknown_names_are_told_at_once(folder, monkeypatch, is_app):
    """Also where the application's module would refuse the file before its names are known."""
    text = ORDER.replace("depends_on: [pay]", "depends_on: [paid]").replace(
        "intent: payments.pay, undo", "intent: payments.pya, retyr: 3, when: ship.x, undo"
    )
    (folder / "order.yaml").write_text(text)
    if is_app:
        monkeypatch.setenv("SAGA_APP", "order.yaml")

    codes = {row["code"] for row in call("contract", "check", "order.yaml", "--json").rows}

    assert codes == {"unknown-node", "unknown-contract", "unknown-key", "not-a-dependency"}
    refused = call("run", "--until-idle")
    assert refused.code == 2
    assert ("unknown-contract" in refused.err) == is_app


def test_an_application_with_a_wrong_file_does_not_run(folder):
    (folder / "order.yaml").write_text(ORDER.replace("version: 1", "version: 0"))

    call("run", "--until-idle").fails(2, "order.yaml:2:10: version is 0")


def test_a_file_that_is_not_there(folder):
    call("contract", "check", "missing.yaml").fails(1, "missing.yaml: No such file")
    call("contract", "graph", "missing.yaml").fails(1, "missing.yaml: No such file")


def test_a_graph_is_drawn(folder):
    called = call("contract", "graph", "order.yaml")

    assert called.code == 0
    lines = called.out.splitlines()
    assert lines[0] == "flowchart TD"
    assert '    pay["pay<br/>payments.pay<br/>[undo payments.refund]"]' in lines
    assert '    reserve -->|"placed.amount #gt; 500"| approval' in lines
    assert call("contract", "graph", "order.yaml", "--json").row["mermaid"] == called.out
    assert call("graph", "order").out == called.out


def test_what_is_no_graph_is_not_drawn(folder):
    (folder / "order.yaml").write_text("name: [order")

    called = call("contract", "graph", "order.yaml")
    assert called.code == 1
    assert called.out.startswith("order.yaml:1:13: this is no YAML")


def test_the_schema_is_printed(folder):
    called = call("contract", "schema")

    assert json.loads(called.out)["$schema"].endswith("draft/2020-12/schema")


def test_a_contract_file_is_an_application_by_itself(tmp_path, monkeypatch):
    """Its services know the wire only; here they run in an application of their own."""
    monkeypatch.chdir(tmp_path)
    file = EXAMPLES / "no_python" / "order.yaml"
    monkeypatch.setenv("SAGA_APP", str(file))
    assert call("contract", "check", str(file)).code == 0
    assert PLACED in {row["contract"] for row in call("topics", "ls", "--json").rows}
    order = {"order_id": "o-1", "amount": 40, "parcels": [{"parcel_id": "p-1", "grams": 300}]}
    heavy = {**order, "order_id": "o-2", "parcels": [{"parcel_id": "p-2", "grams": 90_000}]}
    for each in (order, heavy):
        assert call("publish", PLACED, json.dumps(each)).code == 0

    paid = asyncio.run(_served(str(file)))

    assert paid == ["o-1"]
    rows = {row["key"]: row for row in call("ls", "--json").rows}
    assert (rows["o-1"]["status"], rows["o-2"]["status"]) == ("completed", "rolled_back")
    assert rows["o-2"]["reason"] == "too heavy"
    shown = call("show", "order/o-1", "--json").row
    assert [step["step"] for step in shown["steps"]] == ["pay", "ship"]
    replayed = call("replay", "--jobs", "0", "--json")
    assert replayed.code == 0


async def _served(file: str) -> list[str]:
    """Runs both applications until no order is left; whom the payment service has charged."""
    app = load_app(file)
    charged: list[str] = []
    others = services_of(app, charged)
    async with app.service() as service, others.service(store=SERVICES_STORE):
        await service.idle(timeout=HANG_S)
    return charged
