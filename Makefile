# Targets run in .venv, which holds what requirements.lock pins and is made when first needed.
#
#   PYTHON   the Python 3.9, 3.10 or 3.11 to make .venv with [searched for]
#   DATA     folder of training photos, or several: DATA="a b"; of several, quote those with
#            spaces once more: DATA="a 'my photos'"
#   FAMILY   residual-mse, residual-ms-ssim, progressive-mse or progressive-ms-ssim
#   CHECKPOINTS  folder to train into, and of the lower layers
#   OPTIONS  further options of the training scripts, such as --preset paper
#   STEPS    number of steps of each layer in make reproduce, for a trial

FAMILY = residual-mse
CHECKPOINTS = checkpoints
python = .venv/bin/python
# The lock is used without its hashes, which pip would then require of every package.
install = $(python) -m pip install --disable-pip-version-check -c .venv/pins.txt
# The folders of DATA as arguments of the shell; DATA is one folder if that folder exists.
folders = if test -d "$$DATA"; then set -- "$$DATA"; else eval "set -- $$DATA"; fi
export DATA

.PHONY: help demo train reproduce kodak results web test test-fast lint docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

demo: .venv/installed  ## measure every layer on Kodak or sample photos: one table, one figure
	@$(python) -m sae demo

train: .venv/installed  ## train a family, layer by layer or whole: make train DATA=DIR [FAMILY=residual-mse]
	@test -n "$$DATA" || { echo "Name folders of training photos: make train DATA=DIR" >&2; exit 2; }
	@$(folders); layers=$$($(python) -c "import sae.model.families as f; print(*f.named('$(FAMILY)').trained_layers)") && \
	for layer in $$layers; do \
	    $(python) train_$$layer.py --data "$$@" --family $(FAMILY) \
	        --checkpoints "$(CHECKPOINTS)" $(OPTIONS) || exit; \
	done

reproduce: .venv/installed  ## train, measure and write the documents: make reproduce DATA=DIR [STEPS=20]
	@test -n "$$DATA" || { echo "Name folders of training photos: make reproduce DATA=DIR" >&2; exit 2; }
	@$(folders); $(python) -m tools.reproduce --data "$$@" $(if $(STEPS),--steps $(STEPS)) \
	    $(if $(OPTIONS),--options $(OPTIONS))

kodak:  ## download the 24 Kodak images into kodak/ and check them
	@"$(or $(PYTHON),python3)" kodak/download.py

results: .venv/installed  ## write the documents' tables and figures from results/
	@$(python) -m tools.documents

web:  ## build the page that decodes streams in the browser; needs Node 18 or newer
	@cd web && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build

test: .venv/installed-dev lint  ## lint and run the tests
	@$(python) -m pytest -n 2 --dist loadfile

test-fast: .venv/installed-dev  ## run the tests that are not marked slow, in a minute
	@$(python) -m pytest -n 2 --dist loadfile -m "not slow" --durations=5

lint: .venv/installed-dev  ## check style, format and types
	@$(python) -m ruff check
	@$(python) -m ruff format --check
	@$(python) -m mypy

docs: .venv/installed-docs  ## build the site of the documents into build/site
	@$(python) -m mkdocs build --strict --config-file tools/mkdocs.yml

clean:  ## remove .venv, .uv and caches; checkpoints, images and results stay
	rm -rf .venv .uv .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# This file is touched last, so that a failed installation is repeated.
.venv/installed: requirements.txt requirements.lock
	@sh tools/make_venv.sh "$(PYTHON)"
	@sed -n 's/^\([a-z].*[^ ]\) *\\$$/\1/p' requirements.lock > .venv/pins.txt
	@$(install) -r requirements.txt
	@touch $@

.venv/installed-dev: tools/requirements-dev.txt .venv/installed
	@$(install) --quiet -r tools/requirements-dev.txt
	@touch $@

.venv/installed-docs: pyproject.toml .venv/installed
	@$(install) --quiet --editable ".[docs]"
	@touch $@
