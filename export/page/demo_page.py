"""The page for trying the generator: a film, outlines on it, infills, downloads.

It uses Bokeh: its images keep 16 bits, and the browser applies the grey-level window; its tools
draw outlines; its package includes all files that a page loads. The page communicates with
`FilmPage` over Bokeh's web socket; nothing is written to disk.
"""

import asyncio
import concurrent.futures
import functools
import pathlib
import threading
from collections.abc import Callable

import numpy as np
from absl import logging
from bokeh.document import Document
from bokeh.events import MenuItemClick, Tap
from bokeh.models import FileInput

from cigan_tf.errors import UserError

from ..films import film_files
from ..films.film_infill import FilmInfiller, FilmLesion, InfilledLesion, off_the_breast
from . import controls, outlines, sample_films
from .film_view import FilmView
from .outline_layer import OutlineLayer

# The HTML around the controls.
TEMPLATE = pathlib.Path(__file__).with_name("demo_page.html.jinja")

# One thread processes the films of all visitors, one after another, because each would use all
# cores and a multiple of its memory.
_WORKER = concurrent.futures.ThreadPoolExecutor(1, "films")


def _says_why(method: Callable) -> Callable:
    """Makes a method show its errors on the page, and log those that are not UserErrors."""

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
        document: the page's Bokeh document, to which the film and the controls are added.
        infill: the generator for whole films.

    Attributes:
        view: shows the film.
        outlines: the outlines on it.
        controls: the widgets next to it.
        film: the open film, or None.
        infilled: the infilled film, its lesions, and the result of each; None before infilling.
    """

    def __init__(self, document: Document, infill: FilmInfiller):
        self._document = document
        self._infill = infill
        self._sample_id: str | None = None  # of the open film; None: uploaded by the visitor
        self.film: film_files.FilmFile | None = None
        self.infilled: tuple[np.ndarray, list[FilmLesion], list[InfilledLesion]] | None = None
        self._files: dict[str, bytes] | None = None  # of the infilled film; None: not made yet
        self._shape = None  # of a placed outline; None: a circle
        self._is_forgotten = False
        self._working = threading.Lock()  # held while a method of `_work` runs
        self._samples = sample_films.index()
        self.view = FilmView(document)
        self.outlines = OutlineLayer(self.view)
        self.controls = controls.Controls(document, self.view, self.outlines, [*self._samples])
        self._connect()
        for layout in (self.view.layout, self.controls.layout):
            document.add_root(layout)
        if self._samples:
            self.open_sample(next(iter(self._samples)))
        else:
            self.say("Open a film to start. Sample films: pip install 'cigan[sample]'.")

    def say(self, text: str, is_error: bool = False) -> None:
        """Shows a message above the controls."""
        colour = "var(--alert)" if is_error else "var(--ink)"
        self.controls.status.update(text=text, styles={"color": colour})

    @_says_why
    def open_sample(self, film_id: str) -> None:
        """Shows one of the sample films."""
        film = self._samples.get(film_id)
        if film is None:
            raise UserError(f"There is no sample film {film_id!r}.")
        self._open(sample_films.read(film))
        self._sample_id = film_id
        self.controls.known.disabled = False

    @_says_why
    def open_upload(self) -> None:
        """Shows the film of an uploaded file."""
        self._open(film_files.read_film(*controls.uploaded(self.controls.upload)))

    @_says_why
    def open_shape(self) -> None:
        """Uses the outline of a mask image as the shape to place."""
        mask = film_files.read_mask(*controls.uploaded(self.controls.shape_upload))
        xs, ys = outlines.outline_of(mask)
        self._shape = xs - (xs.min() + xs.max()) / 2, ys - (ys.min() + ys.max()) / 2
        self.controls.hand.active = controls.PLACE
        self.say("Tap the film to place the shape.")

    @_says_why
    def place(self, event: Tap) -> None:
        """Places a shape where the film was tapped, if placing is selected."""
        if self.controls.hand.active != controls.PLACE or self.film is None:
            return
        diameter = self.controls.diameter.value
        if self._shape is None and not (diameter and 1 <= diameter <= controls.MAX_DIAMETER_PX):
            raise UserError(
                f"Diameter must be in [1, {controls.MAX_DIAMETER_PX}] pixels. Received: {diameter}."
            )
        xs, ys = self._shape or outlines.circle(diameter)
        self.outlines.add(xs + event.x, ys + event.y)

    @_says_why
    def mark_known(self) -> None:
        """Outlines the annotated lesions of the sample, so that they can be removed."""
        if self._sample_id is None:
            raise UserError("Open one of the sample films first.")
        film = self._samples[self._sample_id]
        for mask in sample_films.lesion_masks(film, self.film.pixels.shape):
            self.outlines.add(*outlines.outline_of(mask))

    @_says_why
    def infill(self) -> None:
        """Infills every outline and shows the infilled film."""
        if self.film is None:
            raise UserError("Open a film first.")
        lesions = self.outlines.lesions(self.film.pixels.shape)
        if not lesions:
            raise UserError("First draw an outline on the film, or place a shape on it.")
        seed, flip = self.controls.seed.value, self.controls.flip
        if not isinstance(seed, int):
            raise UserError(f"Seed must be an integer. Received: {seed}.")
        pixels, parts = self._infill(self.film.pixels, lesions, seed)
        self.infilled, self._files = (pixels, lesions, parts), None
        self.view.show_after(pixels)
        if flip.disabled or flip.active == controls.BEFORE:
            flip.active = controls.AFTER
        flip.disabled = False
        self.controls.download.disabled = False
        warning = off_the_breast(parts) or ""
        self.say(f"Infilled: {len(lesions)}. Compare before and after. {warning}".strip())

    @_says_why
    def send(self, ending: str) -> None:
        """Sends one of the results to the browser, which saves it as a file."""
        if self.infilled is None or ending not in controls.DOWNLOADS:
            raise UserError("Infill the film first.")
        pixels, lesions, parts = self.infilled
        if ending == "_patches.zip":
            content = film_files.zipped_patches(lesions, parts)
        else:
            if self._files is None:  # made once, because film and masks refer to each other
                self._files = film_files.files_of(
                    self.film, pixels, lesions, parts[0].seed, self._infill.generator_id
                )
            content = self._files[ending]
        name = f"{pathlib.PurePath(self.film.name).stem}_synthetic{ending}"
        self.controls.save_as_file(name, content)
        self.say(f"Sent {name}.")

    def forget(self) -> None:
        """Releases the film and all results, without changing the document.

        Can be called while another visitor's request is handled, when this document's lock is not
        held.
        """
        self._is_forgotten = True
        if self._working.acquire(blocking=False):  # otherwise the work releases them at its end
            self.film, self.infilled, self._files = None, None, None
            self.view.forget()
            self._working.release()

    def _open(self, film: film_files.FilmFile) -> None:
        # The film is set only when it is visible: otherwise outlines would belong to the
        # previous film.
        self.film, self.infilled, self._files, self._sample_id = None, None, None, None
        self.controls.known.disabled = True
        self.outlines.start_again()
        self.controls.flip.update(active=controls.BEFORE, disabled=True)
        self.controls.download.disabled = True
        self.view.show(film.pixels)
        self.film = film
        self.controls.window.value = (self.view.window.low, self.view.window.high)
        height, width = film.pixels.shape
        scale = self._infill.scale(film.pixels.shape)
        covered_px = self._infill.patch_size / scale
        self.say(
            f"{film.name}: {height} x {width} pixels. The generator's patch covers an area of "
            f"{covered_px:.0f} x {covered_px:.0f} pixels. {film.warning or ''}".strip()
        )

    def _connect(self) -> None:
        """Connects the controls and the film to the methods that run on the server."""
        widgets = self.controls
        widgets.sample.on_change("value", lambda attr, old, new: self._choose_sample(new))
        for widget, opened in (
            (widgets.upload, self.open_upload),
            (widgets.shape_upload, self.open_shape),
        ):
            take = functools.partial(self._take, widget, opened)
            widget.on_change("filename", lambda attr, old, new, take=take: take())
        for plot in (self.view.figure, self.view.beside):
            plot.on_event(Tap, self.place)
        widgets.known.on_click(self.mark_known)
        widgets.undo.on_click(self.outlines.undo)
        widgets.clear.on_click(self.outlines.clear)
        widgets.fit.on_click(self.view.fit)
        widgets.label.on_change(
            "active", lambda attr, old, new: self.outlines.choose_class(malignant=new == 1)
        )
        widgets.infill.on_click(lambda: self._work("Infilling ...", self.infill))
        widgets.download.on_event(
            MenuItemClick,
            lambda event: self._work("Sending ...", functools.partial(self.send, event.item)),
        )

    def _choose_sample(self, film_id: str) -> None:
        if film_id:
            self.controls.sample.value = ""  # so that the same film can be chosen again
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
        """Shows a message, then calls a method once the browser's whole message has been processed.

        Bokeh holds the document's lock while the method runs: this page's next message waits, but
        other pages keep working.
        """

        def unless_forgotten() -> None:
            with self._working:
                if not self._is_forgotten:
                    method()

        async def work() -> None:
            try:
                await asyncio.get_running_loop().run_in_executor(_WORKER, unless_forgotten)
            finally:
                if self._is_forgotten:  # before the method's end: nobody will see the result
                    for widget in (self.controls.upload, self.controls.shape_upload):
                        widget.clear()
                    self.forget()

        self.say(saying)
        self._document.add_next_tick_callback(work)
