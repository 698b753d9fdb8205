"""The page in a real browser, headless Chromium, used like a visitor would."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import threading
import time

import cv2
import numpy as np
import pydicom
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from cigan_tf.errors import UserError
from export.demo import page_server
from tests import warm_commands
from tests.tfds_ddsm.sources import dicom_films
from tfds_ddsm.sources.image_file import MAX_FILE_BYTES

# Chrome comes first: if both are installed, the driver belongs to Chrome.
_BROWSERS = ("google-chrome", "chromium", "chromium-browser")
CHROMIUM, DRIVER = (
    next(filter(None, map(shutil.which, _BROWSERS)), None),
    shutil.which("chromedriver"),
)
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="Chrome or Chromium, or chromedriver (Debian: chromium-driver), is missing",
)

# Bokeh's widgets are in shadow roots, which are reached through their views.
_ELEMENT = """
    const model = Bokeh.documents[0].get_model_by_name(arguments[0])
    const view = Bokeh.index.find_one_by_id(model.id)
    return (view.shadow_el ?? view.el).querySelector(arguments[1])
"""

_FIRST_MENU_ITEM = """
    const model = Bokeh.documents[0].get_model_by_name(arguments[0])
    return Bokeh.index.find_one_by_id(model.id).menu.shadow_el.querySelector("[tabindex]")
