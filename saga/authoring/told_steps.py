"""Steps as data, and again as steps: what the snapshots of machines and graphs have in common.

A step is made again of what was told of it alone: no function of the author is called for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakMethod

from saga.authoring.exact import NoData, from_text, to_text
from saga.authoring.steps import AuthoredStep
from saga.contracts import ContractModel, ContractRegistry, contract_of, encode
from saga.core.durations import duration_us
from saga.core.identity import StepId
from saga.core.plain import plain_of
from saga.core.retry import Retry
from saga.core.status import StepKind
from saga.errors import ChildRolledBack, StepFailed, TimedOut

S = TypeVar("S", bound=AuthoredStep)
Failure = StepFailed | TimedOut | ChildRolledBack
_KIND = plain_of(StepKind)


def message_to_plain(registry: ContractRegistry, model: ContractModel) -> list[Any]:
    """A message and its contract; NoData where the application would read another one."""
    name = contract_of(model).contract_name
    return [_known(registry, name, type(model)), to_text(model)]


def message_from_plain(registry: ContractRegistry, told: list[Any]) -> ContractModel:
    name, text = told
    return from_text(registry.find(name).model, text)


def class_to_plain(registry: ContractRegistry, kind: type[ContractModel]) -> str:
    """The contract of a class; NoData where the application has another class of that."""
    return _known(registry, contract_of(kind).contract_name, kind)


class StepTable(dict[StepId, S]):
    """The steps of one run, by id; each is told once, as nothing of it changes.

    Those of a snapshot are made when they are asked for first.
    """

    _told: dict[StepId, list[Any]] | None = None
    _policies: dict[Retry | None, int]
    _make: Callable[[list[Any], Retry, Retry | None], S] | None = None

    def __missing__(self, id: StepId) -> S:
        if self._make is None or self._told is None:
            raise KeyError(id)
        told, policies = self._told[id], [*self._policies]
        step = self[id] = self._make(told, policies[told[3]], policies[told[5]])
        return step

    def to_plain(self, registry: ContractRegistry, more: Callable[[S], object]) -> dict[str, Any]:
        """What the steps are, and *more* of each that only its front-end knows.

        Raises:
            NoData: something of them cannot be told.
        """
        if self._told is None:
            self._told, self._policies = {}, {}
        policies = self._policies
        for id, step in self.items():
            if id not in self._told:
                self._told[id] = [
                    id,
                    message_to_plain(registry, step.intent),
                    step.kind.value,
                    policies.setdefault(step.retry, len(policies)),
                    step.timeout_us,
                    policies.setdefault(step.undo_retry, len(policies)),
                    list(step.after),
                    more(step),
                ]
        said = [each and _policy_to_plain(each) for each in policies]
        return {"steps": [*self._told.values()], "policies": said}

    def take(
        self,
        registry: ContractRegistry,
        told: Mapping[str, Any],
        make: Callable[..., S],
        finish: Callable[[S, Any], None],
    ) -> None:
        """Have the steps of which `to_plain` gave this.

        *make* gets what a step is but for its undo, as a step has it in order, and *finish*, which
        is a method of the program, sees to what only the front-end knows.
        """
        finishing = WeakMethod(finish)  # else program and steps would wait for the collector

        def made(said: list[Any], retry: Retry, undo_retry: Retry | None) -> S:
            id, message, kind, _, timeout_us, _, after, more = said
            intent = message_from_plain(registry, message)
            what = (id, message[0], encode(intent), _KIND.read(kind))
            step = make(*what, retry, timeout_us, undo_retry, intent, more)
            step.after = tuple(after)
            finish = finishing()
            assert finish is not None, id
            finish(step, more)
            return step

        policies = [each and _policy_from_plain(each) for each in told["policies"]]
        self._policies = {each: number for number, each in enumerate(policies)}
        self._told = {StepId(each[0]): each for each in told["steps"]}
        self._make = made

    def ids(self) -> list[StepId]:
        return [*dict.fromkeys((*(self._told or ()), *self))]


def failure_to_plain(failure: Failure) -> list[Any]:
    """What a step, or a wait, has failed with, but for the intent of the step."""
    match failure:
        case StepFailed(step=step, code=code, message=message, refused=refused, details=details):
            return ["failed", step, code, message, refused, details]
        case TimedOut(name=name, kind=kind):
            return ["timed out", name, kind]
        case ChildRolledBack():
            says = failure
            report = [says.status, says.reason, says.code, says.failed_step, list(says.residue)]
            return ["rolled back", says.step, *report]


def failure_from_plain(told: list[Any]) -> Failure:
    match told:
        case ["failed", step, code, message, refused, details]:
            return StepFailed(step, code=code, message=message, refused=refused, details=details)
        case ["timed out", name, kind]:
            return TimedOut(name, kind)
        case ["rolled back", step, status, reason, code, failed_step, residue]:
            return ChildRolledBack(
                step,
                status=status,
                reason=reason,
                code=code,
                failed_step=failed_step,
                residue=tuple(residue),
            )
    raise ValueError(f"{told!r:.60} is no failure")


def _known(registry: ContractRegistry, name: str, kind: type) -> str:
    if name not in registry or registry.find(name).model is not kind:
        raise NoData(name)
    return name


def _policy_to_plain(retry: Retry) -> list[Any]:
    told = [
        retry.attempts,
        _duration_to_plain(retry.initial),
        retry.factor,
        _duration_to_plain(retry.cap),
        retry.jitter,
        None if retry.within is None else _duration_to_plain(retry.within),
        list(retry.never_on),
        None if retry.only_on is None else list(retry.only_on),
    ]
    if type(retry) is not Retry or _policy_from_plain(told) != retry:
        raise NoData("a retry")
    return told


def _policy_from_plain(told: list[Any]) -> Retry:
    attempts, initial, factor, cap, jitter, within, never_on, only_on = told
    return Retry(
        attempts=attempts,
        initial=_duration_from_plain(initial),
        factor=factor,
        cap=_duration_from_plain(cap),
        jitter=jitter,
        within=None if within is None else _duration_from_plain(within),
        never_on=tuple(never_on),
        only_on=None if only_on is None else tuple(only_on),
    )


def _duration_to_plain(duration: str | timedelta) -> str | int:
    return duration if isinstance(duration, str) else duration_us(duration)


def _duration_from_plain(told: str | int) -> str | timedelta:
    return told if isinstance(told, str) else timedelta(microseconds=told)
