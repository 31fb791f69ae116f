# Targets run in .venv, which holds the pinned requirements and is made when first needed.
#
#   PYTHON   the Python 3.9, 3.10 or 3.11 to make .venv with (looked for)
#   DATA     folder of training photos, or several: DATA="a b"; of several, quote those with
#            spaces once more: DATA="a 'my photos'"
#   FAMILY   residual-mse, conditional-mse, residual-ms-ssim or conditional-ms-ssim
#   CHECKPOINTS  folder to train into, and of the lower layers
#   OPTIONS  further options of the training scripts, such as --preset paper
#   STEPS    of each layer, in make reproduce: few, to see that all works

FAMILY = residual-mse
CHECKPOINTS = checkpoints
python = .venv/bin/python
# The folders of DATA as the shell's words; all of it is one folder where there is such a one.
folders = if test -d "$$DATA"; then set -- "$$DATA"; else eval "set -- $$DATA"; fi
export DATA

.PHONY: help demo train reproduce kodak results test lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 16

demo: .venv/installed  ## base to EL3 on sample photos or Kodak: one table, one figure
	@$(python) -m sae demo

train: .venv/installed  ## train all layers in order: make train DATA=DIR [FAMILY=residual-mse]
	@test -n "$$DATA" || { echo "Name folders of training photos: make train DATA=DIR" >&2; exit 2; }
	@$(folders); layers=$$($(python) -c "import sae.model.families as f; print(*f.named('$(FAMILY)').layers)") && \
	for layer in $$layers; do \
	    $(python) train_$$layer.py --data "$$@" --family $(FAMILY) \
	        --checkpoints "$(CHECKPOINTS)" $(OPTIONS) || exit; \
	done

reproduce: .venv/installed  ## train, measure and draw all of the README: make reproduce DATA=DIR [STEPS=20]
	@test -n "$$DATA" || { echo "Name folders of training photos: make reproduce DATA=DIR" >&2; exit 2; }
	@$(folders); $(python) -m sae reproduce --data "$$@" $(if $(STEPS),--steps $(STEPS)) \
	    $(if $(OPTIONS),--options $(OPTIONS))

kodak:  ## download the 24 Kodak images into kodak/ and check them
	@"$(or $(PYTHON),python3)" kodak/download.py

results: .venv/installed  ## draw the figure and the table of the README from results/
	@$(python) -m sae results

test: .venv/installed-dev lint  ## lint and run the tests
	@$(python) -m pytest -n 2 --dist loadfile

lint: .venv/installed-dev  ## check style and format
	@$(python) -m ruff check
	@$(python) -m ruff format --check

clean:  ## remove .venv, .uv and caches; checkpoints, images and results stay
	rm -rf .venv .uv .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Touched last, so that an installation that failed is taken up again.
.venv/installed: requirements.txt
	@sh tools/make_venv.sh "$(PYTHON)"
	@$(python) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	@$(python) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
