"""The mutants: each switches one safeguard of the engine off."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """Old and new text of one file, and the application whose worlds are to notice."""

    name: str
    file: str
    replacements: tuple[tuple[str, str], ...]
    of: str = "sample"


def _mutation(
    name: str, file: str, old: str, new: str, *more: tuple[str, str], of: str = "sample"
) -> Mutation:
    return Mutation(name, file, ((old, new), *more), of)


MUTATIONS = (
    _mutation(
        "publish before append",
        "saga/runtime/turns.py",
        "            appended = await self._store.append(transaction, at=unit.at)\n",
        "            await self._relay._publish_all(unit.outgoing)\n"
        "            appended = await self._store.append(transaction, at=unit.at)\n",
    ),
    _mutation(
        "positions before entries",
        "saga/runtime/turns.py",
        "        transaction = unit.batch(relayed)\n",
        "        from saga.ports import Batch\n\n"
        "        await self._store.append(Batch(positions=unit.positions), at=unit.at)\n"
        "        unit.positions = {}\n"
        "        transaction = unit.batch(relayed)\n",
    ),
    _mutation(
        "positions not stored",
        "saga/runtime/unit_of_work.py",
        "            positions=self.positions,\n",
        "            positions={},\n",
    ),
    _mutation(
        "no version check",
        "saga/adapters/memory/store.py",
        "        if moved:\n",
        "        if moved and not moved:\n",
    ),
    _mutation(
        "no re-read after a lost answer",
        "saga/runtime/orchestrator.py",
        "            if record.offset > stored.get(Source(record.topic, record.partition), -1)\n",
        "",
    ),
    _mutation(
        "memory kept after a failed append",
        "saga/runtime/turns.py",
        "            appended = await self._store.append(transaction, at=unit.at)\n",
        "            self._cache.keep(*unit.sagas.values())\n"
        "            appended = await self._store.append(transaction, at=unit.at)\n",
    ),
    _mutation(
        "memory decides alone",
        "saga/runtime/dispatcher.py",
        "        if delivery.saga_id in unit.remembered:\n",
        "        if delivery.saga_id in ():\n",
    ),
    _mutation(
        "relayed before published",
        "saga/runtime/relay.py",
        "        if not await self._publish_unblocked(records, self._blocked.sagas, backlog_id):\n"
        "            self.relayed.append(backlog_id)\n",
        "        self.relayed.append(backlog_id)\n        await self.record()\n"
        "        await self._publish_unblocked(records, self._blocked.sagas, backlog_id)\n",
    ),
    _mutation(
        "no takeover of a backlog",
        "saga/runtime/relay.py",
        "        for batch in found:\n",
        "        for batch in found[:0]:\n",
    ),
    _mutation(
        "others' records not waited for",
        "saga/runtime/unit_of_work.py",
        "        return [saga for saga in sagas if saga.is_possibly_unpublished]\n",
        "        return [saga for saga in sagas if not saga]\n",
    ),
    _mutation(
        "turns of other workers are not taken over",
        "saga/runtime/saga_cache.py",
        "        if not (yield from following(saga.decider, saga.state, tail.recorded)):\n",
        "        if False:\n            yield\n",
    ),
    _mutation(
        "what other workers may not have published is forgotten",
        "saga/runtime/saga_cache.py",
        "    if _may_publish(saga, tail.recorded):\n",
        "    if False:\n",
    ),
    _mutation(
        "dlq copy after the positions",
        "saga/runtime/turns.py",
        "            await self._relay.publish_dead_letters(unit.unhandled.dead_letters)\n",
        "            pass\n",
        (
            "        if unit.unhandled.deferred_behind:\n",
            (
                "        await self._relay.publish_dead_letters(unit.unhandled.dead_letters)\n"
                "        if unit.unhandled.deferred_behind:\n"
            ),
        ),
    ),
    _mutation(
        "deferred records out of order",
        "saga/runtime/deferred.py",
        "            self.sagas.discard(saga_id)\n        return records\n",
        "            self.sagas.discard(saga_id)\n        return list(reversed(records))\n",
    ),
    _mutation(
        "a postponed timer is cleared",
        "saga/runtime/unit_of_work.py",
        "        self.timers.put_off[timer.timer_id] = ",
        "        self.timers.cleared.append(timer.timer_id)\n"
        "        self.timers.put_off[timer.timer_id] = ",
    ),
    _mutation(
        "timers fire early",
        "saga/runtime/orchestrator.py",
        "due_timers(until=self._clock.now(), limit",
        "due_timers(until=self._clock.now() + 400_000, limit",
    ),
    _mutation(
        "a fired timer stays armed",
        "saga/core/fold.py",
        "    timer = state.timers.pop(fact.timer_id, None)\n",
        "    timer = state.timers.get(fact.timer_id)\n",
    ),
    _mutation(
        "undo in order of issue",
        "saga/core/plans.py",
        "    planned.sort(key=_latest_end)\n",
        "    planned.sort(key=_latest_end, reverse=True)\n    dependents.clear()\n",
    ),
    _mutation(
        "refused step undone",
        "saga/core/plans.py",
        "    {StepStatus.ISSUED, StepStatus.DONE, StepStatus.FAILED, StepStatus.IN_DOUBT}\n",
        "    {StepStatus.ISSUED, StepStatus.DONE, StepStatus.FAILED, StepStatus.IN_DOUBT,"
        " StepStatus.REFUSED}\n",
    ),
    _mutation(
        "failing step not undone",
        "saga/core/plans.py",
        "    {StepStatus.ISSUED, StepStatus.DONE, StepStatus.FAILED, StepStatus.IN_DOUBT}\n",
        "    {StepStatus.ISSUED, StepStatus.DONE}\n",
    ),
    _mutation(
        "late success lost",
        "saga/core/rollback.py",
        "        _append_undo(turn, step, keeps_place=keeps_place)\n",
        "        pass\n",
    ),
    _mutation(
        "duplicate reply applied again",
        "saga/core/kernel.py",
        "    if (known := state.replies.get(name)) is not None:\n"
        "        return _second_reply(turn, known, fact)\n    if direction is UNDO:\n",
        "    if direction is UNDO:\n",
    ),
    _mutation(
        "next undo does not wait",
        "saga/core/plans.py",
        "    if is_undoing(state, plan):\n        return []\n",
        "",
    ),
    _mutation(
        "losers of a race go on",
        "saga/authoring/functions/scheduler.py",
        "        if isinstance(waiter, Task):\n"
        "            if self._queue is None:\n"
        "                self._queue = deque()\n"
        "            self._queue.append((waiter, value, error))\n"
        "        else:\n"
        "            self._wake(waiter, value, error)\n",
        "        if self._queue is None:\n"
        "            self._queue = deque()\n"
        "        self._queue.append((waiter, value, error))\n",
        ("            slot.begun = {}\n", ""),
        ("        self._end(sorted(tasks, key=_number_of))\n", ""),
    ),
    _mutation(
        "inbox asked and not obeyed",
        "saga/effects/inbox.py",
        "    if request.attempt == kept.attempt or kept.outcome is not ReplyOutcome.FAILED:\n",
        "    if request.attempt < 0:\n",
    ),
    _mutation(
        "no tombstone after an early undo",
        "saga/effects/inbox.py",
        "    return NothingToUndo((InboxWrite(row, kept), InboxWrite(tombstone)))\n",
        "    return NothingToUndo((InboxWrite(row, kept),))\n",
    ),
    _mutation(
        "inbox row in a transaction of its own",
        "saga/adapters/sqlite/effects.py",
        "        cursor = writer.writing.connection.cursor()\n",
        "        cursor = writer.writing.connection.cursor()\n"
        "        writer.writing.connection.commit()\n"
        "        cursor.execute('BEGIN IMMEDIATE')\n"
        "        cursor.execute('SAVEPOINT handler')\n",
    ),
    _mutation(
        "answer without its inbox row",
        "saga/adapters/sqlite/answers.py",
        "        not_kept = written.not_kept = write_units(cursor, group.units, elsewhere)\n",
        "        not_kept = written.not_kept = NotKept()\n",
    ),
    _mutation(
        "inbox row without its answer",
        "saga/adapters/sqlite/answers.py",
        "            written += self._bus.append(cursor, placed)\n",
        "            pass\n",
    ),
    _mutation(
        "one of two inboxes asked",
        "saga/adapters/sqlite/effects.py",
        "            take_newer(kept, self._beside.read_now(query))\n",
        "            pass\n",
        ("        if self._beside is None or not writes:\n", "        if True:\n"),
    ),
    _mutation(
        "the other inbox not looked at again",
        "saga/adapters/sqlite/effects.py",
        "        if self._beside is None or not writes:\n",
        "        if True:\n",
    ),
    _mutation(
        "workers go by their own clocks",
        "saga/runtime/store_clock.py",
        "        if measured is None:\n            return self._own.now()\n",
        "        if True:\n            return self._own.now()\n",
    ),
    _mutation(
        "the latest time the store may have",
        "saga/runtime/store_clock.py",
        "        return Instant(measured.earliest + int(passed_s * SECOND_US))\n",
        "        passed_s += 2 * measured.error_s\n"
        "        return Instant(measured.earliest + int(passed_s * SECOND_US))\n",
    ),
    _mutation(
        "entries may go back in time",
        "saga/runtime/dispatcher.py",
        "        if delivery.event.at < saga.last_at:\n",
        "        if False:\n",
    ),
    _mutation(
        "an event is lost while its saga waits",
        "saga/runtime/reaching.py",
        "        return is_heard\n",
        "        return is_heard and not state.waited\n",
        of="everything",
    ),
    _mutation(
        "a child's end believed from anybody",
        "saga/core/child_answers.py",
        "        return _note_other(turn, fact, child)\n    reply = ",
        "        pass\n    reply = ",
        of="everything",
    ),
    _mutation(
        "the undo of a child is never asked for",
        "saga/core/children.py",
        "    if child.saga_id is not None:\n        _ask_to_undo(turn, step, child)\n",
        "",
        of="everything",
    ),
    _mutation(
        "a pause does not hold a timer",
        "saga/core/pauses.py",
        "        if name in _TOLD:\n",
        '        if name in _TOLD and name not in ("slept", "timed_out"):\n',
        of="everything",
    ),
    _mutation(
        "a scope is not undone",
        "saga/core/rollback.py",
        "        [state.steps[step_id] for step_id in issued],\n",
        "        [],\n",
        of="everything",
    ),
    _mutation(
        "a reply counts beside the one entered",
        "saga/core/forward.py",
        "    if step.status is not ISSUED:\n        if fact.outcome",
        "    if step.status is not ISSUED and step.status is not StepStatus.DONE:\n"
        "        if fact.outcome",
        of="everything",
    ),
    _mutation(
        "a step marked undone is undone again",
        "saga/core/marks.py",
        "    turn.disarm_for(step, UNDO)\n    if not was_skipped:\n        turn.resume()\n"
        "    turn.settle(step, StepStatus.UNDONE, UNDO)\n    rollback.go_on(turn, step)\n",
        "    rollback.retry_undo(turn, step)\n",
        of="everything",
    ),
    _mutation(
        "a refused mark counts",
        "saga/core/marks.py",
        '        return turn.note(Verdict.REFUSED, f"mark {fact.step}", refusal)\n',
        '        turn.note(Verdict.REFUSED, f"mark {fact.step}", refusal)\n'
        '        step = turn.state.steps.get(StepId(fact.step or ""))\n'
        "        if step is not None and step.status is StepStatus.ISSUED:\n"
        "            _done(turn, step)\n"
        "        return RECORDED\n",
        of="everything",
    ),
    _mutation(
        "a moved timer keeps its place in the index",
        "saga/runtime/unit_of_work.py",
        "            elif type(intent) is TimerMoved:\n",
        "            elif type(intent) is TimerMoved and intent.timer_id in self.armed:\n",
        of="everything",
    ),
    _mutation(
        "a moved timer fires at its old time",
        "saga/core/kernel.py",
        "    if turn.at < timer.due_at and turn.recorded is None:\n",
        "    if False:\n",
        of="everything",
    ),
    _mutation(
        "a moved timer is due at its old time",
        "saga/core/timer_acts.py",
        "    due_at = turn.at if fact.due_at is None else fact.due_at\n",
        "    due_at = turn.state.timers[fact.timer_id].due_at\n",
        of="everything",
    ),
    _mutation(
        "a refused rerun begins",
        "saga/runtime/acting.py",
        "    if delivery.event.cause not in unit.reruns and not delivery.deferred_id:\n",
        "    if False:\n",
        of="everything",
    ),
    _mutation(
        "a rerun may have a key that is taken",
        "saga/runtime/reruns.py",
        "        if new is None or (isinstance(new, LoadedSaga) and not new.version):\n",
        "        if True:\n",
        of="everything",
    ),
    _mutation(
        "a rerun does not say of which saga",
        "saga/runtime/reruns.py",
        '        rerun_of=SagaId(command.saga_id or ""),\n',
        "",
        of="everything",
    ),
    _mutation(
        "a loser's step is tried again",
        "saga/core/forward.py",
        "    may_retry = not step.is_dropped and not turn.state.is_stopping\n",
        "    may_retry = not turn.state.is_stopping\n",
        of="office",
    ),
    _mutation(
        "an event that was chosen is kept",
        "saga/core/arrivals.py",
        "            _take(state, channel, ended.took)\n    end_wait(state, ended.wait)\n",
        "            pass\n    end_wait(state, ended.wait)\n",
        of="office",
    ),
    _mutation(
        "a child that is undone is undone again",
        "saga/core/parents.py",
        "    if state.status is SagaStatus.ROLLED_BACK or _cleans_up_undone(state):\n",
        "    if False:\n",
        of="everything",
    ),
    _mutation(
        "a run's steps have the names of the one before",
        "saga/core/runs.py",
        '    return "" if run == 1 else f"{run}."\n',
        '    return ""\n',
        of="office",
    ),
    _mutation(
        "a scope is told undone while it is undone",
        "saga/core/rollback.py",
        "    _go_on(turn, state.scopes.plans[scope])\n",
        "    _go_on(turn, state.scopes.plans[scope])\n"
        "    if scope in state.scopes.plans:\n"
        "        _finish_scope(turn, scope)\n",
        of="office",
    ),
    _mutation(
        "a saga that is loaded has forgotten its pause",
        "saga/runtime/saga_cache.py",
        "    first = history.recorded[0]\n",
        "    first = history.recorded[0]\n    state.pause = None\n",
        of="office",
    ),
    _mutation(
        "what was kept is lost when a saga is loaded",
        "saga/runtime/saga_cache.py",
        "    first = history.recorded[0]\n",
        "    first = history.recorded[0]\n    state.kept.clear()\n",
        of="office",
    ),
    _mutation(
        "a replay asks again which event to take",
        "saga/core/waiting.py",
        "    if turn.recorded_wait(wait) is None:\n        took = next(",
        "    if True:\n        took = next(",
        ("    if turn.recorded is not None:\n        first", "    if False:\n        first"),
        of="office",
    ),
    _mutation(
        "an update stays open when it is answered",
        "saga/core/arrivals.py",
        "answered.update: False}\n",
        "answered.update: True}\n",
        of="office",
    ),
    _mutation(
        "an event that comes early does not wait",
        "saga/runtime/reaching.py",
        "    if until <= unit.at:\n",
        "    if True:\n",
        of="office",
    ),
    _mutation(
        "the newest code takes a saga of another version",
        "saga/runtime/saga_cache.py",
        "    registered = registry.find(name, version)\n",
        "    registered = registry.find(name, version) or registry.newest(name)\n",
        of="office",
    ),
    _mutation(
        "a saga that stalls is not looked at again",
        "saga/runtime/deferred.py",
        "needing_code=page.keys(), are_new=True)",
        "needing_code=(), are_new=True)",
        (
            "        needing_code = found.keys() - own\n",
            "        needing_code: set[SagaId] = set()\n",
        ),
        ("needing_code=page.keys() if tries_all else ()", "needing_code=()"),
        of="office",
    ),
    _mutation(
        "timers outlive their saga",
        "saga/core/turn.py",
        "        self.disarm_all()\n        self.record(intents.SagaCompleted",
        "        self.record(intents.SagaCompleted",
        of="everything",
    ),
    _mutation(
        "whoever says so last is the child",
        "saga/core/child_answers.py",
        "    if child.saga_id is not None:\n        return _note_other(turn, fact, child)\n",
        "    child.saga_id = None\n",
        of="everything",
    ),
    _mutation(
        "a graph's steps depend on nothing",
        "saga/authoring/graphs/program.py",
        "        after = self._nearest(node)\n",
        "        after = ()\n",
        of="office",
    ),
    _mutation(
        "a saga that is loaded was never migrated",
        "saga/core/history.py",
        "    if moved is not None and begun is not None:\n",
        "    if False:\n",
        of="moved",
    ),
    _mutation(
        "a replay does not know the names of a migration",
        "saga/core/replay.py",
        "Untold(recorded), migrations_of(told)\n",
        "Untold(recorded), migrations_of(told) if ahead else None\n",
        of="moved",
    ),
    _mutation(
        "a migration is taken though the new code decides otherwise",
        "saga/runtime/migration_turn.py",
        "    delivery.refusal = storable(str(moved.found))\n",
        "",
        of="moved",
    ),
    _mutation(
        "a worker goes on with the code of before a migration",
        "saga/core/replay.py",
        "frozenset({SagaStarted, Migrated})\n",
        "frozenset({SagaStarted})\n",
        of="moved",
    ),
    _mutation(
        "what a step depends on has its new names",
        "saga/core/renamed_program.py",
        "        put.after = tuple(map(self._step_id, step.after))\n",
        "",
        of="moved",
    ),
    _mutation(
        "a step that was migrated succeeds under its old name",
        "saga/core/renamed_program.py",
        "self.program.succeeded(self._step(step), reply, at)",
        "self.program.succeeded(step, reply, at)",
        of="moved",
    ),
)
