"""Damaged files, full disks and interruptions: what any writer or reader may meet."""

import contextlib
import resource
import sys

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st

KINDS = ("cut", "flip", "insert", "remove", "zero")
# How many damaged files a property is tried on: few each time, and many in the slow tier.
FEW_OR_MANY = [pytest.param(12, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)]


def damage_property(max_examples):
    """Hypothesis' settings: the same examples each time, however slow the machine."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),  # a smaller damage would tell no more
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def damaged(content, kind, place, bit=0):
    """`content` damaged at `place`, which counts from the end if negative."""
    place %= len(content) or 1
    flipped = bytes([content[place] ^ 1 << bit]) if kind == "flip" else b""
    return {
        "cut": content[:place],
        "flip": content[:place] + flipped + content[place + 1 :],
        "insert": content[:place] + bytes([1 << bit]) + content[place:],
        "remove": content[:place] + content[place + 1 :],
        "zero": content[:place] + bytes(len(content) - place),
    }[kind]


@st.composite
def damages(draw, content, kinds=KINDS):
    """The kind of a damage at any place in `content`, and what it makes of it."""
    kind = draw(st.sampled_from(kinds), label="kind")
    place = draw(st.integers(0, len(content) - 1), label="place")
    bit = draw(st.integers(0, 7), label="bit")
    made = damaged(content, kind, place, bit)
    assume(made != content)  # zeros may have been there
    return kind, made


def contents(folder):
    """What the files in a folder hold, by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextlib.contextmanager
def full_disk(limit):
    """No file can grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


_INTERRUPTION = []  # the moves until it, and the end of the names that count


def _interrupt(event, arguments):
    if event == "os.rename" and _INTERRUPTION and str(arguments[1]).endswith(_INTERRUPTION[1]):
        _INTERRUPTION[0] -= 1
        if _INTERRUPTION[0] < 0:
            _INTERRUPTION.clear()
            raise KeyboardInterrupt


sys.addaudithook(_interrupt)  # for good, so it does nothing unless told


@contextlib.contextmanager
def interrupted_move(number=0, suffix=""):
    """`KeyboardInterrupt` at the move of a file to a name with `suffix`, after `number` others."""
    _INTERRUPTION[:] = [number, suffix]
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        _INTERRUPTION.clear()
