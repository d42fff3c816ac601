"""What holds for every store and every bus after whatever happened to them."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from saga.contracts import TopicNames
from saga.core.history import Entry, History, turns
from saga.core.identity import SagaId
from saga.core.replay import replay
from saga.core.state import SagaState, parts_of
from saga.ports import Inbound
from saga.runtime.children import start_of
from saga.runtime.relay import RecordEncoder
from saga.runtime.saga_cache import LoadedSaga, definition_of

RECORD_BYTES_MAX = 1_048_576


def rebuilt(app, history: Sequence[Entry]) -> SagaState | None:
    """The state that the code at hand makes of a history; None where it has not that version."""
    registered = app.registry.find(*definition_of(history))
    if registered is None:
        return None
    state = replay(registered.decider, history[0].saga_id, history)
    if state.program is not None:
        state.program.close()
    return state


def check_histories(app, histories: Mapping[SagaId, Sequence[Entry]]) -> None:
    """Versions are gapless from 1, and the code at hand decides what is recorded."""
    for saga_id, history in histories.items():
        assert [entry.version for entry in history] == list(range(1, len(history) + 1)), saga_id
        assert {entry.saga_id for entry in history} == {saga_id}
        rebuilt(app, history)


def check_live(
    app, live: Iterable[LoadedSaga], histories: Mapping[SagaId, Sequence[Entry]]
) -> None:
    """The states in memory are those of the histories."""
    for saga in live:
        history = histories[saga.saga_id]
        assert saga.version == len(history)
        assert parts_of(saga.state) == parts_of(rebuilt(app, history))


NOTICE = "ctl.intent-cancelled.v1"


def check_published(
    names: TopicNames,
    histories: Mapping[SagaId, Sequence[Entry]],
    published: Sequence[Inbound],
    own_keys: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """What sagas have published is what their histories say, with the same bytes and in order.

    *published* is in order per topic.
    """
    outgoing = RecordEncoder(names, record_bytes_max=RECORD_BYTES_MAX, own_keys=own_keys)
    stored: dict[str, dict[tuple[str, str], tuple]] = {}
    for saga_id, history in histories.items():
        start = start_of(History(turns(history)))
        if start is None:
            continue
        started, parent = start
        records = outgoing.records(
            history,
            definition=started.definition,
            key=started.key,
            traceparent=started.traceparent,
            parent=parent,
        )
        stored[saga_id] = {
            (record.topic, dict(record.headers)["ce_id"].decode()): (
                record.key,
                record.value,
                record.headers,
            )
            for record in records
        }
    seen: dict[str, dict[tuple[str, str], tuple]] = {}
    for record in published:
        headers = dict(record.headers)
        if headers.get("ce_type", b"").decode().partition(".")[2] == NOTICE:
            continue  # it tells what no history has to say
        if "/sagas/" not in (headers.get("ce_source") or b"").decode():
            continue
        sender = headers.get("ce_subject") or headers["ce_correlationid"]  # of a command
        mine = seen.setdefault(sender.decode(), {})
        name, said = (
            (record.topic, headers["ce_id"].decode()),
            (record.key, record.value, record.headers),
        )
        assert mine.setdefault(name, said) == said, f"{name} was published with two contents"
    for saga_id, records in stored.items():
        assert seen.pop(saga_id, {}) == records, saga_id
    assert not seen, "published and not stored"
