"""Settings that must be in place before any test module imports a Keras."""

import importlib.util
import os
import signal
import tempfile
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


# Before pytest's own, which leaves out what `-m` says.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what is slow here, leaves out what runs elsewhere alone.

    Refuses tests that need Keras 2 under Keras 3, and conversely.
    """
    for item in list(items):
        flavours = [flavour for mark in item.iter_markers("only") for flavour in mark.args]
        if flavours and FLAVOUR not in flavours:
            items.remove(item)
    for item in items:
        fast = [flavour for mark in item.iter_markers("slow_unless") for flavour in mark.args]
        unknown = set(fast) - {"tf_keras", "tensorflow", "jax", "torch"}
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: slow_unless names {sorted(unknown)}")
        if ONCE_TESTS in item.path.parents:
            fast.append("torch")
        if fast and FLAVOUR not in fast:
            item.add_marker(pytest.mark.slow)
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
