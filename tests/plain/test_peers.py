"""benchmarks/peers.py: what its tables say of figures that are known."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers(load_script):
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def worker(load_script):
    return load_script(SCRIPT.with_name("peer_worker.py"))


CELLS = ("1 × 16", "32 × 16")
SYSTEM = "a machine, 2 threads, versions"


@pytest.fixture
def record(peers, tmp_path):
    """Three rounds in which the peers take 1, 2, 3, ... ms and ours half of the fastest's."""

    def turn(slow):
        times = {}
        for number, form in enumerate(peers.FORMS):
            wall = slow * (0.5e-3 if peers.is_ours(form) else 1e-3 * (1 + number))
            times[form] = {cell: [[2 * wall, wall]] * 2 for cell in CELLS}
        return times

    record = peers.Record(tmp_path, "MiniLM", 3, SYSTEM)
    for form in peers.FORMS:
        answers = [[0.25, 0.75]] if peers.is_ours(form) else [[0.0, float(np.log(3))]]
        record.forms[form] = {"answers": answers, "peak": 100.0, "start": [1.0, 1.0]}
    record.found["rounds"] += [turn(slow) for slow in (1, 9, 4)]
    record.save()
    return peers.Record(tmp_path, "MiniLM", 3, SYSTEM)  # from the file, as a run that goes on


def test_a_bar_is_the_best_of_ours_over_the_best_peer(peers, record):
    numbers = {form: number for number, form in enumerate(peers.FORMS)}
    rows = peers.bars(record)
    assert [row[:3] for row in rows] == [
        ("float32", CELLS[0], 0.8),
        ("float32", CELLS[1], 0.8),
        ("int8", CELLS[0], 0.6),
        ("int8", CELLS[1], 0.8),
    ]
    for precision, _, _, ours, theirs, wall, cpu in rows:
        assert peers.is_ours(ours) and not peers.is_ours(theirs)
        others = [
            form
            for form in peers.FORMS
            if peers.FORMS[form].precision == precision and not peers.is_ours(form)
        ]
        assert theirs == min(others, key=numbers.get)
        assert wall == cpu == pytest.approx(0.5 / (1 + numbers[theirs]))
    assert peers.bar_table(record).count("PASS") == 4


def test_ours_stays_in_the_table_where_it_loses(peers, record):
    for turn in record.found["rounds"]:
        for form in peers.FORMS:
            if peers.is_ours(form):
                turn[form] = {cell: [[1.0, 1.0]] for cell in CELLS}
    assert peers.bar_table(record).count("FAIL") == 4
    lines = peers.table(record).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(peers.FORMS)
    assert "| 1000 / 1000 / 1000 |" in lines[2]


def test_figures_of_another_machine_are_not_added_to(peers, record):
    with pytest.raises(SystemExit, match="has the figures of another run"):
        peers.Record(record.path.parent, "MiniLM", 3, SYSTEM.replace("2", "4"))


def test_a_form_that_is_not_there_is_named(peers, record, capsys):
    record.found["missing"]["OpenVINO"] = "No module named 'openvino'"
    del record.forms["OpenVINO"]
    peers.show(record)
    printed = capsys.readouterr().out
    assert "OpenVINO is not there: No module named 'openvino'" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("| OpenVINO | ")]
    assert set(line.split(" | ")[1:]) <= {"–", "– |"}


def test_logits_of_peers_agree_with_our_probabilities(peers, record):
    same, difference = peers.agreement(record, "bert_of_theseus, ONNX Runtime")
    assert same == 100 and difference < 1e-12


def test_batches_are_padded_to_their_longest_text(worker, tmp_path):
    token_ids = np.array([[7, 8, 0, 0], [7, 0, 0, 0], [7, 8, 9, 0]])
    np.savez(tmp_path / "dev.npz", token_ids=token_ids)
    texts = worker.Texts(tmp_path)
    ids, mask = texts.batch(worker.MIXTURE, 3, 5)
    assert ids.tolist() == [[7, 8, 0], [7, 0, 0], [7, 8, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    for length in worker.LENGTHS:
        ids, mask = texts.batch(length, 32, 3)
        assert ids.shape == mask.shape == (32, length) and mask.all() and ids.all()


def test_the_head_is_read_from_the_checkpoint(worker, tmp_path):
    kernel = np.arange(6, dtype="float32").reshape(2, 3)
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]}
    header = json.dumps({"classifier.weight": entry}).encode()
    data = struct.pack("<Q", len(header)) + header + b"1234" + kernel.tobytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    assert (worker.read_tensor(tmp_path, "classifier.weight") == kernel).all()
