# Each target works on its own in a fresh clone; the environment is .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Versions that passed the suite. `make PINNED=` uses the newest versions allowed by setup.py.
PINNED = --constraint=constraints.txt
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet $(PINNED)
DATA_DIR = runs/data
# `make quickstart` fine-tunes a preset; with RECIPE=scratch it trains from random weights.
RECIPE = quickstart
RUN = runs/$(RECIPE)
PATCHES_quickstart = "patch_size": 128, "patches_per_class": 1000, "mask_margin_px": 4
PATCHES_scratch = "patch_size": 64, "patches_per_class": 4000
SAMPLE_PATCHES = {"name": "$(RECIPE)", "source": "sample", "film_size": [688, 375], \
  "background_share": 0.75, "simulated_lesions": 8, "difficulty": 0.15, $(PATCHES_$(RECIPE))}

EXPERIMENT = runs/experiment
EXPERIMENT_PATCHES = {"name": "experiment", "source": "phantom", "num_patients": 200, \
  "patch_size": 32, "film_size": [344, 188], "patches_per_class": 8000, "difficulty": 0.1}
# Seeds of the generators.
GENERATOR_SEEDS = 0 1

# Flags that override those of an experiment's flagfile.
FLAGS =

# `make mass_experiment` trains on each of these shares of the training patients.
SHARES = 1 0.25
MASS_GENERATOR_SEEDS = 0 1 2
# Its classifiers: vgg16 from ImageNet weights or resnet50 from random ones.
CLASSIFIER = vgg16
MASS_EXPERIMENT = runs/mass_experiment
MASS_PATCHES_PER_CLASS = 8000
MASS_PATCHES = {"name": "mass64", "source": "cbis_ddsm", "official_split": true, \
  "patch_size": 64, "film_size": [344, 188], "patches_per_class": $(MASS_PATCHES_PER_CLASS), \
  "mask_margin_px": 2}
MASS_CLASSIFIER_vgg16 = $(if $(VGG16_WEIGHTS),--classifier_weights=$(VGG16_WEIGHTS))
MASS_CLASSIFIER_resnet50 = --classifier_network=resnet50 --classifier_weights=random \
  --classifier_trainable=all --classifier_learning_rate=1e-3
MASS_FLAGS = $(MASS_CLASSIFIER_$(CLASSIFIER)) \
  $(if $(VGG16_WEIGHTS),--quality_features=$(VGG16_WEIGHTS)) \
  $(if $(VGG19_WEIGHTS),--vgg_weights=$(VGG19_WEIGHTS))

# VGG16_WEIGHTS=FILE and VGG19_WEIGHTS=FILE replace Keras' downloads. Without VGG16_WEIGHTS,
# `make experiment` compares infills with real lesions by random features.
# $(call run_experiment,FLAGFILE,FOLDER,SEEDS,FLAGS) trains a generator with each seed, infills with
# it, trains the classifiers, and writes the table and the report.
MAIN = .venv/bin/python -m cigan_tf.main --data_dir=$(DATA_DIR)
define run_experiment
for seed in $(3); do \
  run=$(2)/generator_$$seed; \
  $(MAIN) --flagfile=cigan_tf/flagfiles/$(1) $(4) $(FLAGS) --mode=train --workdir=$$run --seed=$$seed \
  && { test -d $$run/saved_model/1 || .venv/bin/python -m export.saved_model --workdir=$$run; } \
  && $(MAIN) --flagfile=cigan_tf/flagfiles/$(1) $(4) $(FLAGS) --mode=infill --workdir=$$run --seed=$$seed \
  || exit; \
done; \
$(MAIN) --flagfile=cigan_tf/flagfiles/$(1) $(4) $(FLAGS) --mode=experiment --workdir=$(2) \
  --generators=$$(echo $(3:%=$(2)/generator_%) | tr ' ' ',')
endef

# Hides TensorFlow's messages about missing GPUs; errors are still raised as exceptions.
export TF_CPP_MIN_LOG_LEVEL = 3

.PHONY: quickstart test test-lowest test-server experiment mass_experiment lint bench browser docs wheel constraints

# All steps on real films: build the patches, fine-tune, export, reload, infill, report.
quickstart: .venv/.quickstart
	@mkdir -p runs
	@echo "[1/4] Patches of 8 real films, with simulated lesions drawn into their tissue"
	.venv/bin/tfds build ddsm_patches --imports tfds_ddsm --data_dir=$(DATA_DIR) \
	  -c '$(SAMPLE_PATCHES)' > runs/build.log
	@echo "[2/4] Training; watch it with .venv/bin/tensorboard --logdir=$(RUN)"
	.venv/bin/python -m cigan_tf.main --flagfile=cigan_tf/flagfiles/$(RECIPE).flags \
	  --data_dir=$(DATA_DIR) --workdir=$(RUN)
	@echo "[3/4] Exporting the generator"
	test -d $(RUN)/saved_model/1 || .venv/bin/python -m export.saved_model --workdir=$(RUN)
	@echo "[4/4] Reloading it and infilling patches of films that training did not see"
	.venv/bin/python -m cigan_tf.main --mode=report --workdir=$(RUN)

