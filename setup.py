import setuptools

setuptools.setup(
    name="cigan",
    version="0.1.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(
        include=["tfds_ddsm", "tfds_ddsm.*", "cigan_tf", "cigan_tf.*"]
    ),
)
