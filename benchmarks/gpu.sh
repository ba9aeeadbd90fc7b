#!/usr/bin/env bash
# Everything that only a GPU can show: the tests marked `gpu`, then the benchmarks of the device.
# Writes benchmarks/results/gpu-<date>.json: device, versions, how the tests ended, figures.
# Not yet run on a GPU.
#
#   benchmarks/gpu.sh                         # with the python of .venv, else python3
#   PYTHON=python3 WHEELS=wheels benchmarks/gpu.sh
#
# Of a machine that has torch and CuPy alone: fill a folder elsewhere, carry it along, name it as
# WHEELS. What is in it is installed into a folder of this run, over nothing that is there.
#
#   pip download -d wheels -c constraints.txt --only-binary :all: \
#     dask distributed zarr fsspec pydantic pyyaml safetensors xarray pyarrow numba scipy typer \
#     rich jinja2 packaging pytest pytest-timeout hypothesis && rm -f wheels/torch-* wheels/nvidia*
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
OUT="${OUT:-benchmarks/results}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

export PYTHONPATH="$PWD"
if [ -n "${WHEELS:-}" ]; then
  # --no-deps: torch and CuPy are the machine's own
  "$PYTHON" -m pip install --quiet --no-deps --no-index --target "$scratch/site" "$WHEELS"/*.whl
  PYTHONPATH="$PWD:$scratch/site"
fi

# The kernels of `consistency` and `perturb` need an array library alone: they are tried first.
tests=0
"$PYTHON" -m pytest -m gpu -q -p no:cacheprovider --junitxml="$scratch/tests.xml" \
  tests/consistency tests/perturb tests/test_arrays.py || tests=$?
"$PYTHON" benchmarks/gpu.py --tests "$scratch/tests.xml" --out "$OUT"
# 5: no test was chosen
[ "$tests" = 0 ] || [ "$tests" = 5 ] || exit "$tests"
