"""Which Keras is chosen, and when: each case in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import pytest

CHOICES = ("TF_KERAS", "TF_USE_LEGACY_KERAS", "KERAS_BACKEND")


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def run(code, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in CHOICES}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def check(code, **environment):
    result = run(code, **environment)
    assert result.returncode == 0, result.stderr


def last_line(result):
    assert result.returncode != 0
    return result.stderr.strip().splitlines()[-1]


def test_the_package_alone_imports_no_keras():
    check(
        "import sys, bert_of_theseus as package\n"
        "assert package.__version__\n"
        "assert {'BinaryRandomChoice', 'build_theseus_model'} <= set(dir(package))\n"
        "loaded = {'keras', 'tf_keras', 'tensorflow', 'torch', 'jax', 'numpy', 'bert4keras'}\n"
        "assert not loaded & set(sys.modules), loaded & set(sys.modules)\n"
        "try: package.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise SystemExit('no error')"
    )


@needs("keras", "jax")
def test_every_public_name_costs_little_beside_keras_and_loads_no_host():
    check(
        "import sys, time\n"
        "import keras\n"
        "start = time.process_time()\n"  # what other processes do does not count
        "import bert_of_theseus as package\n"
        "imported = time.process_time() - start\n"
        "for name in package.__all__: getattr(package, name)\n"
        "used = time.process_time() - start\n"
        "hosts = {'keras_hub', 'bert4keras', 'transformers'} & set(sys.modules)\n"
        "assert not hosts, hosts\n"
        "assert imported < 0.3, imported\n"
        "assert used < 0.3, used",
        KERAS_BACKEND="jax",
    )


@needs("keras", "jax")
def test_keras_3_by_default_and_without_any_host():
    check(
        "import sys\n"
        "import numpy as np\n"
        "class Missing:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        missing = ('bert4keras', 'keras_hub', 'tf_keras', 'tensorflow')\n"
        "        if name.split('.')[0] in missing:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing)\n"
        "from bert_of_theseus import build_theseus_model\n"
        "from bert_of_theseus.backend import keras\n"
        "assert keras.__version__.startswith('3')\n"
        "dense = keras.layers.Dense\n"
        "theseus = build_theseus_model([keras.Input((2,)), dense(2), dense(2)], [dense(2)],\n"
        "                              dense(2))\n"
        "theseus.compile('sgd', 'mse')\n"
        "theseus.fit(np.ones((1, 2)), np.ones((1, 2)), verbose=0)",
        KERAS_BACKEND="jax",
    )


@needs("keras", "tensorflow", "tf_keras")
@pytest.mark.parametrize("first, culprit", [
    ("import keras", "keras is imported"),
    ("import tensorflow as tf; tf.keras.layers", "Keras 3"),
])  # fmt: skip
def test_bert4keras_after_keras_3_says_what_to_do(first, culprit):
    line = last_line(run(f"{first}\nimport bert_of_theseus.bert4keras"))
    assert line.startswith("ImportError: ")
    assert culprit in line
    assert "Put `import bert_of_theseus.bert4keras` before" in line
    assert "TF_USE_LEGACY_KERAS=1" in line


@needs("bert4keras", "tf_keras")
def test_bert4keras_first_chooses_keras_2():
    check(
        "import bert_of_theseus.bert4keras\n"
        "from bert4keras.models import build_transformer_model\n"
        "from bert4keras.backend import keras as theirs\n"
        "import tensorflow as tf\n"
        "import tf_keras\n"
        "from bert_of_theseus.backend import KERAS_2, keras\n"
        "assert KERAS_2 and keras is tf_keras\n"
        "assert theirs.layers.Layer is keras.layers.Layer\n"
        "# The optimizers are left as they were.\n"
        "assert tf.keras.optimizers.Optimizer is tf_keras.optimizers.Optimizer"
    )


@needs("tf_keras")
def test_bert4keras_not_installed():
    line = last_line(
        run("import sys; sys.modules['bert4keras'] = None\nimport bert_of_theseus.bert4keras")
    )
    assert line.startswith("ImportError: bert4keras is not installed: `pip install --no-deps")


@needs("keras", "jax")
@pytest.mark.parametrize("flag", ["0", ""])
def test_tf_keras_switched_off(flag):
    check(
        "from bert_of_theseus.backend import KERAS_2\nassert not KERAS_2",
        TF_KERAS=flag,
        KERAS_BACKEND="jax",
    )
