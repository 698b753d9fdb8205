"""Versions are complete and numbered uniquely, and a failed export leaves no files."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from cigan_tf.errors import UserError
from export.serving import versions

ROOT = pathlib.Path(__file__).parents[3]
FILES = ("saved_model.pb", "variables")


def fill(folder, content, pause=lambda: None):
    folder.mkdir()
    for name in FILES:
        pause()
        (folder / name).write_text(content)


def assert_whole(output_dir, contents):
    names = sorted((path.name for path in output_dir.iterdir()), key=int)
    assert names == [str(number + 1) for number in range(len(contents))]
    written = [{(path / name).read_text() for name in FILES} for path in output_dir.iterdir()]
    assert sorted(written, key=min) == [{content} for content in sorted(contents)]


def test_concurrent_exports_give_two_complete_versions(tmp_path):
    together = threading.Barrier(2, timeout=60)
    targets = []

    def export(content):
        target = versions.write_next(tmp_path, lambda f: fill(f, content, together.wait))
        targets.append(target.name)

    threads = [threading.Thread(target=export, args=(content,)) for content in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(targets) == ["1", "2"]
    assert_whole(tmp_path, "ab")


def test_many_processes_export_to_one_folder(tmp_path):
    program = """
import pathlib, sys
from export.serving import versions
def fill(folder):
    folder.mkdir()
    for name in ("saved_model.pb", "variables"):
        (folder / name).write_text(sys.argv[2])
for _ in range(20):
    versions.write_next(sys.argv[1], fill)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path, content],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for content in "abc"
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert_whole(tmp_path, "abc" * 20)


def test_a_number_taken_meanwhile_is_skipped(tmp_path, monkeypatch):
    versions.write_next(tmp_path, lambda folder: fill(folder, "a"))
    monkeypatch.setattr(versions, "numbers", lambda output_dir: [])
    assert versions.write_next(tmp_path, lambda folder: fill(folder, "b")).name == "2"
    assert_whole(tmp_path, "ab")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), UserError),
        (RuntimeError("not traceable"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, error, expected):
    def write(folder):
        fill(folder, "a")
        raise error

    with pytest.raises(expected):
        versions.write_next(tmp_path, write)
    assert not list(tmp_path.iterdir())
    assert versions.write_next(tmp_path, lambda folder: fill(folder, "b")).name == "1"


def test_the_files_of_a_killed_export_are_removed_later(tmp_path):
    for name, age_s in ((".writing-old", 2 * 24 * 3600), (".writing-now", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, times=(time.time() - age_s,) * 2)
    versions.write_next(tmp_path, lambda folder: fill(folder, "a"))
    assert {path.name for path in tmp_path.iterdir()} == {".writing-now", "1"}


def test_the_version_can_be_read_by_others(tmp_path):
    target = versions.write_next(tmp_path, lambda folder: fill(folder, "a"))
    (tmp_path / "usual").mkdir()
    assert os.stat(target).st_mode == (tmp_path / "usual").stat().st_mode


def test_only_one_thread_at_a_time_is_inside_the_lock(tmp_path):
    inside, most = [], []

    def enter(number):
        with versions.locked(tmp_path):
            inside.append(number)
            time.sleep(0.02)
            most.append(len(inside))
            inside.remove(number)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
