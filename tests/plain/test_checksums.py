"""checksums.json: what it lists must match, and a folder is old or new wherever a writer stops."""

import json
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

from bert_of_theseus.checkpoints import check_vocab, find_checkpoint
from bert_of_theseus.checkpoints.huggingface import HuggingFaceCheckpoint
from bert_of_theseus.checkpoints.staging import staged
from bert_of_theseus.files import check_files, read_checksums, replace_listed_file, sha256

TINY = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "z"):
        replace_listed_file(tmp_path / name, lambda path, name=name: path.write_text(name))
    return tmp_path


def test_files_that_are_listed_must_match(folder):
    assert read_checksums(folder) == {name: sha256(folder / name) for name in ("a", "b", "z")}
    check_files(folder, ["a", "b", "z", "not listed"])
    (folder / "b").write_text("changed")
    check_files(folder, ["a", "z"])
    with pytest.raises(ValueError, match=r"b' does not match.*delete its line in checksums\.json"):
        check_files(folder, ["a", "b"])
    (folder / "b").unlink()
    with pytest.raises(ValueError, match="b' is missing, but listed"):
        check_files(folder, ["b"])


def test_a_line_may_be_deleted(folder):
    path = folder / "checksums.json"
    for name in ("a", "z", "b"):  # the first, the last, the only one
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if f'"{name}"' not in line))
        (folder / name).write_text("changed")
        check_files(folder, ["a", "b", "z"][: 1 + (name == "b")])
    assert read_checksums(folder) == {}
    path.unlink()
    check_files(folder, ["a", "b", "z"])


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": "0123"}', "\x00"])
def test_what_is_no_list_of_checksums(content, folder):
    (folder / "checksums.json").write_text(content)
    with pytest.raises(ValueError, match=r"checksums\.json"):
        check_files(folder, ["a"])
    with pytest.raises(ValueError, match=r"checksums\.json"):
        replace_listed_file(folder / "a", lambda path: path.write_text("new"))
    assert (folder / "a").read_text() == "a" and not list(folder.glob("part-*"))


def stop_at(step, code, *arguments):
    """Runs `code` in a process that ends at its `step`-th renaming; whether it came so far."""
    head = """
        import os, sys

        left = int(sys.argv.pop(1))

        def stop(event, arguments):
            global left
            if event == "os.rename":
                left -= 1
                if not left:
                    os._exit(9)

        from bert_of_theseus.checkpoints.huggingface import HuggingFaceCheckpoint
        from bert_of_theseus.checkpoints.staging import staged
        from bert_of_theseus.files import replace_listed_file

        sys.addaudithook(stop)
    """
    command = [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)]
    status = subprocess.run([*command, str(step), *map(str, arguments)]).returncode
    assert status in (0, 9)
    return status == 9


def test_a_file_is_old_or_new_wherever_the_writer_stops(folder):
    code = "replace_listed_file(sys.argv[1], lambda path: path.write_text('new'))"
    seen, step = set(), 1
    while stop_at(step, code, folder / "a"):
        check_files(folder, ["a", "b", "z"])
        seen.add((folder / "a").read_text())
        replace_listed_file(folder / "a", lambda path: path.write_text("old"))
        step += 1
    check_files(folder, ["a"])
    assert seen == {"a", "old", "new"} and step > 3
    assert (folder / "a").read_text() == "new" and "a" in read_checksums(folder)


def write(folder, number):
    """A model whose config, vocabulary and tensors all say which it is."""
    folder.mkdir(exist_ok=True)
    config = {"vocab_size": 9 + number, **TINY}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{n}\n" for n in range(9 + number)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"number": number}))
    tensors = {"embeddings.word_embeddings.weight": np.full((9 + number, 4), number, "float32")}
    save_file(tensors, folder / "model.safetensors")


def list_all(folder):
    """Writes checksums.json for all files of a folder."""
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        replace_listed_file(path, lambda scratch, content=content: scratch.write_bytes(content))


def read(folder):
    """The number that each part of a folder has."""
    checkpoint = find_checkpoint(folder)
    size = check_vocab(checkpoint.vocab_path, checkpoint.config)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tensor = checkpoint.tensor("bert/embeddings/word_embeddings")
    return {checkpoint.config["vocab_size"] - 9, size - 9, settings["number"], int(tensor[0, 0])}


def test_a_folder_is_old_or_new_wherever_the_writer_stops(tmp_path):
    code = """
        import shutil
        from pathlib import Path

        folder, source = map(Path, sys.argv[1:])
        owned = ["config.json", "model.safetensors"]
        with staged(folder, HuggingFaceCheckpoint, owned, None, True) as scratch:
            for path in source.iterdir():
                shutil.copy(path, scratch)
    """
    write(tmp_path / "1", 1)
    outcomes, stopped = [], True
    while stopped:
        folder = tmp_path / f"stopped at {len(outcomes)}"
        write(folder, 0)
        list_all(folder)
        stopped = stop_at(len(outcomes) + 1, code, folder, tmp_path / "1")
        try:
            numbers = read(folder)
        except (ValueError, OSError) as error:
            assert str(folder) in str(error)
            outcomes.append("refused")
        else:
            assert numbers in ({0}, {1})
            outcomes.append("old" if numbers == {0} else "new")
    assert outcomes[0] == "old" and outcomes[-1] == "new" and "refused" in outcomes
    assert read_checksums(folder).keys() == {path.name for path in folder.iterdir()} - {
        "checksums.json"
    }


def test_a_mixed_folder_is_refused(tmp_path):
    """Files of another model in the place of this one's, one at a time."""
    for number in (0, 1):
        write(tmp_path / str(number), number)
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    for name in names:
        folder = tmp_path / f"with {name}"
        write(folder, 0)
        list_all(folder)
        assert read(folder) == {0}
        (folder / name).write_bytes((tmp_path / "1" / name).read_bytes())
        with pytest.raises(ValueError, match=f"{name}' does not match its checksum"):
            read(folder)


@pytest.mark.parametrize("exists", [False, True])
def test_two_write_one_folder(tmp_path, exists):
    """They take turns, whether the folder was there or not, and it is that of the last one."""
    folder, inside, most = tmp_path / "model", [], []
    if exists:
        write(folder, 0)

    def save(number):
        owned = ["config.json", "model.safetensors"]
        with staged(folder, HuggingFaceCheckpoint, owned, None, True) as scratch:
            inside.append(number)
            write(scratch, number)
            time.sleep(0.1)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, [1, 2, 3]))
    assert most == [1, 1, 1]
    assert len(read(folder)) == 1
    check_files(folder, ["config.json", "model.safetensors"])
    left = {path.name for path in [*tmp_path.iterdir(), *folder.iterdir()]}
    files = {"config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"}
    assert left == {"model", "checksums.json"} | files
