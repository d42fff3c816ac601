"""The files of a deployment, examined when the test is over."""

from pathlib import Path

import pytest

from tests.scenarios import order_app
from tests.scenarios.examined import check_live, effects, examine, histories_of


class Deployment:
    """Its files, and the services that run on them one after another, or side by side."""

    def __init__(self, folder: Path, *, is_apart: bool) -> None:
        self.folder = folder
        self.is_apart = is_apart
        self.app = order_app.app()

    def service(self, *sagas, **settings):
        """A service on these files; *sagas* are those of the code at hand from now on."""
        if sagas:
            self.app = order_app.app(*sagas)
        return order_app.service(self.folder, *sagas, is_apart=self.is_apart, **settings)

    def effects(self) -> dict[tuple[str, str], int]:
        return dict(effects(self.folder))

    async def histories(self):
        return await histories_of(self.folder)

    async def check_live(self, service) -> None:
        """The states in the memory of an idle service are those of the histories."""
        check_live(service, await self.histories())


@pytest.fixture(params=[False, True], ids=["one file", "two files"])
async def deployment(request: pytest.FixtureRequest, tmp_path: Path):
    """With bus and store in one file, and apart."""
    files = Deployment(tmp_path, is_apart=request.param)
    yield files
    await examine(tmp_path, files.app, is_apart=files.is_apart)


@pytest.fixture
async def one_file(tmp_path: Path):
    """With bus and store in one file, as by default."""
    files = Deployment(tmp_path, is_apart=False)
    yield files
    await examine(tmp_path, files.app, is_apart=False)
