"""What running sagas are moved to: version 3 of the function, in which a step has another name, and
version 2 of machine and graph. The versions that run already are still here.
"""

from __future__ import annotations

from pathlib import Path

from saga import Context, SagaApp, contract, saga
from tests.scenarios.rolling import kept, new, old
from tests.scenarios.rolling.kept import Brought, Fetch, Wrap
from tests.scenarios.rolling.old import Bring, DrawingAsked, ErrandAsked, Go, PutBack


@saga("errand", version=3, starts_on=ErrandAsked)
async def errand(ctx: Context, asked: ErrandAsked) -> Brought:
    fetched = await ctx.do(Fetch(name=asked.name), undo=PutBack, id="get")
    await ctx.wait("go", Go)
    await ctx.do(Wrap(name=asked.name), kind="harmless")
    await ctx.do(Bring(name=asked.name))
    return Brought(name=asked.name, what=fetched.what, wrapped=True)


app = SagaApp(
    sagas=[
        *(kept.errand, errand, kept.task, new.task),
        old.drawing,
        contract(Path(__file__).with_name("new.yaml")),
    ],
    effects=[new.carrier],
    contracts=[DrawingAsked, Brought],
)
