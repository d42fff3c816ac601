"""What a row of the local bus holds comes back as it was, and damage is told or harmless."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga.adapters.sqlite import packing
from saga.adapters.sqlite.packing import BATCH_RECORDS_MAX, UNREADABLE, pack, unpack
from saga.contracts import cloudevents as ce
from saga.core.identity import Instant
from saga.ports import Record
from tests.adapters.first_batches import pack_numbers
from tests.simulation.mutants import mutate
from tests.simulation.mutations import Mutation

AT = Instant(1_763_721_000_000_042)
TOPIC = "dev.saga.pay.int.pay.v1"
SAGA = "6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11"
INTENT = f"{SAGA}/pay/do/1"

names = st.sampled_from(["", SAGA, INTENT, f"{SAGA}/pay/do", f"{INTENT}/reply", "m-1", "ö\0\n"])
perhaps = st.none() | names
times = st.integers(0, 253_402_300_799_999_999).map(Instant)
binary = st.none() | st.binary() | st.sampled_from([b"\n", b"", b'{"a":1}'])
pairs = st.lists(st.tuples(st.sampled_from(["ce_id", "x", ""]) | st.text(), binary)).map(tuple)


@st.composite
def said(draw: st.DrawFn, contract: str, source: str) -> ce.Said:
    own = draw(names), contract, source, draw(times)
    return ce.Said(*own, **{name: draw(perhaps) for name in SELDOM})


SELDOM = (
    *("saga_id", "causation_id", "idempotency_key", "undoes", "traceparent"),
    *("correlation_id", "signature"),
)


@st.composite
def batches(draw: st.DrawFn) -> list[Record]:
    """Records of one topic and head."""
    headers = pairs
    if draw(st.booleans()):
        contract = draw(st.sampled_from(["pay.int.pay.v1", "pay.int.pay.v2", TOPIC, ""]))
        headers = said(contract, draw(names))
    record = st.builds(Record, st.just(TOPIC), binary, binary, headers)
    return draw(st.lists(record, min_size=1, max_size=4))


def contents(records: Iterable[Record]):
    return [(each.key, each.value, each.headers) for each in records]


@given(batches(), times)
def test_what_is_packed_comes_back_byte_for_byte(records, at):
    found = unpack(pack(records, at), len(records), TOPIC, at)

    assert found == contents(records)
    for (_, _, headers), record in zip(found, records, strict=True):
        assert type(headers) is type(record.headers)
        assert tuple(headers) == tuple(record.headers)


@given(batches().filter(lambda records: type(records[0].headers) is tuple))
def test_what_an_earlier_release_has_packed_comes_back_too(records):
    """Of it all records of a batch have the same header names."""
    first = tuple(name for name, _ in records[0].headers)
    same = [each for each in records if tuple(name for name, _ in each.headers) == first]

    assert unpack(pack_numbers(same), len(same), TOPIC, AT) == contents(same)


@given(batches(), st.data())
def test_damage_is_told_or_leaves_what_can_be_shown(records, data):
    """Whatever has happened to the bytes, whoever reads them meets no other error."""
    packed = bytearray(pack(records, AT))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(packed) - 1))
        packed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        found = unpack(bytes(packed), len(records), TOPIC, AT)
    except UNREADABLE:
        return
    for _, _, headers in found:
        ce.read_headers(headers)
        assert len(tuple(headers)) == len(headers)


HEAD = orjson.dumps([14, "/s"])[:-1]
GOOD = [1, 1, INTENT, 0, 36, None, 43]


def row(**changes):
    """A batch of one record, of which something is changed."""
    head, cells = [14, "/s"], [*GOOD, None, None, None, None]
    for place, value in changes.items():
        (head if place[0] == "h" else cells)[int(place[1:])] = value
    return orjson.dumps([head, [cells]]) + b"\nkv"


def test_a_whole_row_is_read():
    ((key, value, headers),) = unpack(row(), 1, TOPIC, AT)

    assert (key, value) == (b"k", b"v")
    assert headers == ce.Said(
        *(INTENT, "pay.int.pay.v1", "/s", AT),
        saga_id=SAGA,
        idempotency_key=f"{SAGA}/pay/do",
    )


WRONG = [1.5, "x", [], {}, True, None]
DAMAGED = [
    b"",
    b"[]",
    b"5\n",
    b"[null,5]\n",
    b"[5,[[]]]\n",
    b'[null,[{"a":1}]]\n',
    b"[null,[[-1,-1,[1],[-1]]]]\n",
    b"[null,[[-1,-1,[],[-1]]]]\n\0",
    row() + b"\0",
    row()[:-1],
    *(row(h1=each) for each in WRONG if each != "x"),
    *(row(h0=each) for each in (1.5, [], {}, True, None)),
    *(row(c0=each) for each in WRONG if each is not True),
    *(row(c2=each) for each in WRONG if each != "x"),
    *(row(c3=each) for each in WRONG),
    *(row(c8=each) for each in (1.5, [], {}, True)),
]


@pytest.mark.parametrize("packed", [*DAMAGED, None, 5, "text"])
def test_what_is_no_batch_is_told(packed):
    with pytest.raises(UNREADABLE):
        unpack(packed, 1, TOPIC, AT)


@pytest.mark.parametrize("count", [0, 2, -1, BATCH_RECORDS_MAX + 1, "1", None, 1.0])
def test_a_wrong_number_of_records_is_told(count):
    with pytest.raises(ValueError, match="its records is"):
        unpack(row(), count, TOPIC, AT)


def test_what_headers_say_takes_a_third_of_the_bytes():
    """Counted of one intent that is written alone."""
    headers = ce.Said(
        *(INTENT, "pay.int.pay.v1", "/dev/saga/sagas/order", AT),
        saga_id=SAGA,
        causation_id="0190a1b2-3c4d-5e6f-8a9b-0c1d2e3f4a5b",
        idempotency_key=f"{SAGA}/pay/do",
    )
    record = Record(TOPIC, b"o-1", b'{"amount":1,"order_id":"o-1"}', headers)

    assert len(pack([record], AT)) * 3 < len(pack_numbers([record]))


ISSUED = ce.Said(INTENT, "pay.int.pay.v1", "/sagas", AT, SAGA, "m-1", f"{SAGA}/pay/do")
SIGNED = replace(ISSUED, at=Instant(AT + 7), signature="s")
MUTANTS = {
    "all have the time of the batch": ("said_at - at", "0"),
    "a cause is the beginning of the id": ("not name.startswith(cause)", "False"),
    "a key is as long as the saga id": ("len(own)", "len(saga or '')"),
    "what is seldom said is left out": ("if seldom != _NOTHING", "if False"),
    "a contract is the end of the topic": ("records[0].topic.endswith(contract)", "True"),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_a_mutant_of_packing_is_noticed(name, tmp_path):
    """And without a mutant the same records come back."""
    mutated = tmp_path / "packing.py"
    mutated.write_text(Path(packing.__file__).read_text("utf-8"), "utf-8")
    if name is not None:
        mutate(mutated, Mutation(name, "packing.py", (MUTANTS[name],)))
    module = ModuleType("packing")
    exec(compile(mutated.read_text("utf-8"), str(mutated), "exec"), vars(module))

    assert all(_comes_back(module, topic) for topic in (TOPIC, "other")) == (name is None)


def _comes_back(module: ModuleType, topic: str) -> bool:
    records = [Record(topic, b"k", b"{}", each) for each in (ISSUED, SIGNED)]
    try:
        return module.unpack(module.pack(records, AT), 2, topic, AT) == contents(records)
    except UNREADABLE:
        return False
