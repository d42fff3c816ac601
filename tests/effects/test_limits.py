"""Limits of an intent hold whatever arrives, others pass by, and nothing is lost or done twice."""

import pytest

from saga.effects import EffectContext, Effects
from saga.errors import DefinitionError
from tests.effects.fixtures import Scenario, intent, undo
from tests.toys import Paid, Pay, Refund


class Till:
    """A service whose `Pay` has limits; notes who is at work, and when calls began."""

    def __init__(self, *, takes_s: float = 0.0, **limits) -> None:
        self.takes_s = takes_s
        self.running = self.most = 0
        self.began_at_s: list[float] = []
        self.order: list[str] = []
        self.scenario: Scenario
        self.effects = Effects("till")

        @self.effects.on(Pay, **limits)
        async def pay(intent: Pay, ctx: EffectContext) -> Paid:
            self.running += 1
            self.most = max(self.most, self.running)
            self.began_at_s.append(self.scenario.clock.monotonic_s())
            self.order.append(intent.order_id)
            try:
                await self.scenario.clock.sleep(self.takes_s)
                if intent.amount < 0 and ctx.attempt == 1:
                    raise ValueError("not today")
            finally:
                self.running -= 1
            return Paid(receipt=intent.order_id)

        @self.effects.on(Refund)
        async def refund(intent: Refund, ctx: EffectContext) -> None:
            self.order.append(f"refund {intent.order_id}")


def pays(count: int, **more):
    names = [f"o-{number}" for number in range(count)]
    return [intent(Pay(order_id=name, **more), step=name, key=name) for name in names]


async def test_at_most_so_many_calls_run_side_by_side() -> None:
    """Others would run twenty at once here; all are done, in the order in which they came."""
    till = Till(takes_s=0.02, at_once=3)
    async with Scenario(till.effects, concurrency=20) as till.scenario:
        await till.scenario.send(*pays(20))

        assert till.most == 3
        assert till.order == [f"o-{number}" for number in range(20)]
        assert len(till.scenario.replies()) == 20


async def test_a_second_has_at_most_so_many_calls() -> None:
    till = Till(per_second=10)
    async with Scenario(till.effects) as till.scenario:
        await till.scenario.send(*pays(25))
        began = till.began_at_s

        assert len(began) == 25
        for first in began:
            # One more may begin, as a late wake-up is made up for.
            assert sum(first <= each < first + 1 for each in began) <= 11
        assert began[-1] - began[0] >= 2.2


async def test_a_rate_is_reached_however_late_its_clock_wakes() -> None:
    """The clock of these tests wakes in steps of 5 ms, and calls are 2 ms apart."""
    till = Till(per_second=500)
    async with Scenario(till.effects) as till.scenario:
        await till.scenario.send(*pays(200))

        assert till.began_at_s[-1] - till.began_at_s[0] < 0.5


async def test_an_intent_without_limits_passes_one_that_waits() -> None:
    till = Till(takes_s=0.05, at_once=1)
    async with Scenario(till.effects, concurrency=20) as till.scenario:
        refund = undo(Refund(order_id="o-9"), step="other", key="o-9", undoes=None)
        done = intent(Pay(order_id="o-9"), step="other", key="o-9")
        await till.scenario.send(done)
        await till.scenario.send(*pays(4), refund)

    assert till.order.index("refund o-9") < till.order.index("o-3")


@pytest.mark.parametrize("limits", [{"at_once": 1}, {"per_second": 100}])
async def test_a_call_that_fails_makes_room_for_the_next(limits) -> None:
    till = Till(**limits)
    async with Scenario(till.effects) as till.scenario:
        failing = [intent(Pay(order_id=f"f-{n}", amount=-1), step=f"f-{n}") for n in range(5)]
        again = [
            intent(Pay(order_id=f"f-{n}", amount=-1), step=f"f-{n}", attempt=2) for n in range(5)
        ]
        await till.scenario.send(*failing, *again, *pays(3))

        assert len(till.scenario.replies()) == 13
        assert till.running == 0


async def test_what_waits_for_its_turn_at_a_crash_is_done_by_the_next_process() -> None:
    """Each is called once: none had begun but the first, of which nothing was kept."""
    till = Till(takes_s=0.05, at_once=1)
    async with Scenario(till.effects) as till.scenario:
        await till.scenario.bus.publish(pays(5))
        await till.scenario.until(lambda: till.running == 1)
        await till.scenario.crash()
        await till.scenario.until(lambda: len(till.scenario.replies()) == 5)

    assert till.order == ["o-0", *(f"o-{number}" for number in range(5))]


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"at_once": 0}, "at_once=0: at least one is needed"),
        ({"per_second": 0}, "per_second=0: expected a number above 0"),
        ({"per_second": float("nan")}, "per_second=nan: expected a number above 0"),
    ],
)
def test_limits_that_let_nobody_in_are_refused(limits, problem: str) -> None:
    with pytest.raises(DefinitionError, match=rf"till.on\(Pay\): {problem}") as refused:
        Effects("till").on(Pay, **limits)

    assert __file__ in str(refused.value)
