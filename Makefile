# Each target works on its own in a fresh clone; the environment is .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet
DATA_DIR = runs/data
RUN = runs/quickstart
QUICKSTART_PATCHES = {"name": "quickstart", "source": "sample", "patch_size": 64, \
  "film_size": [688, 375], "patches_per_class": 4000, "background_share": 0.75, \
  "simulated_lesions": 8, "difficulty": 0.15}

# Faults of the machine still come through as exceptions; TensorFlow's notes on absent GPUs do not.
export TF_CPP_MIN_LOG_LEVEL = 3

.PHONY: quickstart test lint bench

# The main job on real films: build the patches, train, export, reload, infill, report.
quickstart: .venv/.quickstart
	@echo "[1/4] Patches of 8 real films, with simulated lesions drawn into their tissue"
	.venv/bin/tfds build ddsm_patches --imports tfds_ddsm --data_dir=$(DATA_DIR) \
	  -c '$(QUICKSTART_PATCHES)' > runs/build.log
	@echo "[2/4] Training; watch it with .venv/bin/tensorboard --logdir=$(RUN)"
	.venv/bin/python -m cigan_tf.main --flagfile=cigan_tf/flagfiles/quickstart.flags \
	  --data_dir=$(DATA_DIR) --workdir=$(RUN)
	@echo "[3/4] Exporting the generator"
	test -d $(RUN)/saved_model/1 || .venv/bin/python -m export.saved_model --workdir=$(RUN)
	@echo "[4/4] Reloading it and infilling patches of films that training did not see"
	.venv/bin/python -m cigan_tf.main --mode=report --workdir=$(RUN)

test: .venv/.test
	.venv/bin/python -m pytest

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

bench: .venv/.test
	@test -n "$(TCIA_CSV_DIR)" || { \
	  echo "error: pass TCIA_CSV_DIR=DIR, the folder of TCIA's four CSV files of CBIS-DDSM."; exit 2; }
	.venv/bin/python benchmarks/dataset_build.py --csv_dir=$(TCIA_CSV_DIR)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.quickstart: .venv/bin/python setup.py
	@echo "[0/4] Installing TensorFlow and what else setup.py names into .venv: about two minutes"
	$(PIP) -e '.[sample]'
	@mkdir -p runs && touch $@

.venv/.test: .venv/bin/python setup.py
	$(PIP) -e '.[sample,test]'
	@touch $@
