# Signalbox: every command a developer types. `make` alone lists them.
# A fresh clone needs git, make and python3 (3.11 or newer, with venv and pip), nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# What the static checks read: our packages, their tests, and the scripts beside them.
CODE := statechart common orchestrator task_runner api signalbox migrations tests docs

# Suites in the order of what they need. Servers and whole processes mostly wait for each other, so more tests of them go side
# by side than there are cores; of what is load itself two, since each has work for both cores, and of chaos, which mostly waits until
# those who were killed have come back; what measures time runs alone.
PURE_SUITES := $(wildcard tests/unit tests/conformance)
SERVER_SUITES := tests/integration tests/migrations tests/chaos --ignore=tests/chaos/test_chaos.py
STRESS_SUITES := tests/stress
TIMED_SUITES := tests/acceptance/test_recovery_times.py tests/acceptance/test_quiet_times.py
CHAOS_SUITES := tests/chaos/test_chaos.py
PROCESS_SUITES := tests/acceptance $(addprefix --ignore=,$(TIMED_SUITES))

# A dozen interpreters load the same code here, and none of them should have to compile it again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check up bench chaos stress conformance docs lock clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## list the commands
	@echo "Signalbox: durable statecharts on Celery"
	@echo
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' \
	  | while IFS='|' read -r command text; do printf '%-20s %s\n' "$$command" "$$text"; done
	@echo
	@echo "  ARGS=\"...\" goes to the command behind up, bench, test, chaos, stress and conformance."

demo: $(VENV)/.project ## install, then run hello-workflow end to end on real parts
	@$(BIN)/signalbox demo

test: $(VENV)/.dev $(VENV)/.project ## install, then run every suite, real PostgreSQL and Valkey included
	@failed=0; took=; \
	for part in pure servers processes stress timed chaos; do \
	  fsync=off; \
	  case $$part in \
	    pure) suites="-n 3 $(PURE_SUITES)";; \
	    servers) suites="-n 3 $(SERVER_SUITES)";; \
	    processes) suites="-n 4 $(PROCESS_SUITES)";; \
	    stress) suites="-n 2 $(STRESS_SUITES)"; fsync=on;; \
	    timed) suites="$(TIMED_SUITES)"; fsync=on;; \
	    chaos) suites="-n 2 $(CHAOS_SUITES)"; fsync=on;; \
	  esac; \
	  began=$$(date +%s); \
	  TEST_FSYNC=$$fsync $(BIN)/pytest $$suites $(ARGS) || { code=$$?; test $$code = 5 && test -n '$(subst ','\'',$(ARGS))' || failed=1; }; \
	  took="$$took $$part $$(($$(date +%s) - began))"; \
	done; \
	echo; echo "seconds that each part took:"; printf '  %-9s %5d s\n' $$took; \
	exit $$failed

check: $(VENV)/.dev $(VENV)/.project ## the static part: format, lint, types, imports, dead code, dependencies
	@failed=0; told=$$(mktemp); \
	$(BIN)/mypy >$$told 2>&1 & types=$$!; \
	for step in "ruff format --check $(CODE)" "ruff check $(CODE)" lint-imports vulture "deptry ."; do \
	  echo "--- $$step"; $(BIN)/$$step || failed=1; \
	done; \
	wait $$types || failed=1; \
	echo "--- mypy, beside them"; cat $$told; rm -f $$told; \
	exit $$failed

up: $(VENV)/.project ## keep the embedded stack running; Ctrl-C drains and stops it
	@$(BIN)/signalbox up $(ARGS)

bench: $(VENV)/.project ## measure workflows per second and latency on this machine
	@$(BIN)/signalbox bench $(ARGS)

chaos: $(VENV)/.dev $(VENV)/.project ## real processes hurt at random for 4 min a database (needs faketime)
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-240} CHAOS_INSTANCES=$${CHAOS_INSTANCES:-2000} $(BIN)/pytest tests/chaos/test_chaos.py $(ARGS)

