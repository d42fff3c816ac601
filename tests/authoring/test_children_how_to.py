"""The how-to of children does what it says: its code runs, and so do the tests that it prints."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from saga.testing import child_completed, child_rolled_back, completed, given, issued, timed_out

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "start-children.md").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> dict[str, Any]:
    """The names that the page's code makes, all blocks one behind the other."""
    path = tmp_path_factory.mktemp("how-to") / "children.py"
    path.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    spec = importlib.util.spec_from_file_location("children_how_to", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["children_how_to"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def test_the_tests_that_it_prints_pass(page):
    tests = [made for name, made in page.items() if name.startswith("test_")]
    for test in tests:
        test()
    assert len(tests) == 2


def test_the_patient_saga_goes_on_without_its_parcel(page):
    asked, placed = page["ParcelAsked"], page["OrderPlaced"](order_id="o-1")
    for happens in (
        [child_rolled_back(asked)],
        [timed_out("parcel-asked"), child_rolled_back(asked, code="cancelled")],
    ):
        given(page["patient"], placed).when(*happens).then(issued(page["Pay"]))
    done = page["ParcelPacked"](parcel_id="o-1", weight=1)
    given(page["patient"], placed).when(child_completed(asked, done)).then(completed())


def test_one_application_of_both_reads_what_children_say(page):
    names = [contract.contract_name for contract in page["app"].contracts.published]
    assert {"saga.evt.child-started.v1", "saga.evt.child-ended.v1"} <= set(names)
