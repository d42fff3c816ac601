"""A store remembers the environment and namespace it serves, and refuses others by name."""

import os
import sqlite3

import pytest

from saga import SagaApp
from saga.errors import StoreForeign
from tests.console.conftest import call
from tests.console.toys import ORDER

UNTIL_IDLE = ("run", "--until-idle")
OTHER_ENV = ("--env", "prod")
OTHER_NAMESPACE = ("--namespace", "shop")


@pytest.fixture(params=["file", pytest.param("servers", marks=pytest.mark.connected)])
def deployment(request, toys, monkeypatch):
    """Where a worker of dev/saga has run, in files or on PostgreSQL."""
    if request.param == "servers":
        monkeypatch.setenv("SAGA_STORE", request.getfixturevalue("postgres"))
        monkeypatch.setenv("SAGA_BUS", "local:///bus.db")
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    assert call(*UNTIL_IDLE).code == 0
    return request.param


@pytest.mark.parametrize("others", [OTHER_ENV, OTHER_NAMESPACE], ids=["env", "namespace"])
def test_a_worker_of_others_is_refused_by_name(deployment, others):
    """Both are named, and what to do; nothing has begun."""
    called = call(*UNTIL_IDLE, *others)

    name = "prod/saga" if others is OTHER_ENV else "dev/shop"
    assert called.code == 2
    assert f"it serves dev/saga, not {name}" in called.err
    assert "saga store migrate --adopt" in called.err


def test_no_command_acts_on_the_store_of_others(deployment):
    called = call("cancel", "order/o-1", "--reason", "r", *OTHER_ENV)

    assert (called.code, "serves dev/saga, not prod/saga" in called.err) == (2, True)


@pytest.mark.parametrize("deployment", ["file"], indirect=True)
def test_nobody_publishes_into_the_file_of_others(deployment):
    """On servers a publisher needs the bus alone, whose topics have other names there."""
    called = call("publish", ORDER, '{"order_id": "o-2", "amount": 1}', *OTHER_ENV)

    assert (called.code, "serves dev/saga, not prod/saga" in called.err) == (2, True)


def test_one_may_look_at_the_store_of_others(deployment):
    """It names its sagas, whoever asks; and doctor says whose it is."""
    assert "order/o-1" in call("ls", *OTHER_ENV).out

    called = call("doctor", *OTHER_ENV)
    assert called.code != 0
    assert "it serves dev/saga, not prod/saga" in called.out


@pytest.mark.parametrize(
    "how", [("store", "migrate", "--adopt"), ("run", "--until-idle", "--adopt")]
)
def test_a_store_can_change_hands(deployment, how):
    """It is said, and then those are refused whom it has served."""
    called = call(*how, *OTHER_ENV)
    assert called.code == 0, called.err
    assert "serves prod/saga from now on, and not dev/saga any more" in called.err

    assert call(*UNTIL_IDLE, *OTHER_ENV).code == 0
    refused = call(*UNTIL_IDLE)
    assert (refused.code, "it serves prod/saga" in refused.err) == (2, True)


def test_an_effects_store_of_others_is_refused(deployment, monkeypatch):
    """Its inbox would answer for effects that never happened in this environment."""
    if deployment == "file":
        monkeypatch.setenv("SAGA_EFFECTS_STORE", "sqlite:///.saga/saga-effects.db")
    else:
        monkeypatch.setenv("SAGA_EFFECTS_STORE", os.environ["SAGA_STORE"])
    monkeypatch.setenv("SAGA_STORE", "sqlite:///another.db")
    monkeypatch.setenv("SAGA_BUS", "local:///another.db")

    called = call(*UNTIL_IDLE, *OTHER_ENV)

    assert (called.code, "it serves dev/saga, not prod/saga" in called.err) == (2, True)


def test_a_store_of_an_earlier_release_says_by_its_positions_whom_it_served(toys):
    """It remembers nobody yet."""
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    assert call(*UNTIL_IDLE).code == 0
    with sqlite3.connect(".saga/saga.db") as connection:
        connection.execute("DELETE FROM store_facts")
    connection.close()

    refused = call(*UNTIL_IDLE, *OTHER_NAMESPACE)

    assert (refused.code, "it serves dev/saga, not dev/shop" in refused.err) == (2, True)
    assert call(*UNTIL_IDLE).code == 0


async def test_python_is_refused_as_well(toys):
    app = SagaApp()
    async with app.service(store="sqlite:///a.db", bus="local:///a.db"):
        pass
    with pytest.raises(StoreForeign, match="it serves dev/saga, not dev/other"):
        app.service(store="sqlite:///a.db", bus="local:///a.db", namespace="other")
