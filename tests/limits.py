"""A limit on the memory of this process."""

import contextlib
import resource
from pathlib import Path


@contextlib.contextmanager
def memory_limit(gigabytes):
    """No more than so many GB of memory beside what the process has already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(gigabytes * 1e9), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
