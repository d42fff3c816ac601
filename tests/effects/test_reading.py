"""A record that cannot be read is a dead letter with its reason, and its neighbours go on."""

from dataclasses import replace

import pytest

from saga.contracts import cloudevents as ce
from saga.ports import Record
from saga.ports.bus import SET_ASIDE
from tests.effects.fixtures import Scenario, intent, wallet_effects
from tests.records import without
from tests.toys import Pay

GOOD = intent(Pay())
TOPIC = GOOD.topic


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        pytest.param(replace(GOOD, value=None), "null_value", id="null value"),
        pytest.param(replace(GOOD, value=b"{"), "not_json", id="no JSON"),
        pytest.param(replace(GOOD, value=b"\xff"), "not_utf8", id="no UTF-8"),
        pytest.param(replace(GOOD, value=b'{"amount":"x"}'), "schema", id="wrong field"),
        pytest.param(replace(GOOD, value=b"[" * 100_000), "too_deep", id="deep"),
        pytest.param(replace(GOOD, key=None), "no_key", id="no key"),
        pytest.param(replace(GOOD, key=b""), "no_key", id="empty key"),
        pytest.param(replace(GOOD, key=b"\xff"), "bad_key", id="key no UTF-8"),
        pytest.param(
            replace(GOOD, headers=((SET_ASIDE, b"why"),)), "inflates", id="in a bomb's place"
        ),
        pytest.param(replace(GOOD, key=b"k" * 1_001), "bad_key", id="key too long"),
        pytest.param(
            replace(GOOD, headers=((ce.ID, b"i" * 1_001),)), "bad_header", id="id too long"
        ),
        pytest.param(
            replace(GOOD, headers=(*GOOD.headers, (ce.SOURCE, b"s" * 600_000))),
            "bad_header",
            id="source too long",
        ),
        pytest.param(without(GOOD, ce.ID), "no_intent_id", id="no id"),
        pytest.param(replace(GOOD, headers=((ce.ID, b"\xff"),)), "bad_header", id="id no UTF-8"),
        pytest.param(replace(GOOD, headers=((ce.ID, None),)), "bad_header", id="id null"),
        pytest.param(replace(GOOD, headers=((ce.ID, b"x/y"),)), "bad_intent_id", id="bad id"),
        pytest.param(Record(TOPIC, None, None), "null_value", id="nothing at all"),
        pytest.param(
            replace(
                GOOD,
                headers=tuple(
                    (name, value[:-1] + b"9" if name == ce.TYPE else value)
                    for name, value in GOOD.headers
                ),
            ),
            "unsupported_version",
            id="another version",
        ),
    ],
)
async def test_an_unreadable_record_is_a_dead_letter_and_its_neighbours_go_on(poison, reason):
    """With its bytes and a reason; before and after it intents are answered."""
    effects, calls = wallet_effects()
    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay(), step="a"), poison, intent(Pay(), step="b"))

        ((inbound, code, message),) = scenario.dead_letters
        assert code == reason
        assert message
        assert (inbound.key, inbound.value, inbound.headers) == (
            poison.key,
            poison.value,
            poison.headers,
        )
        assert len(calls) == 2
        assert len(scenario.replies()) == 2


async def test_optional_headers_may_be_missing():
    """The intent's id says everything that is needed."""
    effects, _ = wallet_effects()
    async with Scenario(effects) as scenario:
        bare = without(GOOD, *(name for name, _ in GOOD.headers if name != ce.ID))
        await scenario.send(bare)

        assert [name for name, _ in scenario.answers()] == ["shop.evt.paid.v1"]
