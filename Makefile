# Every target sets up what it needs by itself: a virtual environment in .venv with the versions
# of constraints.txt. The second time that costs nothing.
#
# TORCH_INDEX: a package index that carries torch's CPU wheel. On Linux the default torch wheel is
# a CUDA build of several gigabytes; on a machine without a GPU give the CPU index that PyTorch's
# "get started" page names:  make serve TORCH_INDEX=<that address>
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
NATIVE := service/attention/native/pass.so
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.PHONY: serve test stress image-test lint format bench bench-peers demo docs lock clean

serve: $(NATIVE)
	$(BIN)/python -m service

test: .venv/.dev $(NATIVE)
	$(BIN)/python -m pytest

# The proofs that take longer (45 minutes with the soak): load, attacks, ends. They write
# docs/scorecard.json, which the README's table is made from. wrk and hey are Debian packages.
stress: .venv/.dev $(NATIVE)
	$(BIN)/python -m tests.stress

# Builds the Dockerfile and runs the image as compose would: with docker, or else with podman and
# buildah (as root on Debian they are installed where they are missing). Three to seven minutes.
image-test: .venv/.dev
	TORCH_INDEX='$(TORCH_INDEX)' $(BIN)/python -m tests.image

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Core, family, wire, laboratory, batches, and the service beside its peers, those that are
# installed: three quarters of an hour. With BENCH=--write the tables are kept in
# docs/benchmarks.json, and shown in the README.
bench: .venv/.dev $(NATIVE)
	$(BIN)/python -m benchmarks.core $(BENCH)
	$(BIN)/python -m benchmarks.family $(BENCH)
	$(BIN)/python -m benchmarks.wire $(BENCH)
	$(BIN)/python -m benchmarks.laboratory $(BENCH)
	$(BIN)/python -m benchmarks.batching $(BENCH)
	$(BIN)/python -m benchmarks.serving $(BENCH)
	$(BIN)/python -m docs.benchmarks

# The peers, each in an environment of its own in .bench: or some, PEERS="fastapi pytriton".
bench-peers: .venv/.dev
	TORCH_INDEX='$(TORCH_INDEX)' $(BIN)/python -m benchmarks.peers install $(PEERS)

demo: .venv/.dev $(NATIVE)
	$(BIN)/python -m examples.demo

# Writes docs/reference.md from the code's tables, and what the commands of docs/saturation.md print.
docs: .venv/.dev $(NATIVE)
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.scorecard
	$(BIN)/python -m docs.benchmarks
	$(BIN)/python -m docs.run

# Writes constraints.txt anew from the ranges in pyproject.toml.
lock:
	$(PYTHON) -m venv --clear .venv
	$(PIP) -e '.[dev]'
	{ echo '# Exact versions of everything `make` installs; written by `make lock`.'; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.txt

clean:
	rm -rf .venv

.venv/.serve: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --index-url '$(TORCH_INDEX)' '$(TORCH)')
	$(PIP) -c constraints.txt -e .
	touch $@

# The pass in C++, where there is a compiler (CXX names another): 15 seconds, once. Without one, or
# with one that fails, the service runs its eager pass and says so.
$(NATIVE): .venv/.serve $(wildcard service/attention/native/*.h service/attention/native/*.cpp \
		service/attention/native/*.py)
	$(BIN)/python -m service.attention.native.build && test -f $@ && touch $@ || true

.venv/.dev: .venv/.serve
	$(PIP) -c constraints.txt -e '.[dev]'
	touch $@
