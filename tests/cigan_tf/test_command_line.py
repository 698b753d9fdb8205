"""The end of a command: one line, and an exit code that depends on the reason."""

import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf

from cigan_tf.errors import UserError, storage_errors

SCRIPT = """
from cigan_tf import command_line, errors
def main():
    raise errors.{error}("what happened\\nand what to do")
command_line.run(main)
"""


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        ("UserError", 2, "error: what happened and what to do"),
        ("DivergedError", 3, "error: what happened and what to do"),
        ("Preempted", 75, "what happened and what to do"),
    ],
)
def test_an_early_end_gives_one_line_and_its_own_exit_code(error, exit_code, line):
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(error=error)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == exit_code
    assert finished.stderr.splitlines() == [line]


def test_storage_errors_give_one_line_and_other_tensorflow_errors_do_not():
    refused = tf.errors.PermissionDeniedError(None, None, "HTTP response code 403\nof gs://b/x")
    with (
        pytest.raises(UserError, match=r"PermissionDeniedError: .* of gs://b/x\)"),
        storage_errors(),
    ):
        raise refused
    # Both are a NotFoundError, but only the first one comes from a file system.
    with pytest.raises(UserError, match="NotFoundError"), storage_errors():
        tf.io.gfile.listdir("/a folder that does not exist")
    with pytest.raises(tf.errors.NotFoundError), storage_errors():
        raise tf.errors.NotFoundError(None, None, "of a computation")
    with pytest.raises(tf.errors.InvalidArgumentError), storage_errors():
        tf.reshape(tf.zeros(3), (2, 2))


@pytest.mark.parametrize(
    ("given", "shown"), [([], ["careful"]), (["--verbosity=0"], ["by the way", "careful"])]
)
def test_notes_of_libraries_are_shown_on_request(given, shown):
    script = """
from absl import logging
from cigan_tf import command_line
def main():
    logging.info("by the way")
    logging.warning("careful")
command_line.run(main)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script, *given], capture_output=True, text=True, check=True
    )
    assert [line.partition("] ")[2] for line in finished.stderr.splitlines()] == shown


PATHS = """
from absl import flags
from cigan_tf import command_line
flags.DEFINE_string("workdir", None, "")
flags.DEFINE_string("data_dir", None, "")
flags.DEFINE_string("server", None, "")
flags.DEFINE_list("generators", [], "")
def main(film):
    print(flags.FLAGS.workdir, flags.FLAGS.generators, flags.FLAGS.data_dir, film)
    print(flags.FLAGS["data_dir"].present)
command_line.run(main, arguments=("FILM",))
"""


def run_with_paths(*given):
    return subprocess.run(
        [sys.executable, "-c", PATHS, *given],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": "/home/jane"},
        check=False,
    )


def test_a_tilde_is_the_home_folder_in_every_flag_and_argument(tmp_path):
    (tmp_path / "my.flags").write_text("--workdir=~/runs/x\n")
    finished = run_with_paths(
        f"--flagfile={tmp_path}/my.flags", "--generators=~/a,b~,~/c", "~/film [1].dcm"
    )
    assert finished.stdout.splitlines() == [
        "/home/jane/runs/x ['/home/jane/a', 'b~', '/home/jane/c'] None /home/jane/film [1].dcm",
        "0",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--server=gs://b/x", "f"], "server must be on this machine or mounted; gs:// is not"),
        (["--generators=a,s3://b/x", "f"], "generators must be .* s3:// is not"),
        (["--data_dir=s3://b/x", "f"], "mounted, or in a bucket at gs://; s3:// is not"),
        (["gs://b/film.dcm"], "argument must be .* Received: 'gs://b/film.dcm'"),
    ],
)
def test_buckets_are_refused_in_one_line(given, message):
    finished = run_with_paths(*given)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert re.search(message, line)


def test_bucket_paths_and_server_addresses_are_accepted():
    in_buckets = ("--data_dir=gs://b/x", "--workdir=gs://b/y")
    finished = run_with_paths(*in_buckets, "--server=http://localhost:1", "film.dcm")
    assert finished.stdout.splitlines()[0].endswith("gs://b/x film.dcm")
