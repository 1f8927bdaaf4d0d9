#!/bin/sh
# Check the Terraform module with checkov, which has some 300 MB of dependencies and so an environment of its own.
set -eu
cd "$(dirname "$0")/../../.."
if ! test -x .venv-checkov/bin/checkov; then
  "${PYTHON:-python3.11}" -m venv .venv-checkov
  echo '*' > .venv-checkov/.gitignore
  .venv-checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30
fi
.venv-checkov/bin/checkov --directory glue_export/terraform --framework terraform --var-file tests/deploy/terraform/everything.tfvars \
  --skip-download --compact --quiet "$@"
