"""The documents do what they say: programs run as printed, and whatever they name is there."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from saga.console.cli.program import program
from saga.settings import Settings
from tests.patience import HANG_S

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = tuple(sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")))
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", *PAGES)
GRAPHS = ("contract-files.md", "first-graph.md")
GATE = "gate-a-deploy.md"
MOVES = "change-a-running-saga.md"
RUN_ELSEWHERE = re.compile(r"<!-- (tests/\S+\.py) runs this block[^>]* -->\n$")
README_LINES_MAX = 150
FIRST_SAGA_LINES_MAX = 20
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LISTED = re.compile(r"`saga ([a-z]+)`((?:,\s+(?:and\s+)?`[a-z]+`)+)")
"""`saga ls`, `show`, `history`: the first names the program, the others go on from there."""
FILE = re.compile(r"(?:[\w.-]+/)+(?:[\w-]+\.\w+)?|[\w-]+\.(?:py|md|toml|txt)|LICENSE|Makefile")
"""A folder ends in a slash, a file has an extension."""


class Block(NamedTuple):
    """A fenced block of a document."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks, in order; one without a language is for the shell."""
    return [Block(found["language"], found["text"]) for found in BLOCK.finditer(text)]


def said(document: str) -> list[str]:
    """What a document says in code: the lines of its shell blocks, and what stands between
    backticks.
    """
    text = (ROOT / document).read_text()
    lines = [
        line.partition("  #")[0].strip()
        for block in blocks(text)
        if not block.language
        for line in block.text.splitlines()
    ]
    return lines + INLINE.findall(BLOCK.sub("", text))


def calls(name: str) -> list[pytest.param]:
    """Every call of *name* in the documents."""
    found = {line for document in DOCUMENTS for line in said(document)}
    return [
        pytest.param(line, id=line) for line in sorted(found) if re.match(rf"{name}(?: |$)", line)
    ]


def words_of(line: str) -> list[str]:
    """The words behind a program's name; `…` stands for what somebody would put there."""
    return [word for word in shlex.split(line)[1:] if word not in {"…", "COMMAND"}]


