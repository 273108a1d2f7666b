PYTHON ?= python3
# tensorflow-addons ends with Python 3.11.
ORACLES_PYTHON ?= python3.11
DATA   ?= data
RUNS   ?= runs
# Whether the pipeline's rule is chosen on validation images, and whether the report also shows what averaging over the
# mirrored images gains and costs.
TUNE   ?= yes
FLIP   ?= no

TRAIN       ?= $(DATA)/dicom-images-train
TEST        ?= $(firstword $(wildcard $(DATA)/stage_2_images $(DATA)/dicom-images-test) $(DATA)/dicom-images-test)
ANNOTATIONS ?= $(firstword $(wildcard $(DATA)/stage_2_train.csv $(DATA)/train-rle.csv) $(DATA)/train-rle.csv)
SAMPLE      ?= $(firstword $(wildcard $(DATA)/stage_2_sample_submission.csv $(DATA)/sample_submission.csv) $(DATA)/stage_2_sample_submission.csv)
ID_MAP      ?= $(wildcard $(DATA)/nih_id.csv)
# Of the test images, where their truth is known and the map lists some of them.
TEST_ID_MAP ?= $(and $(wildcard $(DATA)/test-rle.csv),$(ID_MAP),$\
	$(shell sed 1d $(DATA)/test-rle.csv | cut -d, -f1 | grep . | grep -qwFf - $(ID_MAP) && echo $(ID_MAP)))

# EXPERIMENT belongs to the training that is asked for.
CLASSIFIER_EXPERIMENT ?= $(or $(if $(filter train-classifier,$(MAKECMDGOALS)),$(EXPERIMENT)),experiments/classifier_augmentation.yaml)
SEGMENTER_EXPERIMENT  ?= $(or $(if $(filter train-segmenter,$(MAKECMDGOALS)),$(EXPERIMENT)),experiments/segmenter_window_swa.yaml)

# Make takes a name apart at a space, and it or the shell reads more than a name into these. A ~ that a shell left is HOME.
AWKWARD := $$ \# % : ; & | < > ( ) ' " ` \ * ? [ ]
given = $(if $(filter command environment,$(firstword $(origin $(1)))),$(value $(1)),$($(1)))
refused = $(strip $(if $(word 2,x$(1)x),space) $(foreach character,$(AWKWARD),$(findstring $(character),$(1))))
$(foreach name,DATA RUNS TRAIN TEST ANNOTATIONS SAMPLE ID_MAP TEST_ID_MAP EXPERIMENT CLASSIFIER_EXPERIMENT SEGMENTER_EXPERIMENT,\
	$(if $(call refused,$(call given,$(name))),$(error $(name)='$(call given,$(name))': make cannot handle a name with \
		$(call refused,$(call given,$(name))); choose another name, or use the pneumoseg commands, which can))\
	$(eval override $(name) := $$(patsubst ~/%,$$(HOME)/%,$$(patsubst %/,%,$$($(name))))))

$(foreach name,DATA RUNS TRAIN TEST ANNOTATIONS SAMPLE,$(if $($(name)),,$(error $(name) is empty: name a file or a folder)))

# A run's folder bears the name of its experiment. A finished run is never overwritten, a stopped one goes on.
CLASSIFIER_RUN := $(RUNS)/$(basename $(notdir $(CLASSIFIER_EXPERIMENT)))
SEGMENTER_RUN  := $(RUNS)/$(basename $(notdir $(SEGMENTER_EXPERIMENT)))

# An experiment's file and those that it is based on.
HASH  := \#
chain = $(or $(shell file=$(1); for step in 1 2 3 4 5 6 7 8 9; do \
	[ -f "$$file" ] && echo "$$file" || break; \
	base=$$(sed -n "s/^based_on: *[\"']\{0,1\}\([^\"'$(HASH) ]*\).*/\1/p" "$$file"); [ -n "$$base" ] || break; \
	expr "$$base" : / >/dev/null && file=$$base || file=$$(dirname "$$file")/$$base; done),$(1))
CLASSIFIER_FILES := $(call chain,$(CLASSIFIER_EXPERIMENT))
SEGMENTER_FILES  := $(call chain,$(SEGMENTER_EXPERIMENT))

BIN       := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: always help install demo tour test lint bench oracles index show-masks show-augmentations show-predictions train-classifier train-segmenter tune submit evaluate report clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26
	@echo
	@echo '  DATA=$(DATA)  the competition'"'"'s folder        RUNS=$(RUNS)  where manifests, runs and results go'
	@echo '  EXPERIMENT=    file for train-classifier or train-segmenter, see experiments/'
	@echo '  TUNE=no        keep the pipeline as it was assembled        FLIP=yes  mirrored images in the report, too'

install: $(INSTALLED) ## Make .venv with the exact tested set of packages

$(INSTALLED): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

tour: $(INSTALLED) ## Run the notebook from top to bottom, on the demo's data
	$(BIN)/jupyter nbconvert --to notebook --execute --output-dir build notebooks/tour.ipynb

