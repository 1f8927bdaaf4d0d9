# Every target sets up .venv by itself. Needed: Python 3.11, make and git. No Java: the package brings one.
PYTHON ?= python3.11
WORKERS ?= 3

BIN   := .venv/bin
READY := .venv/.ready
BUILD := $(BIN)/python -m chargeback_consolidation.build
CLI   := $(BIN)/chargeback-consolidation

DATE        ?= 2025-11-02
LAKE        ?= lake
FILES       ?= 1200
NAME        ?= reconcile
OUTPUT      := $(LAKE)/consolidated/chargebacks
DAY         := --output-path $(OUTPUT) --partition-date $(DATE)
TABLE       := --catalog $(LAKE) --partition-date $(DATE)
LAND        := $(CLI) land-sample $(TABLE) --database landing --table chargebacks --files $(FILES) --deliveries 4
CONSOLIDATE := $(CLI) consolidate $(TABLE) --source-database landing --source-table chargebacks \
	--output-path $(OUTPUT) --output-file-count 10 --compression-codec snappy

RUNTIMES := $(addprefix tests/runtimes/,test_runtimes.py test_cluster.py test_glue_end_to_end.py)
STUDIO   := tests/studio/test_studio_glue.py
ON_S3    := $(addprefix tests/faults/,test_s3.py test_s3_store.py test_s3_runs.py test_kills.py test_races.py)
EVIDENCE := $(addprefix tests/faults/,test_kills.py test_races.py test_s3.py test_hostile.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all s3 runtimes check evidence explore bench investigate lab readers studio studio-test package export notebooks clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { n = split($$2, w, " "); line = sprintf("  make %-11s", $$1); \
	  for (i = 1; i <= n; i++) { if (length(line " " w[i]) > 80) { print line; line = sprintf("%18s", "") } line = line " " w[i] } \
	  print line }' $(MAKEFILE_LIST)

demo: $(READY) ## Land a sample day in four deliveries and consolidate it in four executions, under lake/
	@for k in 1 2 3 4; do \
	  $(LAND) --delivery $$k && $(CONSOLIDATE) --execution-sequence $$k || exit $$?; \
	done
	@echo
	@echo 'What the four executions did:'
	@echo '  $(CLI) history $(DAY)'
	@echo 'The files that are the day now:'
	@echo '  $(CLI) snapshot $(DAY)'
	@echo 'Whether all that landed is in it, as a page below runs/:'
	@echo '  $(CLI) investigate reconcile $(DAY)'
	@echo 'A look at the data:'
	@echo '  $(BIN)/python -c "import duckdb; duckdb.sql(\"SELECT status, count(*) FROM read_parquet('"'$(OUTPUT)/year=*/*/*/*.parquet'"', union_by_name=true) GROUP BY ALL ORDER BY 2 DESC\").show()"'

test: $(READY) ## Run tests of every promise, in about ten minutes; the script on the oldest and the newest Glue that is here
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m 'not slow'

test-all: $(READY) ## Run all tests, every case of each, also on a cluster and in Glue Studio
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup

s3: $(READY) ## Run all tests of S3 on a real server: Ceph, from Debian's packages (see tests/support/ceph.py)
	@CHARGEBACK_S3=ceph $(BIN)/pytest -n $(WORKERS) --dist loadfile -rs -k 'not local and not moto' $(ON_S3)

runtimes: $(READY) ## Run the exported script on every Glue runtime, on a cluster, and as deployed
	@$(BIN)/python tests/support/runtimes.py
	@$(BIN)/pytest $(RUNTIMES)

readers: $(READY) ## Read a Delta log with every engine, some in an environment of their own
	@$(BIN)/python tests/support/readers.py
	@$(BIN)/pytest -rs tests/contract/test_delta.py

check: $(READY) ## Check that notebooks, library, Glue script and README agree, and that the code is tidy
	@$(BUILD) check

evidence: $(READY) ## Run the fault tests and keep what they show for the README
	@rm -f build/matrices.jsonl; mkdir -p build
	@CHARGEBACK_MATRICES=$(CURDIR)/build/matrices.jsonl $(BIN)/pytest -n $(WORKERS) --dist loadgroup $(EVIDENCE)
	@$(BIN)/python tests/support/matrices.py build/matrices.jsonl && $(BUILD) refresh nbs/index.ipynb

explore: $(READY) ## Play the schedules of runs, repairs and readers on one day, faults included, for MINUTES (12)
	@$(BIN)/python tests/explore/everything.py --keep tests/explore/explored.json $(if $(MINUTES),--minutes $(MINUTES))

bench: $(READY) ## Measure the pipeline beside what one would pick instead
	@$(BIN)/python bench/bench.py

investigate: $(READY) ## Ask a question about the demo's day (NAME=reconcile, or trace with ID=...): a report under runs/
	@$(CLI) investigate $(NAME) $(DAY) $(if $(ID),--chargeback-id $(ID)) $(if $(FAIL_ON),--fail-on $(FAIL_ON))

lab: $(READY) ## Open the notebooks in JupyterLab (PORT=8888)
	@JUPYTER_CONFIG_PATH=$(CURDIR)/.jupyter $(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs \
	  $(if $(PORT),--ServerApp.port=$(PORT)) $$(test "$$(id -u)" != 0 || echo --allow-root)

studio: $(READY) ## Open the Studio notebooks in JupyterLab, with the Glue kernel and no AWS (PORT=8888)
	@$(BIN)/python -m chargeback_consolidation.studio.workbench lab $(if $(PORT),--ServerApp.port=$(PORT))

studio-test: $(READY) ## Run all Studio notebooks through the Glue kernel, with Glue's packages alone
	@$(BIN)/pytest -n $(WORKERS) $(STUDIO)

package: $(READY) ## Make the library's zip and wheel for Glue, in glue_export/dist/
	@$(BIN)/python -m chargeback_consolidation.build.package

export: $(READY) ## Write library, Glue script and README from the notebooks
	@$(BUILD) export

notebooks: $(READY) ## Run all notebooks, to refresh their saved outputs
	@$(BUILD) refresh

clean: ## Remove caches, build leftovers and the demo's lake/ (never .venv, out/ or runs/)
	@rm -rf lake build glue_export/dist *.egg-info .pytest_cache .ruff_cache .hypothesis spark-warehouse metastore_db derby.log
	@find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints -o -name spark-warehouse \) -type d -print0 | xargs -0 rm -rf

$(READY): requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed and not on the PATH: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv, once: a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt --editable .
	@$(CLI) warm-up || true
	@touch $@
