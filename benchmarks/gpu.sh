#!/usr/bin/env bash
# All benchmarks for an NVIDIA GPU in one call.
#
# Needs Python 3.12 with torch, numpy, scipy, scikit-image, opencv, numba and safetensors; what else is needed is in
# gpu_wheels.txt and, where nothing can be fetched, comes as wheels in the folder .whl. Training fields come as packs
# in the folder .pack. Prepare both where the package is installed, and bring them along:
#
#   python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 -d .whl -r benchmarks/gpu_wheels.txt
#   python benchmarks/pack.py --data "$WSI_PIPELINE_DATA" --out .pack --jpeg 95
#
# Results go to $OUT, or to benchmarks/results. STEPS (default 300) is the number of training steps of each network;
# 0 trains the shipped recipes in full, and the weights are saved beside the results.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
out="${OUT:-benchmarks/results}"
steps="${STEPS:-300}"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

failed=()
step() {
  local name="$1" began=$SECONDS
  shift
  echo "=== $name"
  if "$@"; then echo "=== $name: done in $((SECONDS - began)) s"; else
    echo "=== $name: FAILED after $((SECONDS - began)) s"
    failed+=("$name")
  fi
}

if compgen -G ".whl/*.whl" >/dev/null; then
  step "wheels" "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$scratch/site" .whl/*.whl
  export PYTHONPATH="$scratch/site:$PYTHONPATH"
fi
step "machine" "$python" -c '
import torch
assert torch.cuda.is_available(), "torch sees no CUDA device"
print(torch.__version__, torch.cuda.get_device_name())'
step "network" "$python" benchmarks/network.py --device cuda --size 4096 --batch 8 32 128 --repeats 10 \
  --results "$out" --scratch "$scratch"
if compgen -G ".pack/*.npz" >/dev/null; then
  step "training" "$python" benchmarks/gpu_train.py --pack .pack --device cuda --steps "$steps" --threads 4 \
    --results "$out" --scratch "$scratch" --save "$out"
else
  echo "=== training: left out, there are no packs in .pack (see the head of this file)"
fi

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all done; results in $out"
