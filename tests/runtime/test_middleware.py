"""What is around the turns sees each of them, decides nothing, and harms one saga alone."""

from contextlib import contextmanager, suppress

import pytest

from saga import Context, SagaApp, TurnInfo, saga
from saga.core.events import TurnFailed
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.toys import OrderPlaced, Reserve, Reserved, orders


@pytest.fixture
def scenario():
    return Scenario(orders())


def around(scenario: Scenario, *functions) -> None:
    """The same process with these around its turns."""
    scenario.app = SagaApp(sagas=scenario.app.sagas, around_turns=functions)
    scenario.restart()


async def play(scenario: Scenario, key: str = "o-1") -> None:
    """An order is placed, and its first step answered."""
    await scenario.take(scenario.event(OrderPlaced(order_id=key, amount=3), key))
    intent = scenario.on(Reserve)[-1]
    await scenario.take(scenario.reply(intent, Reserved(shelf="s-1")))


async def test_each_turn_is_taken_within_all_in_their_order(scenario: Scenario) -> None:
    seen: list[str] = []
    infos: list[TurnInfo] = []

    def noting(name: str):
        @contextmanager
        def note(turn: TurnInfo):
            infos.append(turn)
            seen.append(f"{name} begins {turn.fact}")
            yield
            seen.append(f"{name} ends")

        return note

    around(scenario, noting("outer"), noting("inner"))
    await play(scenario)

    assert seen == [
        *("outer begins saga-started", "inner begins saga-started", "inner ends", "outer ends"),
        *("outer begins reply-received", "inner begins reply-received", "inner ends", "outer ends"),
    ]
    first, last = infos[0], infos[-1]
    assert (first.saga_id, first.definition, first.version) == (order_id(), "order", 1)
    assert (first.key, last.key) == ("", "o-1")
    assert last.at.timestamp() * 1_000_000 == scenario.history(order_id())[-1].at
    scenario.check()


@pytest.mark.parametrize("when", ["before", "behind", "before, hidden by the outer one"])
async def test_one_that_raises_parks_the_saga_of_that_turn(scenario: Scenario, when: str) -> None:
    """Nothing it does can lose a turn, or take one that was not decided."""

    @contextmanager
    def hiding(_: TurnInfo):
        with suppress(Exception):
            yield

    @contextmanager
    def breaking(turn: TurnInfo):
        is_bad = turn.saga_id == order_id("bad")
        if is_bad and when != "behind":
            raise ValueError("no span")
        yield
        if is_bad:
            raise ValueError("no span")

    around(scenario, *([hiding] if "hidden" in when else []), breaking)
    await scenario.take(
        scenario.event(OrderPlaced(order_id="bad", amount=3), "bad"),
        scenario.event(OrderPlaced(order_id="good", amount=3), "good"),
    )

    (failed,) = scenario.history(order_id("bad"))
    assert isinstance(failed.body, TurnFailed)
    assert ("no span" in failed.body.error) == ("hidden" not in when), failed.body.error
    assert scenario.status(order_id("good")) == "running"
    scenario.restart(*scenario.app.sagas)  # without it
    await scenario.take(scenario.release(order_id("bad")))
    assert scenario.status(order_id("bad")) == "running"
    scenario.check()


async def test_what_a_saga_raises_cannot_be_hidden() -> None:
    """A turn that failed has failed, whatever is around it."""
    seen: list[str] = []

    @contextmanager
    def hiding(_: TurnInfo):
        with suppress(BaseException):
            yield
        seen.append("through")

    @saga("order", version=1, starts_on=OrderPlaced)
    async def broken(ctx: Context, placed: OrderPlaced) -> None:
        raise RuntimeError("a bug")

    scenario = Scenario(broken)
    around(scenario, hiding)
    await scenario.take(scenario.event(OrderPlaced(order_id="o-1", amount=3), "o-1"))

    assert seen[:1] == ["through"]
    assert "a bug" in scenario.reason(order_id())
