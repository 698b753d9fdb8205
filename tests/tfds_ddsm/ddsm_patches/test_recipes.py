"""The recipes of RECIPES.md, on small trees with the layouts of the collections."""

import csv
import pathlib
import plistlib
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pydicom
import pytest

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm.ddsm_patches import ddsm_patches_dataset_builder
from tfds_ddsm.sources.films import FilmsSource

RECIPES = pathlib.Path(ddsm_patches_dataset_builder.__file__).with_name("RECIPES.md")
SHAPE = (120, 80)


def run_recipe(title, root):
    """Runs a recipe in a collection's folder; returns its films by film_id."""
    (code,) = re.findall(
        rf"^## {title}$.*?^```python\n(.*?)^```$", RECIPES.read_text(), re.DOTALL | re.MULTILINE
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    source = FilmsSource(root)
    assert not source.table.faults
    assert not source.table.unused_columns
    return source, {film.film_id: source.read(film) for film in source.index()}


def box_of(lesion):
    rows, columns = np.nonzero(lesion.mask)
    return tuple(int(n) for n in (rows.min(), rows.max(), columns.min(), columns.max()))


def pixels(bits, seed=0):
    values = np.random.default_rng(seed).integers(0, 2**bits, SHAPE)
    values[0, 0] = 2**bits - 1
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def write_dicom(path, bits=8, seed=0, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    cbis_ddsm_tree.write_image(path, pixels(bits, seed))
    header = pydicom.dcmread(path)
    header.BitsStored, header.HighBit = bits, bits - 1
    for name, value in tags.items():
        setattr(header, name, value)
    header.save_as(path)


def test_mini_mias(tmp_path):
    (tmp_path / "Info.txt").write_text(
        "MINI-MIAS database\n\n1st column: MIAS database reference number.\n\n"
        "mdb001 G CIRC B 35 25 7 \nmdb002 G CIRC M 52 80 4 \nmdb003 D NORM \n"
        "mdb005 F CIRC B 40 33 5\nmdb005 F CIRC B 60 43 6 \n"
        "mdb059 F CIRC B\nmdb216 D CALC M *NOTE 3*\n"
    )
    for number in (1, 2, 3, 5, 59, 216):
        PIL.Image.fromarray(pixels(8, number)).save(tmp_path / f"mdb{number:03}.pgm")

    source, films = run_recipe("mini-MIAS", tmp_path)

    assert list(films) == [f"mdb{n:03}.pgm" for n in (1, 2, 3, 5, 59)]
    first, second = films["mdb001.pgm"], films["mdb002.pgm"]
    assert first.film.patient_id == second.film.patient_id == "MIAS_001"
    assert films["mdb003.pgm"].film.patient_id == "MIAS_002"
    assert [film.film.laterality for film in (first, second)] == ["RIGHT", "LEFT"]
    # The centre is 25 rows above the last of 120 rows.
    assert box_of(first.lesions[0]) == (94 - 7, 94 + 7, 35 - 7, 35 + 7)
    assert [lesion.malignant for lesion in second.lesions] == [True]
    assert len(films["mdb005.pgm"].lesions) == 2
    assert not films["mdb003.pgm"].lesions
    assert not films["mdb059.pgm"].lesions
    assert [item.name for item in source.skipped()] == ["mdb216.pgm"]


def test_inbreast(tmp_path):
    (tmp_path / "INbreast.csv").write_text(
        "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads\n"
        "removed;removed;R;CC;201001;22678622;4;4a\n"
        "removed;removed;R;MLO;201001;22678646;4;1\n"
        "removed;removed;L;CC;201001;22678670;2;2\n"
        ";;;;;;;\n"
    )
    for number, patient in (
        (22678622, "61b13c59bcba149e"),
        (22678646, "61b13c59bcba149e"),
        (22678670, "ab"),
    ):
        name = f"{number}_{patient}_MG_R_CC_ANON.dcm"
        write_dicom(tmp_path / "AllDICOMs" / name, 14, number)
    rois = [
        {"Name": "Mass", "Point_px": ["(10.5, 20.0)", "(30.0, 20.4)", "(30.0, 50.0)"]},
        {"Name": "Calcifications", "Point_px": ["(40.0, 60.0)"]},
        {"Name": "Asymmetry", "Point_px": []},
    ]
    plist = {"Images": [{"ImageIndex": 0, "NumberOfROIs": 3, "ROIs": rois}]}
    (tmp_path / "AllXML").mkdir()
    (tmp_path / "AllXML" / "22678622.xml").write_bytes(plistlib.dumps(plist))

    _, films = run_recipe("INbreast", tmp_path)

    first, normal, benign = films.values()
    assert first.film.patient_id == normal.film.patient_id == "61b13c59bcba149e"
    assert (first.film.laterality, first.film.view, first.film.density) == ("RIGHT", "CC", 4)
    assert [(x.lesion_type, x.malignant) for x in first.lesions] == [
        ("mass", True),
        ("calcification", True),
    ]
    assert box_of(first.lesions[0]) == (20, 50, 10, 30)
    assert box_of(first.lesions[1]) == (53, 67, 33, 47)
    assert first.lesions[0].description.assessment == 4
    assert first.image.max() == 65535
    assert not normal.lesions
    assert not benign.lesions


def test_vindr_mammo(tmp_path):
    header = (
        "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,"
        "breast_density,finding_categories,finding_birads,xmin,ymin,xmax,ymax,split\n"
    )
    (tmp_path / "finding_annotations.csv").write_text(
        header + "s1,e1,i1,L,CC,120,80,BI-RADS 4,DENSITY C,\"['Mass', 'Nipple Retraction']\","
        "BI-RADS 4,10.5,20.2,30.9,50.7,training\n"
        "s1,e1,i2,L,MLO,120,80,BI-RADS 4,DENSITY C,['No Finding'],,,,,,training\n"
        "s1,e2,i3,R,CC,120,80,BI-RADS 1,DENSITY C,['No Finding'],,,,,,training\n"
        "s2,e3,i4,L,CC,120,80,BI-RADS 3,DENSITY B,['Suspicious Calcification'],"
        "BI-RADS 3,1,2,11,12,test\n"
        "s2,e4,i5,R,CC,120,80,BI-RADS 2,DENSITY B,['No Finding'],,,,,,test\n"
        "s3,e5,i6,L,CC,120,80,BI-RADS 5,DENSITY B,['Mass'],BI-RADS 5,1,2,11,12,test\n"
        "s3,e5,i6,L,CC,120,80,BI-RADS 5,DENSITY B,['Mass'],BI-RADS 3,31,32,41,42,test\n"
        "s3,e5,i7,L,MLO,120,80,BI-RADS 5,DENSITY B,['Mass'],BI-RADS 3,1,2,11,12,test\n"
        "s3,e6,i8,R,CC,120,80,BI-RADS 4,DENSITY B,['Skin Thickening'],,1,2,11,12,test\n"
        "s3,e7,i9,R,CC,120,80,BI-RADS 2,DENSITY B,['Nipple Retraction'],,1,2,11,12,test\n"
    )
    for number in range(1, 10):
        study = "s1" if number < 4 else "s2" if number < 6 else "s3"
        write_dicom(tmp_path / "images" / study / f"i{number}.dicom", 12, number)

    source, films = run_recipe("VinDr-Mammo", tmp_path)

    names = ("s1_i1", "s1_i3", "s2_i4", "s2_i5", "s3_i6", "s3_i8", "s3_i9")
    assert list(films) == [f"images_{name}.dicom" for name in names]
    first, normal, benign, _, both, of_malignant, of_benign = films.values()
    assert [lesion.malignant for lesion in both.lesions] == [True, False]
    assert not both.left_out
    for mammogram, malignant in ((of_malignant, True), (of_benign, False)):
        (lesion,) = mammogram.lesions
        assert (lesion.malignant, lesion.description.assessment) == (malignant, -1)
    assert of_malignant.left_out  # the assessment may be of a lesion without a box
    assert not of_benign.left_out
    (lesion,) = first.lesions
    assert (lesion.lesion_type, lesion.malignant, box_of(lesion)) == (
        "mass",
        True,
        (21, 50, 11, 30),
    )
    assert first.image.max() == 65535
    assert not normal.lesions
    assert (benign.lesions[0].lesion_type, benign.lesions[0].malignant) == ("calcification", False)
    assert benign.film.density == 2
    assert [item.name for item in source.skipped()] == ["images_s1_i2.dicom", "images_s3_i7.dicom"]
    assert source.split_of(benign.film) == "test"
    assert source.split_of(first.film) in ("train", "validation")


def test_cmmd(tmp_path):
    (tmp_path / "CMMD_clinicaldata_revision.csv").write_text(
        "\ufeffID1,LeftRight,Age,number,abnormality,classification,subtype\n"
        "D1-0001,R,44,2,calcification,Benign,\n"
        "D2-0002,L,52,2,both,Malignant,Luminal A\n"
        "D2-0002,L,52,2,mass,Benign,\n"
    )
    for number, (patient, side, view) in enumerate(
        (
            ("D1-0001", "R", "cranio-caudal"),
            ("D1-0001", "R", "medio-lateral oblique"),
            ("D2-0002", "L", "cranio-caudal"),
            ("D2-0002", "R", "cranio-caudal"),
        )
    ):
        code = pydicom.Dataset()
        code.CodeMeaning = view
        folder = tmp_path / "CMMD" / patient / "07-18-2010-NA-NA-79377" / "1.000000-NA-70244"
        write_dicom(
            folder / f"1-{number}.dcm",
            8,
            number,
            PatientID=patient,
            ImageLaterality=side,
            ViewCodeSequence=[code],
        )

    source, films = run_recipe("CMMD", tmp_path)

    assert [mammogram.film.view for mammogram in films.values()] == ["CC", "MLO"]
    for mammogram in films.values():
        assert (mammogram.film.patient_id, mammogram.film.laterality) == ("D1-0001", "RIGHT")
        assert (mammogram.lesions, mammogram.left_out) == ((), ())
    (item,) = source.skipped()
    assert "D2-0002" in item.name
    assert "the malignant lesion has no location" in item.reason


def test_embed(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "EMBED_OpenData_clinical.csv").write_text(
        "empi_anon,acc_anon,side,asses,bside,path_severity,tissueden,numfind\n"
        "10,100,L,S,L,1.0,3.0,1\n10,100,R,N,,,3.0,1\n"
        "11,110,,N,,,2.0,1\n"
        "12,120,B,S,,4.0,,1\n"
        "13,130,L,A,,,1.0,1\n13,130,L,N,,,1.0,2\n14,140,R,N,,,1.0,1\n14,140,R,B,,,1.0,2\n"
        "15,150,B,S,L,0.0,1.0,1\n16,160,L,S,L,6.0,1.0,1\n16,160,L,S,,5.0,1.0,2\n"
        "17,170,L,S,B,4.0,1.0,1\n17,170,R,A,,,1.0,2\n"
    )
    root = "/mnt/NAS2/mammo/anon_dicom/cohort_1"
    header = (
        "empi_anon,acc_anon,anon_dicom_path,FinalImageType,ImageLateralityFinal,ViewPosition,"
        "spot_mag,num_roi,ROI_coords\n"
    )
    lines = (
        'a,10,100,2D,L,CC,,1,"((20, 10, 50, 30),)"',
        "b,10,100,2D,R,CC,,0,()",
        "c,11,110,2D,L,MLO,,0,",
        'd,12,120,2D,R,MLO,0.0,2,"((1, 2, 9, 8), (30, 40, 50, 60))"',
        'e,13,130,2D,L,CC,,1,"((20, 10, 50, 30),)"',
        "f,11,110,cview,L,MLO,,0,()",
        "g,10,100,2D,L,MLO,1.0,0,()",
        "h,10,100,2D,L,MLO,,0,()",
        "i,13,130,2D,L,MLO,,0,()",
        "j,14,140,2D,R,CC,,0,()",
        'k,15,150,2D,L,CC,,1,"((20, 10, 50, 30),)"',
        "l,15,150,2D,R,CC,,0,()",  # the pathology is of the other breast
        "m,16,160,2D,L,CC,,0,()",
        "n,17,170,2D,R,CC,,0,()",
    )
    rows = []
    for line in lines:
        name, patient, exam, rest = line.split(",", 3)
        path = f"cohort_1/{patient}/{exam}/{name}.dcm"
        write_dicom(tmp_path / "images" / path, 12, len(rows))
        rows.append(f"{patient},{exam},{root.rsplit('/', 1)[0]}/{path},{rest}\n")
    table = tmp_path / "tables" / "EMBED_OpenData_metadata.csv"
    table.write_text(header + "".join(rows))

    source, films = run_recipe("EMBED", tmp_path)

    assert [name.rsplit("_", 1)[1] for name in films] == [f"{x}.dcm" for x in "abcdjkn"]
    malignant, other_side, negative, benign, *_ = films.values()
    lines = csv.DictReader((tmp_path / "films.csv").read_text().splitlines())
    labels = {row["film"][-5]: row["label"] for row in lines}
    assert {name: labels.get(name) for name in "bcijklmn"} == {
        **{"b": "normal", "c": "normal", "i": None, "j": "benign"},
        **{"k": "malignant", "l": None, "m": None, "n": "benign"},
    }
    assert [box_of(lesion) for lesion in malignant.lesions] == [(20, 50, 10, 30)]
    assert malignant.lesions[0].malignant
    assert malignant.film.density == 3
    assert not other_side.lesions
    assert negative.film.patient_id == "11"
    assert [box_of(lesion) for lesion in benign.lesions] == [(1, 9, 2, 8), (30, 50, 40, 60)]
    assert not any(lesion.malignant for lesion in benign.lesions)
    (item,) = source.skipped()
    assert "h.dcm" in item.name


@pytest.mark.parametrize("title", ["mini-MIAS", "INbreast", "VinDr-Mammo", "CMMD", "EMBED"])
def test_every_recipe_is_listed(title):
    text = RECIPES.read_text()
    assert f"[{title}](#{title.lower()})" in text
    assert f"\n## {title}\n" in text
