"""Processes that need not import anything."""

import multiprocessing

import pytest


@pytest.fixture(scope="session")
def forkserver():
    """A context whose processes are forks of one that has imported these modules."""
    context = multiprocessing.get_context("forkserver")
    names = ("test_build_lock", "test_worker_processes")
    context.set_forkserver_preload([f"tests.tfds_ddsm.{name}" for name in names])
    return context