# The paper's Table 1 on simulated films: three arms, two generators, two classifier seeds. The same
# command resumes it.
experiment: .venv/.quickstart
	@echo "[1/2] Patches of 800 simulated films"
	@mkdir -p runs
	DDSM_PATCHES_WORKERS=2 .venv/bin/tfds build ddsm_patches --imports tfds_ddsm \
	  --data_dir=$(DATA_DIR) -c '$(EXPERIMENT_PATCHES)' > runs/build.log
	@echo "[2/2] Training ciGAN with the seeds $(GENERATOR_SEEDS), infilling every training patch" \
	  "as the opposite class, and training the classifiers; watch it with" \
	  ".venv/bin/tensorboard --logdir=$(EXPERIMENT)"
	$(call run_experiment,experiment.flags,$(EXPERIMENT),$(GENERATOR_SEEDS),$(if \
	  $(VGG16_WEIGHTS),--quality_features=$(VGG16_WEIGHTS)))

# The same on CBIS-DDSM's real masses, for each share of the training patients. It needs a GPU.
mass_experiment: $(if $(DIR),.venv/.gpu,no_dir)
	@echo "[1/2] Patches of the films in $(DIR)"
	@mkdir -p runs
	.venv/bin/tfds build ddsm_patches --imports tfds_ddsm --data_dir=$(DATA_DIR) \
	  --manual_dir=$(DIR) -c '$(MASS_PATCHES)' > runs/build.log
	@echo "[2/2] Training generators and classifiers on $(SHARES) of the training patients;" \
	  "watch them with .venv/bin/tensorboard --logdir=$(MASS_EXPERIMENT)"
	for share in $(SHARES); do \
	  $(call run_experiment,cbis_mass.flags,$(MASS_EXPERIMENT)/$$share,$(MASS_GENERATOR_SEEDS),\
	    --train_patient_share=$$share --patient_share=$$share $(MASS_FLAGS)) || exit; \
	done

.PHONY: no_dir
no_dir:
	@echo "Pass the folder of CBIS-DDSM: make mass_experiment DIR=DIR"; exit 2

test: .venv/.test browser
	.venv/bin/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

# Runs the suite with the lowest versions allowed by setup.py, in a separate environment.
test-lowest:
	test -d .venv-lowest || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip --disable-pip-version-check install --quiet uv
	VIRTUAL_ENV=.venv-lowest .venv-lowest/bin/uv pip install --quiet --resolution=lowest-direct \
	  -e '.[sample,test]'
	.venv-lowest/bin/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

# Tests the exported generator with the TensorFlow version of the server in compose.yaml.
test-server: .venv/.test
	test -d .venv-server || $(PYTHON) -m venv .venv-server
	.venv-server/bin/python -m pip --disable-pip-version-check install --quiet tensorflow-cpu==2.19.*
	SERVER_PYTHON=$(CURDIR)/.venv-server/bin/python .venv/bin/python -m pytest \
	  tests/export/test_c_api.py

# The tests of the demo page use Chrome or Chromium; without either, they are skipped with a message.
browser:
	@if ! { { command -v google-chrome || command -v chromium || command -v chromium-browser; } \
	    && command -v chromedriver; } > /dev/null \
	    && command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "Installing chromium and chromium-driver for the tests of the demo page"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  { timeout 300 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 update \
	    && timeout 600 apt-get -qq -o DPkg::Lock::Timeout=60 install --yes \
	      --no-install-recommends chromium chromium-driver; } > /dev/null 2>&1 \
	    || echo "They could not be installed; the tests of the demo page will be skipped."; \
	fi

lint: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# The API reference is made from the sources. The pages load no external files, so that the site can be
# read offline.
docs: .venv/.docs
	@mkdir -p runs/api
	@ln -sfn ../../export runs/api/cigan_export  # its name in an installed package
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet
	@echo "Open runs/site/index.html"

wheel: .venv/.test
	.venv/bin/python -m build --outdir=dist

# Records the installed versions, after installing the extras below and running the suite.
constraints: .venv/.test .venv/.docs .venv/.bench
	.venv/bin/python -m pip --disable-pip-version-check freeze --exclude-editable > constraints.txt

bench: .venv/.bench
	.venv/bin/python -m benchmarks.training --markdown=RESULTS.md
	.venv/bin/python -m benchmarks.serving_speed
	.venv/bin/python -m benchmarks.whole_film
	.venv/bin/python -m benchmarks.film_formats
	@test -n "$(TCIA_CSV_DIR)" || echo "To measure the dataset build as well, pass TCIA_CSV_DIR=DIR," \
	  "the folder with TCIA's four CSV files of CBIS-DDSM."
	test -z "$(TCIA_CSV_DIR)" || \
	  .venv/bin/python -m benchmarks.dataset_build --csv_dir=$(TCIA_CSV_DIR)

.venv/bin/python:
	$(PYTHON) -m venv .venv

# CUDA comes with TensorFlow's extra; a machine without a GPU does not need it.
.venv/.gpu: .venv/.quickstart
	! command -v nvidia-smi > /dev/null || $(PIP) -e '.[sample,gpu]'
	touch $@

.venv/.quickstart: .venv/bin/python setup.py constraints.txt
	@echo "[0/4] Installing TensorFlow and the other requirements into .venv; this takes about two minutes"
	$(PIP) -e '.[sample]'
	@mkdir -p runs && touch $@

.venv/.test: .venv/bin/python setup.py constraints.txt
	$(PIP) -e '.[sample,test]'
	@touch $@

.venv/.docs: .venv/bin/python setup.py constraints.txt
	$(PIP) -e '.[docs]'
	@touch $@

.venv/.bench: .venv/bin/python setup.py constraints.txt
	$(PIP) -e '.[sample,test,bench]'
	@touch $@
