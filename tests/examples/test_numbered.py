"""The examples with a number do what their first lines say, also where they are killed."""

import json
import shlex
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from saga.testing import (
    World,
    WorldState,
    after,
    completed,
    given,
    refused,
    replied,
    signalled,
    undo_issued,
    updated,
)
from saga.testing.world.driver import Story
from tests.examples.numbered import FOLDER, NUMBERED, file_of, module_of, said_of
from tests.examples.running import ROOT, kill_again_and_again, kill_behind_each_commit, run

PLAIN = "12_plain_services"
"""Needs a Kafka."""
EMBEDDED = [name for name in NUMBERED if name != PLAIN]
LINES_MAX = 135
WORLDS = 6
QUICK = ("01_travel_booking", "09_credit_limit")
"""Looked at in each build; the others by `make test-long`."""
CASES = [pytest.param(each, marks=[] if each in QUICK else pytest.mark.long) for each in EMBEDDED]
LIVES = {"09_credit_limit": (1, 2)}
"""Behind which commits they are killed; the others once, behind their first."""
ENDS = {
    "01_travel_booking": {"trip/rome": "completed", "trip/oslo": "rolled_back"},
    "02_money_transfer": {"transfer/t-1": "completed", "transfer/t-2": "rolled_back"},
    "03_human_approval": {
        "expense/e-1": "completed",
        "expense/e-2": "completed",
        "expense/e-3": "rolled_back",
    },
    "04_best_offer": {"purchase/desk": "completed"},
    "05_subscription": {"subscription/ann": "running"},
    "06_parcels": {
        "parcel-order/o-1": "completed",
        "parcel-order/o-2": "rolled_back",
        "shipment/o-1-1": "completed",
        "shipment/o-1-2": "completed",
        "shipment/o-2-1": "rolled_back",
        "shipment/o-2-2": "rolled_back",
    },
    "07_courier_events": {"delivery/d-1": "completed", "delivery/d-2": "rolled_back"},
    "08_long_poll": {"render/film": "completed"},
    "10_basket_machine": {"basket/b-1": "completed"},
    "11_loan_graph": {"loan/l-1": "completed", "loan/l-2": "rolled_back"},
}
ASLEEP = "05_subscription"
"""Has not ended when its program does."""
RACE = "09_credit_limit"
"""Which of its orders wins is left to chance; see below."""


def stories_of(name: str, example: ModuleType) -> Sequence[Story]:
    match name:
        case "01_travel_booking":
            return [example.TripWanted(trip=place) for place in ("rome", "oslo")]
        case "02_money_transfer":
            named = {"payer": "ann", "amount": 40}
            return [
                example.TransferWanted(transfer=payee, payee=payee, **named)
                for payee in ("bob", "eve")
            ]
        case "03_human_approval":
            asked = {"amount": 1, "patience": {"ann": "2d", "board": "7d"}}
            return [
                [
                    example.ExpenseClaimed(expense="e-1", **asked),
                    after("3d"),
                    signalled("board", {"granted": True}),
                ],
                [
                    example.ExpenseClaimed(expense="e-2", **asked),
                    signalled("ann", {"granted": False}),
                ],
                example.ExpenseClaimed(expense="e-3", **asked),
            ]
        case "04_best_offer":
            return [example.Wanted(item="desk", suppliers=["acme", "bolt", "crow", "elk"])]
        case "05_subscription":
            return [example.Subscribed(member="ann", months=12)]
        case "06_parcels":
            orders = {"o-1": [1, 2], "o-2": [1, 90_000, 3]}
            return [example.OrderPlaced(order_id=id, grams=grams) for id, grams in orders.items()]
        case "07_courier_events":
            return [
                [
                    example.DeliveryWanted(delivery="d-1"),
                    example.PickedUp(delivery="d-1"),
                    example.Passed(delivery="d-1", place="Bari"),
                    example.HandedOver(delivery="d-1"),
                ],
                example.DeliveryWanted(delivery="d-2"),
            ]
        case "08_long_poll":
            return [example.RenderingBegun(job="film")]
        case "09_credit_limit":
            return [
                example.OrderPlaced(order_id=f"o-{number}", customer="ann", total=30)
                for number in range(5)
            ]
        case "10_basket_machine":
            return [
                [
                    example.BasketTaken(basket="b-1"),
                    updated("add", {"item": "tea", "price": 4}),
                    updated("check-out", {"card": "good"}),
                ]
            ]
        case "11_loan_graph":
            return [
                example.LoanWanted(loan=f"l-{amount}", person="ann", amount=amount)
                for amount in (500, 20_000, 900_000)
            ]
    raise AssertionError(f"tell a story of {name}")


