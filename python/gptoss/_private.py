"""Files that are one user's alone, on systems whose files have owners and on Windows.

There a file in a user's folder is that user's by the access list that it inherits: modes say
nothing, and nobody is asked who owns what.
"""

from __future__ import annotations

import os
import stat


def flags(*names: str) -> int:
    """Return the flags of `os.open` of these names, as far as the system has them; never text."""
    found = getattr(os, "O_BINARY", 0)
    for name in names:
        found |= getattr(os, name, 0)
    return found


def user() -> int | None:
    """Return the number of the user who runs this process, None where users have none."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def is_own_file(status: os.stat_result) -> bool:
    """Whether this is a regular file of the user who runs this process."""
    return stat.S_ISREG(status.st_mode) and user() in {None, status.st_uid}


def hide(descriptor: int) -> None:
    """Let nobody but its owner read or write a file."""
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
