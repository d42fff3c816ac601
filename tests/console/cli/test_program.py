"""The command line as a whole: what it lists, and that it is a program."""

import subprocess
import sys

import pytest

from saga.console.cli import program as whole
from tests.console.conftest import call, environment, invoked
from tests.console.toys import ORDER

COMMANDS = [
    *("run", "publish", "ls", "show", "history", "signal", "cancel", "timers", "dlq", "retry"),
    *("skip", "compensate", "release", "abandon", "pause", "resume", "acts", "mark", "rerun"),
    *("replay", "topics", "config"),
]


def test_help_lists_every_command():
    called = call("--help")

    assert called.code == 0
    assert [name for name in COMMANDS if f" {name} " not in called.out] == []


@pytest.mark.parametrize("words", [[], ["nonsense"], ["ls", "--nonsense"], ["ls", "--limit", "0"]])
def test_a_command_that_cannot_be_meant_is_exit_2(toys, words):
    assert call(*words).code == 2


def test_python_m_saga_is_the_same_program(toys):
    help_page = subprocess.run(
        [sys.executable, "-m", "saga", "ls", "--help"],
        env=environment(toys),
        cwd=toys,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Usage: saga ls" in help_page.stdout
    assert "\x1b" not in help_page.stdout


def test_the_version_is_printed():
    called = call("--version")

    assert called.code == 0
    assert called.out.startswith("saga 0.1.0, Python 3.")


@pytest.mark.parametrize("word", {name.partition(" ")[0]: None for name in whole.COMMANDS})
def test_a_part_of_the_program_says_what_the_whole_says(word):
    part = invoked(whole.program(word), [word, "--help"])

    assert part.code == 0
    assert part == call(word, "--help")


UNNEEDED = {
    *("aiohttp", "aiokafka", "asyncpg", "faststream", "jsonschema", "prometheus_client"),
    *("psycopg", "yaml", "saga.authoring.graphs", "saga.console.cli.contracts", "saga.testing"),
}
"""What no command needs that only reads files, of an application that is Python alone."""


@pytest.mark.parametrize(
    "words",
    [["-c", "import saga"], ["-m", "saga", "ls"], ["-m", "saga", "replay"]],
    ids=" ".join,
)
def test_nothing_is_loaded_that_a_command_does_not_need(toys, words):
    call("publish", ORDER, '{"order_id": "o-1", "amount": 1}')
    call("run", "--until-idle")

    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        env=environment(toys),
        cwd=toys,
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "saga.authoring.functions" in loaded
    assert loaded & UNNEEDED == set()


WITHOUT_EXTRAS = """
import sys

EXTRAS = {"aiokafka", "faststream", "psycopg", "psycopg_pool", "cramjam"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from saga.console.cli import main
main()
"""


def without_extras(folder, *words):
    """`saga words…` where only the core's dependencies are installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *words],
        env=environment(folder) | {"SAGA_HTTP": "127.0.0.1:0"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_files_need_no_extras(toys):
    for words in (
        ("publish", ORDER, '{"order_id": "o-1", "amount": 1}'),
        ("run", "--until-idle"),
        ("show", "order/o-1"),
        ("doctor",),
    ):
        ended = without_extras(toys, *words)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("run", "--bus", "kafka://127.0.0.1:1"), "saga[kafka]"),
        (("ls", "--store", "postgresql://u@127.0.0.1:1/db"), "saga[postgres]"),
    ],
)
def test_servers_name_the_extra_that_is_missing(toys, words, extra):
    ended = without_extras(toys, *words)

    assert ended.returncode == 2
    assert f"pip install {extra}" in ended.stderr
