"""The contracts of both applications, and their services, which do what scripts say."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pydantic import BaseModel

from saga import EffectContext, Effects, Event, Intent, Refused, Retry

RETRY: Final = Retry(attempts=3, initial="80ms", cap="300ms")
PATIENT: Final = Retry(attempts=None, initial="80ms", cap="300ms")
LIMITS: Final[Any] = {"retry": RETRY, "timeout": "700ms", "undo_retry": PATIENT}
Scripts = dict[str, str]
"""What happens to each step."""


class TaleAsked(Event, topic="office.tale-asked", version=1, key="key"):
    """Begins a function; *news* are how many it waits for, *runs* how often it begins anew."""

    key: str
    scripts: Scripts
    news: int = 1
    runs: int = 0


class ClerkAsked(Event, topic="office.clerk-asked", version=1, key="key"):
    """Begins a machine."""

    key: str
    scripts: Scripts
    news: int = 1


class FormAsked(Event, topic="office.form-asked", version=1, key="key"):
    """Begins a graph; has a child where there is a *crate*."""

    key: str
    scripts: Scripts
    items: tuple[str, ...] = ()
    crate: bool = False


class Ended(Event, topic="office.ended", version=1):
    """How a saga of either application ends; *heard* are the numbers of the news it has taken."""

    key: str
    heard: tuple[int, ...] = ()


class Failed(Event, topic="office.failed", version=1):
    key: str
    reason: str
    code: str | None
    residue: list[str]


class News(Event, topic="office.news", version=1, key="about"):
    """Said by another service."""

    about: str
    number: int


class CrateAsked(Event, topic="depot.crate-asked", version=1, key="key"):
    """Begins a machine of the other application."""

    key: str
    scripts: Scripts


class PalletAsked(Event, topic="depot.pallet-asked", version=1, key="key"):
    """Begins a function of the other application."""

    key: str
    scripts: Scripts


class Lifted(Event, topic="yard.lifted", version=1):
    step: str


class Lift(Intent[Lifted], topic="yard.lift", version=1):
    key: str
    step: str
    script: str


class Lower(Intent[None], topic="yard.lower", version=1):
    key: str
    step: str
    script: str


class Stowed(Event, topic="hold.stowed", version=1):
    step: str


class Stow(Intent[Stowed], topic="hold.stow", version=1):
    key: str
    step: str
    script: str


class Unstow(Intent[None], topic="hold.unstow", version=1):
    key: str
    step: str
    script: str


class Go(BaseModel):
    """A signal."""

    number: int


class Question(BaseModel):
    """An update."""

    number: int


yard, hold = Effects("yard"), Effects("hold")


@yard.on(Lift)
async def lift(intent: Lift, ctx: EffectContext) -> Lifted:
    await _do(intent.script, ctx)
    return Lifted(step=intent.step)


@yard.on(Lower)
async def lower(intent: Lower, ctx: EffectContext) -> None:
    _undo(intent.script, ctx)


@hold.on(Stow)
async def stow(intent: Stow, ctx: EffectContext) -> Stowed:
    await _do(intent.script, ctx)
    return Stowed(step=intent.step)


@hold.on(Unstow)
async def unstow(intent: Unstow, ctx: EffectContext) -> None:
    _undo(intent.script, ctx)


async def _do(script: str, ctx: EffectContext) -> None:
    words = _words(script)
    if ctx.attempt == 1 and "slow" in words:
        await asyncio.sleep(float(words["slow"]))
    if "refuse" in words:
        raise Refused("planned: no", code="no")
    if ctx.attempt <= int(words.get("fail", "0")):
        raise RuntimeError("planned: failed")


def _undo(script: str, ctx: EffectContext) -> None:
    if ctx.attempt <= int(_words(script).get("undofail", "0")):
        raise RuntimeError("planned: cannot undo now")


def _words(script: str) -> dict[str, str]:
    return dict(word.partition(":")[::2] for word in script.split())
