"""The page in a real browser, headless Chromium, as a visitor uses it."""

import contextlib
import http.client
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import cv2
import numpy as np
import pydicom
import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver (Debian: chromium-driver) missing"
)
ROOT = pathlib.Path(__file__).parents[2]

# Bokeh's widgets live in shadow roots; their views lead there.
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
def server(exported):
    """The command, as a user starts it; yields the port that it says."""
    command = [sys.executable, "-m", "export.demo", f"--saved_model={exported}"]
    process = subprocess.Popen(
        [*command, "--port=0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        yield int(url.rstrip("/").rpartition(":")[2])
        assert process.poll() is None, "the server has ended"
    finally:
        process.terminate()
        process.communicate(timeout=60)


class Visitor:
    """What a person does on the page."""

    def __init__(self, driver):
        self.driver = driver

    def element(self, name, selector):
        return self.driver.execute_script(_ELEMENT, name, selector)

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

    def says(self, text):
        self.wait(lambda: text in self.model("status", "text"))

    def draw(self, *points):
        """Presses on the first point of the film (0..1 of the frame), moves on, lets go."""
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


@pytest.fixture
def visitor(server, tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,1000")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
        driver.get(f"http://127.0.0.1:{server}/")
        person = Visitor(driver)
        person.wait(lambda: driver.execute_script("return globalThis.Bokeh?.documents.length"))
        person.says("1-130.dcm: 4432 x 2864 pixels.")
        yield person
    finally:
        driver.quit()


def test_a_lesion_goes_into_the_sample_and_home_as_dicom(visitor, sample_film, tmp_path):
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


def test_a_broken_file_is_named_and_the_next_good_one_opens(visitor, tmp_path):
    film = np.random.default_rng(0).integers(0, 65_536, (900, 500), np.uint16)
    cv2.imwrite(str(tmp_path / "good.png"), film)
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    upload = visitor.element("upload", "input")
    upload.send_keys(str(tmp_path / "bad.png"))
    visitor.says("bad.png: ")
    upload.send_keys(str(tmp_path / "good.png"))
    visitor.says("good.png: 900 x 500 pixels.")


@pytest.mark.parametrize("width_px", [360, 1400])
def test_it_fits_a_narrow_and_a_wide_window(visitor, width_px):
    visitor.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width_px, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    visitor.wait(lambda: visitor.driver.execute_script("return innerWidth") == width_px)
    visitor.wait(lambda: visitor.model("film", "outer_width") < width_px)
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    visitor.wait(lambda: visitor.driver.execute_script(overflow) <= 0)
    visitor.wait(lambda: (visitor.film_picture() > 200).mean() < 0.5)
    assert (visitor.film_picture() < 30).mean() > 0.2, "the film's dark background"


def test_requests_that_are_none_leave_it_standing(server):
    garbage = [
        b"\x00" * 5000,
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    for request in garbage * 5:
        with socket.create_connection(("127.0.0.1", server), timeout=20) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(100)
            assert b" 200 " not in answer
            assert b" 500 " not in answer
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server, timeout=60)) as good:
        good.request("GET", "/")
        assert good.getresponse().status == 200