demo: $(INSTALLED) ## Everything once, on generated data, in under ten minutes
	test -f demo/data/train-rle.csv || rm -rf demo/data
	test -f demo/data/train-rle.csv || $(BIN)/pneumoseg synthesize demo/data --train 500 --test 120 --seed 0
	$(MAKE) --no-print-directory submit evaluate report show-predictions FLIP=yes \
		DATA=demo/data RUNS=demo/runs TEST=demo/data/dicom-images-test \
		CLASSIFIER_EXPERIMENT=experiments/demo_classifier.yaml SEGMENTER_EXPERIMENT=experiments/demo_segmenter.yaml

test: $(INSTALLED) ## Run the tests
	$(BIN)/pytest

lint: $(INSTALLED) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## Print the benchmarks' ratios
	for benchmark in rle loader augmentation evaluation; do $(BIN)/python benchmarks/$$benchmark.py || exit 1; done

oracles: .venv-oracles/installed ## Recompute the reference numbers with tensorflow-addons and segmentation-models
	.venv-oracles/bin/python tests/oracles/reference.py

.venv-oracles/installed: tests/oracles/requirements.txt
	$(ORACLES_PYTHON) -m venv .venv-oracles
	.venv-oracles/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oracles/requirements.txt
	@touch $@

# What a file is made of, as a text in a file of its own, which is newer only where the text is another one than before:
# names, and the sizes and times of all DICOM files of a folder at any depth. `make -n` looks, too.
MADE_OF := $(RUNS)/.made_of
STAT     = stat -L $(if $(shell stat -c %s / 2>/dev/null),-c '%n %s %Y',-f '%N %z %m')
state    = $(1) $(2) $$({ find -L $(1) -type f -iname '*.dcm' -exec $(STAT) {} +; $(STAT) $(2); } 2>/dev/null | LC_ALL=C sort | cksum)
$(MADE_OF)/%: always
	+@mkdir -p $(@D)
	+@echo "$(made_of_$*)" > $@.now; cmp -s $@.now $@ && rm $@.now || mv $@.now $@

made_of_manifest = $(call state,$(TRAIN),$(ANNOTATIONS) $(ID_MAP))
made_of_test     = $(call state,$(TEST),$(wildcard $(DATA)/test-rle.csv) $(TEST_ID_MAP))
made_of_runs     = $(CLASSIFIER_RUN) $(SEGMENTER_RUN)
made_of_share    = $(SHARE)
made_of_rule     = $(TUNE)
made_of_report   = $(TUNE) $(FLIP) $(SCORED)
made_of_classifier = $(CLASSIFIER_FILES)
made_of_segmenter  = $(SEGMENTER_FILES)

index: $(RUNS)/manifest.csv ## Read the training DICOMs and annotations into a manifest

$(RUNS)/manifest.csv: $(ANNOTATIONS) $(MADE_OF)/manifest | $(INSTALLED)
	$(BIN)/pneumoseg index $(TRAIN) $(ANNOTATIONS) --out $@ $(if $(ID_MAP),--id-map $(ID_MAP))

$(ANNOTATIONS) $(SAMPLE):
	@echo "$@: no such file; name the competition's folder with DATA=, or the file with ANNOTATIONS= or SAMPLE=" >&2; exit 1

show-masks: $(RUNS)/masks.png ## Draw some true masks over their images

$(RUNS)/masks.png: $(RUNS)/manifest.csv
	$(BIN)/pneumoseg show-masks --manifest $< --out $@

show-augmentations: $(RUNS)/augmentations.png ## Draw some images beside what each augmentation technique makes of them

$(RUNS)/augmentations.png: $(RUNS)/manifest.csv
	$(BIN)/pneumoseg show-augmentations --manifest $< --out $@

show-predictions: $(RUNS)/predictions.png ## Draw true and predicted masks over images that were not trained on

train-classifier: $(CLASSIFIER_RUN)/metrics.json ## Train the classifier

$(CLASSIFIER_RUN)/metrics.json: $(RUNS)/manifest.csv $(CLASSIFIER_FILES) $(MADE_OF)/classifier
	$(BIN)/pneumoseg train-classifier $(CLASSIFIER_EXPERIMENT) --manifest $< --out $(@D) --resume

train-segmenter: $(SEGMENTER_RUN)/metrics.json ## Train the segmenter

$(SEGMENTER_RUN)/metrics.json: $(RUNS)/manifest.csv $(SEGMENTER_FILES) $(MADE_OF)/segmenter
	$(BIN)/pneumoseg train-segmenter $(SEGMENTER_EXPERIMENT) --manifest $< --out $(@D) --resume

# A cross-validated run has a bundle a fold; they are averaged.
bundles = $$(ls -d $(2) 2>/dev/null | sed 's/^/--$(1) /')

