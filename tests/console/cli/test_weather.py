"""The command line under bad weather: whatever it is given, it says a line and an exit code."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from saga.adapters.opening import open_bus_and_store
from saga.console.cli.program import COMMANDS, program
from saga.ports import Record
from saga.settings import Settings
from tests.console.conftest import call, environment
from tests.console.toys import LEAVE, ORDER

R = ("--reason", "r")
NO_UTF8 = "bad \udcff"
LONG = "x" * 100_000
TOO_LARGE = str(2**63)


HOSTILE = {
    "str": [NO_UTF8, LONG],
    "integer": [TOO_LARGE, f"-{TOO_LARGE}"],
    "float": ["nan", "inf"],
}


def hostile_words(name: str):
    """Calls of one command, each with one word that it cannot take."""
    command = typer.main.get_command(program())
    for word in name.split():
        command = command.commands[word]
    for hostile in command.params:
        kind = hostile.type.name.removesuffix(" range")
        for bad in HOSTILE.get(kind, ())[: 1 if hostile.name == "payload" else 2]:
            options, arguments = [], []
            for each in command.params:
                good = "1" if each.type.name.startswith("integer") else "x"
                word = bad if each is hostile else good
                if each is not hostile and not each.required:
                    continue
                if each.param_type_name == "argument":
                    arguments.append(word)
                else:
                    options.append(f"{each.opts[0]}={word}")
            yield [*name.split(), *options, "--", *arguments]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_a_word_that_cannot_be_meant(looking, name):
    """Each argument and option of each command, its settings too, is refused with exit 2."""
    for words in hostile_words(name):
        called = call(*words)
        shown = " ".join(word[:30] for word in words)
        assert (called.code, called.out) == (2, ""), shown
        assert called.err, shown
        assert len(called.err) < 2_000, shown


NAMED = [
    ("show", "leave/ann"),
    ("history", "leave/ann"),
    ("signal", "leave/ann", "approval", "{}"),
    ("retry", "leave/ann", "pay", *R),
    ("cancel", "leave/ann", *R),
]


@pytest.mark.parametrize("word", [NO_UTF8, "x" * 4_001, "ü" * 2_001, LONG], ids=lambda w: w[:5])
@pytest.mark.parametrize("words", NAMED, ids=" ".join)
def test_an_id_that_no_saga_can_have_is_exit_2(looking, words, word):
    called = call(words[0], f"leave/{word}", *words[2:])

    assert (called.code, called.out) == (2, "")
    assert called.err.startswith("saga: ID: ")
    assert len(called.err) < 200


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("cancel", "leave/ann", "--reason", LONG), "--reason"),
        (("cancel", "leave/ann", "--reason", NO_UTF8), "--reason"),
        (("abandon", "leave/ann", "--reason", LONG), "--reason"),
        (("cancel", "leave/ann", *R, "--id", LONG), "--id"),
        (("cancel", "leave/ann", *R, "--id", NO_UTF8), "--id"),
        (("cancel", "leave/ann", *R, "--id", "x" * 1_001), "--id"),
        (("cancel", "leave/ann", *R, "--actor", LONG), "--actor"),
        (("retry", "leave/ann", LONG, *R), "STEP"),
        (("signal", "leave/ann", LONG, "{}"), "NAME"),
        (("signal", "leave/ann", "approval", f'"{NO_UTF8}"'), "JSON"),
        (("publish", LEAVE, f'{{"name": "{NO_UTF8}"}}'), "JSON|-"),
        (("publish", LONG, "{}"), "CONTRACT"),
        (("publish", LEAVE, "{}", "--key", LONG), "--key"),
        (("publish", LEAVE, "{}", "--id", LONG), "--id"),
        (("ls", "--definition", LONG), "--definition"),
        (("ls", "--after", LONG), "--after"),
        (("timers", "--after", NO_UTF8), "--after"),
        (("history", "leave/ann", "--at", LONG), "--at"),
        (("replay", "order/o-1", NO_UTF8), "ID"),
        (("dlq", "ls", "--reason", LONG), "--reason"),
        (("run", "--roles", LONG), "--roles"),
        (("ls", "--limit", TOO_LARGE), "--limit"),
        (("timers", "--limit", TOO_LARGE), "--limit"),
        (("dlq", "ls", "--limit", TOO_LARGE), "--limit"),
        (("dlq", "ls", "--after", TOO_LARGE), "--after"),
        (("dlq", "show", TOO_LARGE), "NUMBER"),
        (("dlq", "redrive", "1", TOO_LARGE), "NUMBER"),
        (("doctor", "--lag", TOO_LARGE), "--lag"),
        (("cancel", "leave/ann", *R, "--wait", "nan"), "--wait"),
        (("cancel", "leave/ann", *R, "--wait", "inf"), "--wait"),
        (("cancel", "leave/ann", *R, "--wait", "1e400"), "--wait"),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(word[:20] for word in each),
)
def test_what_no_command_can_take_is_exit_2_and_named(looking, words, what):
    called = call(*words)

    assert (called.code, called.out) == (2, "")
    assert called.err.startswith(f"saga: {what}: ")
    assert len(called.err) < 200


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "--limit", "9" * 5_000),
        ("dlq", "show", "9" * 5_000),
        ("dlq", "show", "0"),
        ("dlq", "show", "--", "-9223372036854775808"),
        ("ls", "--nonsense", NO_UTF8),
        (NO_UTF8,),
        ("history", "leave/ann", "--at", TOO_LARGE),
    ],
    ids=lambda words: " ".join(word[:20] for word in words),
)
def test_what_cannot_be_read_is_exit_2(looking, words):
    assert call(*words).code == 2


@pytest.mark.parametrize("words", [("ls",), ("timers",), ("dlq", "ls")], ids=" ".join)
def test_the_largest_number_is_taken(looking, words):
    call(*words, "--limit", 2**63 - 1).fails(0)


def test_a_long_payload_is_for_its_contract_to_judge(looking):
    called = call("publish", LEAVE, '{"nome": "%s"}' % LONG)  # noqa: UP031  # braces

    assert called.code == 1
    assert len(called.err) < 300


def process(folder, *words, wrapped="{}", **more):
    """`saga words…` in a process of its own, in a shell that may do something to its streams."""
    line = wrapped.format('"$PYTHON" -m saga "$@"')
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", *words],
        env=environment(folder) | {"PYTHON": sys.executable, **more},
        cwd=folder,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def said(ended) -> str:
    text = ended.stderr.decode("utf-8", "surrogateescape")
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    return text


FULL, CLOSED = "{} >/dev/full", "{} >&-"


@pytest.mark.parametrize("wrapped", [FULL, CLOSED], ids=["full", "closed"])
@pytest.mark.parametrize("words", [("ls", "--json"), ("timers",), ("--help",)], ids=" ".join)
def test_a_result_that_cannot_be_written_is_exit_1(looking, wrapped, words):
    ended = process(looking, *words, wrapped=wrapped)

    assert ended.returncode == 1
    assert said(ended).count("\n") == 1
    assert "standard output cannot be written: " in said(ended)


def test_a_worker_that_cannot_write_its_summary_has_worked(waiting, tmp_path):
    """Nothing of saga's own files is taken for a stream that is missing."""
    ended = process(tmp_path, "run", "--until-idle", wrapped="{} <&- >&-")

    assert ended.returncode == 1
    assert "standard output cannot be written" in said(ended)
    call("show", waiting).fails(0)


