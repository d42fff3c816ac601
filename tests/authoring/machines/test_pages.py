"""The code blocks of the pages about machines, run as they are printed; and what the pages name."""

import re
from pathlib import Path

import pytest

import saga
from saga.authoring.machines.reading import ACTS

DOCS = Path(__file__).parents[3] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """All blocks of the page as one module: what it has in the end."""
    folder = tmp_path_factory.mktemp("pages")
    blocks = BLOCK.findall((DOCS / "tutorial" / "first-machine.md").read_text("utf-8"))
    (folder / "first_machine.py").write_text("\n\n".join(blocks), "utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        return vars(__import__("first_machine"))


TESTS = re.findall(
    r"^def (test_\w+)", (DOCS / "tutorial" / "first-machine.md").read_text("utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_of_the_tutorial_pass(tutorial: dict, name: str):
    tutorial[name]()


def test_the_tutorial_has_tests():
    assert len(TESTS) == 4


def test_the_reference_has_each_act():
    text = (DOCS / "reference" / "state-machines.md").read_text("utf-8")
    verbs = {act.__name__ for act in ACTS}

    assert {name for name in verbs if getattr(saga, name).__module__.endswith(".acts")} == verbs
    assert [name for name in sorted(verbs) if f"`{name}(" not in text] == []


def test_the_reference_names_tests_that_there_are():
    text = (DOCS / "reference" / "state-machines.md").read_text("utf-8")
    tests = (DOCS.parent / "tests" / "examples" / "test_machines.py").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))

    assert len(named) >= 6
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
