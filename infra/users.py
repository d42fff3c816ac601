"""Whose processes servers are that refuse root."""

import os
import pwd
import shutil

from infra.failures import NotInstalled

_UNPRIVILEGED = ("postgres", "nobody")


def unprivileged_user(server: str) -> str | None:
    """Who *server* runs as; None where we are not root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    user = next((name for name in _UNPRIVILEGED if name in known), None)
    if user is None or shutil.which("setpriv") is None:
        raise NotInstalled(f"A user for {server}", "Install util-linux, and do not be root.")
    return user