@pytest.mark.parametrize("wrapped", ["{} 2>/dev/full", "{} 2>&-"], ids=["full", "closed"])
def test_what_cannot_be_said_beside_changes_no_exit_code(looking, wrapped):
    for words, code in (
        (("show", "leave/nobody"), 1),
        (("ls", "--nonsense"), 2),
    ):
        ended = process(looking, *words, wrapped=wrapped)
        assert (ended.returncode, ended.stderr) == (code, b"")


def test_without_any_stream_there_is_still_an_exit_code(looking):
    assert process(looking, "ls", wrapped="{} <&- >&- 2>&-").returncode == 1


def test_standard_input_that_is_closed_is_no_empty_one(looking):
    ended = process(looking, "publish", LEAVE, "-", wrapped="{} <&-")

    assert ended.returncode == 1
    assert "standard input cannot be read" in said(ended)


def test_a_reader_that_has_seen_enough_is_no_error(looking):
    ended = process(looking, "ls", "--json", wrapped="({}; echo $? >&2) | true")

    assert said(ended).strip() in ("0", "1")  # whether there was a reader when it wrote


ASCII = [
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("locale", ASCII, ids=["streams", "locale"])
def test_a_locale_of_ascii_alone_can_say_everything(looking, locale):
    """With escapes; what was typed is UTF-8 all the same."""
    for words, code in (
        (("--help",), 0),
        (("show", "leave/änn…"), 1),
        (("ls", "--nönsense"), 2),
    ):
        ended = process(looking, *words, **locale)
        assert ended.returncode == code, said(ended)
        said(ended).encode("ascii")
    assert "leave/\\xe4nn\\u2026" in said(process(looking, "show", "leave/änn…", **locale))


def test_a_folder_that_is_no_utf8_is_worked_in(toys):
    folder = os.fsencode(toys) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102  # bytes
    there = {"wrapped": f"cd '{os.fsdecode(folder)}' && {{}}"}
    there["PYTHONPATH"] = f"{toys}:{Path(__file__).parents[3]}"
    for words in (("publish", ORDER, '{"order_id": "o-1", "amount": 1}'), ("run", "--until-idle")):
        ended = process(toys, *words, **there)
        assert ended.returncode == 0, said(ended)
    ended = process(toys, "ls", "--store", "sqlite:///none.db", **there)
    assert (ended.returncode, said(ended).count("\n")) == (3, 1)


@pytest.mark.parametrize(
    "files", [8, *(pytest.param(files, marks=pytest.mark.long) for files in (12, 40))]
)
@pytest.mark.parametrize("words", [("ls",), ("run", "--until-idle"), ("doctor",)], ids=" ".join)
def test_too_few_files_are_told_with_what_to_do(looking, files, words):
    ended = process(looking, *words, wrapped=f"ulimit -n {files}; {{}}")

    assert ended.returncode == 3
    assert said(ended).count("\n") == 1
    assert "ulimit -n 1024" in said(ended)


def test_a_low_limit_that_may_be_raised_is_raised(looking):
    """A worker with a limit of 32 files would fail in the middle."""
    ended = process(looking, "run", "--until-idle", wrapped="ulimit -S -n 32; {}")

    assert ended.returncode == 0, said(ended)


def test_no_file_descriptor_left_is_a_line(looking, monkeypatch):
    """As are other errors of the system: they are no bugs in saga."""

    def fail(*_, **__):
        raise OSError(24, "Too many open files", "saga.db")

    monkeypatch.setattr("saga.console.cli.session.open_store", fail)
    call("ls").fails(3, "saga: saga.db: Too many open files")


def pages(words, key) -> list[object]:
    """What `--after` the last one of a page gives, page by page; each says that it was cut."""
    found: list[object] = []
    while True:
        after = ("--after", found[-1]) if found else ()
        called = call(*words, "--json", "--limit", 1, *after)
        assert called.code == 0, called
        found += [row[key] for row in called.rows]
        is_cut = "there are more: `saga" in called.err
        assert is_cut == (call(*words, "--json", *after).rows[1:] != [])
        if not is_cut:
            return found


def test_listings_say_where_they_were_cut(toys):
    """And `--after` goes on there, until there are no more; the command can be pasted."""
    stdin = "".join(f'{{"name": "n-{number}"}}\n' for number in range(3))
    call("publish", LEAVE, "-", stdin=stdin).fails(0)
    asyncio.run(send_unreadable())
    call("run", "--until-idle").fails(0)

    for words, key in ((("timers",), "timer_id"), (("ls",), "id"), (("dlq", "ls"), "id")):
        assert len(set(pages(words, key))) == 3
    [command] = re.findall("`saga (.*)`", call("dlq", "ls", "--limit", 2, "--reason", "schema").err)
    assert len(call(*shlex.split(command)).out.splitlines()) == 2  # a head and the third


async def send_unreadable() -> None:
    parts = open_bus_and_store(Settings.read({}))
    await parts.bus.publish([Record(f"dev.saga.{ORDER}", b"z", b"{}", ())] * 3)
    await parts.close()


def test_after_a_timer_that_is_not_armed_there_is_none(looking):
    call("timers", "--after", "gone").fails(0, "none is armed after gone")
