import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.tfds_ddsm.sources import dicom_films
from tfds_ddsm import grey_levels
from tfds_ddsm.grey_levels import of_dicom, of_picture


def scale_of(bits=12, signed=False, **attributes):
    stored = dicom_films.tissue(bits, signed)
    return stored, of_dicom(stored, dicom_films.film(stored, bits, **attributes))


def lut(entries, first=0, bits=16):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item.LUTData = list(entries)
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


@pytest.mark.parametrize("bits", [8, 10, 12, 13, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_a_film_fills_0_to_65535_and_round_trips(bits, signed, interpretation):
    stored, scale = scale_of(bits, signed, PhotometricInterpretation=interpretation)
    grey = scale.to_grey(stored)
    assert grey.dtype == np.uint16
    assert scale.warning is None
    assert (grey.min(), grey.max()) == (0, 65535)
    darkest = stored.min() if interpretation == "MONOCHROME2" else stored.max()
    assert set(grey[stored == darkest]) == {0}
    np.testing.assert_array_equal(scale.to_stored(grey, stored.dtype), stored)


def test_8_bits_are_scaled_by_257():
    stored = dicom_films.tissue(8)
    np.testing.assert_array_equal(of_picture(stored).to_grey(stored), stored * np.uint16(257))


@pytest.mark.parametrize(
    ("attributes", "inverted"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PresentationLUTShape": "INVERSE"}, True),
        ({"PresentationLUTShape": "IDENTITY"}, False),
        ({"RescaleSlope": -1, "RescaleIntercept": 4095}, True),
        ({"RescaleSlope": 2, "RescaleIntercept": -7}, False),
        (
            {"RescaleSlope": -1, "RescaleIntercept": 0, "PhotometricInterpretation": "MONOCHROME1"},
            False,
        ),
        ({"ModalityLUTSequence": lut(range(65535, 65535 - 4096, -1))}, True),
    ],
)
def test_every_attribute_that_inverts_is_applied(attributes, inverted):
    stored, plain = scale_of()
    _, scale = scale_of(**attributes)
    expected = plain.to_grey(stored)
    expected = 65535 - expected if inverted else expected
    np.testing.assert_array_equal(scale.to_grey(stored), expected)
    np.testing.assert_array_equal(scale.to_stored(expected, stored.dtype), stored)


def test_a_modality_lut_is_applied():
    entries = np.round(np.linspace(0, 1, 4096) ** 2 * 65535).astype(int)
    stored, scale = scale_of(ModalityLUTSequence=lut(entries.tolist()))
    np.testing.assert_array_equal(scale.to_grey(stored), entries[stored])


@pytest.mark.parametrize("bits", [12, 16])
def test_the_entries_of_a_modality_lut_may_have_12_bits(bits):
    transform = lut(list(range(4095, -1, -1)))
    transform[0].LUTDescriptor = [4096, 0, bits]
    stored, scale = scale_of(ModalityLUTSequence=transform)
    expected = np.round((4095 - stored) * (65535 / 4095))
    np.testing.assert_array_equal(scale.to_grey(stored), expected)


@pytest.mark.parametrize("descriptor", [[4096, 0, 32], [4096, 0, 1]])
def test_a_modality_lut_of_another_depth_is_refused(descriptor):
    transform = lut(list(range(4096)))
    transform[0].LUTDescriptor = descriptor
    with pytest.raises(ValueError, match=r"the bits per entry, 8 to 16; received \[4096, 0, "):
        scale_of(ModalityLUTSequence=transform)


def test_a_window_is_applied_only_on_request():
    attributes = {"WindowCenter": 1000, "WindowWidth": 501}
    stored, scale = scale_of(**attributes)
    assert scale.to_grey(np.array([[750]]))[0, 0] == round(750 / 4095 * 65535)
    windowed = of_dicom(stored, dicom_films.film(stored, 12, **attributes), voi=True)
    levels = windowed.to_grey(np.array([[0, 749, 1000, 1250, 4000]])).tolist()
    assert levels == [[0, 0, pytest.approx(32768, abs=150), 65535, 65535]]
    with pytest.raises(ValueError, match="no VOI LUT and no window"):
        of_dicom(stored, dicom_films.film(stored, 12), voi=True)


def test_a_window_after_a_falling_rescale_is_not_inverted_twice():
    stored = dicom_films.tissue(12)
    film = dicom_films.film(
        stored, 12, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=1000, WindowWidth=501
    )
    levels = of_dicom(stored, film, voi=True).to_grey(np.array([[0, 4095 - 1000, 4095]]))
    assert levels.tolist() == [[65535, pytest.approx(32768, abs=150), 0]]


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_never_written(interpretation):
    stored = dicom_films.tissue(12)
    stored[:9] = 4095
    film = dicom_films.film(
        stored,
        12,
        PhotometricInterpretation=interpretation,
        PixelPaddingValue=4095,
        PixelPaddingRangeLimit=4000,
    )
    scale = of_dicom(stored, film)
    assert set(scale.to_grey(stored)[:9].ravel()) == {0}
    assert scale.to_stored(np.arange(0, 65536, 7), np.uint16).max() < 4000
    stored[:] = 4095
    with pytest.raises(ValueError, match="all pixels are padding: stored values 4000 to 4095"):
        of_dicom(stored, film)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("representation", ["US", "SS"])
def test_padding_is_read_with_the_sign_of_the_pixels(signed, representation):
    lowest, highest = (-2010, -2000) if signed else (63_526, 63_536)
    stored = np.array([[lowest, highest], [100, 4000]], np.int16 if signed else np.uint16)
    film = dicom_films.film(stored)
    offset = {"US": 2**16, "SS": 0}[representation]
    film.add_new("PixelPaddingValue", representation, -2000 + offset)
    film.add_new("PixelPaddingRangeLimit", representation, -2010 + offset)
    scale = of_dicom(stored, film)
    assert scale.padding == (lowest, highest)
    assert scale.bits == 12
    np.testing.assert_array_equal(scale.to_grey(stored), [[0, 0], [1600, 64_015]])


@pytest.mark.parametrize(
    ("brightest", "bits"), [(200, 8), (1000, 10), (4095, 12), (16_383, 14), (16_384, 16)]
)
def test_a_film_that_does_not_fill_its_file_is_scaled_by_the_depth_it_suggests(brightest, bits):
    stored = np.array([[0, brightest]], np.uint16)
    scale = of_picture(stored)
    assert scale.bits == bits
    assert scale.to_grey(stored)[0, 1] == round(brightest / (2**bits - 1) * 65535)
    if bits == 16:
        assert scale.warning is None
    else:
        assert scale.warning == (
            f"stored values are 0 to {brightest}, but the file allows 0 to 65535: treated as a "
            f"film of {bits} bits; pass bits=16 or another depth if that is wrong"
        )
    dicom = of_dicom(stored, dicom_films.film(stored))
    assert (dicom.bits, dicom.warning) == (scale.bits, scale.warning)


def test_a_depth_stated_by_the_file_or_the_user_is_used_without_a_warning():
    stored = np.array([[0, 900]], np.uint16)
    for scale, bits in (
        (of_picture(stored, stated_white=4095), 12),
        (of_picture(stored, bits=14), 14),
        (of_picture(stored, bits=16), 16),
        (of_dicom(stored, dicom_films.film(stored, 12)), 12),
        (of_dicom(stored, dicom_films.film(stored), bits=13), 13),
    ):
        assert (scale.bits, scale.warning) == (bits, None)
    filled = dicom_films.tissue(16)
    assert of_picture(filled, stated_white=4095).bits == 16  # scaled up, as in PNG
    with pytest.raises(ValueError, match="stored values 0 to 900 do not fit into 8 bits"):
        of_picture(stored, bits=8)
    with pytest.raises(ValueError, match=r"bits must be in \[8, 16\]; received 17"):
        of_picture(stored, bits=17)


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_a_depth_that_the_file_cannot_hold_is_refused(bits):
    stored = dicom_films.tissue(8)
    message = f"bits must be at most 8, the file's bits per pixel; received {bits}"
    with pytest.raises(ValueError, match=message):
        of_picture(stored, bits=bits)
    with pytest.raises(ValueError, match=message):
        of_dicom(stored, dicom_films.film(stored, 8), bits)
    for scale in (of_picture(stored, bits=8), of_picture(stored, stated_white=2**bits - 1)):
        np.testing.assert_array_equal(scale.to_grey(stored), stored * np.uint16(257))


def test_grey_levels_of_a_signed_film_have_no_sign():
    stored = np.array([[0, 900]], np.int16)
    assert of_dicom(stored, dicom_films.film(stored), bits=16).to_grey(stored).dtype == np.uint16


def test_a_black_film_is_read():
    stored = np.zeros((3, 3), np.uint16)
    scale = of_picture(stored)
    assert (scale.bits, scale.warning) == (16, None)


@pytest.mark.parametrize(
    ("low", "high", "stored_bits", "lowest", "bits"),
    [
        (0, 4000, 16, 0, 12),  # the darkest value is air
        (0, 30_000, 16, 0, 15),
        (0, 900, 13, 0, 12),
        (-2048, 2047, 16, -2048, 12),
        (-20_000, 10, 16, -32_768, 16),
        (-5, 5, 12, -2048, 12),
    ],
)
def test_signed_films_without_negative_values_begin_at_0(low, high, stored_bits, lowest, bits):
    stored = np.array([[low, high]], np.int16)
    scale = of_dicom(stored, dicom_films.film(stored, stored_bits))
    assert (scale.lowest, scale.bits) == (lowest, bits)
    assert (scale.warning is None) == (lowest == -(2 ** (stored_bits - 1)))


@pytest.mark.parametrize("lowest", [-3, -500])
def test_few_values_a_little_below_0_are_black(lowest):
    stored = np.full((20, 20), 100, np.int16)
    stored[0, :4], stored[-1] = lowest, 4000
    film = dicom_films.film(stored)
    scale = of_dicom(stored, film)
    expected = np.full(stored.shape, 1600)
    expected[0, :4], expected[-1] = 0, 64_015
    np.testing.assert_array_equal(scale.to_grey(stored), expected)
    assert scale.warning.startswith(
        f"stored values are {lowest} to 4000 (those below 0 count as 0), but the file allows "
        "-32768 to 32767: treated as a film of 12 bits; pass bits=16"
    )
    np.testing.assert_array_equal(of_dicom(stored, film, bits=12).to_grey(stored), expected)
    assert of_dicom(stored, film, bits=16).lowest == -32_768


def test_only_depths_that_fit_the_file_are_suggested():
    stored = np.full((20, 20), 1900, np.int16)
    stored[0] = -50
    film = dicom_films.film(stored, 12)
    with pytest.raises(
        ValueError, match=r"pass bits=11 if black is 0 .* or bits=12 if black is -2"
    ):
        of_dicom(stored, film)
    for bits, lowest in ((11, 0), (12, -2048)):
        assert of_dicom(stored, film, bits=bits).lowest == lowest
    stored[0, 2:] = 1900
    scale = of_dicom(stored, film)
    assert scale.warning.endswith(
        "a film of 11 bits; pass bits=12 or another depth if that is wrong"
    )


@pytest.mark.parametrize(("lowest", "count"), [(-50, 200), (-2500, 2)], ids=["many", "deep"])
def test_values_below_0_that_may_not_belong_to_the_image_are_refused(lowest, count):
    stored = np.full((20, 20), 4000, np.int16)
    stored.ravel()[:count] = lowest
    film = dicom_films.film(stored)
    share = f"{count / 4:.2f}"
    with pytest.raises(
        ValueError,
        match=f"values are {lowest} to 4000, {share}% of them below 0: pass bits=12 if black is 0 "
        "and the negative values are not part of the image, or bits=16 if black is -32768",
    ):
        of_dicom(stored, film)
    grey = of_dicom(stored, film, bits=12).to_grey(stored)
    np.testing.assert_array_equal(grey, np.where(stored < 0, 0, 64_015))
    assert of_dicom(stored, film, bits=16).lowest == -32_768


def test_a_signed_film_of_stated_depth_keeps_its_few_low_values():
    stored = np.full((20, 20), 1000, np.int16)
    stored[0, :3] = -2000
    scale = of_dicom(stored, dicom_films.film(stored, 12))
    assert (scale.lowest, scale.bits, scale.warning) == (-2048, 12, None)
    assert of_dicom(stored, dicom_films.film(stored, 12), bits=12).lowest == -2048


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "every stored value the same grey level"),
        ({"PresentationLUTShape": "LINEAR"}, "must be IDENTITY or INVERSE; received 'LINEAR'"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        scale_of(**attributes)


def test_full_16_bit_values_are_unchanged():
    stored, scale = scale_of(16)
    assert scale.is_identity
    assert scale.to_grey(stored) is stored
    assert not scale_of(16, PhotometricInterpretation="MONOCHROME1")[1].is_identity
    assert grey_levels.WHITE == 65535
