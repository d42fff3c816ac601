"""The local bus as an operator asks for it, read from its tables: nothing is joined or changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping

from saga.adapters.sqlite.database import SqliteDatabase
from saga.adapters.sqlite.groups import Group, dead_members, read_groups
from saga.adapters.sqlite.record_log import PARTITION_BITS
from saga.core.identity import Instant
from saga.core.values import value
from saga.ports.bus import Source


@value(kw_only=True)
class LocalBusState:
    """The partitions of each topic, and of each group its living members and committed offsets."""

    partitions: Mapping[str, int]
    members: Mapping[str, int]
    committed: Mapping[str, Mapping[Source, int]]


async def describe_local_bus(
    database: SqliteDatabase, groups: Collection[str], *, now: Instant
) -> LocalBusState:
    """How the bus in the file of *database* stands; a group that never was has no members.

    Raises:
        StoreUnavailable: the file cannot be read now.
    """

    def query(cursor: sqlite3.Cursor) -> LocalBusState:
        cursor.execute("SELECT topic_id, name, partitions FROM bus_topics")
        topics = {topic_id: (name, partitions) for topic_id, name, partitions in cursor.fetchall()}
        cursor.execute("SELECT group_name, source_id, next_offset FROM bus_offsets")
        committed: dict[str, dict[Source, int]] = {name: {} for name in groups}
        for group, source_id, offset in cursor.fetchall():
            if group in committed:
                topic, _ = topics[source_id >> PARTITION_BITS]
                partition = source_id & ((1 << PARTITION_BITS) - 1)
                committed[group][Source(topic, partition)] = offset
        found = read_groups(cursor)
        nobody = Group(generation=0, members=())
        members = {name: _living(found.get(name, nobody), now) for name in groups}
        return LocalBusState(partitions=dict(topics.values()), members=members, committed=committed)

    return await database.read(query)


def _living(group: Group, now: Instant) -> int:
    return len(group.members) - len(dead_members(group, now=now, ours=()))
