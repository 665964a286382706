# Everything here works on a bare Debian 12 with Python 3.11, make and git. `make help` lists the commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKDIR ?= .cliptea
override WORKDIR := $(value WORKDIR)# as it was given: without this, make expands a $ in it
export WORKDIR # recipes use it as a variable of the shell, so that it may contain any characters
IN_WORKDIR := cliptea\.json|report\.html|results\.json|store|mlflow|kfp|logs|run|reports|images|\.partial-.*
IN_ANY_FOLDER := lost\+found|\.DS_Store|Thumbs\.db|desktop\.ini
IMAGES ?= cpu mlflow
.DEFAULT_GOAL := help

.PHONY: help install demo ui test test-long test-claims bench claims lint format compile environment sbom docs image clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

install: $(INSTALLED) ## install the product and its tools into .venv

demo: install ## run the whole pipeline on this machine (five to twelve minutes), then open .cliptea/report.html
	$(BIN)/cliptea run --preset demo --workdir "$$WORKDIR"

ui: install ## open MLflow with the runs of the demo
	$(BIN)/cliptea ui --workdir "$$WORKDIR"

test: install ## run the tests (about 20 minutes on two cores)
	$(BIN)/python -m pytest -m 'not long and not claims' -n 3 --dist loadfile --no-loadscope-reorder

test-long: install ## run the long tests: kills, full disks, damaged objects, fuzzing (about an hour on two cores)
	$(BIN)/python -m pytest -m long -n 2 --dist loadfile --no-loadscope-reorder

test-claims: install ## check the demo's claims on worlds that no setting was chosen on (about an hour on two cores)
	$(BIN)/python -m pytest -m claims

bench: install ## measure speed and size, see benchmarks/README.md
	$(BIN)/python -m benchmarks

claims: install ## measure the method on the demo's claim worlds and write docs/results.md (hours; can be resumed)
	$(BIN)/python -m claims

lint: install ## check style, types, import rules and whether the compiled pipeline is up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/cliptea compile --check

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: install ## write pipeline/cliptea.yaml
	$(BIN)/cliptea compile

environment: install ## write docs/environment.md
	$(BIN)/python -m cliptea.env > docs/environment.md

sbom: install ## list all installed packages with versions and licences: dist/sbom.json (CycloneDX)
	@mkdir -p dist
	$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file dist/sbom.json

docs: install ## build the documentation and the API reference: dist/docs/index.html
	rm -rf docs/api
	$(BIN)/python -m sphinx --quiet --fail-on-warning --conf-dir docs . dist/docs

image: ## build container images with docker or buildah, for example IMAGES="cpu cuda mlflow"; see docker/build.sh
	docker/build.sh $(IMAGES)

clean: ## remove the work directory (not the installation)
	@test ! -e "$$WORKDIR" || grep -qs -e '"kind": "work directory"' -- "$$WORKDIR/cliptea.json" || \
		{ echo "$$WORKDIR is not a work directory of cliptea, or one of an earlier version;" \
		"run cliptea with it once, which marks it, or remove it by hand" >&2; exit 1; }
	@others=$$(ls -Ab -- "$$WORKDIR" 2>/dev/null | grep -vxE -e '$(IN_WORKDIR)|$(IN_ANY_FOLDER)' | tr '\n' ' '); \
		test -z "$$others" || { printf '%s holds files that cliptea has not made: %s\n%s\n' "$$WORKDIR" "$$others" \
		"move them to another folder first" >&2; exit 1; }
	@if test -d "$$WORKDIR/run" && test ! -L "$$WORKDIR/run"; then \
		flock -n -E 75 -- "$$WORKDIR/run/lock" flock -n -E 75 -- "$$WORKDIR/run/tasks.lock" rm -rf -- "$$WORKDIR" || \
		{ test $$? -ne 75 || printf 'a run is using %s; wait for it, or stop it\n' "$$WORKDIR" >&2; exit 1; }; \
	else rm -rf -- "$$WORKDIR"; fi
