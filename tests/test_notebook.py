"""The documentation's notebook runs from the first cell to the last."""

import asyncio
import concurrent.futures
import pathlib

import jupyter_client
import nbclient
import nbformat

from tests import warm_commands

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


class WarmKernel(jupyter_client.AsyncKernelManager):
    """A kernel that is one of `warm_commands`.

    Attributes:
        command: the future of the command.
    """

    has_kernel = True
    command: concurrent.futures.Future

    async def is_alive(self):
        return not self.command.done()

    _async_is_alive = is_alive

    async def shutdown_kernel(self, **_):
        self._connect_control_socket()
        request = self.session.msg("shutdown_request", {"restart": False})
        self.session.send(self._control_socket, request)
        await asyncio.wrap_future(self.command)


def test_the_notebook_runs_and_shows_pictures(tmp_path):
    # A link gives the export of a checkout its installed name.
    (tmp_path / "cigan_export").symlink_to(NOTEBOOK.parents[1] / "export")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kernel = WarmKernel(connection_file=str(tmp_path / "kernel.json"))
    kernel.write_connection_file()
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=300)
    client.owns_km = True  # it also ends the kernel
    # The kernel chooses this backend itself unless Matplotlib has been imported before.
    arguments = ["-f", kernel.connection_file, "--matplotlib=inline"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        kernel.command = pool.submit(
            warm_commands.run, "ipykernel_launcher", *arguments, cwd=tmp_path
        )
        client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    texts = [output.get("data", {}).get("text/plain") for output in outputs]
    assert "True" in texts, "pixels outside the mask changed"
