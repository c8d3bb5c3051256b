"""Which Keras is chosen, and when: in processes of their own."""

import importlib.util
import json
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


# Its cases go from what a fresh process is needed for to what needs none.
AFTER_KERAS_3 = """
import json, os, sys
import keras
before = set(sys.modules)
import bert_of_theseus as package
found = {}
for name in package.__all__: getattr(package, name)
added = {name.split(".")[0] for name in set(sys.modules) - before}
found["added"] = sorted(added - set(sys.stdlib_module_names))
found["hosts"] = sorted({"keras_hub", "bert4keras", "transformers"} & set(sys.modules))
for flag in ("0", ""):
    for name in [name for name in sys.modules if name.startswith("bert_of_theseus")]:
        del sys.modules[name]
    os.environ["TF_KERAS"] = flag
    from bert_of_theseus.backend import KERAS_2
    found["TF_KERAS=" + flag] = KERAS_2
try: import bert_of_theseus.bert4keras
except ImportError as error: found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def after_keras_3():
    result = run(AFTER_KERAS_3, KERAS_BACKEND="jax")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs("keras", "jax")
def test_every_public_name_loads_nothing_beside_keras_but_this_package(after_keras_3):
    assert after_keras_3["added"] == ["bert_of_theseus"]
    assert after_keras_3["hosts"] == []


@needs("keras", "jax")
@pytest.mark.parametrize("flag", ["0", ""])
def test_tf_keras_switched_off(after_keras_3, flag):
    assert after_keras_3[f"TF_KERAS={flag}"] is False


@needs("keras", "jax")
def test_bert4keras_after_keras_3_says_what_to_do(after_keras_3):
    check_advice(after_keras_3["error"], "keras is imported")


@needs("keras", "tensorflow", "tf_keras")
@pytest.mark.slow
def test_bert4keras_after_tensorflow_has_bound_keras_3_says_so_too():
    line = last_line(
        run("import tensorflow as tf; tf.keras.layers\nimport bert_of_theseus.bert4keras")
    )
    check_advice(line.removeprefix("ImportError: "), "Keras 3")


def check_advice(message, culprit):
    assert culprit in message
    assert "Put `import bert_of_theseus.bert4keras` before" in message
    assert "TF_USE_LEGACY_KERAS=1" in message


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


@needs("bert4keras", "tf_keras")
def test_bert4keras_first_chooses_keras_2():
    """And if it is not installed, that is said, and it can be once it is."""
    check(
        "import sys\n"
        "sys.modules['bert4keras'] = None\n"
        "try: import bert_of_theseus.bert4keras\n"
        "except ImportError as error:\n"
        "    said = 'bert4keras is not installed: `pip install --no-deps'\n"
        "    assert str(error).startswith(said), error\n"
        "else: raise SystemExit('no error')\n"
        "del sys.modules['bert4keras']\n"
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
