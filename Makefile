# `make demo` and `make test` need nothing but Python 3.12 or newer; all else goes into .venv.
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: demo test check bench format clean

demo: $(VENV)/installed
	@$(PYTHON) examples/demo.py

test: $(VENV)/installed
	$(PYTHON) -m pytest

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PYTHON) -m mypy -p django_tasks_cloud_tasks -p tests
	$(VENV)/bin/django-admin makemigrations --check --settings tests.settings --pythonpath .

bench: $(VENV)/installed
	$(PYTHON) -m bench

format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .venvs .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		*.egg-info src/*.egg-info examples/site/*.sqlite3*

$(VENV)/installed: pyproject.toml
	@python=$$(.ci/find-python) || exit 1; \
	echo "Setting up $(VENV) with $$python"; \
	"$$python" -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
