"""Memory available to the process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sae.errors import SaeError

_PROC, _CGROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")


def require(count: int, task: str) -> None:
    """Checks that the memory suffices for a task.

    Args:
      count: peak memory of the task in bytes.
      task: name of the task, as subject of the error.

    Raises:
      SaeError: the memory does not suffice.
    """
    free = available()
    if count > free:
        raise SaeError(
            f"{task} takes about {count / 2**30:.1f} GiB of memory, and this process may take "
            f"{free / 2**30:.1f} GiB; shrink the image, or allow more memory."
        )


def available() -> int:
    """Returns the number of bytes that the process may take in addition.

    Limits are the machine's memory, the control groups (version 1 and 2) and the address space
    (ulimit -v). Memory of other processes is ignored.
    """
    mapped, resident = _taken()
    limits = [limit - resident for limit in (_physical(), *_cgroups()) if limit is not None]
    with contextlib.suppress(ImportError):  # Windows has no such limits.
        import resource

        address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
        if address_space != resource.RLIM_INFINITY:
            limits.append(address_space - mapped)
    return max(0, min(limits, default=1 << 62))


def _taken() -> tuple[int, int]:
    """Returns the bytes of address space and of memory that the process takes."""
    try:
        mapped, resident = (_PROC / "statm").read_text().split()[:2]
    except (OSError, ValueError):
        return 0, 0
    return int(mapped) * _page(), int(resident) * _page()


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * _page()
    except (AttributeError, OSError, ValueError):
        return None


def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")


def _cgroups() -> list[int]:
    """Returns the limits of the control groups of the process, and of those above them."""
    found = []
    with contextlib.suppress(OSError):
        for line in (_PROC / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, name = _CGROUPS, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = Path(path.lstrip("/"))
            for folder in (group, *group.parents):
                # In a container, its own group is the root. The text "max", no number, is skipped.
                with contextlib.suppress(OSError, ValueError):
                    found.append(int((root / folder / name).read_text()))
    return found