$(RUNS)/pipeline/pipeline.json: $(CLASSIFIER_RUN)/metrics.json $(SEGMENTER_RUN)/metrics.json $(MADE_OF)/runs
	$(BIN)/pneumoseg assemble --out $(@D) $(call bundles,classifier,$(CLASSIFIER_RUN)/best $(CLASSIFIER_RUN)/fold_*/best) \
		$(if $(wildcard $(SEGMENTER_RUN)/swa $(SEGMENTER_RUN)/fold_*/swa),$\
		$(call bundles,segmenter,$(SEGMENTER_RUN)/swa $(SEGMENTER_RUN)/fold_*/swa),$\
		$(call bundles,segmenter,$(SEGMENTER_RUN)/best $(SEGMENTER_RUN)/fold_*/best))

# The networks run once over the images that neither was trained on; all that follows takes seconds.
# Where the truth of the test images is known, these are scored, and the rule is chosen on the others. Else it is chosen
# on half of the others, and the other half is scored.
VALIDATION := $(RUNS)/predictions/validation
ifneq ($(wildcard $(DATA)/test-rle.csv),)
SCORED := $(RUNS)/predictions/test
SCORED_MANIFEST := $(RUNS)/test/manifest.csv
SHARE := 1
$(SCORED_MANIFEST): $(DATA)/test-rle.csv $(MADE_OF)/test | $(INSTALLED)
	$(BIN)/pneumoseg index $(TEST) $< --out $@ $(if $(TEST_ID_MAP),--id-map $(TEST_ID_MAP))
else
SCORED := $(VALIDATION)
SCORED_MANIFEST := $(RUNS)/manifest.csv
SHARE := 0.5
endif

UNTRAINED := --exclude-training $(CLASSIFIER_RUN) --exclude-training $(SEGMENTER_RUN)
PREDICT = $(BIN)/pneumoseg predict --pipeline $(RUNS)/pipeline --out $(@D) $(UNTRAINED)

$(VALIDATION)/predictions.csv: $(RUNS)/pipeline/pipeline.json $(RUNS)/manifest.csv
	$(PREDICT) --manifest $(RUNS)/manifest.csv

ifneq ($(SCORED),$(VALIDATION))
$(SCORED)/predictions.csv: $(RUNS)/pipeline/pipeline.json $(SCORED_MANIFEST)
	$(PREDICT) --manifest $(SCORED_MANIFEST)
endif

$(RUNS)/predictions/flip/predictions.csv: $(RUNS)/pipeline/pipeline.json $(SCORED_MANIFEST)
	$(PREDICT) --manifest $(SCORED_MANIFEST) --flip

tune: $(RUNS)/pipeline/tuning.json ## Choose the thresholds and areas on validation images

$(RUNS)/pipeline/tuning.json: $(VALIDATION)/predictions.csv $(MADE_OF)/share
	$(BIN)/pneumoseg tune --predictions $(<D) --pipeline $(@D) --share $(SHARE)

PIPELINE := $(RUNS)/pipeline/$(if $(filter yes,$(TUNE)),tuning,pipeline).json
ASSEMBLED := $(if $(filter yes,$(TUNE)),,--assembled)

submit: $(SAMPLE) $(RUNS)/submission.csv ## Predict the test images and check the submission; trains what is missing
	$(BIN)/pneumoseg validate-submission $(RUNS)/submission.csv --expected $(SAMPLE)

$(RUNS)/submission.csv: $(PIPELINE) $(MADE_OF)/rule $(MADE_OF)/test
	$(BIN)/pneumoseg submit $(TEST) --pipeline $(<D) --out $@ $(ASSEMBLED)

evaluate: $(PIPELINE) $(SCORED)/predictions.csv ## Score the pipeline: ablation, tables 1 and 2, classifier, groups, beside the all-empty floor
	$(BIN)/pneumoseg evaluate --predictions $(SCORED) --pipeline $(<D) --out $(RUNS)/scores \
		--run $(CLASSIFIER_RUN) --run $(SEGMENTER_RUN) $(ASSEMBLED)

report: $(RUNS)/report.html ## The same as a page with curves and every image

$(RUNS)/report.html: $(PIPELINE) $(SCORED)/predictions.csv $(MADE_OF)/report $(if $(filter yes,$(FLIP)),$(RUNS)/predictions/flip/predictions.csv)
	$(BIN)/pneumoseg report --predictions $(SCORED) --pipeline $(<D) --out $@ --run $(CLASSIFIER_RUN) --run $(SEGMENTER_RUN) \
		$(ASSEMBLED) $(if $(filter yes,$(FLIP)),--compare $(RUNS)/predictions/flip)

$(RUNS)/predictions.png: $(PIPELINE) $(SCORED_MANIFEST) $(MADE_OF)/report
	$(BIN)/pneumoseg show-masks --manifest $(SCORED_MANIFEST) --pipeline $(<D) --out $@ $(UNTRAINED) $(ASSEMBLED)

clean: ## Remove the environments, the demo and caches; runs stay
	rm -rf .venv .venv-oracles demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
