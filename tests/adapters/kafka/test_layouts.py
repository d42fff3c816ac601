"""What is packed at once has the bytes and values of aiokafka's own way, in every version."""

from random import Random
from struct import error

import pytest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import Array, Bytes, Int8, Int16, Int32, Int64, Schema, String

from saga.adapters.kafka._aiokafka.layouts import packed

BITS = {Int8: 8, Int16: 16, Int32: 32, Int64: 64}
VERSIONS = [
    pytest.param(theirs, packed((theirs,))[0], id=theirs.__name__)
    for request in (FetchRequest, ProduceRequest)
    for theirs in request._CLASSES  # noqa: SLF001  # they are nowhere else
]


def anything(field, random: Random):
    """A value that *field* may have, at the edges more often than not."""
    match field:
        case Array():
            return random.choice(
                [None, *([anything(field.array_of, random)] * n for n in range(3))]
            )
        case Schema():
            return tuple(anything(each, random) for each in field.fields)
        case String():
            return random.choice([None, "", "tópic"])
        case _ if field is Bytes:
            return random.choice([None, b"", b"\xff\x00" * 40])
        case _:
            largest = 2 ** (BITS[field] - 1)
            return random.choice([-largest, -1, 0, largest - 1, random.randrange(largest)])


@pytest.mark.parametrize(("theirs", "ours"), VERSIONS)
def test_a_request_has_the_same_bytes(theirs, ours):
    random = Random(1)
    for _ in range(50):
        values = [anything(field, random) for field in theirs.SCHEMA.fields]
        assert ours(*values).encode() == theirs(*values).encode()
    assert ours.API_VERSION == theirs.API_VERSION


@pytest.mark.parametrize(("theirs", "ours"), VERSIONS)
def test_an_answer_has_the_same_values(theirs, ours):
    random = Random(2)
    for _ in range(50):
        values = [anything(field, random) for field in theirs.RESPONSE_TYPE.SCHEMA.fields]
        data = theirs.RESPONSE_TYPE(*values).encode()
        answer = ours.RESPONSE_TYPE.decode(data)
        assert vars(answer) == vars(theirs.RESPONSE_TYPE.decode(data))
        assert answer.API_VERSION == theirs.RESPONSE_TYPE.API_VERSION


@pytest.mark.parametrize(("theirs", "ours"), VERSIONS)
def test_an_answer_that_ends_too_early_is_refused(theirs, ours):
    del theirs
    random = Random(3)
    values = [anything(field, random) for field in ours.RESPONSE_TYPE.SCHEMA.fields]
    data = ours.RESPONSE_TYPE(*values).encode()
    for size in range(len(data)):
        with pytest.raises((ValueError, error)):
            ours.RESPONSE_TYPE.decode(data[:size])
