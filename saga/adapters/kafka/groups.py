"""Consumer groups in a cluster, as an operator asks for them: who is in them, how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient

from saga.adapters.kafka.connection import RETRY_BACKOFF_MS, KafkaConnection
from saga.adapters.kafka.failures import within
from saga.core.values import value
from saga.ports.bus import Source

ANSWER_S: Final = 10.0


@value(kw_only=True)
class GroupState:
    """A group: how many members it has, and of each source the next offset that it committed."""

    name: str
    members: int
    committed: Mapping[Source, int]


async def describe_groups(
    connection: KafkaConnection, groups: Collection[str]
) -> dict[str, GroupState]:
    """How these groups stand; one that never was has no members and no offsets.

    Raises:
        BusUnavailable: nobody answers, or this user may not ask.
    """
    async with within(ANSWER_S, "describe groups"):
        admin = AIOKafkaAdminClient(**connection.options())
        try:
            await admin.start()
            return {name: await _group(admin, name) for name in groups}
        finally:
            await admin.close()


async def _group(admin: AIOKafkaAdminClient, name: str) -> GroupState:
    while True:
        try:
            return await _described(admin, name)
        except kafka.KafkaError as error:
            # A cluster makes its topic of offsets when the first group is asked for.
            if not error.retriable:
                raise
            await asyncio.sleep(RETRY_BACKOFF_MS / 1000)


async def _described(admin: AIOKafkaAdminClient, name: str) -> GroupState:
    [answer] = await admin.describe_consumer_groups([name])
    members = 0
    for code, _, _, _, _, found, *_ in answer.groups:
        error = kafka.for_code(code)
        if error not in (kafka.NoError, kafka.GroupIdNotFound):
            raise error(name)
        members += len(found)
    committed = await admin.list_consumer_group_offsets(name)
    return GroupState(
        name=name,
        members=members,
        committed={
            Source(place.topic, place.partition): offset.offset
            for place, offset in committed.items()
            if offset.offset >= 0
        },
    )
