"""Batches of real patches: balance, masks, flips, order and errors."""

import collections
import dataclasses
import pathlib
import random

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import input_pipeline, masks
from cigan_tf.errors import UserError
from cigan_tf.models.cigan import build_cigan


def as_arrays(batches):
    return [{name: np.asarray(value) for name, value in batch.items()} for batch in batches]


def take(config, count):
    return as_arrays(input_pipeline.training_batches(config).take(count))


@pytest.fixture(scope="module")
def batches(tiny_config):
    """The first batches, with two passes through the patches of a class."""
    training = input_pipeline.TrainingInput(tiny_config)
    # Two of the four patches of a batch are malignant.
    return as_arrays(training.batches().take(int((training.index.label == 1).sum())))


def test_batches_hold_half_of_each_class(batches):
    for batch in batches[:5]:
        assert batch["image"].shape == batch["mask"].shape == (4, 32, 32, 1)
        assert batch["image"].dtype == batch["mask"].dtype == np.float32
        assert sorted(batch["label"]) == [0, 0, 1, 1]
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1


def test_every_patch_has_a_mask(batches):
    for batch in batches:
        assert set(np.unique(batch["mask"])) <= {0.0, 1.0}
        assert (batch["mask"].sum(axis=(1, 2, 3)) > 0).all()


def test_borrowed_masks_are_on_tissue(tiny_config, monkeypatch):
    builder = input_pipeline.open_dataset(tiny_config.data, 32)
    stored = input_pipeline.encoded_patches(builder, "train").as_numpy_iterator()
    borrowers = [
        (input_pipeline.decode_image(patch["image"], 32).numpy(), patch["tissue_fraction"])
        for patch in {patch["image"]: patch for patch in stored}.values()
        if not patch["has_lesion"] and patch["tissue_fraction"] < 0.95
    ]

    def shares():
        batch = input_pipeline.drawn_patches(tiny_config, "train", 60)
        found = []
        for image, fraction in borrowers:
            (drawn,) = np.flatnonzero((batch["image"] == image).all(axis=(1, 2, 3)))[:1]
            found.append(float(masks.tissue_share(image, batch["mask"][drawn], fraction)))
        return np.array(found)

    assert len(borrowers) >= 2
    assert (shares() >= 0.9).all()
    monkeypatch.setattr(masks, "MIN_TISSUE_SHARE", 0.0)
    assert (shares() < 0.9).any(), "any mask is taken, some of them in air"


def test_unrecorded_fields_are_unknown(tiny_config):
    builder = input_pipeline.open_dataset(tiny_config.data, 32)
    patch = next(input_pipeline.encoded_patches(builder, "train").as_numpy_iterator())
    for name in ("density", "subtlety"):
        assert patch[name].dtype == np.int32
        if name not in builder.info.features:
            assert patch[name] == -1


def test_nothing_reseeds_the_process(tiny_config):
    def draws():
        return random.random(), np.random.random(), float(tf.random.uniform(()))

    random.seed(1)
    np.random.seed(1)
    tf.random.set_seed(1)
    expected = [draws(), draws()]
    random.seed(1)
    np.random.seed(1)
    tf.random.set_seed(1)
    found = [draws()]
    iterator = iter(input_pipeline.training_batches(tiny_config))
    next(iterator)
    input_pipeline.picture_patches(tiny_config, "validation", 1)
    input_pipeline.drawn_patches(tiny_config, "validation", 2)
    build_cigan(tiny_config)
    found.append(draws())
    assert found == expected