"""


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """Starts the command like a user; yields the port that it prints."""
    output = tmp_path_factory.mktemp("demo") / "stdout.txt"
    output.touch()
    flags = [f"--saved_model={exported}", "--port=0", "--address=0.0.0.0"]
    flags.append("--origin=films.example.org,other:81")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        command = pool.submit(warm_commands.run, "tests.export.demo_process", output, *flags)
        while (lines := output.read_text()).count("\n") < 2:
            assert not command.done(), command.result()
            time.sleep(0.05)
        process, url, *_ = lines.splitlines()
        try:
            assert url.startswith("http://127.0.0.1:"), url
            yield int(url.rstrip("/").rpartition(":")[2])
            assert not command.done(), "the server has ended"
        finally:
            if not command.done():
                os.kill(int(process), signal.SIGTERM)


class Visitor:
    """The actions of a visitor on the page."""

    def __init__(self, driver):
        self.driver = driver

    def element(self, name, selector):
        return self.driver.execute_script(_ELEMENT, name, selector)

    def is_ready(self):
        return self.driver.execute_script("return globalThis.Bokeh?.documents[0]?.is_idle")

    def click(self, name, selector):
        self.driver.execute_script("arguments[0].scrollIntoView()", self.element(name, selector))
        self.element(name, selector).click()

    def wait(self, condition):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 90).until(lambda driver: condition())

    def model(self, name, expression):
        return self.driver.execute_script(
            f"return Bokeh.documents[0].get_model_by_name(arguments[0]).{expression}", name
        )

    def choose_film(self, name):
        """Chooses a sample from the list, which may be the current one."""
        from selenium.webdriver.support.select import Select

        Select(self.element("sample", "select")).select_by_visible_text(name)

    def place(self, x, y):
        self.click("hand", "button:nth-of-type(3)")
        before = self.model("outlines", "data.xs.length")
        self.draw((x, y))
        self.wait(lambda: self.model("outlines", "data.xs.length") == before + 1)

    def shows_after(self):
        return self.model("film", "renderers[1].visible")

    def width_px(self, plot):
        return self.model(plot, "inner_width")

    def says(self, text):
        self.wait(lambda: text in self.model("status", "text"))

    def draw(self, *points):
        """Drags from the first point of the film to the others; points are 0..1 of the frame."""
        from selenium.webdriver import ActionChains

        box = self.driver.execute_script(
            """
            const model = Bokeh.documents[0].get_model_by_name("film")
            const view = Bokeh.index.find_one_by_id(model.id)
            view.el.scrollIntoView()
            const rect = view.el.getBoundingClientRect(), frame = view.frame.bbox
            return [rect.left + frame.left, rect.top + frame.top, frame.width, frame.height]
            """
        )
        actions = ActionChains(self.driver, duration=20)
        for number, (x, y) in enumerate(points):
            at = int(box[0] + x * box[2]), int(box[1] + y * box[3])
            actions.w3c_actions.pointer_action.move_to_location(*at)
            if number == 0:
                actions.w3c_actions.pointer_action.pointer_down()
        actions.w3c_actions.pointer_action.pointer_up()
        actions.perform()

    def film_picture(self):
        png = self.driver.find_element("id", "film").screenshot_as_png
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE).astype(int)


class Tunnel:
    """Forwards the traffic of its own port until it is disconnected."""

    def __init__(self, port):
        self._port = port
        self._sockets = set()
        self._listen(0)
        self.port = self._listener.getsockname()[1]

    def _listen(self, port):
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                near, far = (
                    listener.accept()[0],
                    socket.create_connection(("127.0.0.1", self._port)),
                )
                self._sockets |= {near, far}
                threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near, far):
        with contextlib.suppress(OSError, ValueError), near, far:
            while True:
                for end in select.select([near, far], [], [])[0]:
                    data = end.recv(65_536)
                    if not data:
                        return
                    (far if end is near else near).sendall(data)

    def cut(self):
        for end in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._sockets.clear()

    def mend(self):
        self._listen(self.port)


@pytest.fixture
def tunnel(server):
    opened = Tunnel(server)
    yield opened
    opened.cut()


@pytest.fixture(scope="module")
def chromium():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,1000")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(chromium, tmp_path):
    """The browser, in a tab of its own for each test."""
    (tab,) = chromium.window_handles
    chromium.switch_to.new_window("tab")
    chromium.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    yield chromium
    for opened in set(chromium.window_handles) - {tab}:
        chromium.switch_to.window(opened)
        chromium.close()
    chromium.switch_to.window(tab)


def visit(driver, port):
    driver.get(f"http://127.0.0.1:{port}/")
    person = Visitor(driver)
    person.wait(person.is_ready)
    person.says("1-130.dcm: 4432 x 2864 pixels.")
    return person


@pytest.fixture
def visitor(server, browser):
    return visit(browser, server)


def test_lesions_are_infilled_into_the_sample_and_downloaded_as_dicom(
    visitor, sample_film, tmp_path
):
    visitor.click("hand", "button:nth-of-type(2)")
    around = [(0.36, 0.42), (0.37, 0.40), (0.38, 0.42), (0.37, 0.44), (0.36, 0.43)]
    visitor.draw(*around)
    visitor.wait(lambda: visitor.model("outlines", "data.xs.length") == 1)
    visitor.click("hand", "button:nth-of-type(3)")
    visitor.draw((0.35, 0.6))
    visitor.wait(lambda: visitor.model("outlines", "data.xs.length") == 2)
    visitor.click("infill", "button")
    visitor.says("Infilled: 2")
    visitor.wait(lambda: visitor.model("flip", "active") == 1)
    after = visitor.film_picture()
    visitor.click("flip", "button:nth-of-type(1)")
    visitor.wait(lambda: (visitor.film_picture() != after).any())
    visitor.click("download", "button")
    visitor.driver.execute_script(_FIRST_MENU_ITEM, "download").click()
    visitor.says("Sent 1-130_synthetic.dcm.")
    saved = tmp_path / "1-130_synthetic.dcm"
    visitor.wait(saved.exists)
    film = pydicom.dcmread(saved)
    assert film.SyntheticData == "YES"
    changed = film.pixel_array != sample_film[1]
    assert 1000 < np.count_nonzero(changed) < 0.05 * changed.size


def test_a_damaged_file_is_named_and_valid_files_and_samples_open_again(visitor, tmp_path):
    film = np.random.default_rng(0).integers(0, 65_536, (900, 500), np.uint16)
    upload = visitor.element("upload", "input")
    (tmp_path / "bad.png").write_bytes(cv2.imencode(".png", film)[1].tobytes()[:300])
    upload.send_keys(str(tmp_path / "bad.png"))
    visitor.says("bad.png: ")
    for shape in ((900, 500), (800, 500)):  # the file on disk has changed
        cv2.imwrite(str(tmp_path / "mine.png"), film[: shape[0]])
        upload.send_keys(str(tmp_path / "mine.png"))
        visitor.says("mine.png: {} x {} pixels.".format(*shape))
        visitor.wait(lambda: visitor.element("upload", "input").get_property("value") == "")
    for _ in range(2):
        visitor.place(0.5, 0.5)
        visitor.choose_film("P_00173_LEFT_CC")
        visitor.says("1-130.dcm: 4432 x 2864 pixels.")
        visitor.wait(lambda: visitor.model("outlines", "data.xs.length") == 0)


def test_the_largest_films_open_and_larger_files_are_not_sent(visitor, tmp_path):
    large = dicom_films.film(np.zeros((6400, 6400), np.uint16), 16)
    (tmp_path / "large.dcm").write_bytes(dicom_films.content(large))
    with (tmp_path / "too_large.dcm").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    upload = visitor.element("upload", "input")
    upload.send_keys(str(tmp_path / "large.dcm"))
    visitor.says("large.dcm: 6400 x 6400 pixels.")
    upload.send_keys(str(tmp_path / "too_large.dcm"))
    visitor.says("too_large.dcm is 102 MB; the limit is 101 MB.")
    assert visitor.model("upload", "filename") != "too_large.dcm"


def test_each_visitor_has_their_own_film(visitor, tmp_path):
    film = np.random.default_rng(0).integers(0, 65_536, (900, 500), np.uint16)
    cv2.imwrite(str(tmp_path / "mine.png"), film)
    visitor.element("upload", "input").send_keys(str(tmp_path / "mine.png"))
    visitor.says("mine.png: 900 x 500 pixels.")
    first = visitor.driver.current_window_handle
    url = visitor.driver.current_url
    visitor.driver.switch_to.new_window("tab")
    second = visit(visitor.driver, int(url.rstrip("/").rpartition(":")[2]))
    second.place(0.5, 0.5)
    visitor.driver.switch_to.window(first)
    assert visitor.model("outlines", "data.xs.length") == 0
    visitor.says("mine.png: 900 x 500 pixels.")


def test_the_work_survives_a_lost_connection(browser, tunnel):
    visitor = visit(browser, tunnel.port)
    visitor.place(0.36, 0.42)
    visitor.click("infill", "button")
    visitor.says("Infilled: 1")
    banner = browser.find_element("id", "connection")
    assert not banner.is_displayed()
    browser.execute_script("window.isOld = true")
    tunnel.cut()
    visitor.wait(lambda: "The server does not respond" in banner.text)
    tunnel.mend()
    visitor.wait(lambda: not browser.execute_script("return window.isOld"))
    visitor.wait(visitor.is_ready)
    assert "session" not in browser.current_url
    assert visitor.model("outlines", "data.xs.length") == 1
    visitor.click("infill", "button")
    visitor.says("Infilled: 1")
    visitor.wait(lambda: visitor.model("flip", "active") == 1)


def test_lost_work_is_reported(browser, tunnel):
    visitor = visit(browser, tunnel.port)
    # Another server, which does not know the visit, answers at the same address.
    browser.execute_script(
        """
        const answer = JSON.stringify({is_kept: false})
        globalThis.fetch = async () => new Response(answer)
        """
    )
    tunnel.cut()
    banner = browser.find_element("id", "connection")
    visitor.wait(lambda: "The connection and the work on this page" in banner.text)
    tunnel.mend()
    banner.find_element("tag name", "button").click()
    visitor.wait(visitor.is_ready)
    visitor.says("1-130.dcm: 4432 x 2864 pixels.")


def test_before_and_after_are_compared_side_by_side_and_by_flicker(visitor):
    visitor.place(0.36, 0.42)
    visitor.click("infill", "button")
    visitor.says("Infilled: 1")
    visitor.click("flip", "button:nth-of-type(3)")
    visitor.wait(lambda: visitor.model("beside", "visible") and not visitor.shows_after())
    visitor.wait(lambda: visitor.width_px("film") == visitor.width_px("beside"))
    assert 200 < visitor.width_px("film") < 500
    visitor.click("flip", "button:nth-of-type(4)")
    for shows_after in (True, False, True):
        visitor.wait(lambda shows_after=shows_after: visitor.shows_after() == shows_after)
    visitor.click("flip", "button:nth-of-type(1)")
    visitor.wait(lambda: not visitor.shows_after() and not visitor.model("beside", "visible"))
    visitor.wait(lambda: visitor.width_px("film") > 600)


def test_it_fits_a_narrow_and_a_wide_window(visitor):
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    for width_px in (360, 1400):
        visitor.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width_px, "height": 800, "deviceScaleFactor": 1, "mobile": False},
        )
        visitor.wait(lambda w=width_px: visitor.driver.execute_script("return innerWidth") == w)
        visitor.wait(lambda w=width_px: w / 2 < visitor.model("film", "outer_width") < w)
        visitor.wait(lambda: visitor.driver.execute_script(overflow) <= 0)
        visitor.wait(lambda: (visitor.film_picture() > 200).mean() < 0.5)
        assert (visitor.film_picture() < 30).mean() > 0.2, "the film's dark background"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 101),
        ("http://{host}:{port}", 101),
        ("http://localhost:8888", 101),  # a tunnel
        ("https://films.example.org", 101),
        ("http://films.example.org:8080", 101),
        ("http://other:81", 101),
        ("http://other:82", 403),
        ("http://evil.example.org:{port}", 403),  # a name that resolves to this address
    ],
)
def test_pages_connect_only_from_allowed_origins(server, origin, status):
    origin = origin.format(port=server, host=socket.gethostname())
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Origin": origin,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": "bokeh, none",
    }
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server, timeout=60)) as asked:
        asked.request("GET", "/ws", headers=headers)
        assert asked.getresponse().status == status


def test_the_visitor_away_longest_is_removed_at_the_limit(infill):
    async def body_of(url):
        return (await AsyncHTTPClient().fetch(url, request_timeout=60)).body.decode()

    async def stay(url, page):
        token = re.search(r'"token":"([^"]+)"', page)[1]
        address = url.replace("http", "ws") + "ws"
        connection = await websocket_connect(address, subprotocols=["bokeh", token])
        assert "ACK" in await connection.read_message()
        return connection

    async def kept(url, pages):
        visits = [re.search(r'VISIT = "(\w+)"', page)[1] for page in pages]
        answers = [json.loads(await body_of(f"{url}visit?visit={visit}")) for visit in visits]
        return [answer["is_kept"] for answer in answers]

    async def visits():
        server, (url,) = page_server(infill, "127.0.0.1", 0, max_visitors=2)
        server.start()
        pages = [await body_of(url)]
        stays = [await stay(url, pages[0])]
        pages += [await body_of(url) for _ in range(2)]
        assert await kept(url, pages) == [True, False, True]
        stays.append(await stay(url, pages[2]))
        assert "The maximum number of visitors has been reached" in await body_of(url)
        assert await kept(url, pages) == [True, False, True]
        for connection in stays:
            connection.close()
        server.stop()

    asyncio.run(visits())


def test_an_invalid_origin_is_refused(infill):
    with pytest.raises(UserError, match="origin must be a host name, or NAME:PORT"):
        page_server(infill, "127.0.0.1", 0, ["http://films.example.org/"])


def test_malformed_requests_do_not_stop_the_server(server):
    no_requests = [
        b"\x00" * 5000,
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
    ]
    wrong_requests = [
        b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    for request in (no_requests + wrong_requests) * 5:
        with socket.create_connection(("127.0.0.1", server), timeout=60) as connection:
            if request in wrong_requests:
                connection.sendall(request)
                assert connection.recv(100).startswith(b"HTTP/1.1 4")
                continue
            with contextlib.suppress(ConnectionError):  # the server may close on invalid HTTP
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(100)
                assert not answer or answer.startswith(b"HTTP/1.1 4")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server, timeout=60)) as good:
        good.request("GET", "/")
        assert good.getresponse().status == 200
