"""Consumer groups of the local bus: who is a member, who is gone, who reads what.

Each change of a group's members gives it a new generation. A member first lets go of what the new
generation takes from it, then acknowledges; nobody begins to read anything new before all have.
A process that has ended is recognised by its id at once, one that hangs by its missing heartbeat.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from saga.core.identity import Instant

log = logging.getLogger(__name__)

HEARTBEAT_EXPIRY_S: Final = 10

_PROCESS: Final = re.compile(r"\d{1,18} \S+ .")
_STATE_AND_START: Final = (0, 19)
"""Fields of /proc/PID/stat behind the name: how it runs, and when it was started."""


class Member(NamedTuple):
    member_id: int
    group: str
    topics: tuple[str, ...]
    process: str
    heartbeat_at: Instant
    generation: int


class Group(NamedTuple):
    generation: int
    members: tuple[Member, ...]
    damaged: tuple[int, ...] = ()
    """Members whose rows cannot be read; they are expelled, and join anew where they live."""

    @property
    def is_settled(self) -> bool:
        """Whether all members have let go of what this generation takes from them."""
        return all(member.generation >= self.generation for member in self.members)

    def has(self, member_id: int) -> bool:
        return any(member.member_id == member_id for member in self.members)


NO_GROUP: Final = Group(0, ())


Version = tuple[float, float, int]


def version(cursor: sqlite3.Cursor) -> Version:
    """Another one whenever a group has another generation, or a member has come to one."""
    cursor.execute(
        "SELECT (SELECT total(generation) FROM bus_groups), total(generation), count(*) "
        "FROM bus_members"
    )
    found: Version = cursor.fetchone()
    return found


def read_groups(cursor: sqlite3.Cursor) -> dict[str, Group]:
    """All groups with their members, the oldest first."""
    generations = {
        name: generation if type(generation) is int else 0  # the next one is a number again
        for name, generation in cursor.execute("SELECT group_name, generation FROM bus_groups")
    }
    members: dict[str, list[Member]] = {name: [] for name in generations}
    damaged: dict[str, list[int]] = {}
    cursor.execute(
        "SELECT member_id, group_name, topics, process, heartbeat_at, generation "
        "FROM bus_members ORDER BY member_id"
    )
    for row in cursor.fetchall():
        member = _read_member(row)
        if member is None:
            damaged.setdefault(row[1], []).append(row[0])
        else:
            members.setdefault(member.group, []).append(member)
    return {
        name: Group(generations.get(name, 0), tuple(own), tuple(damaged.get(name, ())))
        for name, own in members.items()
    }


def _read_member(row: Sequence[Any]) -> Member | None:
    member_id, group, encoded, process, *numbers = row
    try:
        topics = orjson.loads(encoded)
    except (ValueError, TypeError):
        return None
    is_sound = (
        isinstance(topics, list)
        and all(isinstance(topic, str) for topic in topics)
        and isinstance(group, str)
        and isinstance(process, str)
        and _PROCESS.match(process)
        and all(type(number) is int for number in numbers)
    )
    return Member(member_id, group, tuple(topics), process, *numbers) if is_sound else None


def join(
    cursor: sqlite3.Cursor,
    group: str,
    topics: Sequence[str],
    *,
    now: Instant,
    ours: Collection[int],
) -> int:
    """Expel the dead and add a member, which reads nothing yet; returns its id."""
    before = read_groups(cursor).get(group)
    if before is not None:
        expel(cursor, dead_members(before, now=now, ours=ours))
        remove_damaged(cursor, before.damaged)
    generation = _next_generation(cursor, group)
    cursor.execute(
        "INSERT INTO bus_members (group_name, topics, process, heartbeat_at, generation) "
        "VALUES (?, ?, ?, ?, ?)",
        (group, orjson.dumps(list(topics)).decode(), this_process(), now, generation),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def leave(cursor: sqlite3.Cursor, member_ids: Iterable[int]) -> None:
    """It is no error if a member is not there."""
    for member_id in member_ids:
        gone = cursor.execute(
            "DELETE FROM bus_members WHERE member_id = ? RETURNING group_name", (member_id,)
        ).fetchall()
        for (group,) in gone:
            _next_generation(cursor, group)


def remove_damaged(cursor: sqlite3.Cursor, member_ids: Collection[int]) -> None:
    """A member that lives sees that it is gone, and joins anew."""
    for member_id in member_ids:
        log.error("bus_members, row %s cannot be read: it is removed", member_id)
    leave(cursor, member_ids)


def acknowledge(cursor: sqlite3.Cursor, generations: Mapping[int, int], *, now: Instant) -> None:
    """Note that these members are alive and have let go of what a generation took."""
    for member_id, generation in generations.items():
        cursor.execute(
            "UPDATE bus_members SET generation = max(generation, ?), heartbeat_at = ? "
            "WHERE member_id = ?",
            (generation, now, member_id),
        )


def expel(cursor: sqlite3.Cursor, dead: Iterable[Member]) -> None:
    """Remove members, unless they have given a sign of life since."""
    for member in dead:
        row = cursor.execute(
            "SELECT heartbeat_at FROM bus_members WHERE member_id = ?", (member.member_id,)
        ).fetchone()
        if row is not None and row[0] == member.heartbeat_at:
            leave(cursor, [member.member_id])


def begin_generation_everywhere(cursor: sqlite3.Cursor) -> None:
    """Have all groups share out the partitions anew, for there are new ones."""
    cursor.execute("UPDATE bus_groups SET generation = generation + 1")


def dead_members(group: Group, *, now: Instant, ours: Collection[int]) -> list[Member]:
    return [each for each in group.members if each.member_id not in ours and is_dead(each, now)]


def this_process() -> str:
    """Process id, when it started, and the namespace in which the id is meant."""
    return _described(os.getpid())


def is_dead(member: Member, now: Instant) -> bool:
    """Whether its process is gone, or has been silent for too long."""
    if now - member.heartbeat_at > HEARTBEAT_EXPIRY_S * 1_000_000:
        return True
    pid, start, namespace = member.process.split(" ", 2)
    if namespace != this_process().split(" ", 2)[2]:
        return False  # its process ids mean nothing here
    return start_of(int(pid)) not in {start, "?"}


@cache
def _described(pid: int) -> str:
    try:
        namespace = f"{os.uname().nodename} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        namespace = os.uname().nodename
    return f"{pid} {start_of(pid) or '?'} {namespace}"


def start_of(pid: int) -> str | None:
    """When the process was started, `?` where that cannot be told, None where it has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # it belongs to somebody else
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")  # names have any bytes
        fields = text.rpartition(")")[2].split()
    except OSError:
        return "?"
    state, start = (fields[place] for place in _STATE_AND_START)
    return None if state in "ZX" else start


def _next_generation(cursor: sqlite3.Cursor, group: str) -> int:
    ((generation,),) = cursor.execute(
        "INSERT INTO bus_groups VALUES (?, 1) ON CONFLICT (group_name) "
        "DO UPDATE SET generation = generation + 1 RETURNING generation",
        (group,),
    ).fetchall()
    return int(generation)