def test_an_unreadable_dataset_is_not_reported_as_absent(tiny_config, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("Unknown feature type.")

    monkeypatch.setattr(input_pipeline.read_only_builder, "builder_from_files", broken)
    with pytest.raises(UserError, match="cannot be read: Unknown feature type") as error:
        input_pipeline.open_dataset(tiny_config.data, 32)
    assert "tfds build" not in str(error.value)


def test_records_of_another_format_are_refused(tiny_config, replace, data_dir, tmp_path):
    (built,) = (data_dir / "ddsm_patches" / "tiny").glob("*")
    copy = tmp_path / "ddsm_patches" / "tiny" / built.name
    copy.mkdir(parents=True)
    for path in built.glob("*.json"):
        text = path.read_text()
        if path.name == "dataset_info.json":
            assert '"fileFormat": "tfrecord"' in text
            text = text.replace('"fileFormat": "tfrecord"', '"fileFormat": "array_record"')
        (copy / path.name).write_text(text)
    config = replace(tiny_config, data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"format array_record; .* --file_format=tfrecord"):
        input_pipeline.open_dataset(config.data, 32)


def test_grey_levels_keep_16_bits(batches):
    levels = np.concatenate([batch["image"].ravel() for batch in batches[:20]]) * 65535
    np.testing.assert_allclose(levels, np.round(levels), atol=0.01)
    assert len(np.unique(np.round(levels))) > 1000


def test_only_the_seed_determines_the_order(batches, tiny_config, replace):
    tf.random.set_seed(987)
    assert_same(batches[:3], take(tiny_config, 3))
    other = take(replace(tiny_config, seed=1), 1)
    assert np.abs(batches[0]["image"] - other[0]["image"]).max() > 0


def orientations(image):
    for turned in (image, image.transpose(1, 0, 2)):
        for rows in (turned, turned[::-1]):
            yield from (rows, rows[:, ::-1])


def test_flips_turn_patch_and_mask_together(batches, tiny_config, replace):
    flipped = take(replace(tiny_config, random_flips=True), 6)
    found = set()
    for before, after in zip(batches[:6], flipped, strict=True):
        for i in range(4):
            both = np.concatenate([before["image"][i], before["mask"][i]], axis=-1)
            turned = np.concatenate([after["image"][i], after["mask"][i]], axis=-1)
            matches = [k for k, o in enumerate(orientations(both)) if np.array_equal(o, turned)]
            assert matches
            found.update(matches)
    assert len(found) >= 6


def test_exposure_changes_only_grey_levels(batches, tiny_config, replace):
    exposed = take(replace(tiny_config, max_random_gamma=2.0), 2)
    for before, after in zip(batches[:2], exposed, strict=True):
        np.testing.assert_array_equal(before["mask"], after["mask"])
        for old, new in zip(before["image"], after["image"], strict=True):
            inside = (old > 0.05) & (old < 0.95)
            gamma = np.log(new[inside]) / np.log(old[inside])
            np.testing.assert_allclose(gamma, np.median(gamma), rtol=1e-3)
            assert 0.5 <= np.median(gamma) <= 2


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        for name, value in other.items():
            np.testing.assert_array_equal(batch[name], value, err_msg=name)


@pytest.fixture(scope="module")
def varied(tiny_config):
    """The training input with every kind of random augmentation."""
    data = dataclasses.replace(tiny_config.data, random_flips=True, max_random_gamma=2.0)
    return input_pipeline.TrainingInput(dataclasses.replace(tiny_config, data=data))


def test_the_position_in_the_input_is_the_step(varied):
    following = as_arrays(varied.batches().skip(40).take(2))
    assert_same(as_arrays(varied.batches(first_step=40).take(2)), following)
    assert np.abs(following[0]["image"] - following[1]["image"]).max() > 0
    assert next(iter(varied.batches(first_step=10**9)))["image"].shape == (4, 32, 32, 1)


def test_workers_share_the_batch_of_one(varied):
    whole = as_arrays(varied.batches(7).take(2))
    for num_workers in (2, 4):
        parts = [
            as_arrays(varied.batches(7, worker, num_workers).take(2))
            for worker in range(num_workers)
        ]
        together = [
            {name: np.concatenate([part[name] for part in of_step]) for name in of_step[0]}
            for of_step in zip(*parts, strict=True)
        ]
        assert_same(together, whole)


def test_each_pass_sees_every_patch_once(batches, tiny_config):
    builder = input_pipeline.open_dataset(tiny_config.data, 32)
    stored = collections.Counter()
    for patch in input_pipeline.encoded_patches(builder, "train").as_numpy_iterator():
        if patch["label"] == 1:
            stored[input_pipeline.decode_image(patch["image"], 32).numpy().tobytes()] += 1
    count = stored.total()
    seen = [image.tobytes() for batch in batches for image in batch["image"][batch["label"] == 1]]
    first, second = seen[:count], seen[count:]
    assert collections.Counter(first) == collections.Counter(second) == stored
    assert first != second


def test_a_shuffled_list_has_every_number_in_each_pass():
    shuffled = input_pipeline.Shuffled(np.array([3, 5, 7, 9]), (0, 1))
    places = np.arange(4000)
    passes = shuffled.at(places).reshape(-1, 4)
    assert (np.sort(passes) == [3, 5, 7, 9]).all()
    np.testing.assert_array_equal(shuffled.at(places[::-1])[::-1], passes.ravel())
    orders = collections.Counter(map(tuple, passes.tolist()))
    assert len(orders) == 24, "every order comes up"
    assert max(orders.values()) < 80
    other = input_pipeline.Shuffled(np.array([3, 5, 7, 9]), (0, 2)).at(places)
    assert (other != passes.ravel()).any()


def test_a_group_has_its_second_record_after_the_first_of_all():
    spread = input_pipeline.spread(np.array([5, 3, 9, 1, 7]), "aabab")
    assert spread.tolist() == [5, 9, 3, 7, 1]


@pytest.mark.skipif(not pathlib.Path("/proc/self/io").exists(), reason="Linux counts what is read")
def test_a_step_reads_only_the_records_that_it_uses(tiny_config):
    builder = input_pipeline.open_dataset(tiny_config.data, 32)
    index = input_pipeline.index_of_split(builder, "train")
    records = input_pipeline.Records(builder, index)
    numbers = np.tile(np.arange(len(index.label)), 3)
    donors = np.flatnonzero(index.has_lesion)[:8]

    def bytes_read(read):
        examples = tf.data.Dataset.from_tensor_slices(numbers).map(read)
        next(iter(examples))
        before = int(pathlib.Path("/proc/self/io").read_text().split()[1])
        for _ in examples:
            pass
        return int(pathlib.Path("/proc/self/io").read_text().split()[1]) - before

    used = int(index.length[numbers].sum())
    assert used <= bytes_read(lambda n: records.with_mask(n, donors, 32)[1]) <= 1.1 * used
    twice = bytes_read(lambda n: (records.read(n), records.read(n)))
    assert twice > 1.9 * used, "every read is counted"


def test_picture_patches_are_of_three_kinds_and_fixed(tiny_config):
    batch = input_pipeline.picture_patches(tiny_config, "validation", 3)
    again = input_pipeline.picture_patches(tiny_config, "validation", 3)
    assert (
        batch["kind"].tolist()
        == ["malignant lesion"] * 3 + ["benign lesion"] * 3 + ["no lesion"] * 3
    )
    assert batch["label"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    # The validation patient's real lesions are benign; patches alternate between the four films.
    assert batch["simulated"].tolist()[:3] == [True, True, True]
    for of_kind in (np.s_[0:3], np.s_[6:9]):
        assert len(set(batch["film_id"][of_kind])) == 3
    assert set(batch["lesion_type"][6:]) == {"none"}
    assert (batch["mask"].sum(axis=(1, 2, 3)) > 0).all()
    assert all(film.startswith("P_00173_") for film in batch["film_id"])
    for name, values in batch.items():
        np.testing.assert_array_equal(values, again[name])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dataset": "ddsm_patches/absent"}, "tfds build ddsm_patches/absent"),
        ({"patch_size": 64}, "--patch_size=32"),
        ({"train_split": "tuning"}, "'tuning'"),
        ({"dataset": "ddsm_patches/real", "train_split": "validation"}, "no malignant patch"),
    ],
)
def test_unusable_training_data_are_named(tiny_config, replace, settings, named):
    with pytest.raises(UserError, match=named) as error:
        input_pipeline.training_batches(replace(tiny_config, **settings))
    assert "\n" not in str(error.value)
