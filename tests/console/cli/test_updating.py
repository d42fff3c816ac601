"""`saga update`: asks a running saga, and prints its answer."""

import pytest

from tests.console.conftest import call

TALK = """

class TalkAsked(Event, topic="staff.talk-asked", version=1, key="name"):
    name: str


@saga("talk", version=1, starts_on=TalkAsked)
async def talk(ctx: Context, asked: TalkAsked) -> None:
    days = 0
    while days < 10:
        request = await ctx.update("days", int)
        if request.payload < 1:
            request.refuse("too_few", "ask for a day at least")
        else:
            days += request.payload
            request.answer({"days": days, "by": request.actor})


app = SagaApp(sagas=[order, leave, talk], effects=[payments])
"""


@pytest.fixture
def talking(toys):
    file = toys / "toys.py"
    file.write_text(file.read_text() + TALK)
    assert call("publish", "staff.evt.talk-asked.v1", '{"name": "ann"}').code == 0
    assert call("run", "--until-idle").code == 0
    return "talk/ann"


def ask(saga, days, *words):
    return call("update", saga, "days", days, "--json", *words)


def test_the_receipt_has_the_answer(talking):
    """It is asked under an id; once a worker has run, the same id gets the answer."""
    sent = ask(talking, 3, "--id", "u-1", "--actor", "eve", "--no-wait")
    assert (sent.code, sent.row["result"], sent.row["accepted"]) == (0, "unknown", False)
    assert call("run", "--until-idle").code == 0

    answered = ask(talking, 3, "--id", "u-1", "--actor", "eve")
    assert answered.code == 0
    assert answered.row == {
        "command_id": "u-1",
        "accepted": False,
        "result": "duplicate",
        "detail": 'answered {"by":"eve","days":3}',
        "answer": {"days": 3, "by": "eve"},
    }
    for_people = call("update", talking, "days", 3, "--id", "u-1", "--actor", "eve")
    assert 'command u-1 duplicate: answered {"by":"eve","days":3}' in for_people.out


def test_a_refusal_is_exit_1(talking):
    """Of the saga's code; its model refuses before anything is sent."""
    ask(talking, 0, "--id", "u-1", "--no-wait")
    assert call("run", "--until-idle").code == 0
    refused = ask(talking, 0, "--id", "u-1")
    assert refused.row["result"] == "refused"
    refused.fails(1, "too_few: ask for a day at least")
    assert refused.row["answer"] is None

    invalid = ask(talking, '"many"')
    assert invalid.row["result"] == "refused"
    invalid.fails(1, "nothing was sent", "Input should be a valid integer")


def test_who_does_not_get_an_answer_in_time_is_told_how_to_get_it(talking):
    asked = ask(talking, 1, "--id", "u-1", "--timeout", 0)

    asked.fails(1, "no answer came within 0 s; the same id gets it once it is there")
    assert asked.row["result"] == "unknown"


def test_a_saga_that_has_ended_answers_nothing(talking):
    for number in range(2):
        ask(talking, 5, "--id", f"u-{number}", "--no-wait")
        assert call("run", "--until-idle").code == 0

    ask(talking, 5).fails(1, "is completed already")
    assert ask(talking, 5, "--id", "u-1").row["answer"] == {"days": 10, "by": None}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("talk/ann", " "), 2, "an update needs a name"),
        (("talk/ann", "days", "{"), 1, "the payload of an update"),
        (("talk/bob", "days", "1"), 1, "there is no saga talk/bob"),
    ],
)
def test_what_cannot_be_asked_is_refused(talking, words, code, text):
    call("update", *words).fails(code, text)
