"""A person decides, in an hour or a week; a refusal is an outcome like any other."""

import asyncio

from pydantic import BaseModel

from saga import Context, EffectContext, Effects, Event, Intent, RollBack, SagaApp, saga


class RequestMade(Event, topic="office.request-made", version=1, key="request"):
    request: str
    approvers: list[str]


class Ask(Intent[None], topic="office.ask", version=1):
    request: str
    approver: str


class Execute(Intent[None], topic="office.execute", version=1):
    request: str


class Approval(BaseModel):
    approved: bool
    approver: str
    reason: str | None = None


class RequestDone(Event, topic="office.request-done", version=1):
    request: str
    approved_by: str


class RequestRejected(Event, topic="office.request-rejected", version=1):
    request: str
    reason: str


@saga("approval", version=1, starts_on=RequestMade, rolled_back=RequestRejected)
async def request(ctx: Context, made: RequestMade) -> RequestDone:
    """Ask everybody, and go by the first answer; one that comes early is kept."""
    asks = [Ask(request=made.request, approver=approver) for approver in made.approvers]
    await ctx.all(*(ctx.do(ask, kind="harmless") for ask in asks))
    approval = await ctx.wait("approval", Approval)
    if not approval.approved:
        raise RollBack(f"rejected: {approval.reason}", code="rejected")
    await ctx.do(Execute(request=made.request))
    return RequestDone(request=made.request, approved_by=approval.approver)


office = Effects("approval-office")


@office.on(Ask)
async def ask(intent: Ask, ctx: EffectContext) -> None:
    print(f"to {intent.approver}: please decide on {intent.request}")


@office.on(Execute)
async def execute(intent: Execute, ctx: EffectContext) -> None:
    print(intent.request, "is done")


app = SagaApp(sagas=[request], effects=[office])


async def main() -> None:
    """One is approved, one rejected. From a shell: `saga signal approval/r-1 approval '{…}'`."""
    answers = {
        "r-1": Approval(approved=True, approver="ann"),
        "r-2": Approval(approved=False, approver="bob", reason="too late"),
    }
    async with app.service() as service:
        for name, answer in answers.items():
            saga_id = await service.start(RequestMade(request=name, approvers=["ann", "bob"]))
            await service.signal(saga_id, "approval", answer)
            outcome = await service.outcome(saga_id, timeout=60)
            print(name, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
