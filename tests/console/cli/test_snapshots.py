"""`replay` uses no snapshots: it compares them with what histories give, and removes wrong ones.

As histories, they are compared by processes that may be ended, and only those of chosen sagas.
"""

from __future__ import annotations

import asyncio
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from saga.adapters.sqlite import SqliteDatabase, SqliteEventStore
from saga.audit.replaying import replayed
from saga.console.cli.gate import choosing, run
from saga.console.cli.session import load_app
from saga.core.history import History
from saga.core.identity import SagaId, saga_id
from saga.core.snapshots import snapshot_of
from saga.ports import Snapshot
from tests.console.conftest import call, enter, forget_applications, kept

MACHINES = """
from pathlib import Path

from pydantic import BaseModel, ValidationInfo, field_validator

from saga import Event, Next, SagaApp, State, machine


class Begun(Event, topic="clocks.begun", version=1, key="name"):
    name: str


class Found(Event, topic="clocks.found", version=1, key="name"):
    name: str


class Stop(BaseModel): ...


class Going(State):
    name: str

    @field_validator("name", mode="before")
    @classmethod
    def look(cls, name: str, info: ValidationInfo) -> str:
        strike = Path("strike")
        if info.mode == "json" and name == "c-1" and strike.exists():
            exec(compile(strike.read_text(), "strike", "exec"))
        return name

    def handle(self, event: Stop) -> Next[Stopped]:
        return Stopped()


class Stopped(State): ...


TABLE = {Going: {Stop: Stopped}}
MADE = dict(version=1, transitions=TABLE, signals={"stop": Stop})


@machine("clock", starts_on=Begun, **MADE)
def clock(begun: Begun) -> Next[Going]:
    return Going(name=begun.name)


@machine("watch", starts_on=Found, **MADE)
def watch(found: Found) -> Next[Going]:
    return Going(name=found.name)


app = SagaApp(sagas=[clock, watch])
"""
C_1, C_2 = (saga_id("clock", name) for name in ("c-1", "c-2"))
W_1 = saga_id("watch", "w-1")
WRONG = orjson.dumps({"saga": {"state": {}, "program": {}}})
SAME = {"found": "same", "problem": None, "where": None}


def replay(*words):
    """In this process."""
    return call("replay", "--jobs", "0", *words)


def write_machines(folder: Path) -> None:
    (folder / "toys.py").write_text(MACHINES)


async def begin() -> None:
    toys = load_app("toys:app")
    begun, found = (each.trigger for each in ())
