"""Topics have legal names, and a document that says all that is done with them."""

import copy
import json
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from domain import app as orders
from saga import Effects, Event, Intent, SagaApp, saga, upcast
from saga.console.cli.contracts import document_of
from saga.contracts import (
    ContractName,
    Kind,
    TopicNames,
    dlq_name,
    encode,
    intent_done_name,
    intent_failed_name,
    parse_contract_name,
)
from saga.contracts.models import CONTRACT_NAME_CHARS_MAX
from saga.contracts.topics import NAMING_PART_CHARS_MAX
from saga.settings import Settings

PARTS = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\Z")


NAMES = st.builds(ContractName, PARTS, st.sampled_from(Kind), PARTS, st.integers(1, 999_999))


def test_topic_is_prefixed_contract_name():
    """The example of the interface."""
    topics = TopicNames("dev", "saga")

    assert topics.topic("orders.evt.order-placed.v1") == "dev.saga.orders.evt.order-placed.v1"
    assert topics.contract_name("dev.saga.orders.evt.order-placed.v1") == (
        "orders.evt.order-placed.v1"
    )


@pytest.mark.parametrize(
    "topic",
    [
        "prod.saga.orders.evt.order-placed.v1",
        "dev.sagas.orders.evt.order-placed.v1",
        "dev.saga.orders.evt.order-placed",
        "dev.saga.orders.evt.order-placed.v0",
        "dev.saga.orders.evt.order-placed.v01",
        "dev.saga.orders.evt.order-placed.v¹",
        "dev.saga.orders.xyz.order-placed.v1",
        "dev.saga.orders.evt.Order.v1",
        "dev.saga.",
        "",
        "__consumer_offsets",
    ],
)
def test_foreign_topic_has_no_contract(topic):
    """Topics of others, and names that only look alike, are nobody's."""
    assert TopicNames("dev", "saga").contract_name(topic) is None


@pytest.mark.parametrize(
    "part", ["", "Dev", "de v", "a.b", "a_b", "-a", "a-", "a\n", "ä", "x" * 33]
)
def test_illegal_environment_or_namespace_is_refused_by_name(part):
    with pytest.raises(ValueError, match=r"^env "):
        TopicNames(part, "saga")
    with pytest.raises(ValueError, match=r"^namespace "):
        TopicNames("dev", part)


@given(NAMES)
def test_names_are_read_as_they_are_written(name):
    topics = TopicNames("e-1", "n")

    assert parse_contract_name(str(name)) == name
    assert topics.contract_name(topics.topic(str(name))) == str(name)


def test_longest_names_are_legal_topics():
    """Every legal contract, and the topics that go with it, fit into Kafka's 249 characters."""
    longest = "p" * NAMING_PART_CHARS_MAX
    topics = TopicNames(longest, longest)
    domain = "d" * (CONTRACT_NAME_CHARS_MAX - len(".int.n.v1"))
    name = f"{domain}.int.n.v1"

    assert parse_contract_name(name) is not None
    assert parse_contract_name("d" + name) is None
    for one in (name, dlq_name(name), intent_done_name(domain), intent_failed_name(domain)):
        assert len(topics.topic(one)) <= 249


def test_dead_letters_have_their_own_kind():
    assert dlq_name("orders.evt.order-placed.v2") == "orders.dlq.order-placed.v2"
    assert dlq_name("orders.dlq.order-placed.v2") == "orders.dlq.order-placed.v2"
    with pytest.raises(ValueError, match="no contract name"):
        dlq_name("orders")


