#!/bin/bash
# On the GPU machine, from the repository's root: keeps the parts that came with this call; unpacks when all are there.
# Which vLLM: BENCH_VLLM.
set -euo pipefail
version=${BENCH_VLLM:-0.26.0}
home=/tmp/gemmaspec-gpu/$version
mkdir -p "$home/parts"
for part in .gpu-payload/"$version"/part-*; do
  [ -e "$part" ] && cp "$part" "$home/parts/"
done
want=$(cat ".gpu-payload/$version/parts")
have=$(find "$home/parts" -name 'part-*' | wc -l)
echo "parts: $have of $want"
[ "$have" -ge "$want" ] || exit 0
if [ ! -e "$home/site.done" ]; then
  mkdir -p "$home/site"
  for i in $(seq 0 $((want - 1))); do cat "$home/parts/part-$i"; done | xz -dc -T0 | tar xf - -C "$home/site"
  python3 -m compileall -q -j 0 "$home/site" > /dev/null 2>&1 || true
  PYTHONPATH="$home/site" python3 bench/gpu/models.py "$home/models"
  touch "$home/site.done"
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
PYTHONPATH="$home/site" python3 -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
