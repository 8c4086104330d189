#!/usr/bin/env bash
# Build the documentation site into build/site, every warning an error.
#
#   scripts/docs.sh                 then open build/site/index.html
#   scripts/docs.sh -b linkcheck    check the links that lead elsewhere; further arguments go to Sphinx
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

"$ROOT/scripts/setup.sh" --extras docs
use_environment
cd "$ROOT"
run python -m sphinx -c docs -W --keep-going -q "$@" . build/site