stress: $(VENV)/.dev $(VENV)/.project ## only the stress suite, longer: STRESS_SECONDS=60 unless you say otherwise
	@TEST_FSYNC=on STRESS_SECONDS=$${STRESS_SECONDS:-60} $(BIN)/pytest tests/stress $(ARGS)

conformance: $(VENV)/.dev $(VENV)/.project ## the kernel against the real XState on new random charts (needs node and npm)
	@$(BIN)/python -m tests.conformance $(ARGS)

docs: $(VENV)/.dev $(VENV)/.project ## write the generated parts of docs/ anew
	@$(BIN)/python -m docs.generate

lock: pyproject.toml ## resolve the dependencies anew and write the hashed lock files (needs uv)
	@uv=$$(command -v uv || command -v $(BIN)/uv) \
	  || { echo "make lock: uv is neither on PATH nor in $(BIN); get it with '$(BIN)/pip install uv'" >&2; exit 1; }; \
	set -e; \
	"$$uv" lock; \
	"$$uv" export -q --no-header --no-emit-project --no-dev -o requirements.lock; \
	"$$uv" export -q --no-header --no-emit-project -o requirements-dev.lock; \
	"$$uv" export -q --no-header --no-emit-project --only-group build -o requirements-build.lock

clean: ## remove the environment, caches and builds; data in .signalbox stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------
# Stamp files: each is newer than what it was made from, so a second run installs nothing.

# uv is much faster, but reads none of pip's settings (a mirror, say): where it fails, pip has its turn.
# It trusts this machine's certificates, as pip does; older versions know that by the first of the two names.
# Both refuse a package whose hash the lock file does not name.
# pip would compile everything, on one core; most of it is never imported, and what is, is compiled then.
UV := UV_NATIVE_TLS=true UV_SYSTEM_CERTS=true UV_HTTP_RETRIES=1 uv
define install
	@echo "installing $(1) into $(VENV) ..."
	@if command -v uv >/dev/null 2>&1 \
	    && $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r $(1); then :; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile --require-hashes -r $(1); \
	fi
endef

# pyenv builds Python without optimizations unless told otherwise, and everything takes a third more CPU there: where nobody has
# named a Python, the distribution's is taken instead, if it will do (signalbox/machine.py has the same rule).
NAMED_PYTHON := $(filter-out file default undefined,$(origin PYTHON))
DISTRIBUTION := /usr/bin/python3
IS_OPTIMIZED := import sys, sysconfig; args = sysconfig.get_config_var("CONFIG_ARGS"); \
	sys.exit(args is not None and "--enable-optimizations" not in args and sys.base_prefix != "/usr")
WILL_DO := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

$(VENV)/.python:
	@python='$(PYTHON)'; \
	if [ -z '$(NAMED_PYTHON)' ] && command -v "$$python" >/dev/null 2>&1 && ! "$$python" -c '$(IS_OPTIMIZED)' \
	    && $(DISTRIBUTION) -c '$(WILL_DO)' 2>/dev/null; then \
	  echo "taking $(DISTRIBUTION): the '$$python' on PATH was built without optimizations (to take it all the same: make PYTHON=$$python)"; \
	  python=$(DISTRIBUTION); \
	fi; \
	command -v "$$python" >/dev/null 2>&1 \
	  || { echo "Signalbox needs Python 3.11 or newer, and '$$python' is not on PATH" >&2; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Signalbox needs Python 3.11 or newer, '$$python' is $$("$$python" -V 2>&1);" \
	       "name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
	"$$python" -m venv $(VENV) \
	  || { echo "'$$python -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.runtime: requirements.lock $(VENV)/.python
	$(call install,requirements.lock)
	@touch $@

# The development lock holds the runtime lock with the same versions, so it settles both.
$(VENV)/.dev: requirements-dev.lock requirements.lock $(VENV)/.python
	$(call install,requirements-dev.lock)
	@touch $(VENV)/.runtime $@

# The build backend comes from a hashed lock of its own, hence no build isolation.
$(VENV)/.project: pyproject.toml requirements-build.lock $(VENV)/.runtime
	$(call install,requirements-build.lock)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
