#!/usr/bin/env bash
# Everything that only a GPU can show, in one go that ends in time: see benchmarks/gpu.py.
# Writes benchmarks/results/gpu-<date>.json: device, versions, how the tests ended, figures.
# Not yet run on a GPU.
#
#   benchmarks/gpu.sh                         # with the python of .venv, else python3
#   PYTHON=python3 WHEELS=wheels BUDGET=450 OUT=folder benchmarks/gpu.sh
#
# It ends after BUDGET seconds (450), whatever hangs; what was measured until then is written.
#
# Of a machine that has torch and CuPy alone: fill a folder elsewhere, carry it along, name it as
# WHEELS. What is in it is installed into a folder of this run, over nothing that is there. Without
# it the tests and the kernels run; what runs networks of a bank wants pydantic, PyYAML, fsspec,
# safetensors and numba, the authors' procedure h5py, and the segmenters bioimage-cpp:
#
#   pip download -d wheels -c constraints.txt --only-binary :all: pydantic pyyaml fsspec \
#     safetensors numba scipy h5py bioimage-cpp pytest pytest-timeout hypothesis
#   rm -f wheels/torch-* wheels/nvidia*
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
OUT="${OUT:-benchmarks/results}"
BUDGET="${BUDGET:-450}"
began=$SECONDS
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
  # --no-deps: torch and CuPy are the machine's own
  "$PYTHON" -m pip install --quiet --no-deps --no-index --target "$scratch/site" "$WHEELS"/*.whl
  PYTHONPATH="$PYTHONPATH:$scratch/site"
fi
left=$((BUDGET - (SECONDS - began)))
timeout --kill-after 5 "$left" "$PYTHON" benchmarks/gpu.py --budget "$left" --out "$OUT"
