"""pyright in its strict mode finds the mistakes that mypy finds, in each way to write a saga."""

import pytest

from tests.authoring import test_typing as functions
from tests.authoring.graphs import test_typing as graphs
from tests.authoring.machines import test_typing as machines
from tests.effects import test_typing as effects
from tests.type_checkers import check_with_pyright

pytestmark = pytest.mark.slow


def test_pyright_finds_the_mistakes_of_sagas_and_handlers(tmp_path):
    users = {"functions": functions, "machines": machines, "graphs": graphs, "effects": effects}

    check_with_pyright(tmp_path, {name: module.USER for name, module in users.items()})
