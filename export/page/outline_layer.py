"""The outlines of lesions on a displayed film: added, undone, and converted to lesions."""

import numpy as np
from bokeh.models import Checkbox, ColumnDataSource, FreehandDrawTool
from bokeh.transform import factor_cmap

from cigan_tf.patch_format import CLASS_NAMES

from ..films.before_after import CLASS_COLOURS
from ..films.film_infill import FilmLesion, check_count
from . import outlines
from .film_view import FilmView

_MAX_UNDOS = 50
_NO_OUTLINES: dict[str, list] = {"xs": [], "ys": [], "label": []}


class OutlineLayer:
    """Outlines on both plots of a film view, in the colours of their classes.

    Args:
        view: the film view.

    Attributes:
        source: the columns and rows of each outline's points, and its class.
        pen: the tool that draws outlines on the film.
        shown: a checkbox that shows or hides all outlines, in the browser.
    """

    def __init__(self, view: FilmView):
        self._past: list[dict[str, list]] = []  # outlines before each change
        self._present = _NO_OUTLINES
        self._label = CLASS_NAMES[1]
        self.source = ColumnDataSource(_copied(_NO_OUTLINES), name="outlines")
        self.source.on_change("data", self._note)
        drawn = [
            plot.patches(
                "xs",
                "ys",
                source=self.source,
                line_color=factor_cmap("label", CLASS_COLOURS, CLASS_NAMES),
                line_width=2,
                fill_alpha=0,
                nonselection_line_alpha=1,
            )
            for plot in (view.figure, view.beside)
        ]
        self.pen = FreehandDrawTool(renderers=drawn[:1])
        view.figure.add_tools(self.pen)
        self.shown = Checkbox(name="outlined", label="Show the outlines", active=True)
        for renderer in drawn:
            self.shown.js_link("active", renderer, "visible")
        self.choose_class(malignant=True)

    def choose_class(self, malignant: bool) -> None:
        """Sets the class of outlines added from now on, including those drawn with the pen."""
        self._label = CLASS_NAMES[int(malignant)]
        self.pen.default_overrides = {"label": self._label}

    def add(self, xs: np.ndarray, ys: np.ndarray) -> None:
        """Adds an outline through points with the given columns and rows of the film."""
        added = {"xs": xs.tolist(), "ys": ys.tolist(), "label": self._label}
        self.source.data = {name: [*v, added[name]] for name, v in self.source.data.items()}

    def lesions(self, shape: tuple[int, int]) -> list[FilmLesion]:
        """Returns the lesions of the outlines; raises UserError if one is invalid, or too many.

        Args:
            shape: height and width of the film.
        """
        drawn = self.source.data
        if drawn["xs"]:
            check_count(len(drawn["xs"]))  # before a mask of up to the film's size for each
        return [
            outlines.lesion_of(xs, ys, label == "malignant", shape)
            for xs, ys, label in zip(drawn["xs"], drawn["ys"], drawn["label"], strict=False)
        ]

    def clear(self) -> None:
        """Removes all outlines."""
        self.source.data = _copied(_NO_OUTLINES)

    def undo(self) -> None:
        """Undoes the last change."""
        if not self._past:
            return
        self._present = self._past.pop()
        self.source.data = _copied(self._present)

    def start_again(self) -> None:
        """Removes all outlines and the undo history, because they belong to another film."""
        self.clear()
        self._past.clear()

    def _note(self, attr: str, old, new) -> None:
        """Stores the previous outlines for undo."""
        if len(new["xs"]) != len(self._present["xs"]):
            self._past = [*self._past, self._present][-_MAX_UNDOS:]
        self._present = _copied(new)


def _copied(outlines_by_name: dict) -> dict[str, list]:
    return {name: list(outlines_by_name[name]) for name in _NO_OUTLINES}
