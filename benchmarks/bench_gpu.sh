#!/usr/bin/env bash
# Everything that is measured on a GPU, in at most six minutes of it:
#   benchmarks/bench_gpu.sh OUT [--part NAME[,NAME...]] [--python PATH]
# Parts, in order of importance, with their limits in seconds: fast 70, peers 60, small 50, job 75,
# training 60, profile 50, compile 2 x 40. Each step has a time limit of its own, its output in OUT, and never ends the others.
# The table that is printed last is made of what is in OUT, so that parts can be run one by one.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: bench_gpu.sh OUT [--part NAME,...]}; shift
parts=fast,peers,small,job,training,profile,compile python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
  case $1 in
    --part) parts=$2 ;;
    --python) python=$2 ;;
    *) echo "bench_gpu.sh: $1?" >&2; exit 2 ;;
  esac
  shift 2
done
mkdir -p "$out"
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

step() {  # NAME SECONDS COMMAND...: its JSON is OUT/NAME.json, what it prints OUT/NAME.log
  local name=$1 seconds=$2 began=$SECONDS; shift 2
  timeout -k 5 "$seconds" "$python" "$@" --out "$out/$name.json" >"$out/$name.log" 2>&1
  local code=$?
  echo "$name: exit code $code after $((SECONDS - began)) s" | tee -a "$out/steps.txt"
}
sampling() { local name=$1 seconds=$2; shift 2; step "$name" "$seconds" "$here/bench_sampling.py" --device cuda "$@"; }

for part in ${parts//,/ }; do
  case $part in
    fast)  # the paper's size: one volume, and as many as keep the card full
      sampling gem3d_512 70 --preset gem3d_512 \
        --setting "half_one precision=float16 num_inference_steps=5" \
        --setting "half_many volumes=6 precision=float16 num_inference_steps=5" \
        --setting "half_replicas volumes=6 replicas=true precision=float16 num_inference_steps=5" ;;
    small)
      sampling gem3d_256 50 --preset gem3d_256 \
        --setting "bfloat_one precision=bfloat16 num_inference_steps=5" \
        --setting "bfloat_many volumes=48 precision=bfloat16 num_inference_steps=5" \
        --setting "half_many volumes=48 precision=float16 num_inference_steps=5" ;;
    peers) step peers 60 "$here/bench_peers.py" --device cuda ;;
    job) step job 75 "$here/bench_job.py" --preset gem3d_256 gem3d_512 --volumes 48 12 ;;
    profile)  # of the kernels; the profiler itself takes about ten seconds
      sampling profile 50 --preset gem3d_512 gem3d_256 \
        --setting "half_many volumes=4 precision=float16 num_inference_steps=5 profile=true" ;;
    training) step training 60 "$here/bench_training.py" --device cuda --preset gem3d_512 ;;
    compile)  # twice, the second time from what the first has left on the disk
      cache=$(mktemp -d)
      for turn in cold warm; do
        TORCHINDUCTOR_CACHE_DIR=$cache/inductor TRITON_CACHE_DIR=$cache/triton GEM3D_CACHE=$cache/gem3d \
          sampling "compile_$turn" 40 --preset gem3d_512 --num-slices 40 \
          --setting "compiled precision=float16 num_inference_steps=2 compile=true"
      done
      rm -rf "$cache" ;;
    *) echo "bench_gpu.sh: part $part?" >&2; exit 2 ;;
  esac
done
"$python" "$here/gpu_table.py" "$out" | tee "$out/table.txt"
