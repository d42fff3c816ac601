"""The contracts of all sagas of the laws: whatever they do, they make something, or wait."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from saga.contracts import Event, Intent
from saga.core.retry import Retry

KEY = "k-1"
SOON = "10s"
"""The deadline of an attempt, where a step has one."""
UNDO_RETRY = Retry(attempts=2, initial="5s")


class Began(Event, topic="laws.began", version=1, key="key"):
    key: str = KEY
    script: str = ""
    items: list[str] = Field(default_factory=list)
    run: int = 1


class Made(Event, topic="laws.made", version=1):
    number: int = 0
    step: str = ""
    """Where it is not said, nobody knows which one was made."""


class Make(Intent[Made], topic="laws.make", version=1):
    place: str
    said: str = ""
    """What the saga knew when it asked for it."""


class Unmake(Intent[None], topic="laws.unmake", version=1):
    place: str
    number: int | None = None


class Hint(Intent[None], topic="laws.hint", version=1):
    place: str


class Seen(Event, topic="laws.seen", version=1):
    place: str


class News(Event, topic="outside.news", version=1, key="key"):
    key: str = KEY
    number: int = 0


class Born(Event, topic="child.born", version=1, key="key"):
    key: str


class Grown(Event, topic="child.grown", version=1):
    number: int = 0
    step: str = ""


class Ended(Event, topic="laws.ended", version=1):
    said: str = ""


class Failed(Event, topic="laws.failed", version=1):
    reason: str
    code: str | None = None
    failed_step: str | None = None
    residue: tuple[str, ...] = ()


class Word(BaseModel):
    """What a signal says."""

    number: int


class Question(BaseModel):
    """What an update asks."""

    number: int


CONTRACTS: tuple[type[Any], ...] = (
    *(Began, Made, Make, Unmake, Hint, Seen, News, Born, Grown, Ended, Failed),
)
