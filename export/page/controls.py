"""The controls next to the film, and all that they do in the browser without the server."""

import base64
import itertools

import numpy as np
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.document import Document
from bokeh.events import ConnectionLost, DocumentReady
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    ColumnDataSource,
    CustomJS,
    Div,
    Dropdown,
    FileInput,
    NumericInput,
    RadioButtonGroup,
    RangeSlider,
    Select,
    Spinner,
)

from cigan_tf.errors import UserError
from tfds_ddsm import grey_levels

from .film_view import FilmView
from .outline_layer import OutlineLayer

# Values of `Controls.hand.active` and of `Controls.flip.active`.
MOVE, DRAW, PLACE = range(3)
BEFORE, AFTER, SIDE_BY_SIDE, FLICKER = range(4)
MAX_DIAMETER_PX = 5000
DOWNLOADS = {
    ".dcm": "Film (DICOM)",
    "_seg.dcm": "Lesion masks (DICOM SEG)",
    "_mask.png": "Lesion masks (PNG)",
    "_before_after.png": "Before and after (PNG)",
    "_patches.zip": "Patches (16-bit PNG) and their masks, zipped",
}
_FLICKER_MS = 500

# Runs in the browser, when another comparison is chosen and when the page is loaded. The flicker
# does not involve the server.
_COMPARE = f"""
    clearInterval(window.flicker)
    beside.visible = flip.active == {SIDE_BY_SIDE}
    after.visible = flip.active == {AFTER}
    if (flip.active == {FLICKER})
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


class Controls:
    """The widgets, linked to each other and to the film; the page adds its own callbacks.

    Args:
        document: the page's Bokeh document.
        view: the film.
        outlines: the outlines on it.
        sample_ids: ids of the sample films to choose from.

    Attributes:
        layout: all widgets, for the page.
        status: the line of text above them.
        sample, upload: choose the film.
        shape_upload, diameter: choose the shape to place.
        hand: whether the pointer moves the film, draws an outline or places a shape.
        label: the class of further outlines.
        known, undo, clear: buttons that change the outlines.
        window, fit: the grey-level window, and the button that shows the whole film.
        seed, infill: the seed, and the button that starts the infill.
        flip: how before and after are compared.
        download, sent: the button that downloads the results, and the last download's content.
    """

    def __init__(
        self, document: Document, view: FilmView, outlines: OutlineLayer, sample_ids: list[str]
    ):
        self.sample = Select(
            name="sample",
            title="Sample films",
            options=[("", "Open one ..."), *sample_ids],
            value="",
        )
        self.upload = FileInput(name="upload", title="Or open a film: DICOM, PNG, PGM, TIFF, JPEG")
        self.shape_upload = FileInput(name="shape", title="Or take the shape from a mask image")
        self.window = RangeSlider(
            name="window",
            title="Window: black, white",
            start=0,
            end=grey_levels.WHITE,
            value=(0, grey_levels.WHITE),
            format="0",
        )
        for index, end in enumerate(("low", "high")):
            self.window.js_link("value", view.window, end, attr_selector=index)
        self.hand = RadioButtonGroup(
            name="hand", labels=["Move", "Draw outline", "Place shape"], active=MOVE
        )
        self.hand.js_on_change(
            "active",
            CustomJS(
                args={"move": view.pan, "pen": outlines.pen},
                code=f"move.active = this.active == {MOVE}; pen.active = this.active == {DRAW}",
            ),
        )
        self.diameter = Spinner(
            name="diameter", title="Diameter, film pixels", low=1, high=MAX_DIAMETER_PX, value=250
        )
        self.known = Button(name="known", label="Outline the sample's lesions")
        self.undo = Button(name="undo", label="Undo")
        self.clear = Button(name="clear", label="Clear")
        self.fit = Button(name="fit", label="Whole film")
        self.label = RadioButtonGroup(
            name="label", labels=["non-malignant: remove", "malignant: insert"], active=1
        )
        self.seed = NumericInput(name="seed", title="Seed", value=0, low=0, mode="int")
        self.infill = Button(name="infill", label="Infill", button_type="primary")
        self.flip = RadioButtonGroup(
            name="flip",
            labels=["Before", "After", "Side by side", "Flicker"],
            active=BEFORE,
            disabled=True,
        )
        compare = CustomJS(
            args={"flip": self.flip, "after": view.after, "beside": view.beside}, code=_COMPARE
        )
        self.flip.js_on_change("active", compare)
        is_there, is_lost = (
            CustomJS(code=f'dispatchEvent(new Event("{name}"))')
            for name in ("page-is-there", "connection-is-lost")  # demo_page.html.jinja listens
        )
        document.js_on_event(DocumentReady, compare, is_there)
        document.js_on_event(ConnectionLost, is_lost)
        self.download = Dropdown(
            name="download",
            label="Download",
            menu=[(text, ending) for ending, text in DOWNLOADS.items()],
            disabled=True,
        )
        self.sent = ColumnDataSource({"content": []})
        # The number tells the browser that a file is sent again under the same name.
        self._send_number = itertools.count()
        self.download.js_on_change("tags", CustomJS(args={"sent": self.sent}, code=_SAVE_AS_FILE))
        self.status = Div(name="status", render_as_text=True)
        self.layout = column(
            self.status,
            self.sample,
            self.upload,
            self.window,
            self.fit,
            self.hand,
            self.diameter,
            self.shape_upload,
            self.label,
            self.known,
            row(self.undo, self.clear),
            outlines.shown,
            self.seed,
            self.infill,
            self.flip,
            self.download,
            name="controls",
        )
        for widget in self.layout.children:
            widget.sizing_mode = "stretch_width"
        self.layout.sizing_mode = "stretch_width"

    def save_as_file(self, name: str, content: bytes) -> None:
        """Sends a file to the browser, which saves it."""
        self.sent.data = {"content": [np.frombuffer(content, np.uint8)]}
        self.download.tags = [name, next(self._send_number)]


def uploaded(widget: FileInput) -> tuple[bytes, str]:
    """Returns the content and name of a file sent by the browser.

    Raises:
        UserError: the upload is incomplete.
    """
    try:
        return base64.b64decode(widget.value, validate=True), widget.filename
    except (TypeError, ValueError, UnsetValueError):
        raise UserError("The upload is incomplete; open the file again.") from None
