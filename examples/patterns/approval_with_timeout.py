"""A person decides, or time runs out: a deadline on a wait."""

import asyncio

from pydantic import BaseModel

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, TimedOut, saga


class LeaveWanted(Event, topic="staff.leave-wanted", version=1, key="request"):
    request: str
    patience: str = "2d"


class Remind(Intent[None], topic="staff.remind", version=1):
    request: str


class Answer(BaseModel):
    approver: str


class LeaveDecided(Event, topic="staff.leave-decided", version=1):
    request: str
    approved_by: str | None


@saga("approval-with-timeout", version=1, starts_on=LeaveWanted)
async def leave(ctx: Context, wanted: LeaveWanted) -> LeaveDecided:
    """Wait, remind once, wait again; then it is decided without an answer."""
    try:
        answer = await ctx.wait("answer", Answer, timeout=wanted.patience)
    except TimedOut:
        await ctx.do(Remind(request=wanted.request), kind="harmless")
        try:
            answer = await ctx.wait("answer", Answer, timeout=wanted.patience)
        except TimedOut:
            return LeaveDecided(request=wanted.request, approved_by=None)
    return LeaveDecided(request=wanted.request, approved_by=answer.approver)


staff = Effects("approval-with-timeout-staff")


@staff.on(Remind)
async def remind(intent: Remind, ctx: EffectContext) -> None:
    print("somebody should look at", intent.request)


app = SagaApp(sagas=[leave], effects=[staff])


async def main() -> None:
    """One is answered; of one nobody takes notice."""
    async with app.service() as service:
        answered = await service.start(LeaveWanted(request="r-1"))
        ignored = await service.start(LeaveWanted(request="r-2", patience="1s"))
        await service.signal(answered, "answer", Answer(approver="ann"))
        for saga_id in (answered, ignored):
            outcome = await service.outcome(saga_id, timeout=60)
            print(outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
