"""A bus whose topics and groups have names of their own on a cluster that others use as well."""

from contextlib import contextmanager
from dataclasses import replace

from saga.errors import TopicMissing
from saga.ports.bus import Source


class ApartBus:
    """Puts *prefix* before all names, and takes it off what comes back."""

    def __init__(self, bus, prefix: str) -> None:
        self.bus = bus
        self.prefix = prefix

    async def create_topics(self, topics) -> None:
        await self.bus.create_topics([replace(one, name=self.prefix + one.name) for one in topics])

    async def publish(self, records) -> None:
        hidden = [replace(record, topic=self.prefix + record.topic) for record in records]
        with self.errors_shown():
            await self.bus.publish(hidden)

    async def subscribe(self, group, topics, *, resume_at=None):
        async def resume(sources):
            starts = await resume_at([self.shown(source) for source in sources])
            return {self.hidden(source): offset for source, offset in starts.items()}

        consumer = await self.bus.subscribe(
            self.prefix + group,
            [self.prefix + topic for topic in topics],
            resume_at=None if resume_at is None else resume,
        )
        return ApartConsumer(self, consumer)

    async def origins(self, topics):
        found = await self.bus.origins([self.prefix + topic for topic in topics])
        return {name.removeprefix(self.prefix): origin for name, origin in found.items()}

    async def bounds(self, sources):
        with self.errors_shown():
            found = await self.bus.bounds([self.hidden(source) for source in sources])
        return {self.shown(source): bounds for source, bounds in found.items()}

    async def close(self) -> None:
        await self.bus.close()

    @contextmanager
    def errors_shown(self):
        try:
            yield
        except TopicMissing as error:
            raise TopicMissing(error.topic.removeprefix(self.prefix), error.partition) from error

    def hidden(self, source: Source) -> Source:
        return Source(self.prefix + source.topic, source.partition)

    def shown(self, source: Source) -> Source:
        return Source(source.topic.removeprefix(self.prefix), source.partition)


class ApartConsumer:
    """A consumer of such a bus."""

    def __init__(self, bus: ApartBus, consumer) -> None:
        self.bus = bus
        self.consumer = consumer

    async def fetch(self, *, records_max, timeout_s):
        found = await self.consumer.fetch(records_max=records_max, timeout_s=timeout_s)
        return [replace(one, topic=one.topic.removeprefix(self.bus.prefix)) for one in found]

    async def seek(self, offsets) -> None:
        await self.consumer.seek({self.bus.hidden(at): offset for at, offset in offsets.items()})

    async def commit(self, offsets) -> None:
        await self.consumer.commit({self.bus.hidden(at): offset for at, offset in offsets.items()})

    def assignment(self):
        return frozenset(map(self.bus.shown, self.consumer.assignment()))

    @property
    def progress(self):
        return {self.bus.shown(at): found for at, found in self.consumer.progress.items()}

    @property
    def stopped(self):
        return {self.bus.shown(at): reason for at, reason in self.consumer.stopped.items()}

    async def close(self) -> None:
        await self.consumer.close()
