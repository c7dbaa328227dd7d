#!/usr/bin/env bash
# Builds with the tests and runs them:  test.sh [arguments of ctest]      (e.g. test.sh -R kernels)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

scripts/install.sh build test
scripts/build.sh build -DLONGLORA_TESTS=ON
exec ctest --test-dir build --output-on-failure --no-tests=error -j2 "$@"
