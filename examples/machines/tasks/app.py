"""A task's life: CREATED → VALIDATED → PROCESSING → COMPLETED, and FAILED from each but the last.

The machine owns the state; three stateless services do the work and know nothing of each other.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from saga import (
    Acts,
    EffectContext,
    Effects,
    Event,
    Intent,
    Next,
    Refused,
    SagaApp,
    State,
    StepDone,
    StepFailed,
    TimedOut,
    Transitions,
    machine,
)


class TaskCreated(Event, topic="tasks.task-created", version=1, key="task_id"):
    task_id: str
    text: str


class TaskValidated(Event, topic="tasks.task-validated", version=1):
    words: int


class ValidateTask(Intent[TaskValidated], topic="tasks.validate-task", version=1):
    task_id: str
    text: str


class TaskProcessed(Event, topic="tasks.task-processed", version=1):
    result: str


class ProcessTask(Intent[TaskProcessed], topic="tasks.process-task", version=1):
    task_id: str
    text: str


class PersistTask(Intent[None], topic="tasks.persist-task", version=1):
    task_id: str
    result: str


class TaskCompleted(Event, topic="tasks.task-completed", version=1):
    task_id: str
    result: str


class TaskFailed(Event, topic="tasks.task-failed", version=1):
    task_id: str
    reason: str


class Start(BaseModel): ...


class Created(State):
    task: TaskCreated

    def enter(self) -> Acts:
        return ValidateTask(task_id=self.task.task_id, text=self.task.text)

    def handle(self, event: TaskValidated | StepFailed) -> Next[Validated | Failed]:
        match event:
            case TaskValidated():
                return Validated(task=self.task)
            case StepFailed():
                return fail(self.task, event)


class Validated(State, timeout="1h"):
    task: TaskCreated

    def handle(self, event: Start | TimedOut) -> Next[Processing | Failed]:
        match event:
            case Start():
                return Processing(task=self.task)
            case TimedOut():
                return fail(self.task, event)


class Processing(State):
    task: TaskCreated
    result: str = ""

    def enter(self) -> Acts:
        return ProcessTask(task_id=self.task.task_id, text=self.task.text)

    def handle(
        self, event: TaskProcessed | StepDone | StepFailed
    ) -> Next[Processing | Completed | Failed]:
        match event:
            case TaskProcessed(result=result):  # the state stays: new data, one more step
                persist = PersistTask(task_id=self.task.task_id, result=result)
                return Processing(task=self.task, result=result), persist
            case StepDone():
                return Completed(), TaskCompleted(task_id=self.task.task_id, result=self.result)
            case StepFailed():
                return fail(self.task, event)


class Completed(State): ...


class Failed(State): ...


def fail(task: TaskCreated, why: StepFailed | TimedOut) -> Next[Failed]:
    return Failed(), TaskFailed(task_id=task.task_id, reason=str(why))


TASK: Transitions = {
    Created: {TaskValidated: Validated, StepFailed: Failed},
    Validated: {Start: Processing, TimedOut: Failed},
    Processing: {TaskProcessed: Processing, StepDone: Completed, StepFailed: Failed},
}


@machine("task", version=1, starts_on=TaskCreated, transitions=TASK, signals={"start": Start})
def task(created: TaskCreated) -> Next[Created]:
    return Created(task=created)


validator = Effects("task-validator")
processor = Effects("task-processor")
persistence = Effects("task-persistence")


@validator.on(ValidateTask)
async def validate(intent: ValidateTask, ctx: EffectContext) -> TaskValidated:
    words = intent.text.split()
    if not words:
        raise Refused("a task needs a text", code="empty")
    return TaskValidated(words=len(words))


@processor.on(ProcessTask)
async def process(intent: ProcessTask, ctx: EffectContext) -> TaskProcessed:
    return TaskProcessed(result=intent.text.upper())


@persistence.on(PersistTask)
async def persist(intent: PersistTask, ctx: EffectContext) -> None:
    print(f"{intent.task_id}: kept {intent.result!r}")


app = SagaApp(sagas=[task], effects=[validator, processor, persistence])


async def main() -> None:
    async with app.service() as service:
        await service.start(TaskCreated(task_id="t-1", text="write it down"))
        await service.signal("task/t-1", "start", Start())
        await service.start(TaskCreated(task_id="t-2", text=" "))
        for id in ("t-1", "t-2"):
            outcome = await service.outcome(f"task/{id}", timeout=60)
            print(id, outcome.status.value, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