def python(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The interpreter of these tests, in a folder of its own."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )


@pytest.fixture(scope="module")
def first_saga(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first saga, saved under the name that the README gives it."""
    folder = tmp_path_factory.mktemp("first")
    [name] = re.findall(r"Save it as `([\w.]+)`", README)
    source = next(block.text for block in blocks(README) if block.language == "python")
    (folder / name).write_text(source)
    return folder


def test_the_first_saga_is_short(first_saga):
    [source] = first_saga.glob("*.py")
    lines = source.read_text().splitlines()

    assert len(lines) <= FIRST_SAGA_LINES_MAX
    assert max(map(len, lines)) <= 120


def test_the_first_saga_runs_as_printed(first_saga, tmp_path):
    after = blocks(README[README.index("Save it as") :])
    commands, printed = after[0].text, after[1].text
    # `saga` as it is found in an activated environment, whether or not this one has it installed.
    (tmp_path / "saga").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m saga "$@"\n')
    (tmp_path / "saga").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    ran = subprocess.run(
        ["sh", "-eu", "-c", commands],
        cwd=first_saga,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )

    assert ran.returncode == 0, ran.stderr
    out = [line.rstrip() for line in ran.stdout.splitlines()]
    assert out[-len(printed.splitlines()) :] == printed.splitlines()
    assert out.index("paid o-1") < out.index("refunded o-1")
    assert "Traceback" not in ran.stderr


def test_the_first_saga_runs_from_python_as_printed(first_saga):
    [source] = first_saga.glob("*.py")
    _, body, *_ = (block.text for block in blocks(README) if block.language == "python")
    lines = [
        "import asyncio",
        f"from {source.stem} import *",
        "async def main():",
        textwrap.indent(body, "    "),
        "asyncio.run(main())",
    ]
    (first_saga / "again.py").write_text("\n".join(lines))

    ran = python("again.py", folder=first_saga)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[:2] == ["paid o-2", "refunded o-2"]
    assert "ROLLED_BACK" in ran.stdout
    assert "no courier today" in ran.stdout


def programs(page: str) -> list[str]:
    """The Python blocks of a page that no other test runs, as statements of one program."""
    text = (ROOT / page).read_text()
    statements = []
    for number, found in enumerate(BLOCK.finditer(text)):
        elsewhere = RUN_ELSEWHERE.search(text, 0, found.start())
        if found["language"] != "python":
            continue
        if elsewhere:
            assert Path(page).name in (ROOT / elsewhere[1]).read_text(), elsewhere[1]
        elif re.search(r"^(?:async (?:with|for)|await) ", found["text"], re.MULTILINE):
            body = textwrap.indent(found["text"], "    ")
            statements.append(
                f"async def block_{number}():\n{body}\n"
                f"__import__('asyncio').run(block_{number}())\n"
            )
        else:
            statements.append(found["text"])
    return statements


@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    (tmp_path / "page.py").write_text("\n\n".join(programs(page)))

    ran = python("page.py", folder=tmp_path)

    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_of_a_kind_that_is_tested(document):
    known = re.compile(r"(?:make|saga|pip install|python -m|export [A-Z_]+=|# )")
    for block in blocks((ROOT / document).read_text()):
        match block.language:
            case "":
                lines = block.text.splitlines()
                is_tree = lines[0].startswith("saga/")
                assert is_tree or [line for line in lines if not known.match(line)] == []
            case "json":
                json.loads(block.text)
            case "ebnf" | "yaml":  # tests/authoring/graphs and test_how_tos, test_gate_page
                assert Path(document).name in {"expressions.md", GATE, MOVES, *GRAPHS}
            case "sql":  # the same
                assert Path(document).name == GATE
            case "text":  # what something prints, or a part of what a program says
                assert block.text.strip()
            case language:
                assert language in {"python", "mermaid"}, language
    if document == "README.md":
        python_blocks = [one for one in blocks(README) if one.language == "python"]
        assert len(python_blocks) == 2, "each has a test of its own above"


def test_the_readme_is_a_landing_page():
    assert len(README.splitlines()) < README_LINES_MAX


def command_at(words: list[str]):
    """The command that *words* call, and what is left of them."""
    command = typer.main.get_command(program())
    left = list(words)
    while hasattr(command, "commands") and left:
        name = left.pop(0)
        assert name in command.commands, f"saga has no command {name!r}: {shlex.join(words)}"
        command = command.commands[name]
    return command, left


@pytest.mark.parametrize("line", calls("saga"))
def test_every_saga_command_exists(line):
    command, left = command_at(words_of(line))

    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    assert [word for word in left if word.startswith("-") and word not in known] == []


def test_every_listed_command_exists():
    lists = LISTED.findall(README)

    assert lists
    for first, others in lists:
        for name in (first, *INLINE.findall(others)):
            command_at([name])


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command of the program, by the words that call it."""
    found = {}
    groups = [("saga", typer.main.get_command(program()))]
    while groups:
        name, command = groups.pop()
        if hasattr(command, "commands"):
            groups += [(f"{name} {one}", command.commands[one]) for one in command.commands]
        else:
            found[name] = command
    return found


def test_every_command_speaks_json():
    silent = [
        name
        for name, command in commands().items()
        if not any("--json" in one.opts for one in command.params)
    ]
    assert silent == []


@pytest.mark.parametrize("line", calls("make"))
def test_every_make_target_exists(line):
    makefile = (ROOT / "Makefile").read_text()
    for word in words_of(line):
        name, equals, _ = word.partition("=")
        pattern = rf"^{name} \?=" if equals else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), word


@pytest.mark.parametrize("line", calls("python -m"))
def test_every_python_module_can_be_run(line):
    _, module, *words = words_of(line)
    found = find_spec(module)
    assert found is not None
    if found.submodule_search_locations is not None:
        assert find_spec(f"{module}.__main__") is not None

    help_of_it = python("-m", module, "--help", folder=ROOT).stdout

    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", help_of_it), word


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_exists(document):
    """Whether linked to or named; what is inside the engine may be named without `saga/`."""
    text = (ROOT / document).read_text()
    folder = (ROOT / document).parent
    linked = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    named = [one for one in INLINE.findall(BLOCK.sub("", text)) if FILE.fullmatch(one)]
    in_tree = [
        line.split()[0].rstrip(";")
        for block in blocks(text)
        if not block.language
        for line in block.text.splitlines()
        if line.startswith("saga/")
    ]
    made = re.findall(r"Save (?:it|this) as `([\w.]+)`", text)
    written = [one for one in named if not one.startswith((".saga", ".venv")) and one not in made]

    missing = [
        one
        for one in (*linked, *written, *in_tree)
        if not any((base / one).exists() for base in (folder, ROOT, ROOT / "saga"))
    ]

    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_name_in_the_engine_exists(document):
    text = re.sub(
        r"```python\n.*?^```$", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL
    )
    names = re.findall(r"(?<![./])\bsaga(?:\.\w+)+\b(?!\.<)", text)
    for name in names:
        if (ROOT / name).exists() or name.endswith((".db", ".py", ".md")):
            continue
        if name.startswith(("saga.evt.", "saga.ctl.", "saga.sagas")):
            continue  # a contract of the engine's own domain, and the logs of sagas
        assert _is_there(name), name


def test_the_reference_has_every_setting_with_its_default_and_meaning():
    page = (ROOT / "docs/reference/settings.md").read_text()
    rows = [
        f"| `SAGA_{name.upper()}` | {'-' if field.default is None else f'`{field.default}`'}"
        f" | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    assert [line for line in page.splitlines() if line.startswith("| `SAGA_")] == rows


def test_no_document_names_a_setting_that_does_not_exist():
    fields = {f"SAGA_{name.upper()}" for name in Settings.model_fields}
    fields |= {f"SAGA_{name.upper()}_FILE" for name in Settings.secrets()}
    for document in DOCUMENTS:
        named = set(re.findall(r"\bSAGA_[A-Z_]*[A-Z]\b", (ROOT / document).read_text()))
        assert named <= fields, document


def test_the_reference_has_every_command():
    page = (ROOT / "docs/reference/command-line.md").read_text()
    named = {" ".join(one.split()[1:]) for one in re.findall(r"`(saga [^`]*)`", page)}
    for name in commands():
        words = name.removeprefix("saga ")
        assert any(one == words or one.startswith(f"{words} ") for one in named), name


def _is_there(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if find_spec(module) is None:
        return False
    there = __import__(module, fromlist=[attribute])
    return hasattr(there, attribute) or find_spec(name) is not None
