import dataclasses

import apache_beam as beam
import pytest
from apache_beam.runners.portability import fn_api_runner
from apache_beam.testing.util import assert_that, equal_to
from etils import epath

from tests.tfds_ddsm.disc_source import CONFIG, DiscSource
from tfds_ddsm import film_examples, selection
from tfds_ddsm.beam_films import BeamFilms
from tfds_ddsm.dataset_config import DatasetError
from tfds_ddsm.mammogram import SPLITS, StorageError, UnreadableFilmError


def films_of(source, folder, allowed_failures=0, **fields):
    config = dataclasses.replace(CONFIG, **fields)
    chosen = selection.select(source, config)
    chosen = dataclasses.replace(chosen, allowed_failures=allowed_failures)
    return chosen, BeamFilms(source, chosen, config, epath.Path(folder))


def test_each_split_gets_its_films_examples_and_all_reports_come_back(tmp_path):
    source = DiscSource(20)
    chosen, films = films_of(source, tmp_path)
    expected = {
        split: [
            film_examples.encoded_examples(source, film, chosen.plan[film.film_id], CONFIG)
            for film in of_split
        ]
        for split, of_split in chosen.films.items()
    }
    assert list(expected) == list(SPLITS)

    with beam.Pipeline(fn_api_runner.FnApiRunner()) as pipeline:
        for split, of_films in expected.items():
            keys = pipeline | split >> films.examples(split) | f"{split} keys" >> beam.Keys()
            of_split = [key for _, examples in of_films for key, _ in examples]
            assert_that(keys, equal_to(of_split), label=f"{split} is whole")

    assert films.take_reports() == {
        split: [report for report, _ in of_films] for split, of_films in expected.items()
    }
    assert not list(tmp_path.iterdir())


def test_the_films_are_shipped_once_and_small(tmp_path):
    chosen, films = films_of(DiscSource(1_000), tmp_path, patches_per_class=5_000)
    pipeline = beam.Pipeline()
    sizes = []
    for split in SPLITS:
        _ = pipeline | split >> films.examples(split)
        sizes.append(len(pipeline.to_runner_api().SerializeToString()))

    assert sizes[0] < 100 * sum(map(len, chosen.films.values()))
    assert sizes[2] - sizes[0] < sizes[0] / 4


@pytest.mark.parametrize("allowed", [0, 3])
def test_one_film_too_many_stops_the_workers_at_once(tmp_path, allowed):
    chosen, films = films_of(
        DiscSource(100, UnreadableFilmError("film.dcm: cut short")), tmp_path, allowed
    )
    match = r"More than 5% of the films .* P_\d+_LEFT_CC: film.dcm: cut short"
    with (
        pytest.raises(DatasetError, match=match) as raised,
        films.errors_in_one_line(),
        beam.Pipeline(fn_api_runner.FnApiRunner()) as pipeline,
    ):
        _ = pipeline | films.examples(next(iter(chosen.films)))

    assert "\n" not in str(raised.value)
    assert len(list((tmp_path / "failed_films").iterdir())) == allowed + 1


def test_a_storage_that_fails_is_named(tmp_path):
    chosen, films = films_of(
        DiscSource(100, StorageError("film.dcm: Input/output error")), tmp_path
    )
    with (
        pytest.raises(DatasetError, match=r"^film.dcm: Input/output error$"),
        films.errors_in_one_line(),
        beam.Pipeline(fn_api_runner.FnApiRunner()) as pipeline,
    ):
        _ = pipeline | films.examples(next(iter(chosen.films)))


def test_other_errors_of_the_pipeline_are_not_changed(tmp_path):
    _, films = films_of(DiscSource(1), tmp_path)
    with pytest.raises(ZeroDivisionError), films.errors_in_one_line():
        _ = 1 // 0