def row(folder: Path, sql: str) -> tuple[object, ...]:
    """One row of the services' own tables."""
    with closing(sqlite3.connect(folder / ".saga" / "saga-effects.db")) as db:
        found: tuple[object, ...] = db.execute(sql).fetchone()
    return found


def sagas_of(folder: Path, name: str) -> dict[str, str]:
    """The sagas that `saga ls` lists, and their statuses; the example is named by its file."""
    listed = run(folder, "-m", "saga", "ls", "--json", "--app", f"{file_of(name)}:app")
    assert listed.returncode == 0, listed.stderr
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    return {f"{each['definition']}/{each['key']}": each["status"] for each in rows}


def test_each_example_is_short_and_in_the_index_in_order() -> None:
    index = (FOLDER / "README.md").read_text("utf-8")
    listed = [line.split("`")[1] for line in index.splitlines() if line.startswith("| `")]
    numbered = [each for each in listed if each[0].isdigit()]

    assert numbered == [file_of(name).name for name in NUMBERED]
    for name in NUMBERED:
        assert len(file_of(name).read_text("utf-8").splitlines()) <= LINES_MAX, name
        assert said_of(name).command.endswith(f"python examples/{name}.py")


@pytest.mark.parametrize("name", CASES)
def test_an_example_that_is_killed_prints_what_it_says_all_the_same(
    name: str, tmp_path: Path
) -> None:
    """It goes on where it was killed, and one run more changes nothing."""
    file = str(file_of(name))
    kill_again_and_again(tmp_path, file, lives=LIVES.get(name, (1,)))

    first, second = run(tmp_path, file), run(tmp_path, file)

    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == said_of(name).prints
    assert (second.stdout, second.stderr) == (first.stdout, "")


@pytest.mark.long
@pytest.mark.parametrize("name", [each for each in EMBEDDED if each not in (RACE, ASLEEP)])
def test_behind_whichever_commit_an_example_is_killed_it_ends_the_same(
    name: str, tmp_path: Path
) -> None:
    kill_behind_each_commit(tmp_path, str(file_of(name)))


def test_examples_share_a_folder(tmp_path: Path) -> None:
    """One after the other, as somebody tries them."""
    for name in EMBEDDED:
        ran = run(tmp_path, str(file_of(name)))
        assert (ran.returncode, ran.stderr) == (0, ""), name
        assert ran.stdout.splitlines() == said_of(name).prints
    found = sagas_of(tmp_path, RACE)

    assert {saga: found.get(saga) for ends in ENDS.values() for saga in ends} == {
        saga: status for ends in ENDS.values() for saga, status in ends.items()
    }
    # All money is there, and nobody has more credit than there is.
    assert row(tmp_path, "SELECT sum(balance), max(balance) FROM accounts") == (100, 60)
    assert row(tmp_path, "SELECT credit FROM customers") == (40,)
    assert sorted(found[f"credit-order/o-{number}"] for number in (1, 2, 3)) == [
        "completed",
        "rolled_back",
        "rolled_back",
    ]


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_example_holds_in_any_world(name: str) -> None:
    """Crashes, repeats, cancels and torn batches at random moments; see `World`."""
    example = module_of(name)
    statuses: Counter[str] = Counter()

    def note(world: WorldState) -> None:
        statuses.update(saga.status for saga in world.sagas)
        if name == RACE:
            approved = len(world.topics[example.OrderApproved])
            # Of an immediate cancel a reservation is left, and is told as residue.
            in_doubt = sum("reserve-credit" in saga.residue for saga in world.sagas)
            [customer] = world.db["customers"].fetch("SELECT credit FROM customers")
            reserved, rest = divmod(example.LIMIT - customer["credit"], 30)
            assert (rest, customer["credit"] >= 0) == (0, True)
            assert approved <= reserved <= approved + in_doubt
        if name == "02_money_transfer":
            [accounts] = world.db["bank"].fetch("SELECT sum(balance) AS money FROM accounts")
            assert accounts["money"] == 100

    for seed in range(WORLDS):
        stories = stories_of(name, example)
        verdict = World(example.app, seed, triggers=stories, check=note).run()
        assert verdict.ok, verdict.report()
        assert not verdict.parked, verdict.report()

    assert statuses["completed"] > 0


