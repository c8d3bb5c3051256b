"""Damaged files of every kind that is read without Keras: the same result, or words and a name.

Keras' own files are in tests/once/test_damaged_keras_file.py, those of a run in
tests/once/test_stage_damage.py.
"""

import gzip
import json
import random
import shutil
import time
import warnings

import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
import pytest
import tiny_onnx
from damage import KINDS, damaged
from limits import memory_limit
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

from bert_of_theseus.checkpoints import find_checkpoint, read_task
from bert_of_theseus.checkpoints.families import encoder_shapes
from bert_of_theseus.data import Tokenizer
from bert_of_theseus.data.tables import read_table
from bert_of_theseus.deploy import Predictor
from bert_of_theseus.files import sha256, write_json

TEXTS = ["a b c", "天 s", ""]
ROWS = [{"text": f"a {number} 天", "label": "x" if number % 2 else "y"} for number in range(20)]
TABLES = {
    "a.csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS),
    "a.tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "a.json": json.dumps(ROWS),
    "a.conll": "\n".join(f"{row['text'].replace(' ', '')} {row['label']}\n" for row in ROWS),
    "a.txt": "\n".join(row["text"] for row in ROWS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model in two forms, ONNX and safetensors, its tokenizer, and tables."""
    folder = tiny_onnx.write(tmp_path_factory.mktemp("damaged") / "model")
    Tokenizer.from_folder(folder).save(folder.with_name("saved"))
    shutil.copy(folder.with_name("saved") / "tokenizer.json", folder)
    config = {
        "model_type": "bert", "vocab_size": len(tiny_onnx.VOCAB), "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": tiny_onnx.MAX_LENGTH, "type_vocab_size": 2,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in encoder_shapes(config, 1):
        shape = shape[::-1] if name.endswith("/kernel") else shape
        name = name.replace("layer_0", "layer.0").replace("/", ".")
        for ours, theirs in ((".kernel", ".weight"), ("LayerNorm.gamma", "LayerNorm.weight"),
                             ("LayerNorm.beta", "LayerNorm.bias"),
                             ("_embeddings", "_embeddings.weight")):  # fmt: skip
            name = name.replace(ours, theirs) if name.endswith(ours) else name
        tensors[name] = rng.normal(size=shape).astype("float32")
    save_file(tensors, folder / "model.safetensors")
    for name, content in TABLES.items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "b.csv.gz").write_bytes(gzip.compress(TABLES["a.csv"].encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet")
    return folder


def read_weights(folder, _):
    checkpoint = find_checkpoint(folder)
    read_task(checkpoint)
    return [value.tobytes() for value in checkpoint.tensors(checkpoint.names).values()]


def predict(folder, _):
    return Predictor.load(folder, kind="onnx").predict(TEXTS)


def read_rows(folder, name):
    return [dict(row) for row in read_table(folder / name)]


READERS = {
    **dict.fromkeys(("config.json", "model.safetensors"), read_weights),
    **dict.fromkeys(("vocab.txt", "tokenizer.json", "tokenizer_config.json"), predict),
    **dict.fromkeys(("model.onnx", "checksums.json"), predict),
    **dict.fromkeys([*TABLES, "b.csv.gz", "a.parquet"], read_rows),
}
MODEL_FILES = [name for name, read in READERS.items() if read is not read_rows]


def attack(folder, name, count, seed):
    """How many damages were refused, made no difference, and made one."""
    rng, read, path = random.Random(seed), READERS[name], folder / name
    whole, expected = path.read_bytes(), read(folder, name)
    counts = np.zeros(3, int)
    try:
        for number in range(count):
            place = rng.randrange(len(whole))
            path.write_bytes(damaged(whole, KINDS[number % 5], place, rng.randrange(8)))
            try:
                with memory_limit(2):
                    found = read(folder, name)
            except (ValueError, OSError) as error:
                said = str(error)
                # Only the folder, where its files do not fit each other any more.
                assert str(folder) in said, (name, number, said)
                counts[0] += 1
            else:
                counts[1 if found == expected else 2] += 1
    finally:
        path.write_bytes(whole)
    return counts


def list_files(folder):
    names = [name for name in MODEL_FILES if name != "checksums.json"]
    write_json(folder / "checksums.json", {name: sha256(folder / name) for name in names})


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_damaged_files(count, folder, capsys):
    total, silent = np.zeros(3, int), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that contradict each other
        list_files(folder)
        for seed, name in enumerate(MODEL_FILES):
            counts = attack(folder, name, count, seed)
            total += counts
            if counts[2]:
                silent[name] = counts[2]
        listed = total.copy()
        # Others' files have no checksums. No reader can know that a number or a word was another.
        (folder / "checksums.json").write_text("{}")
        for seed, name in enumerate(READERS):
            total += attack(folder, name, count, 100 + seed)
    with capsys.disabled():
        print(
            f"\n{total.sum()} damaged files. With checksums: {listed[0]} refused, {listed[1]} "
            f"without effect, {listed[2]} silent. Without: {(total - listed)[0]} refused, "
            f"{(total - listed)[1]} without effect, {(total - listed)[2]} read as others"
        )
    assert not silent


@pytest.mark.parametrize("size", [10**9, 10**18, 10**40])
def test_sizes_that_a_config_states(size, folder, tmp_path):
    """They are compared with the table of contents, in no time and memory."""
    shutil.copy(folder / "model.safetensors", tmp_path)
    whole = json.loads((folder / "config.json").read_text())
    sizes = [key for key, value in whole.items() if isinstance(value, int)]
    assert len(sizes) == 6
    changes = [{key: size} for key in sizes] + [dict.fromkeys(sizes, size)]
    groups = {"embedding_size": 8, "num_hidden_groups": size, "inner_group_num": size}
    changes += [{"model_type": "albert", **groups}, {"model_type": "distilbert", "n_layers": size,
                "dim": size, "n_heads": 1, "hidden_dim": size}]  # fmt: skip
    for change in changes:
        (tmp_path / "config.json").write_text(json.dumps({**whole, **change}))
        begin = time.process_time()
        with memory_limit(0.5), pytest.raises(ValueError, match=str(tmp_path)):
            read_task(find_checkpoint(tmp_path))
        assert time.process_time() - begin < 5, change


@pytest.mark.parametrize("where", ["while it is loaded", "with a batch"])
def test_an_onnx_file_that_asks_for_terabytes(where, folder, tmp_path):
    tiny_onnx.write(tmp_path / "model")
    path = tmp_path / "model" / "model.onnx"
    model = onnx.load(path)
    size = numpy_helper.from_array(np.array([10**12]), "size")
    zero = numpy_helper.from_array(np.array([0]), "zero_index")
    model.graph.initializer.extend([size, zero])
    nodes = list(model.graph.node)
    last = nodes.pop()
    length = "size"
    if where == "with a batch":
        nodes += [
            helper.make_node("Shape", ["token_ids"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero_index"], ["rows"]),
            helper.make_node("Mul", ["rows", "size"], ["length"]),
        ]
        length = "length"
    nodes += [
        helper.make_node("ConstantOfShape", [length], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["none"], keepdims=0),
        helper.make_node("Add", [last.input[0], "none"], ["more"]),
        helper.make_node(last.op_type, ["more"], last.output),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    with memory_limit(2), pytest.raises((ValueError, RuntimeError), match=r"model\.onnx"):
        Predictor.load(path.parent)
