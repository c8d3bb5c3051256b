"""Settings that must be in place before any test module imports a Keras."""

import importlib.util
import os
import signal
import tempfile
import zlib
from pathlib import Path

import pytest

# TensorFlow reads this at import: only its errors, not a page of start-up notices per run.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A shell ignores Ctrl+C for what it runs in the background, and processes that tests start would
# inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("laws")

BERT4KERAS_TESTS = Path(__file__).parent / "bert4keras"
KERAS_HUB_TESTS = Path(__file__).parent / "keras_hub"
# The same code on every backend: fast on the quickest, slow on the others.
ONCE_TESTS = Path(__file__).parent / "once"
FLAVOURS = ("tf_keras", "tensorflow", "jax", "torch")
# Where a slow test runs on PyTorch and on one other Keras: these. `--everywhere` runs it on all.
SHARED = {ONCE_TESTS: FLAVOURS[:3], KERAS_HUB_TESTS: FLAVOURS[1:3]}
# Read now: `import bert_of_theseus.bert4keras`, which those tests start with, sets them.
MISSING = [
    f"{name}=1" for name in ("TF_KERAS", "TF_USE_LEGACY_KERAS") if os.environ.get(name) != "1"
]
# One of tf_keras, tensorflow, jax and torch.
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
FLAVOUR = BACKEND if "TF_KERAS=1" in MISSING else "tf_keras"

if FLAVOUR == "jax":
    # Tests make their models anew, and JAX compiles anew what it has compiled for an equal one.
    # Within a run, child processes too, each program is compiled once.
    CACHE = tempfile.TemporaryDirectory(prefix="jax-programs-")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE.name)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_addoption(parser):
    what = "slow tests of tests/once and tests/keras_hub under each Keras, not PyTorch and another"
    parser.addoption("--everywhere", action="store_true", help=what)


def names(item, mark):
    return [flavour for found in item.iter_markers(mark) for flavour in found.args]


def is_elsewhere(item, fast):
    """Whether this slow test is left to PyTorch and another Keras, by its name: so all share."""
    for folder, flavours in SHARED.items():
        if folder in item.path.parents:
            others = [flavour for flavour in flavours if flavour not in fast]
            number = zlib.crc32(f"{item.path.name}::{item.name}".encode())
            return FLAVOUR not in ("torch", others[number % len(others)])
    return False


# Before pytest's own, which leaves out what `-m` says.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks what is slow here, leaves out what runs elsewhere alone.

    Refuses tests that need Keras 2 under Keras 3, and conversely.
    """
    elsewhere = []
    for item in items:
        only, fast = names(item, "only"), names(item, "slow_unless")
        if unknown := {*only, *fast} - set(FLAVOURS):
            raise pytest.UsageError(f"{item.nodeid}: its marks name {sorted(unknown)}")
        if ONCE_TESTS in item.path.parents:
            fast.append("torch")
        if fast and FLAVOUR not in fast:
            item.add_marker(pytest.mark.slow)
        is_slow = item.get_closest_marker("slow") and not config.option.everywhere
        if FLAVOUR not in (only or FLAVOURS) or (is_slow and not only and is_elsewhere(item, fast)):
            elsewhere.append(item)
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]
    folders = {folder for item in items for folder in item.path.parents}
    if KERAS_HUB_TESTS in folders and "TF_KERAS=1" not in MISSING:
        raise pytest.UsageError(
            "tests/keras_hub needs Keras 3: unset TF_KERAS and TF_USE_LEGACY_KERAS, or run "
            "`make test`, which runs each folder under the Keras that it needs"
        )
    if BERT4KERAS_TESTS in folders and MISSING:
        raise pytest.UsageError(
            f"tests/bert4keras needs Keras 2: set {' '.join(MISSING)} in the environment, "
            "or run `make test`, which runs each folder under the Keras that it needs"
        )


@pytest.fixture(scope="session")
def load_script():
    """Imports a file that is no part of the package, by its path."""

    def load(path):
        spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
