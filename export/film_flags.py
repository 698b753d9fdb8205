"""Flags that select the generator, for the commands for whole films."""

import re
import sys
from collections.abc import Sequence

from absl import flags

from cigan_tf import tensorflow_loading
from cigan_tf.errors import UserError

from .films.film_infill import FilmInfiller


def define() -> None:
    """Defines --saved_model and --film_size."""
    flags.DEFINE_string(
        "saved_model", "cbis_mass_128", "Folder of the exported generator, or a preset's name."
    )
    flags.DEFINE_list(
        "film_size",
        None,
        "HEIGHT,WIDTH that the training films of the generator were rescaled to: the film_size of "
        "their dataset. Required if the SavedModel does not record it.",
    )


def open_infiller(film_size: tuple[int, int] | None) -> FilmInfiller:
    """Loads TensorFlow and the generator selected by --saved_model.

    Prints a warning if --film_size contradicts the generator's record.

    Args:
        film_size: the value of --film_size, parsed before anything is loaded.

    Raises:
        UserError: see `FilmInfiller`.
    """
    tensorflow_loading.load_tensorflow()
    infill = FilmInfiller(flags.FLAGS.saved_model, film_size)
    if infill.scale_warning:
        print(f"warning: {infill.scale_warning}", file=sys.stderr)
    return infill


def parse_film_size(values: Sequence[str] | None) -> tuple[int, int] | None:
    """Returns the value of --film_size=HEIGHT,WIDTH; raises UserError if it is invalid."""
    if values is None:
        return None
    if len(values) != 2 or not all(re.fullmatch(r"[1-9]\d{0,4}", value) for value in values):
        raise UserError(
            f"film_size must be HEIGHT,WIDTH in pixels, such as 1375,750. Received: "
            f"{','.join(values)!r}."
        )
    height, width = map(int, values)
    return height, width
