"""An application whose sagas would be rolled back by a timer that is early."""

from datetime import timedelta

from saga import Context, EffectContext, Effects, Event, Intent, Retry, SagaApp, saga


class OrderAsked(Event, topic="clocks.order-asked", version=1, key="name"):
    name: str


class OrderDone(Event, topic="clocks.order-done", version=1):
    name: str


class Pay(Intent[None], topic="clocks.pay", version=1):
    name: str


@saga("timed", version=1, starts_on=OrderAsked)
async def timed(ctx: Context, asked: OrderAsked) -> OrderDone:
    for number in range(4):
        pay, once = Pay(name=asked.name), Retry(attempts=1)
        await ctx.do(pay, id=f"pay-{number}", retry=once, timeout=timedelta(seconds=40))
        await ctx.sleep(timedelta(seconds=1))
    return OrderDone(name=asked.name)


service = Effects("clocks")


@service.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> None:
    """Has nothing to do."""


app = SagaApp(sagas=[timed], effects=[service])
