# The commands a person types. `make run-local` and `make test` set everything up by themselves.

# The first that runs and is new enough (a shim on the PATH may name a Python that is not there), else python3.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && exit; done; \
	command -v python3)
VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made
PACKAGES := $(VENV)/.packages
READY := $(VENV)/.ready
DEMO := demo
DIST := dist
N ?= 10000
# In the order of tests/conftest.py: the longest files first.
TWO_AT_A_TIME := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# What takes the network goes beside what takes a core.
MAKEFLAGS += --jobs=2

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYSPARK_PYTHON := $(CURDIR)/$(BIN)/python

.PHONY: lint types $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' $(MAKEFILE_LIST))

help:  ## say what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

run-local: $(READY) $(DEMO)/photos/.ready  ## embed a small set of real photos and show their neighbours
	$(BIN)/spark-embed --input_dir $(DEMO)/photos --output_dir $(DEMO)/embeddings --overwrite
	$(BIN)/python tools/show_neighbours.py $(DEMO)/embeddings

test: s3-server kustomize $(READY) lint types  ## everything that CI runs
	$(BIN)/python -m pytest $(TWO_AT_A_TIME)

test-fast: $(READY)  ## without whole runs and processes of their own: for the edit loop
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) -m "not slow and not crash and not soak and not compare"

test-crash: $(READY) s3-server  ## series of kills, full disks and dying stores, which make test skips
	$(BIN)/python -m pytest -m crash --crash

test-compare: $(READY)  ## every step of the comparison gives the job's vectors: minutes; make test runs one of them
	$(BIN)/python -m pytest -m compare --compare

test-soak: $(READY)  ## 60,000 requests of good, broken, slow and vanishing clients to one service, and its memory meanwhile
	$(BIN)/python -m pytest -m soak --soak

test-cluster: $(READY)  ## clusters whose nodes leave, whose driver or master dies, with several GPUs: make test has a part of it
	$(BIN)/python -m pytest --crash tests/system/test_gpus.py tests/system/test_standalone.py tests/system/test_standalone_kills.py

airflow-venv: .venvs/airflow/.ready  ## an environment of Airflow's own for deploy/airflow: 300 MB of PyPI, once

test-airflow: $(READY) .venvs/airflow/.ready  ## the DAGs in a real Airflow: minutes; make test skips them, with that reason
	$(BIN)/python -m pytest --airflow tests/deploy/test_airflow.py tests/deploy/test_airflow_tasks.py

test-browser: $(READY)  ## the pages of spark-embed explore and report in a Chromium that is installed (CHROMIUM=/path): a minute or two
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt playwright
	$(BIN)/python -m pytest -m browser --browser

images-test: $(READY) s3-server  ## build the images of deploy/images by buildah, and run them: half an hour, 30 GB meanwhile
	$(BIN)/python -m pytest --images tests/deploy/test_images.py

.venvs/airflow/.ready: deploy/airflow/constraints.txt
	rm -rf .venvs/airflow
	"$(PYTHON)" -m venv .venvs/airflow
	.venvs/airflow/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< \
		apache-airflow apache-airflow-providers-standard
	touch $@

test-workflows: $(READY)  ## GitHub's workflows: actionlint, built once, and their steps, also those that install environments
	@$(BIN)/python tools/make_go_program.py actionlint
	$(BIN)/python -m pytest --workflows tests/deploy/test_workflows.py tests/deploy/test_workflow_*.py

tabular-example: $(READY)  ## models/tabular_example, trained, and demo/table.csv for it; N=1000000 for as many rows
	$(BIN)/python tools/make_tabular_example.py model models/tabular_example
	$(BIN)/python tools/make_tabular_example.py table $(DEMO)/table.csv $(N)

wheel: $(READY)  ## dist/: the wheel, and the same as a .zip, which is what spark-submit --py-files takes
	rm -f $(DIST)/spark_embed-*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(DIST) .
	cp $(DIST)/spark_embed-*.whl $(DIST)/spark_embed.zip

env-archive: wheel  ## dist/environment.tar.gz: this environment and the wheel, for spark-submit --archives
	$(BIN)/python tools/make_env_archive.py $(VENV) $(DIST)/spark_embed-*.whl $(DIST)/environment.tar.gz

test-matrix: $(READY) s3-server  ## some tests on every Spark from 3.5 on, and on transformers 4: 2 GB of PyPI, once
	@$(BIN)/python tools/run_matrix.py

s3-server: $(MADE)  ## build the S3 server that the tests run against: over a minute, once
	@$(BIN)/python tools/make_go_program.py versitygw

kustomize: $(MADE)  ## build kustomize, for the tests of deploy/kubernetes: seconds, once
	@$(BIN)/python tools/make_go_program.py kustomize

lint: $(PACKAGES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(PACKAGES)
	$(BIN)/mypy

format: $(READY)  ## put the code in its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lines: $(READY)  ## lines by room of spark_embed and of its tests
	@$(BIN)/python tools/count_lines.py

tables: $(READY)  ## write the tables of docs/ and CONTRIBUTING.md anew from the code
	$(BIN)/python tools/write_tables.py

notebook: $(READY)  ## make notebooks/walkthrough.ipynb of walkthrough.py beside it
	$(BIN)/python tools/make_notebook.py

test-notebook: $(READY)  ## run it whole, as a person would: half a minute, which make test skips
	$(BIN)/python -m pytest -m notebook --notebook

compare: $(READY) $(DEMO)/photos/.ready  ## what each mistake of a slow Spark pipeline costs here, and a page about it: 15 minutes
	$(BIN)/spark-embed compare --input_dir $(or $(INPUT),$(DEMO)/photos) --output $(DEMO)/compare.json
	$(BIN)/spark-embed report $(DEMO)/compare.json --to $(DEMO)/compare.html

bench: $(READY)  ## how fast the job is against bare loops and the shapes people publish (docs/speed.md)
	$(BIN)/python -m benchmarks.bench

bench-peers: $(READY)  ## the same against Daft, Ray Data, datasets and clip-retrieval, in venvs of their own
	$(BIN)/python -m benchmarks.peers

bench-service: $(READY)  ## the real-time service against mosec, LitServe and the bare loop, under load (docs/service-speed.md)
	$(BIN)/python -m benchmarks.service

clean:  ## remove what these commands made
	rm -rf $(VENV) .venvs $(DEMO) benchmarks/.cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(MADE): tools/check_machine.sh
	sh tools/check_machine.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	touch $@

$(PACKAGES): $(MADE) pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[dev]'
	touch $@

$(READY): $(PACKAGES)
	-$(BIN)/python tools/make_class_archive.py
	touch $@

$(DEMO)/photos/.ready: $(READY) tools/make_demo.py
	$(BIN)/python tools/make_demo.py $(DEMO)/photos
	touch $@
