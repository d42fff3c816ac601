"""Ids by chance, for what has no cause to be named after: a new message, a command, a worker."""

from __future__ import annotations

import os
import socket
from uuid import uuid4

from saga.core.identity import uuid_text

UUID_BYTES = 16


def new_id() -> str:
    return uuid_text(os.urandom(UUID_BYTES), version=4)


def worker_id() -> str:
    """A name that no other process has, nor an earlier one with the same pid."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