OFFICIAL = jsonschema.Draft7Validator(
    json.loads((Path(__file__).parent / "asyncapi" / "asyncapi-3.0.0.json").read_text())
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Round(BaseModel):
    shape: Literal["round"]
    radius: int


class Square(BaseModel):
    shape: Literal["square"]
    side: int
    parts: "tuple[Square, ...]" = ()


class ThingMade1(Event, topic="api-things.thing-made", version=1, key="thing"):
    thing: str


class ThingMade(Event, topic="api-things.thing-made", version=2, key="thing"):
    """A thing was made.

    The rest of this text is for those who read the code.
    """

    thing: str
    colour: Colour | None = None
    body: Annotated[Round | Square, Field(discriminator="shape")]
    place: tuple[int, int] = (0, 0)
    on: date = date(2026, 1, 1)
    pairs: tuple[tuple[str, int], ...] = ()
    notes: dict[str, list[int]] | None = None


@upcast
def newer(old: ThingMade1) -> ThingMade:
    """Older things were all round."""
    return ThingMade(thing=old.thing, body=Round(shape="round", radius=1))


class Weighed(Event, topic="api-things.weighed", version=1):
    grams: int


class Weigh(Intent[Weighed], topic="api-things.weigh", version=1):
    thing: str


class Discard(Intent[None], topic="api-things.discard", version=1):
    thing: str


class ThingSold(Event, topic="api-things.thing-sold", version=1):
    thing: str


class ThingLost(Event, topic="api-things.thing-lost", version=1):
    thing: str
    reason: str


@saga("selling things", version=3, starts_on=ThingMade, rolled_back=ThingLost)
async def selling(ctx, made):
    """Weighs a thing and says that it is sold."""
    await ctx.do(Weigh(thing=made.thing), undo=Discard)
    return ThingSold(thing=made.thing)


scales = Effects("scales")


@scales.on(Weigh)
async def weigh(intent, ctx):
    """All things weigh the same."""
    return Weighed(grams=1)


@scales.listens(ThingMade)
async def look(event, ctx):
    """Hears of things."""


THINGS = SagaApp(sagas=[selling], effects=[scales])


def document(app=THINGS, **settings):
    """The document of an application."""
    return document_of(app, Settings.read(**settings))


def operations(found, who: str, action: str) -> set[str]:
    """The contracts that somebody receives or sends."""
    prefix = f"{who}.{action}."
    return {name.removeprefix(prefix) for name in found["operations"] if name.startswith(prefix)}


@pytest.mark.parametrize("app", [orders, THINGS, SagaApp()], ids=["orders", "things", "empty"])
@pytest.mark.parametrize("bus", ["local:///x.db", "kafka://one:9092,two:9093"])
def test_the_official_schema_accepts_it(app, bus):
    """Also that of an application with nothing in it."""
    OFFICIAL.validate(document(app, bus=bus))


@pytest.mark.parametrize(
    "path",
    ["info/title", "channels/api-things.int.weigh.v1/address", "operations", "components/schemas"],
)
def test_the_official_schema_is_no_formality(path):
    """It refuses a document in which something stands that must not."""
    broken = copy.deepcopy(document())
    *folders, last = path.split("/")
    place = broken
    for folder in folders:
        place = place[folder]
    place[last] = 7

    assert list(OFFICIAL.iter_errors(broken))


def references(part) -> list[str]:
    """Every reference in a part of a document."""
    match part:
        case {"$ref": str(target)}:
            return [target]
        case dict():
            return [one for value in part.values() for one in references(value)]
        case list():
            return [one for value in part for one in references(value)]
        case _:
            return []


@pytest.mark.parametrize("app", [orders, THINGS], ids=["orders", "things"])
def test_every_reference_leads_somewhere(app):
    found = document(app)

    assert references(found)
    for reference in references(found):
        place = found
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


def test_a_channel_is_a_topic_with_its_key():
    """As the settings have it made."""
    found = document(env="live", partitions=12, replication=3, retention="2d")
    name = "api-things.evt.thing-made.v2"

    channel = found["channels"][name]
    assert channel["address"] == "live.saga." + name
    kafka = channel["bindings"]["kafka"]
    assert (kafka["topic"], kafka["partitions"], kafka["replicas"]) == ("live.saga." + name, 12, 3)
    assert kafka["topicConfiguration"]["retention.ms"] == 2 * 86_400_000
    message = found["components"]["messages"][name]
    assert "`thing`" in message["bindings"]["kafka"]["key"]["description"]
    assert message["summary"] == "A thing was made."


def test_brokers_are_servers():
    """With the protocol that the settings say; the embedded bus has none."""
    assert document()["servers"] == {}
    found = document(bus="kafka://one:9092,two:9093", kafka_security_protocol="SASL_SSL")
    assert [(one["host"], one["protocol"]) for one in found["servers"].values()] == [
        ("one:9092", "kafka-secure"),
        ("two:9093", "kafka-secure"),
    ]


def test_a_saga_receives_triggers_replies_and_commands_and_sends_the_rest():
    """Triggers in every version that is read; outcomes of both kinds are sent."""
    found = document()
    who = "saga.selling_20_things"

    assert operations(found, who, "receive") == {
        "api-things.evt.thing-made.v1",
        "api-things.evt.thing-made.v2",
        "api-things.evt.weighed.v1",
        "api-things.evt.intent-done.v1",
        "api-things.evt.intent-failed.v1",
        "saga.ctl.command.v1",
    }
    assert operations(found, who, "send") == {
        "api-things.int.weigh.v1",
        "api-things.int.discard.v1",
        "api-things.evt.thing-sold.v1",
        "api-things.evt.thing-lost.v1",
    }
    weighing = found["operations"][f"{who}.send.api-things.int.weigh.v1"]
    assert weighing["reply"]["channel"] == {"$ref": "#/channels/api-things.evt.weighed.v1"}
    assert weighing["x-versions"] == [3]


def test_an_effect_service_receives_intents_and_facts_and_sends_replies():
    """In its own consumer group."""
    found = document()

    assert operations(found, "effects.scales", "receive") == {
        "api-things.int.weigh.v1",
        "api-things.evt.thing-made.v1",
        "api-things.evt.thing-made.v2",
    }
    assert operations(found, "effects.scales", "send") == {
        "api-things.evt.weighed.v1",
        "api-things.evt.intent-failed.v1",
    }
    receiving = found["operations"]["effects.scales.receive.api-things.int.weigh.v1"]
    assert receiving["bindings"]["kafka"]["groupId"]["enum"] == ["dev.saga.effects.scales"]


def test_a_reply_needs_its_cause_and_an_intent_says_all():
    """The headers are the least that somebody must send, and what can be relied on."""
    found = document()

    def required(name):
        reference = found["components"]["messages"][name]["headers"]["$ref"]
        return found["components"]["schemas"][reference.rpartition("/")[2]].get("required", [])

    assert required("api-things.evt.weighed.v1") == ["ce_causationid"]
    assert required("api-things.evt.intent-failed.v1") == ["ce_causationid"]
    assert required("api-things.evt.thing-made.v2") == []
    assert {"ce_id", "ce_idempotencykey", "ce_subject"} <= set(required("api-things.int.weigh.v1"))


SQUARE = {"shape": "square", "side": 1}


@pytest.mark.parametrize(
    ("payload", "is_valid"),
    [
        ({"thing": "t", "body": {"shape": "round", "radius": 1}}, True),
        ({"thing": "t", "body": SQUARE | {"parts": [SQUARE]}, "colour": "red"}, True),
        ({"thing": "t", "body": SQUARE, "place": [1, 2], "pairs": [["a", 1]]}, True),
        ({"thing": "t", "body": SQUARE, "unknown": 1}, True),
        ({"thing": "t", "body": SQUARE, "place": [1, "2"]}, False),
        ({"thing": "t", "body": SQUARE, "place": [1]}, False),
        ({"thing": "t", "body": SQUARE, "place": [1, 2, 3]}, False),
        ({"thing": "t", "body": SQUARE, "pairs": [["a", "b"]]}, False),
        ({"thing": "t", "body": SQUARE | {"parts": [{"shape": "square"}]}}, False),
        ({"thing": "t", "body": SQUARE, "colour": "green"}, False),
        ({"thing": "t"}, False),
        ({"body": SQUARE}, False),
    ],
)
def test_a_payload_is_judged_as_the_model_judges_it(payload, is_valid):
    """By the document alone, read as what it is: a superset of JSON Schema draft 7."""
    found = document()
    reference = {"$ref": "#/components/schemas/api-things.evt.thing-made.v2"}
    judge = jsonschema.Draft7Validator({"components": found["components"], "allOf": [reference]})

    assert judge.is_valid(payload) is is_valid
    try:
        model = ThingMade.model_validate_json(json.dumps(payload), strict=True)
    except ValueError:
        assert not is_valid
    else:
        assert is_valid
        assert judge.is_valid(json.loads(encode(model)))


def test_definitions_of_one_name_do_not_meet():
    """Two contracts may each have a `Line` of their own."""
    one = create_model("Line", __module__="one", units=(int, ...))
    other = create_model("Line", __module__="other", text=(str, ...))
    models = [
        create_model(
            name,
            __base__=Event,
            __module__=__name__,
            __cls_kwargs__={"topic": f"api-things.{name.lower()}", "version": 1},
            line=(line, ...),
        )
        for name, line in (("First", one), ("Second", other))
    ]
    found = document(SagaApp(contracts=models))

    def inside(name):
        schema = found["components"]["schemas"][f"api-things.evt.{name}.v1"]
        target = schema["properties"]["line"]["$ref"].rpartition("/")[2]
        return list(found["components"]["schemas"][target]["properties"])

    assert (inside("first"), inside("second")) == (["units"], ["text"])


def test_the_version_follows_the_content():
    """The same application always has the same document; another one another version."""
    assert document() == document()
    assert document()["info"]["version"] != document(partitions=5)["info"]["version"]


def test_an_old_version_says_as_what_it_is_read():
    """Whoever still publishes it learns what to publish next."""
    messages = document()["components"]["messages"]

    assert messages["api-things.evt.thing-made.v1"]["x-read-as"] == "api-things.evt.thing-made.v2"
    assert "x-read-as" not in messages["api-things.evt.thing-made.v2"]
