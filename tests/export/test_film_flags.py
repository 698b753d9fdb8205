import pytest

from cigan_tf.errors import UserError
from export.film_flags import parse_film_size


def test_film_size_is_parsed():
    assert parse_film_size(None) is None
    assert parse_film_size(["1375", "750"]) == (1375, 750)
    for values in ([], ["1375"], ["0", "750"], ["1375", "750", "1"], ["a", "b"], ["-1", "2"]):
        with pytest.raises(UserError, match="film_size must be HEIGHT,WIDTH"):
            parse_film_size(values)
