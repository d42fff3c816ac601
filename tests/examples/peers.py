"""Has a peer's own package take what we have written for it: `python -m tests.examples.peers PEER`.

The modules are in the working directory, under names that an import statement can say.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

MANIFEST = b"application/vnd.restate.endpointmanifest.v3+json"


async def temporal(module: ModuleType) -> Iterator[str]:
    """A worker first loads each workflow in its sandbox, by an import of its module."""
    from temporalio import workflow
    from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

    runner = SandboxedWorkflowRunner()
    definitions = [
        workflow._Definition.must_from_class(each)  # noqa: SLF001  # as a worker does
        for each in vars(module).values()
        if isinstance(each, type) and hasattr(each, "__temporal_workflow_definition")
    ]
    for definition in definitions:
        runner.prepare_workflow(definition)
    return (str(definition.name) for definition in definitions)


async def dbos(module: ModuleType) -> Iterator[str]:
    """Decorators register workflows and steps; the files are run by another test."""
    return iter([module.CONFIG["name"]])


async def restate(module: ModuleType) -> Iterator[str]:
    """The server asks a deployment for its services when it is registered."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asked = {"type": "http", "method": "GET", "path": "/discover", "raw_path": b"/discover"}
    headers = [(b"accept", MANIFEST)]
    scope = {**asked, "query_string": b"", "http_version": "1.1", "headers": headers}
    await module.app(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    manifest = json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
    return (service["name"] for service in manifest["services"])


TAKES = {"temporal": temporal, "dbos": dbos, "restate": restate}


async def main(peer: str) -> None:
    for file in sorted(Path.cwd().glob("example_*.py")):
        names = await TAKES[peer](importlib.import_module(file.stem))
        print(file.stem, *names)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    asyncio.run(main(sys.argv[1]))
