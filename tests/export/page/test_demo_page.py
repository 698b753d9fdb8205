import asyncio
import base64
import io
import pathlib
import threading
import zipfile

import cv2
import numpy as np
import pydicom
import pytest
from bokeh.document import Document
from bokeh.events import Tap

from export.page import outline_layer, sample_films
from export.page.demo_page import FilmPage


@pytest.fixture
def page(infill):
    opened = FilmPage(Document(), infill)
    assert opened.film.name == "1-130.dcm"
    return opened


def upload(widget, content, name):
    """Sets values that are normally set only by the browser."""
    widget.set_from_json("value", base64.b64encode(content).decode())
    widget.set_from_json("filename", name)


def place_disc(page, row, column, diameter=281):
    page.controls.hand.active = 2
    page.controls.diameter.value = diameter
    page.place(Tap(page.view.figure, x=column, y=row))


def lesions(page):
    return page.outlines.lesions(page.film.pixels.shape)


def sent(page, ending):
    page.send(ending)
    assert page.controls.download.tags[0] == f"1-130_synthetic{ending}"
    return page.controls.sent.data["content"][0].tobytes()


def test_a_lesion_is_placed_infilled_and_sent(page):
    before = page.film.pixels.copy()
    place_disc(page, 1800, 500)
    page.controls.seed.value = 7
    page.infill()
    assert page.controls.status.text.startswith("Infilled: 1")
    film = pydicom.dcmread(io.BytesIO(sent(page, ".dcm")))
    mask = cv2.imdecode(np.frombuffer(sent(page, "_mask.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(film.pixel_array[mask == 0], before[mask == 0])
    assert (film.pixel_array[mask == 255] != before[mask == 255]).mean() > 0.9
    segments = pydicom.dcmread(io.BytesIO(sent(page, "_seg.dcm")))
    assert segments.SegmentSequence[0].SegmentLabel == "malignant infill 1"
    (instance,) = segments.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == film.SOPInstanceUID
    assert segments.StudyInstanceUID == film.StudyInstanceUID
    assert film.ReferencedImageSequence[0].ReferencedSOPInstanceUID == segments.SOPInstanceUID
    assert "1 malignant seed 7" in film.DerivationDescription
    patches = zipfile.ZipFile(io.BytesIO(sent(page, "_patches.zip")))
    assert patches.namelist() == [
        "patch_1_malignant_seed_7.png",
        "patch_1_malignant_seed_7_mask.png",
    ]
    patch = cv2.imdecode(
        np.frombuffer(patches.read(patches.namelist()[0]), np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert (patch.shape, patch.dtype) == ((32, 32), np.uint16)


def test_an_outline_has_the_class_selected_when_it_was_made(page):
    page.controls.label.active = 0
    page.mark_known()
    page.controls.label.active = 1
    place_disc(page, 1800, 500)
    assert page.outlines.source.data["label"] == ["non_malignant", "malignant"]
    assert page.outlines.pen.default_overrides == {"label": "malignant"}
    assert [lesion.malignant for lesion in lesions(page)] == [False, True]


def test_changes_of_the_outlines_are_undone_one_by_one(page):
    place_disc(page, 1800, 500)
    place_disc(page, 2800, 600)
    both = [list(column) for column in page.outlines.source.data.values()]
    page.outlines.clear()
    assert lesions(page) == []
    page.outlines.undo()
    assert [list(column) for column in page.outlines.source.data.values()] == both
    page.outlines.undo()
    assert len(lesions(page)) == 1
    for _ in range(3):
        page.outlines.undo()
    assert lesions(page) == []
    place_disc(page, 1800, 500)
    page.open_sample("P_00173_LEFT_MLO")
    page.outlines.undo()
    assert lesions(page) == []  # outlines of another film are not restored


def test_no_mask_is_made_for_more_outlines_than_a_film_takes(page, monkeypatch):
    monkeypatch.setattr(outline_layer.outlines, "lesion_of", lambda *args: pytest.fail("a mask"))
    for _ in range(17):
        page.outlines.add(*outline_layer.outlines.circle(90))
    page.infill()
    assert page.controls.status.text == "A film takes 1 to 16 lesions at a time. Received: 17."


def test_a_shape_is_placed_from_a_mask_picture(page):
    mask = np.zeros((60, 90), np.uint8)
    mask[10:50, 20:80] = 255
    upload(page.controls.shape_upload, cv2.imencode(".png", mask)[1].tobytes(), "m.png")
    page.open_shape()
    page.place(Tap(page.view.figure, x=500, y=1800))
    on_film = lesions(page)[0].on_film(page.film.pixels.shape)
    rows, columns = np.nonzero(on_film)
    assert abs(rows.mean() - 1800) <= 1
    assert abs(columns.mean() - 500) <= 1
    assert on_film.sum() == pytest.approx(40 * 60, rel=0.05)


def test_a_film_is_opened_in_place_of_the_sample(page):
    place_disc(page, 1800, 500)
    page.infill()
    film = np.random.default_rng(0).integers(0, 65_536, (900, 500), np.uint16)
    upload(page.controls.upload, cv2.imencode(".png", film)[1].tobytes(), "mine.png")
    page.open_upload()
    np.testing.assert_array_equal(page.film.pixels, film)
    assert page.controls.status.text.startswith("mine.png: 900 x 500 pixels.")
    assert lesions(page) == []
    page.send(".dcm")
    assert page.controls.status.text == "Infill the film first."


def malformed():
    """Yields invalid requests as functions of a page, and the expected messages."""
    colour = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    deep = cv2.imencode(".png", np.zeros((900, 500), np.uint16))[1].tobytes()
    files = [
        (b"", "film.png", "the file is empty"),
        (b"", "", "the file is empty"),
        (colour, "film.png", "film.png: a PNG must be grey"),
        (deep[:200], "film.png", "film.png:"),
        (b"<script>", "<b>film</b>.dcm", "<b>film</b>.dcm:"),
    ]

    def file(content, name):
        def ask(page):
            upload(page.controls.upload, content, name)
            page.open_upload()

        return ask

    def not_base64(page):
        page.controls.upload.set_from_json("value", "%%%")
        page.open_upload()

    def outline(xs, ys):
        def ask(page):
            page.outlines.source.data = {"xs": [xs], "ys": [ys], "label": ["malignant"]}
            page.infill()

        return ask

    def many(page):
        page.outlines.source.data = {
            "xs": [[9, 99, 9]] * 999,
            "ys": [[9, 9, 99]] * 999,
            "label": [""] * 999,
        }
        page.infill()

    def seed(value):
        def ask(page):
            place_disc(page, 1800, 500)
            page.controls.seed.value = value
            page.infill()

        return ask

    for content, name, answer in files:
        yield file(content, name), answer
    yield not_base64, "The upload is incomplete"
    for xs, ys, answer in (
        ([1, 2], [1, 2], "An outline must have"),
        ([1, 2, float("nan")], [1, 2, 3], "An outline must have"),
        (["a"], [None], "An outline must have"),
        ([1e300, 1e308, 1e300], [1, 5, 9], "An outline must enclose"),
        ([0, 2800, 2800, 0], [0, 0, 4400, 4400], "Lesion 1: A lesion must be at most"),
        ([10, 11, 11], [10, 10, 11], "Lesion 1: The lesion mask is too small"),
    ):
        yield outline(xs, ys), answer
    yield many, "1 to 16 lesions"
    for value, answer in ((None, "Seed must be"), (-1, "seed must be"), (2**40, "seed must be")):
        yield seed(value), answer
    yield lambda page: place_disc(page, 9, 9, diameter=None), "Diameter must be"
    yield lambda page: place_disc(page, float("nan"), 9) or page.infill(), "An outline must have"
    yield lambda page: page.open_sample("P_99999"), "There is no sample film 'P_99999'"
    yield lambda page: page.send("../../etc"), "Infill the film first"


def memory_bytes():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_malformed_requests_are_answered_and_the_next_valid_one_works(page):
    def good():
        page.outlines.clear()
        page.controls.seed.value = 7
        place_disc(page, 1800, 500)
        page.infill()
        return page.infilled[0].copy()

    asked = list(malformed())
    expected = good()
    held = []
    for _ in range(5):
        for ask, answer in asked:
            page.outlines.clear()
            page.say("")
            page.controls.seed.value = 7
            if "Infill" in answer:
                page.infilled = None
            ask(page)
            assert answer in page.controls.status.text
            assert page.controls.status.render_as_text
        held.append(memory_bytes())
    assert held[-1] - held[1] < 64 * 2**20
    np.testing.assert_array_equal(good(), expected)


def test_an_unexpected_error_is_shown_and_logged(page, monkeypatch, caplog):
    def too_large(pixels):
        raise MemoryError("Unable to allocate 9 GiB")

    film = cv2.imencode(".png", np.zeros((90, 50), np.uint16))[1].tobytes()
    upload(page.controls.upload, film, "mine.png")
    with monkeypatch.context() as patched:
        patched.setattr(page.view, "show", too_large)
        page.open_upload()
    assert page.controls.status.text.startswith("This film cannot be processed (MemoryError)")
    assert "Unable to allocate 9 GiB" in caplog.text
    page.infill()
    assert page.controls.status.text == "Open a film first."
    page.open_upload()
    assert page.controls.status.text.startswith("mine.png: 90 x 50 pixels.")


def test_without_samples_the_page_waits_for_a_film(infill, monkeypatch):
    monkeypatch.setattr(sample_films, "index", dict)
    page = FilmPage(Document(), infill)
    assert page.controls.status.text.startswith("Open a film to start.")
    page.infill()
    assert page.controls.status.text == "Open a film first."


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_results_of_work_for_a_visitor_who_left_are_not_kept(page, monkeypatch, is_forgotten):
    place_disc(page, 1800, 500)
    begun, may_continue = threading.Event(), threading.Event()
    lesions = page.outlines.lesions

    def wait_while_infilling(shape):
        begun.set()
        assert may_continue.wait(60)
        return lesions(shape)

    monkeypatch.setattr(page.outlines, "lesions", wait_while_infilling)
    page._work("Infilling ...", page.infill)
    (callback,) = page._document.session_callbacks

    async def work():
        running = asyncio.ensure_future(callback.callback())
        assert await asyncio.to_thread(begun.wait, 60)
        if is_forgotten:
            page.forget()
        may_continue.set()
        await running

    asyncio.run(work())
    assert (page.infilled is None) == is_forgotten
    assert (page.film is None) == is_forgotten


def test_work_for_a_visitor_who_left_is_not_started(page):
    calls = []
    page._work("Opening ...", lambda: calls.append("work"))
    (callback,) = page._document.session_callbacks
    page.forget()
    asyncio.run(callback.callback())
    assert not calls
    assert page.film is None
