"""Serves a page on which one can try an exported generator on whole films.

    cigan-demo      # in a checkout also python -m export.demo

The generator is the package's preset unless --saved_model names another. The page is for this
machine alone unless --address says otherwise; it asks nobody who they are.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pathlib
import sys

from absl import flags
from bokeh.document import Document
from bokeh.server.server import Server

from cigan_tf import command_line
from cigan_tf.errors import UserError

from .demo_page import FilmPage
from .film_infill import FilmInfiller, parse_film_size

# A film of image_file.MAX_PIXELS in base64, and what the message says besides.
_MAX_MESSAGE_BYTES = 150 * 2**20


def page_server(infill: FilmInfiller, address: str, port: int) -> Server:
    """Returns a server of the page; raises UserError where the address or port is taken."""
    template = pathlib.Path(__file__).with_name("demo_page.html.jinja").read_text()

    def fill(document: Document) -> None:
        FilmPage(document, infill)
        document.title = "ciGAN"
        document.template = template

    try:
        return Server(
            {"/": fill},
            address=address,
            port=port,
            websocket_max_message_size=_MAX_MESSAGE_BYTES,
        )
    except OSError as error:
        raise UserError(
            f"Nothing can be served at {address}:{port} ({error.strerror}); pass another --port."
        ) from None


def main() -> None:
    """Serves as the flags say, until it is interrupted."""
    options = flags.FLAGS
    infill = FilmInfiller(options.saved_model, parse_film_size(options.film_size))
    if infill.scale_warning:
        print(f"warning: {infill.scale_warning}", file=sys.stderr)
    server = page_server(infill, options.address, options.port)
    server.start()
    print(f"http://{options.address}:{server.port}/", flush=True)
    server.run_until_shutdown()


def run() -> None:
    """Defines the command's flags, which other programs have under the same names, and runs it."""
    flags.DEFINE_string(
        "saved_model", "cbis_mass_128", "Folder of the exported generator, or a preset's name."
    )
    flags.DEFINE_list(
        "film_size",
        None,
        "HEIGHT,WIDTH that the films of the generator's training were rescaled towards; needed "
        "where the SavedModel does not record it: the film_size of its dataset.",
    )
    flags.DEFINE_string("address", "127.0.0.1", "Address to serve at; others can reach it.")
    flags.DEFINE_integer("port", 5006, "Port to serve at; 0: any free one.", 0, 65535)
    command_line.run(main)


if __name__ == "__main__":
    run()
