# Treeline's front door; `make help` lists what it does. Bazel does the building: this file installs
# what is missing, fetches the default model, and calls it only when a source changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BAZEL ?= bazel
# Or cuda: the server for NVIDIA GPUs, which needs nvcc to be built.
BACKEND ?= cpu
MODEL ?=
HOST ?= 127.0.0.1
PORT ?= 8080
ARGS ?=
FUZZ_SECONDS ?= 60

# What is served where no MODEL is named: an adapter, kept here, to a base that is fetched.
DEFAULT_MODEL := $(CURDIR)/models/smollm2-135m-instruct-linear
DEFAULT_BASE := $(or $(TREELINE_CACHE),$(HOME)/.cache/treeline)/models/SmolLM2-135M-Instruct
SERVER := build/treeline$(patsubst %,-%,$(filter-out cpu,$(BACKEND)))
# Folders are listed with the files: removing a file changes its folder's time.
SOURCES := $(shell find $(wildcard engine kernels proto scheduler server third_party) ! -name "*_test.cc") \
           .bazelrc BUILD WORKSPACE
CPP_FILES = $(shell git ls-files '*.h' '*.cc' '*.cu' '*.cuh')

export BACKEND BAZEL SERVER DEFAULT_MODEL DEFAULT_BASE

.DEFAULT_GOAL := help
.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(SERVER) $(if $(MODEL),,default-model) ## Serve MODEL (a Hugging Face folder; default: a small one, its base fetched) on HOST:PORT, with ARGS
	@exec $(SERVER) serve --model "$(or $(MODEL),$(DEFAULT_MODEL))" --host $(HOST) --port $(PORT) $(ARGS)

.PHONY: build
build: $(SERVER) ## Build the server: build/treeline (BACKEND=cuda: build/treeline-cuda, with nvcc)

# A copy, so that sanitizer and CUDA builds, which share Bazel's output folder, leave it alone.
$(SERVER): $(SOURCES) | setup-build
	$(BAZEL) build --//:backend=$(BACKEND) //server:treeline
	@mkdir -p $(@D) && install -m 755 bazel-bin/server/treeline $@

.PHONY: test
test: setup-test $(SERVER) default-model ## Run all tests that need no GPU
	@tools/test.sh

.PHONY: bench
bench: setup-test ## Run the kernel benchmarks
	@tools/bench.sh

.PHONY: dist
dist: setup-dist $(SERVER) ## Make dist/*.tar.gz: the server, also BACKEND=cuda, with the libraries it needs
	@tools/dist.sh

.PHONY: format
format: setup-format ## Format all C++ and CUDA sources
	@clang-format -i $(CPP_FILES)

.PHONY: lint
lint: setup-sanitize $(SERVER) ## Check formatting, and the sources with clang-tidy (slow)
	@clang-format --dry-run -Werror $(CPP_FILES)
	@tools/lint.sh

.PHONY: asan
asan: setup-sanitize ## Run the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BAZEL) test --config=asan --test_tag_filters=-gpu,-benchmark,-fuzz --build_tests_only //...

.PHONY: tsan
tsan: setup-sanitize ## Run the C++ tests under ThreadSanitizer
	$(BAZEL) test --config=tsan --test_tag_filters=-gpu,-benchmark,-fuzz --build_tests_only //...

.PHONY: fuzz
fuzz: setup-sanitize ## Run each fuzz target for FUZZ_SECONDS
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tools/fuzz.sh

.PHONY: default-model
default-model: setup-build
	@/usr/bin/python3 tools/fetch_default_model.py --output "$(DEFAULT_BASE)" >/dev/null

.PHONY: setup-build setup-test setup-dist setup-format setup-sanitize
setup-build:
	@tools/setup.sh build model
setup-test: setup-build
	@tools/setup.sh test
setup-dist setup-format: setup-%:
	@tools/setup.sh $*
setup-sanitize: setup-test
	@tools/setup.sh sanitize
