"""A subscription is charged once a month. In between it sleeps, for a month, in no memory at all.

    python examples/05_subscription.py

`given` is the testing kit: it skips the time, so that three months take a millisecond. The same
saga then runs for real, and is asleep when the program ends. It prints

    month 1: charged, asleep for a month
    month 2: charged, asleep for a month
    month 3: charged, asleep for a month
    the end: {'member': 'ann', 'charged': 3}
    subscription/ann running: waits for timer sleep-1
      do    charge  done

A service that runs on `.saga/` in a month charges the second time, one that is started in a year
does it at once. An operator need not wait for that:

    export SAGA_APP=examples/05_subscription.py:app
    saga timers
    saga timers fire TIMER --reason "it is paid in advance" --no-wait
    saga run --until-idle
"""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, saga
from saga.testing import after, completed, given, issued, replied


class Subscribed(Event, topic="magazine.subscribed", version=1, key="member"):
    member: str
    months: int


class Charge(Intent[None], topic="magazine.charge", version=1):
    member: str
    month: int


class Expired(Event, topic="magazine.expired", version=1):
    member: str
    charged: int


@saga("subscription", version=1, starts_on=Subscribed)
async def subscription(ctx: Context, wanted: Subscribed) -> Expired:
    for month in range(1, wanted.months + 1):
        await ctx.do(Charge(member=wanted.member, month=month))
        await ctx.sleep("30d")
    return Expired(member=wanted.member, charged=wanted.months)


magazine = Effects("magazine")


@magazine.on(Charge)
async def charge(intent: Charge, ctx: EffectContext) -> None: ...


app = SagaApp(sagas=[subscription], effects=[magazine])


def skip_three_months(subscribed: Subscribed) -> None:
    """Each `then` fails where something else happens, or happens a day too early."""
    scenario = given(subscription).when(subscribed)
    for month in (1, 2, 3):
        scenario.then(issued(Charge(member=subscribed.member, month=month)))
        scenario.when(replied(Charge)).when(after("29d")).then_nothing()
        print(f"month {month}: charged, asleep for a month")
        scenario.when(after("1d"))
    end = Expired(member=subscribed.member, charged=3)
    scenario.then(completed(end))
    print("the end:", end.model_dump())


async def main() -> None:
    subscribed = Subscribed(member="ann", months=3)
    skip_three_months(subscribed)
    async with app.service() as service:
        saga_id = await service.start(subscribed)
        await service.idle()  # until nothing is left but sleep
        print(await service.find(saga_id))


if __name__ == "__main__":
    asyncio.run(main())
