PYTHON ?= python3
# tensorflow-addons ends with Python 3.11.
ORACLES_PYTHON ?= python3.11

# Make passes variables of the command line and the environment on to the shell, which quotes them: any name is allowed.
# TUNE=no keeps the decision rule as assembled; FLIP=yes also reports what mirrored images change.
DATA ?= data
RUNS ?= runs
TUNE ?= yes
FLIP ?= no
export DATA RUNS

BIN       := .venv/bin
INSTALLED := .venv/installed
PIP       := $(BIN)/python -m pip install --quiet --disable-pip-version-check
option     = $${$(1)+--$(2) "$$$(1)"}
REPRODUCE  = $(BIN)/pneumoseg reproduce "$$DATA"
OPTIONS    = --runs "$$RUNS" $(if $(filter no,$(TUNE)),--no-tune) $(if $(filter yes,$(FLIP)),--flip) \
	$(call option,EXPERIMENT,experiment) $(call option,CLASSIFIER_EXPERIMENT,experiment) \
	$(call option,SEGMENTER_EXPERIMENT,experiment) $(call option,TRAIN,train) $(call option,TEST,test) \
	$(call option,ANNOTATIONS,annotations) $(call option,SAMPLE,sample) $(call option,ID_MAP,id-map) \
	$(call option,TEST_ID_MAP,test-id-map) $(call option,BACKEND,backend)
JAX_TESTS := $(addprefix tests/training/test_,classifier.py cross_validation.py engine.py resume.py run.py segmenter.py \
	two_backends.py) tests/callbacks tests/models/test_batch_statistics.py tests/test_losses.py tests/test_metrics.py \
	tests/engines/test_keras_network.py
# Many tests train the same network, and most of their time would go into compiling it.
ON_JAX := KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=build/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	XLA_FLAGS="--xla_backend_optimization_level=0 --xla_force_host_platform_device_count
GOALS := index show-masks show-augmentations train-classifier train-segmenter tune submit evaluate report show-predictions

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help install demo tour docs test test-ray test-jax lint bench oracles clean $(GOALS)

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26
	@printf '\n  DATA=data   folder of the data set        RUNS=runs   folder for manifests, runs and results\n'
	@printf '  EXPERIMENT= file from experiments/        TUNE=no     keep the rule as assembled        FLIP=yes    report mirrored images\n'
	@printf '  BACKEND=jax train on all devices\n'

install: $(INSTALLED) ## Make .venv with the exact tested set of packages
$(INSTALLED): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	@touch $@

demo: $(INSTALLED) ## Run everything once on generated data, in under ten minutes
	test -f demo/data/train-rle.csv || { rm -rf demo/data; $(BIN)/pneumoseg synthesize demo/data --train 500 --test 120 --seed 0; }
	$(BIN)/pneumoseg reproduce demo/data submit evaluate report show-predictions --flip --runs demo/runs \
		--experiment experiments/demo_classifier.yaml --experiment experiments/demo_segmenter.yaml

tour: $(INSTALLED) ## Run the notebook from top to bottom, on the demo's data
	$(BIN)/jupyter nbconvert --to notebook --execute --output-dir build notebooks/tour.ipynb

index: ## Read the training DICOM files and annotations into a manifest
show-masks: ## Draw some true masks over their images
show-augmentations: ## Draw some images next to their augmented versions
train-classifier: ## Train the classifier
train-segmenter: ## Train the segmenter
tune: ## Choose the decision rule on validation images
submit: ## Predict the test images and check the submission; trains what is missing
evaluate: ## Score the pipeline next to the all-empty baseline: ablation, tables 1 and 2, classifier, subgroups
report: ## Write the same as a page with curves and every image
show-predictions: ## Draw true and predicted masks over images that were not trained on
$(GOALS): $(INSTALLED)
	@$(REPRODUCE) $@ $(OPTIONS)

docs: $(INSTALLED) ## Build the documentation in build/docs; warnings are errors
	$(PIP) -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(INSTALLED) ## Run the tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m "not ray"

test-ray: $(INSTALLED) ## Run the tests of work on Ray
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m ray tests/bulk tests/training

test-jax: $(INSTALLED) ## Run the tests of the training on Keras' JAX backend, with one device and with two
	$(ON_JAX)=1" $(BIN)/pytest --numprocesses 2 --dist loadfile $(JAX_TESTS)
	$(ON_JAX)=2" $(BIN)/pytest --numprocesses 2 --dist loadfile tests/training/parallel

lint: $(INSTALLED) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## Print the benchmarks' ratios
	for benchmark in rle loader augmentation evaluation; do $(BIN)/python benchmarks/$$benchmark.py || exit 1; done

oracles: ## Recompute the reference numbers with tensorflow-addons and segmentation-models
	test -d .venv-oracles || $(ORACLES_PYTHON) -m venv .venv-oracles
	.venv-oracles/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oracles/requirements.txt
	.venv-oracles/bin/python tests/oracles/reference.py

clean: ## Remove the environments, the demo and caches; runs stay
	rm -rf .venv .venv-oracles demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
