"""Growth: what a saga costs whose messages are large.

Each curve is a function from sizes to points `(size, cost)`, as in `benchmarks.growth_waiting`. A
message is published, begins a saga, goes out as an intent, is handled and answered, and is the
outcome: each time it is encoded, stored in a file, read and validated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.growth import Curve, Points, instructions
from benchmarks.product import addresses
from saga import Service
from saga.app import SagaApp
from saga.authoring import Context, saga
from saga.contracts import Event, Intent
from saga.effects import EffectContext, Effects

SIZES: Final = (100, 400, 1_600, 6_400, 25_600, 102_400)
"""Bytes of a payload, about."""
SAGAS: Final = 5
LINE_BYTES: Final = 100

Content = dict[str, list[str]]


class Sent(Event, topic="growth-payloads.sent", version=1, key="name"):
    name: str
    content: Content


class Passed(Event, topic="growth-payloads.passed", version=1):
    content: Content


class Pass(Intent[Passed], topic="growth-payloads.pass", version=1):
    content: Content


@saga("growth-payloads", version=1, starts_on=Sent)
async def passing(ctx: Context, sent: Sent) -> Passed:
    return await ctx.do(Pass(content=sent.content))


services: Final = Effects("growth-payloads")


@services.on(Pass)
async def answer(intent: Pass, _: EffectContext) -> Passed:
    return Passed(content=intent.content)


def one_text(size: int) -> Content:
    return {"text": ["é" * (size // 2)]}


def many_lines(size: int) -> Content:
    return {"lines": ["x" * LINE_BYTES] * (size // LINE_BYTES)}


def many_names(size: int) -> Content:
    return {f"name-{number}": [] for number in range(size // 16)}


def of_content(make: Callable[[int], Content]) -> Curve:
    """What a saga costs, with such a content in all its messages."""

    def points(sizes: Sequence[int]) -> Points:
        return [(size, _cost(make(size))) for size in sizes]

    return points


def _cost(content: Content) -> float:
    app = SagaApp(sagas=[passing], effects=[services])
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:
        service = app.service(**addresses(folder))
        runner.run(service.open())
        runner.run(_run(service, content, "first"))
        counted = partial(runner.run, _run(service, content, "counted"))
        cost = instructions(counted) / SAGAS
        runner.run(service.stop())
    return cost


async def _run(service: Service, content: Content, name: str) -> None:
    sagas = [
        await service.publish(Sent(name=f"{name}-{number}", content=content))
        for number in range(SAGAS)
    ]
    for saga_id in sagas:
        assert saga_id is not None
        await service.outcome(saga_id)


CURVES: Final[dict[str, Curve]] = {
    "a saga with one long text": of_content(one_text),
    "a saga with many lines": of_content(many_lines),
    "a saga with many names": of_content(many_names),
}
