"""Compressed bombs are found before anything inflates them, and only they."""

import random
import struct
import tracemalloc

import cramjam
import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from saga.adapters.kafka.inflating import INFLATED_BYTES_MAX, KEPT_BYTES, is_bomb, without_bombs
from saga.core.identity import Instant
from saga.ports.bus import SET_ASIDE, Inbound, why_set_aside

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ENCODE = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}
LARGE = INFLATED_BYTES_MAX + 1_000_000
TEXT = b"".join(b'{"order_id":"o-%d","amount":%d}' % (n, n * 7) for n in range(9_000))


def batch(codec: int, *values: bytes, base: int = 0) -> bytes:
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 1 << 40)
    for offset, value in enumerate(values):
        builder.append(offset, 1_700_000_000_000, b"k", value, [("h", b"1")])
    made = builder.build()
    made[:8] = struct.pack(">q", base)
    return bytes(made)


def read(data: bytes) -> list:
    """What aiokafka makes of it: offset, value and headers."""
    records, memory = [], MemoryRecords(data)
    while memory.has_next():
        found = memory.next_batch()
        assert found.validate_crc()
        records += [(each.offset, each.value, tuple(each.headers)) for each in found]
    return records


@pytest.mark.parametrize("name", CODECS)
def test_a_bomb_becomes_one_record_with_its_begin_and_a_hash(name):
    codec = CODECS[name]
    bomb = batch(codec, b"\0" * LARGE, b"1", b"2", base=10)
    before, after = batch(codec, b"a", base=9), batch(0, b"z", base=13)
    data, (why,) = without_bombs(before + bomb + after)
    first, stands, last = read(data)

    assert (first[:2], last[:2]) == ((9, b"a"), (13, b"z"))
    assert stands == (12, bomb[61 : 61 + KEPT_BYTES], ((SET_ASIDE, why.encode()),))
    assert f"3 records at offsets 10 to 12: {len(bomb)} bytes of {name}" in why
    assert "sha256" in why
    inbound = Inbound("t", 0, 12, None, stands[1], stands[2], Instant(0))
    assert why_set_aside(inbound) == why


@pytest.mark.parametrize("name", CODECS)
def test_what_producers_send_is_left_as_it_is(name):
    codec = CODECS[name]
    noise = random.Random(7).randbytes(900_000)
    data = b"".join(
        batch(codec, *values, base=100 * place)
        for place, values in enumerate(
            ([b""], [b"x"], [TEXT], [TEXT] * 20, [noise], [noise, b"\0" * 1_000_000], [b"y"] * 90)
        )
    )

    assert without_bombs(data) == (data, [])
    assert len(read(data)) == 1 + 1 + 1 + 20 + 1 + 2 + 90


@pytest.mark.parametrize("name", CODECS)
def test_up_to_the_limit_is_no_bomb(name):
    codec = CODECS[name]
    below, above = (ENCODE[codec](b"\0" * size) for size in (INFLATED_BYTES_MAX - 9, LARGE))

    assert not is_bomb(codec, bytes(below))
    assert is_bomb(codec, bytes(above))


def test_many_small_blocks_are_measured_not_guessed():
    """A producer that flushes often writes blocks far below what they may hold."""
    small = b"".join(bytes(cramjam.zstd.compress(b"some text %d" % n)) for n in range(600))
    frames = b"".join(lz4_encode(TEXT[n : n + 200]) for n in range(0, len(TEXT), 200))
    members = b"".join(gzip_encode(b"text %d" % n) for n in range(2_000))

    assert not any((is_bomb(4, small), is_bomb(3, frames), is_bomb(1, members)))


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        pytest.param(4, b"\x28\xb5\x2f\xfd" + b"\x00\xf8", id="a window of terabytes"),
        pytest.param(4, b"\x28\xb5\x2f\xfd\x20", id="half a frame"),
        pytest.param(4, b"no frame at all", id="no frame"),
        pytest.param(2, b"\xff\xff\xff\xff\x0f" + b"x" * 9, id="snappy that says 4 GB"),
        pytest.param(2, b"", id="no snappy"),
        pytest.param(
            2,
            b"\x82SNAPPY\0" + b"\0\0\0\1" * 2 + b"\xff\xff\xff\xff",
            id="a block of less than none",
        ),
    ],
)
def test_frames_that_lie_or_are_none_are_set_aside(codec, payload):
    assert is_bomb(codec, payload)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name != "gzip")) for name in CODECS]
)
def test_to_look_takes_no_more_memory_than_is_allowed(name):
    data = batch(CODECS[name], b"\0" * 20 * INFLATED_BYTES_MAX)
    tracemalloc.start()
    try:
        _, found = without_bombs(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(found) == 1
    assert peak < INFLATED_BYTES_MAX + 8 * len(data) + 4_000_000


def test_what_is_no_batch_is_left_to_its_reader():
    for data in (b"", b"x" * 40, batch(4, b"x")[:-1], batch(0, b"x"), b"\0" * 300):
        assert without_bombs(data) == (data, [])
