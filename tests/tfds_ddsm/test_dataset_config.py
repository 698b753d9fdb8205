import json

import pytest

from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("patch_size", 100, "patch_size must be a power of two from 32 to 512; received 100."),
        ("patch_size", 1024, "patch_size"),
        ("patch_size", 64.0, "patch_size"),
        ("patch_size", True, "patch_size"),
        ("source", "kaggle", "source must be one of cbis_ddsm, ddsm, sample, phantom, films"),
        ("film_size", [1375], "film_size must be"),
        ("film_size", "1375x750", "film_size must be"),
        ("film_size", [1375, 200], "film_size must be .* from patch_size"),
        (
            "patches_per_class",
            0,
            "patches_per_class must be an integer from 1 to 100000000; received 0.",
        ),
        ("patches_per_class", "many", "patches_per_class"),
        ("background_share", 1.5, "background_share must be a number from 0 to 1; received 1.5."),
        ("background_share", float("nan"), "background_share"),
        ("mask_margin_px", -1, "mask_margin_px must be an integer from 0 to 100; received -1."),
        ("seed", -1, "seed"),
        ("num_patients", 0, "num_patients"),
        ("difficulty", "hard", "difficulty"),
        ("simulated_lesions", 3, "simulated_lesions is only for the source 'sample'"),
        ("official_split", 1, "official_split must be true or false; received 1."),
        ("allow_skipped", "yes", "allow_skipped must be true or false; received 'yes'."),
        ("name", "../up", "name must be made of letters"),
        ("name", "", "name must be made of letters"),
        (
            "patchsize",
            64,
            "a config's fields must be among name.*patch_size.*; received 'patchsize'",
        ),
    ],
)
def test_a_bad_value_is_named_in_one_line(field, value, message):
    with pytest.raises(DatasetError, match=message) as raised:
        DdsmPatchesConfig(**({"name": "test"} | {field: value}))

    assert "\n" not in str(raised.value)


def test_json_is_enough_to_write_a_config():
    text = '{"name": "small", "source": "sample", "patch_size": 64, "film_size": [688, 375]}'

    config = DdsmPatchesConfig(**json.loads(text))

    assert config.film_size == (688, 375)
    assert config.background_share == 0.5
    assert json.loads(json.dumps(config.recipe())) == config.recipe()
    assert set(config.recipe()).isdisjoint({"name", "version", "description"})


def test_the_official_split_is_cbis_ddsms():
    assert DdsmPatchesConfig(name="own", official_split=True).official_split
    with pytest.raises(DatasetError, match="only for the source 'cbis_ddsm', not for 'ddsm'"):
        DdsmPatchesConfig(name="own", source="ddsm", official_split=True)
