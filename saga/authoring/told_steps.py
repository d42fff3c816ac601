"""Steps as data, and again as steps: what the snapshots of machines and graphs have in common.

A step is made again of what was told of it alone: no function of the author is called for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

from saga.authoring.exact import NoData, from_text, to_text
from saga.authoring.steps import AuthoredStep, ChildStep
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


def steps_to_plain(
    registry: ContractRegistry, steps: Iterable[S], more: Callable[[S], object]
) -> dict[str, Any]:
    """What *steps* are, and *more* of each that only its front-end knows.

    Raises:
        NoData: something of them cannot be told.
    """
    policies: dict[Retry | None, int] = {}

    def policy(retry: Retry | None) -> int:
        return policies.setdefault(retry, len(policies))

    told = [
        [
            step.step,
            message_to_plain(registry, step.intent),
            _KIND.write(step.kind),
            policy(step.retry),
            step.timeout_us,
            policy(step.undo_retry),
            list(step.after),
            more(step),
        ]
        for step in steps
    ]
    return {"steps": told, "policies": [each and _policy_to_plain(each) for each in policies]}


def steps_from_plain(
    registry: ContractRegistry,
    told: dict[str, Any],
    make: Callable[..., S],
    finish: Callable[[S, Any], None],
) -> dict[StepId, S]:
    """The steps of which `steps_to_plain` gave this: made by *make*, and by *finish* of the rest.

    *make* gets what a step is but for its undo, as a step has it in order.
    """
    policies = [each and _policy_from_plain(each) for each in told["policies"]]
    steps: dict[StepId, S] = {}
    for id_, said, kind, retry, timeout_us, undo_retry, after, more in told["steps"]:
        intent = message_from_plain(registry, said)
        step = make(
            id_,
            said[0],
            encode(intent),
            _KIND.read(kind),
            policies[retry],
            timeout_us,
            policies[undo_retry],
            intent,
            more,
        )
        step.after = tuple(after)
        finish(step, more)
        steps[step.step] = step
    return steps


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


def is_child(step: AuthoredStep) -> bool:
    return isinstance(step, ChildStep)


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
