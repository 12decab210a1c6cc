#!/bin/bash
# On the GPU machine: run.sh start STATION…   each station in the background, one GPU each (round robin, in turn)
#                     run.sh wait SECONDS     prints progress until all are done, and copies results to $OUT
# Which vLLM: BENCH_VLLM. Which GPUs, if not all: BENCH_GPUS, their numbers.
set -uo pipefail
home=/tmp/gemmaspec-gpu/${BENCH_VLLM:-0.26.0}
here=$(cd "$(dirname "$0")/../.." && pwd)
case $1 in
  start)
    shift
    rm -rf "$home/repo"; mkdir -p "$home/repo/bench" "$home/results"
    cp -r "$here/operator" "$home/repo/"; cp -r "$here/bench/gpu" "$home/repo/bench/"
    read -ra numbers <<< "${BENCH_GPUS:-$(seq -s ' ' 0 $(($(nvidia-smi -L | wc -l) - 1)))}"
    for turn in "${!numbers[@]}"; do
      gpu=${numbers[$turn]}; mine=(); i=0
      for station in "$@"; do [ $((i % ${#numbers[@]})) -eq "$turn" ] && mine+=("$station"); i=$((i + 1)); done
      [ ${#mine[@]} -gt 0 ] || continue
      for station in "${mine[@]}"; do touch "$home/results/$station.pending"; done
      setsid nohup bash -c "for s in ${mine[*]}; do PYTHONPATH=$home/site python3 $home/repo/bench/gpu/station.py \$s $gpu $home > $home/results/\$s.out 2>&1; rm -f $home/results/\$s.pending; done" > /dev/null 2>&1 < /dev/null &
    done
    sleep 2 ;;
  wait)
    end=$((SECONDS + $2))
    while [ $SECONDS -lt $end ] && ls "$home"/results/*.pending > /dev/null 2>&1; do
      sleep 15; wc -l "$home"/results/*.jsonl 2> /dev/null | tail -5 | tr '\n' ' '; echo
    done
    cat "$home"/results/*.jsonl > "$OUT/results.jsonl" 2> /dev/null
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader > "$OUT/machine.txt"
    grep -h '"kind": "error"' "$home"/results/*.jsonl | cut -c1-1500
    tail -q -n 3 "$home"/results/*.out
    tail -c 20000 "$home"/results/*.log > "$OUT/logs.txt" 2> /dev/null
    ls "$home"/results/*.pending 2> /dev/null || echo "all done" ;;
esac
