"""Delays that outlive every worker: a day, a week, or until a moment."""

import asyncio
from datetime import UTC, datetime

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, saga


class SignedUp(Event, topic="club.signed-up", version=1, key="member"):
    member: str
    first_pause: str = "1d"
    second_pause: str = "7d"
    trial_ends_at: datetime


class Mail(Intent[None], topic="club.mail", version=1):
    member: str
    text: str


class TrialEnded(Event, topic="club.trial-ended", version=1):
    member: str
    mails: int


@saga("scheduled", version=1, starts_on=SignedUp)
async def welcome(ctx: Context, signed: SignedUp) -> TrialEnded:
    """Nobody is busy while it sleeps, and a deploy or a crash does not wake it early."""
    await ctx.do(Mail(member=signed.member, text="Welcome"), kind="harmless")
    await ctx.sleep(signed.first_pause)
    await ctx.do(Mail(member=signed.member, text="How is it going?"), kind="harmless")
    await ctx.sleep(signed.second_pause)
    await ctx.do(Mail(member=signed.member, text="Have you seen this?"), kind="harmless")
    await ctx.sleep_until(signed.trial_ends_at)
    return TrialEnded(member=signed.member, mails=3)


club = Effects("scheduled-club")


@club.on(Mail)
async def mail(intent: Mail, ctx: EffectContext) -> None:
    print(f"to {intent.member}: {intent.text}")


app = SagaApp(sagas=[welcome], effects=[club])


async def main() -> None:
    """A week in two seconds."""
    ends_at = datetime(2026, 1, 1, tzinfo=UTC)
    signed = SignedUp(member="m-1", first_pause="1s", second_pause="1s", trial_ends_at=ends_at)
    async with app.service() as service:
        saga_id = await service.start(signed)
        outcome = await service.outcome(saga_id, timeout=60)
        print(outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
