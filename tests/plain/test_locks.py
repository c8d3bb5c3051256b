"""A folder belongs to one process, and a process that ends, however it does, gives it back."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from bert_of_theseus.files import check_files, read_checksums, replace_listed_file
from bert_of_theseus.locks import InUseError, exclusive

HOLD = """
import sys, time
from bert_of_theseus.locks import exclusive
with exclusive(sys.argv[1], "it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path, seconds=60):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_by_name(tmp_path):
    path = tmp_path / ".lock"
    process = holder(path)
    try:
        who = rf"it is in use by process {process.pid} on {socket.gethostname()}, since 20\d\d-"
        with pytest.raises(InUseError, match=who), exclusive(path, "it"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()  # left by the kill, which gave the lock back
    with exclusive(path, "it"):
        pass
    assert not path.exists()


def test_the_same_process_is_refused_too(tmp_path):
    path = tmp_path / ".lock"
    with exclusive(path, "it"):
        with pytest.raises(InUseError, match="this process itself"), exclusive(path, "it"):
            pass
        with exclusive(tmp_path / "other", "it"):
            pass
        assert path.exists()
    with exclusive(path, "it"):
        pass


def test_it_waits(tmp_path):
    path = tmp_path / ".lock"
    process = holder(path, 0.3)
    with exclusive(path, "it", wait=30):
        assert process.wait() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_forked_process_does_not_hold_its_parents_lock(tmp_path):
    """Workers that load data outlive a parent that is killed, for a while."""
    code = """
import os, sys, time
from bert_of_theseus.locks import exclusive
with exclusive(sys.argv[1], "it"):
    if os.fork() == 0:
        time.sleep(60)
    print(os.getpid(), flush=True)
    os.kill(os.getpid(), 9)
"""
    path = tmp_path / ".lock"
    subprocess.run([sys.executable, "-c", code, str(path)], stdout=subprocess.DEVNULL)
    with exclusive(path, "it"):
        pass


def test_a_folder_that_cannot_be_written_is_not_locked(tmp_path):
    with exclusive(tmp_path / "not there" / ".lock", "it"):
        pass


def test_many_take_turns(tmp_path):
    """Never two at once, though each removes the file that the others wait for."""
    inside, most = [], []

    def take():
        for _ in range(20):
            with exclusive(tmp_path / ".lock", "it", wait=60):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert not list(tmp_path.iterdir())


def test_two_processes_write_files_of_one_folder(tmp_path):
    code = """
import sys, time
from bert_of_theseus.files import replace_listed_file
for number in range(5):
    def write(path):
        path.write_text("begun")
        time.sleep(0.01)
        path.write_text(sys.argv[2] * 100)
    replace_listed_file(f"{sys.argv[1]}/{number}", write)
"""
    ours = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), who]) for who in "ab"]
    assert [process.wait() for process in ours] == [0, 0]
    names = [str(number) for number in range(5)]
    assert sorted(read_checksums(tmp_path)) == names
    check_files(tmp_path, names)
    assert all((tmp_path / name).read_text() in ("a" * 100, "b" * 100) for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "checksums.json"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / "part-1-00ff-a").write_text("half")
    (tmp_path / "part-1-00ff-b").write_text("another file's")
    replace_listed_file(tmp_path / "a", lambda path: path.write_text("whole"))
    names = ["a", "checksums.json", "part-1-00ff-b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