def test_an_operator_fires_the_timer_of_a_subscription(tmp_path: Path) -> None:
    """As its first lines say."""
    name = "05_subscription"
    export, timers, fire, serve = said_of(name).shell
    settings = {"SAGA_APP": str(ROOT / export.removeprefix("export SAGA_APP="))}
    assert run(tmp_path, str(file_of(name))).returncode == 0

    def saga(line: str) -> str:
        ran = run(tmp_path, "-m", *shlex.split(line), settings=settings)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    for month in (1, 2, 3):
        timer = saga(timers).split()[-1]
        assert f"/sleep-{month}/" in timer
        saga(fire.replace("TIMER", timer))
        saga(serve)

    assert sagas_of(tmp_path, name) == {"subscription/ann": "completed"}


def test_a_month_of_a_subscription_is_no_day_shorter() -> None:
    example = module_of("05_subscription")
    scenario = given(example.subscription, example.Subscribed(member="ann", months=1))
    scenario.when(replied(example.Charge)).when(after("29d")).then_nothing()
    scenario.when(after("1d"))

    scenario.then(completed(example.Expired(member="ann", charged=1)))


def test_whoever_loses_on_price_or_time_is_told() -> None:
    example = module_of("04_best_offer")
    names = ["acme", "bolt", "crow", "dusk"]
    scenario = given(example.purchase, example.Wanted(item="desk", suppliers=names))
    for number, supplier, price in ((2, "bolt", 30), (1, "acme", 40)):
        step = "hold-offer" if number == 1 else f"hold-offer-{number}"
        scenario.when(replied(step, example.Offer(supplier=supplier, price=price)))
    scenario.when(refused("hold-offer-3", "sold out"), replied(example.Buy), replied("decline"))
    assert scenario.state.steps["decline"].payload == '{"item":"desk","supplier":"acme"}'
    scenario.when(replied("hold-offer-4", example.Offer(supplier="dusk", price=1)))
    scenario.then(undo_issued(example.Decline(item="desk", supplier="dusk")))
    scenario.when(replied(example.Decline))

    scenario.then(completed(example.Bought(supplier="bolt", price=30)))


def test_plain_services_have_a_command_and_say_what_they_need(tmp_path: Path) -> None:
    ran = run(tmp_path, str(file_of(PLAIN)))

    assert ran.returncode == 1
    assert "SAGA_BUS names no Kafka" in ran.stderr
    assert said_of(PLAIN).command == f"python -m infra with -- python examples/{PLAIN}.py"


@pytest.mark.slow
def test_plain_services_print_what_they_say(
    kafka, postgres: str, namespace: str, tmp_path: Path
) -> None:
    settings = {
        "SAGA_BUS": kafka.url,
        "SAGA_STORE": postgres,
        "SAGA_NAMESPACE": namespace,
        "SAGA_PARTITIONS": "2",
    }

    ran = run(tmp_path, str(file_of(PLAIN)), settings=settings)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == said_of(PLAIN).prints
