"""The event store's own tables, beside those of the library; the layout is said here and nowhere
else.
"""

from __future__ import annotations

from typing import Final

TABLES: Final = (
    # Refuses the whole transaction with a code of ours.
    (
        "CREATE FUNCTION saga_expect(counted bigint, expected bigint, code text) RETURNS void "
        "LANGUAGE plpgsql AS $$ BEGIN IF counted <> expected THEN "
        "RAISE EXCEPTION 'found %, expected %', counted, expected USING ERRCODE = code; "
        "END IF; END $$"
    ),
    # Room on each page for the next version of its rows: updates then touch no index.
    (
        "CREATE TABLE saga_index (position bigint PRIMARY KEY, saga_id uuid NOT NULL, "
        "definition text NOT NULL, definition_version integer NOT NULL, key text NOT NULL, "
        "status text NOT NULL, started_at bigint NOT NULL, updated_at bigint NOT NULL, "
        "waiting_for text, reason text, version bigint NOT NULL) WITH (fillfactor = 60, "
        "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000)"
    ),
    # Nearly all sagas are completed, and finding those needs no index.
    (
        "CREATE INDEX saga_index_by_status ON saga_index (status, position) "
        "WHERE status <> 'completed'"
    ),
    # What comes and goes with every saga is small and must be kept so.
    (
        "CREATE TABLE timers (timer_id text PRIMARY KEY, saga_id uuid NOT NULL, "
        "due_at bigint NOT NULL) WITH (autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0)"
    ),
    "CREATE INDEX timers_by_due_at ON timers (due_at, timer_id)",
    (
        "CREATE TABLE parked (record_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "kind text NOT NULL, reason text NOT NULL, message text NOT NULL, topic text NOT NULL, "
        'partition integer NOT NULL, "offset" bigint NOT NULL, key bytea, value bytea, '
        "headers bytea NOT NULL, timestamp bigint NOT NULL, kept_at bigint NOT NULL, "
        "saga_id uuid)"
    ),
    "CREATE INDEX parked_by_saga ON parked (saga_id) WHERE saga_id IS NOT NULL",
    (
        "CREATE TABLE backlog (backlog_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "positions bigint[] NOT NULL, appended_at bigint NOT NULL) WITH ("
        "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, "
        "autovacuum_vacuum_cost_delay = 0)"
    ),
    # One row a partition, written with every batch; the library switches its vacuum all but off.
    (
        "ALTER TABLE notification_tracking SET (fillfactor = 50, "
        "autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 500, "
        "autovacuum_vacuum_cost_delay = 0)"
    ),
)
