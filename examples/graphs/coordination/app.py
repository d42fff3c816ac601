"""Four ways to coordinate, a contract graph each: in sequence, parallel, by condition, by events.

`python examples/graphs/coordination/app.py` runs one saga of each, with nothing but files in
`.saga/`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from saga import EffectContext, Effects, Event, Intent, Refused, SagaApp, contract

HERE = Path(__file__).parent


class DocumentArrived(Event, topic="documents.document-arrived", version=1, key="document_id"):
    document_id: str
    text: str


class Validated(Event, topic="documents.validated", version=1):
    words: int


class Validate(Intent[Validated], topic="documents.validate", version=1):
    text: str


class Transformed(Event, topic="documents.transformed", version=1):
    text: str


class Transform(Intent[Transformed], topic="documents.transform", version=1):
    document_id: str
    text: str


class Discard(Intent[None], topic="documents.discard", version=1):
    document_id: str


class Filed(Event, topic="documents.filed", version=1):
    place: str


class File(Intent[Filed], topic="documents.file", version=1):
    document_id: str
    text: str


class DocumentFiled(Event, topic="documents.document-filed", version=1):
    document_id: str
    words: int
    place: str


class QuoteWanted(Event, topic="quotes.quote-wanted", version=1, key="quote_id"):
    quote_id: str
    tonnes: int


class Offered(Event, topic="quotes.offered", version=1):
    price: int


class Ask(Intent[Offered], topic="quotes.ask", version=1):
    quote_id: str
    carrier: str
    tonnes: int


class Quoted(Event, topic="quotes.quoted", version=1):
    quote_id: str
    cheapest: int
    by_land: int


class OperationAsked(Event, topic="operations.operation-asked", version=1, key="operation_id"):
    operation_id: str
    kind: str


class Handled(Event, topic="operations.handled", version=1):
    by: str


class Rush(Intent[Handled], topic="operations.rush", version=1):
    operation_id: str


class Queue(Intent[Handled], topic="operations.queue", version=1):
    operation_id: str


class LookAt(Intent[Handled], topic="operations.look-at", version=1):
    operation_id: str
    kind: str


class OperationDone(Event, topic="operations.operation-done", version=1):
    operation_id: str
    by: str


class ImportWanted(Event, topic="imports.import-wanted", version=1, key="import_id"):
    import_id: str


class DataReady(Event, topic="imports.data-ready", version=1, key="import_id"):
    import_id: str
    rows: int


class Load(Intent[None], topic="imports.load", version=1):
    import_id: str
    rows: int


class Unload(Intent[None], topic="imports.unload", version=1):
    import_id: str


class ProcessComplete(Event, topic="imports.process-complete", version=1, key="import_id"):
    import_id: str


class ProcessFailed(Event, topic="imports.process-failed", version=1, key="import_id"):
    import_id: str
    error: str


class ImportDone(Event, topic="imports.import-done", version=1):
    import_id: str
    rows: int


class ImportFailed(Event, topic="imports.import-failed", version=1):
    import_id: str
    reason: str


services = Effects("coordination")


@services.on(Validate)
async def validate(intent: Validate, ctx: EffectContext) -> Validated:
    if not intent.text.strip():
        raise Refused("there is no text", code="empty")
    return Validated(words=len(intent.text.split()))


@services.on(Transform)
async def transform(intent: Transform, ctx: EffectContext) -> Transformed:
    return Transformed(text=intent.text.upper())


@services.on(Discard)
async def discard(intent: Discard, ctx: EffectContext) -> None: ...


@services.on(File)
async def file(intent: File, ctx: EffectContext) -> Filed:
    return Filed(place=f"{intent.text[:1]}/{intent.document_id}")


@services.on(Ask)
async def ask(intent: Ask, ctx: EffectContext) -> Offered:
    if intent.carrier == "sea" and intent.tonnes < 100:
        raise Refused("too little for a ship", code="little")
    return Offered(price={"rail": 40, "road": 60, "sea": 10}[intent.carrier] * intent.tonnes)


@services.on(Rush)
async def rush(intent: Rush, ctx: EffectContext) -> Handled:
    return Handled(by="whoever is awake")


@services.on(Queue)
async def queue(intent: Queue, ctx: EffectContext) -> Handled:
    return Handled(by="the day shift")


@services.on(LookAt)
async def look_at(intent: LookAt, ctx: EffectContext) -> Handled:
    return Handled(by=f"an expert in {intent.kind}")


@services.on(Load)
async def load(intent: Load, ctx: EffectContext) -> None: ...


@services.on(Unload)
async def unload(intent: Unload, ctx: EffectContext) -> None: ...


app = SagaApp(
    sagas=[
        contract(HERE / f"{name}.yaml")
        for name in ("sequential", "parallel", "conditional", "event_driven")
    ],
    effects=[services],
    contracts=[
        *(DocumentArrived, DocumentFiled, QuoteWanted, Quoted, OperationAsked, OperationDone),
        *(ImportWanted, DataReady, ProcessComplete, ProcessFailed, ImportDone, ImportFailed),
    ],
)


async def main() -> None:
    async with app.service() as service:
        sagas = [
            await service.start(DocumentArrived(document_id="d-1", text="to whom it may concern")),
            await service.start(QuoteWanted(quote_id="q-1", tonnes=2)),
            await service.start(OperationAsked(operation_id="p-1", kind="emergency")),
            await service.start(ImportWanted(import_id="i-1")),
        ]
        await service.publish(DataReady(import_id="i-1", rows=3))
        await service.publish(ProcessComplete(import_id="i-1"))
        for saga in sagas:
            outcome = await service.outcome(saga)
            print(outcome.status.value, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
