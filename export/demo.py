"""Serves a page for trying an exported generator on whole films.

    cigan-demo      # in a checkout also python -m export.demo

The generator is the package's preset unless --saved_model names another. Only this machine can
reach the page unless --address is given; there is no authentication.
"""

import contextlib
import re
import socket
from collections.abc import Sequence

from absl import flags
from bokeh.application.application import SessionContext
from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado import netutil
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

from cigan_tf import command_line
from cigan_tf.errors import UserError
from tfds_ddsm.sources import image_file

from . import film_flags
from .films.film_infill import FilmInfiller
from .page.demo_page import TEMPLATE, FilmPage

# The largest film file in base64, plus the rest of the message.
_MAX_MESSAGE_BYTES = image_file.MAX_FILE_BYTES * 4 // 3 + 2**20
# HTTP requests are small, because files are sent over the web socket.
_MAX_REQUEST_BYTES = 2**20
# A visitor's session is kept this long without a connection, unless others need its place.
_KEPT_MINUTES = 10
# Host names by which a browser reaches the page through a tunnel, on any port.
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ALL_ADDRESSES = ("", "0.0.0.0", "::")


class Visitors:
    """The visitors' pages, limited in number because each keeps a film in memory.

    Args:
        infill: the generator for whole films.
        limit: maximum number of pages.
    """

    def __init__(self, infill: FilmInfiller, limit: int):
        self._infill = infill
        self._limit = limit
        self._pages: dict[str, tuple[FilmPage, SessionContext]] = {}

    def welcome(self, document: Document) -> None:
        """Fills a visitor's document with the page, or with a message that the server is full."""
        context = document.session_context
        document.title = "ciGAN"
        document.template = TEMPLATE.read_text()
        document.template_variables.update(
            visit=context.id,
            has_room=self._has_room(),
            kept_minutes=_KEPT_MINUTES,
            max_file_bytes=image_file.MAX_FILE_BYTES,
        )
        if not document.template_variables["has_room"]:
            return
        # Bokeh stops reconnecting after 30 s and cannot restore pictures; the page does both
        # itself.
        document.config.update(reconnect_session=False, notify_connection_status=False)
        self._pages[context.id] = FilmPage(document, self._infill), context
        document.on_session_destroyed(lambda context: self._forget(context.id))

    def knows(self, visit: str) -> bool:
        """Returns whether a visitor's session still exists."""
        return visit in self._pages

    def _has_room(self) -> bool:
        """Returns whether a page can be added; may remove that of the visitor away for longest."""
        if len(self._pages) >= self._limit:
            away = [
                (context.session.milliseconds_since_last_unsubscribe, visit)
                for visit, (_, context) in self._pages.items()
                if context.session is not None and not context.session.connection_count
            ]
            if away:
                self._forget(max(away)[1])
        return len(self._pages) < self._limit

    def _forget(self, visit: str) -> None:
        if visit in self._pages:
            page, _ = self._pages.pop(visit)
            page.forget()


class _Visit(RequestHandler):
    """Tells a page whether its session still exists; the page asks regularly."""

    def initialize(self, visitors: Visitors) -> None:
        self._visitors = visitors

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.write({"is_kept": self._visitors.knows(self.get_query_argument("visit"))})


def page_server(
    infill: FilmInfiller,
    address: str,
    port: int,
    names: Sequence[str] = (),
    max_visitors: int = 8,
) -> tuple[BaseServer, list[str]]:
    """Returns a server for the page, and the URLs of the page.

    Args:
        infill: the generator for whole films.
        address: address to listen on; 0.0.0.0: all addresses of this machine.
        port: port to listen on; 0: any free port.
        names: additional names by which browsers reach the server, each NAME or NAME:PORT.
        max_visitors: maximum number of visitors, each of whom can have one film open.

    Raises:
        UserError: the server cannot listen on the address and port, or a name is invalid.
    """
    for name in names:
        if not re.fullmatch(r"[^/\s:]+(:\d{1,5})?", name):
            raise UserError(f"origin must be a host name, or NAME:PORT. Received: {name!r}.")
    visitors = Visitors(infill, max_visitors)
    try:
        sockets = netutil.bind_sockets(port, address or None)
    except OSError as error:
        raise UserError(
            f"The server cannot listen on {address}:{port} ({error.strerror}); pass another "
            "--address or --port."
        ) from None
    port = sockets[0].getsockname()[1]
    hosts = _own_hosts() if address in _ALL_ADDRESSES else [address]
    hosts = [f"[{host}]" if ":" in host else host for host in hosts]
    application = BokehTornado(
        {"/": visitors.welcome},
        extra_patterns=[("/visit", _Visit, {"visitors": visitors})],
        extra_websocket_origins=[
            *(f"{host}:*" for host in _LOOPBACK),
            *(f"{host.lower()}:{port}" for host in hosts),
            *(name.lower() if ":" in name else f"{name.lower()}:*" for name in names),
        ],
        websocket_max_message_size_bytes=_MAX_MESSAGE_BYTES,
        unused_session_lifetime_milliseconds=_KEPT_MINUTES * 60_000,
    )
    http_server = HTTPServer(
        application, max_buffer_size=_MAX_MESSAGE_BYTES, max_body_size=_MAX_REQUEST_BYTES
    )
    http_server.add_sockets(sockets)
    server = BaseServer(IOLoop.current(), application, http_server)
    return server, [f"http://{host}:{port}/" for host in hosts]


def _own_hosts() -> list[str]:
    """Returns this machine's loopback address, host name and network address."""
    hosts = ["127.0.0.1", socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; an address reserved for documentation
        hosts.append(probe.getsockname()[0])
    return list(dict.fromkeys(hosts))


def main() -> None:
    """Serves the page, as given by the flags, until it is interrupted."""
    options = flags.FLAGS
    infill = film_flags.open_infiller(film_flags.parse_film_size(options.film_size))
    server, urls = page_server(
        infill, options.address, options.port, options.origin, options.max_visitors
    )
    server.start()
    print("\n".join(urls), flush=True)
    server.run_until_shutdown()


def run() -> None:
    """Defines the command's flags and runs the command.

    The flags are defined here, not on import, because other commands use the same names.
    """
    film_flags.define()
    flags.DEFINE_string(
        "address",
        "127.0.0.1",
        "Address to listen on; any other than 127.0.0.1 exposes the page to the network. "
        "0.0.0.0: all addresses of this machine.",
    )
    flags.DEFINE_integer("port", 5006, "Port to listen on; 0: any free port.", 0, 65535)
    flags.DEFINE_list(
        "origin",
        [],
        "NAME or NAME:PORT by which browsers reach the page, if this machine does not know it: a "
        "proxy, or another name of this machine. Not needed for tunnels to localhost.",
    )
    flags.DEFINE_integer(
        "max_visitors",
        8,
        "Maximum number of open films. Each takes up to 0.4 GB; sample films take little.",
        1,
    )
    command_line.run(main)


if __name__ == "__main__":
    run()
