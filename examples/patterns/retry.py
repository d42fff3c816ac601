"""Two ways to try again: a policy for failed attempts, and a loop for answers that are no good."""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, Retry, RollBack, SagaApp, saga

ATTEMPTS = 3


class JobPosted(Event, topic="lab.job-posted", version=1, key="job"):
    job: str
    works_at: int
    """The number of the trial that succeeds."""
    pause: str = "1s"


class Tried(Event, topic="lab.tried", version=1):
    success: bool


class Try(Intent[Tried], topic="lab.try", version=1):
    job: str
    trial: int
    works_at: int


class Fetch(Intent[None], topic="lab.fetch", version=1):
    """Its service is away at first: attempts fail, and the policy repeats them."""

    job: str


class JobDone(Event, topic="lab.job-done", version=1):
    job: str
    trials: int


class JobFailed(Event, topic="lab.job-failed", version=1):
    job: str
    reason: str


@saga("retry", version=1, starts_on=JobPosted, rolled_back=JobFailed)
async def job(ctx: Context, posted: JobPosted) -> JobDone:
    """Attempts that fail are repeated by the policy; an answer is judged here."""
    policy = Retry(attempts=5, initial="50ms", factor=2, cap="1s", never_on=("not_found",))
    await ctx.do(Fetch(job=posted.job), kind="read_only", retry=policy, timeout="5s")
    for trial in range(1, ATTEMPTS + 1):
        wanted = Try(job=posted.job, trial=trial, works_at=posted.works_at)
        tried = await ctx.do(wanted, kind="read_only")
        if tried.success:
            return JobDone(job=posted.job, trials=trial)
        if trial < ATTEMPTS:
            await ctx.sleep(posted.pause)
    raise RollBack(f"it failed {ATTEMPTS} times", code="gave_up")


lab = Effects("retry-lab")


@lab.on(Fetch)
async def fetch(intent: Fetch, ctx: EffectContext) -> None:
    if ctx.attempt < 3:
        raise ConnectionError("nobody answers")


@lab.on(Try)
async def try_it(intent: Try, ctx: EffectContext) -> Tried:
    return Tried(success=intent.trial >= intent.works_at)


app = SagaApp(sagas=[job], effects=[lab])


async def main() -> None:
    """One job works at the second trial, one never."""
    jobs = [JobPosted(job="j-1", works_at=2), JobPosted(job="j-2", works_at=9, pause="100ms")]
    async with app.service() as service:
        sagas = [await service.start(posted) for posted in jobs]
        for posted, saga_id in zip(jobs, sagas, strict=True):
            outcome = await service.outcome(saga_id, timeout=60)
            print(posted.job, outcome.status, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
