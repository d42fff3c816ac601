"""The mutants themselves are run by `make mutants`; here only that each still has something to
break.
"""

import shutil
from pathlib import Path

import pytest

from tests.simulation.mutants import ROOT, mutate
from tests.simulation.mutations import MUTATIONS, Mutation

MUTANTS_MIN = 10


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutant_finds_the_text_that_it_replaces(mutation: Mutation, tmp_path: Path) -> None:
    """Each mutant changes today's source into something that still is Python."""
    copy = tmp_path / "mutated.py"
    shutil.copy(ROOT / mutation.file, copy)

    mutate(copy, mutation)

    assert copy.read_text() != (ROOT / mutation.file).read_text()
    compile(copy.read_text(), mutation.file, "exec")


def test_a_mutant_without_its_old_text_fails_loudly(tmp_path: Path) -> None:
    """What cannot be broken any more proves nothing, and says so."""
    copy = tmp_path / "other.py"
    copy.write_text("pass\n")

    with pytest.raises(ValueError, match="bring the mutant up to date"):
        mutate(copy, MUTATIONS[0])


def test_mutants_have_names_of_their_own() -> None:
    """A table of mutants tells them apart."""
    names = [mutation.name for mutation in MUTATIONS]

    assert len(set(names)) == len(names) >= MUTANTS_MIN
