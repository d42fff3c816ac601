"""A job at somebody else's, who tells nothing: it is polled until it is through, in weeks perhaps.

    python examples/08_long_poll.py

Each poll makes the saga's history longer. So a run ends after five polls, and the saga goes on as
new: same saga, same key, one outcome, and a history of five polls that is loaded. It prints

    render/film completed (percent=100)
      do    3.poll    done
      do    3.poll-2  done
    film: through after 12 polls
"""

import asyncio

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, saga

POLLS_A_RUN = 5


class RenderingBegun(Event, topic="studio.rendering-begun", version=1, key="job"):
    job: str
    polls: int = 0
    pause: str = "1h"


class Progress(Event, topic="studio.progress", version=1):
    percent: int


class Poll(Intent[Progress], topic="studio.poll", version=1):
    job: str
    number: int


class Rendered(Event, topic="studio.rendered", version=1):
    job: str
    polls: int


@saga("render", version=1, starts_on=RenderingBegun)
async def render(ctx: Context, begun: RenderingBegun) -> Rendered:
    for number in range(begun.polls + 1, begun.polls + POLLS_A_RUN + 1):
        progress = await ctx.do(Poll(job=begun.job, number=number), kind="read_only")
        ctx.show(percent=progress.percent)  # `saga ls --where percent=75`
        if progress.percent == 100:
            return Rendered(job=begun.job, polls=number)
        await ctx.sleep(begun.pause)
    # All that the next run knows is in its trigger.
    polls = begun.polls + POLLS_A_RUN
    return await ctx.continue_as_new(RenderingBegun(job=ctx.key, polls=polls, pause=begun.pause))


studio = Effects("studio")


@studio.on(Poll)
async def poll(intent: Poll, ctx: EffectContext) -> Progress:
    return Progress(percent=min(100, intent.number * 100 // 12))


app = SagaApp(sagas=[render], effects=[studio])


async def main() -> None:
    async with app.service() as service:
        saga_id = await service.start(RenderingBegun(job="film", pause="50ms"))
        outcome = await service.outcome(saga_id)
        print(await service.find(saga_id))
        if isinstance(outcome.event, Rendered):
            print(f"film: through after {outcome.event.polls} polls")


if __name__ == "__main__":
    asyncio.run(main())
