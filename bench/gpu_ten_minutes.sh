#!/bin/bash
# Everything that wants a GPU, in nine minutes, compilation included, the most valuable first; nothing is fetched.
#
#   bench/gpu_ten_minutes.sh [--small] OUT [DATA]
#
# OUT gets the results, each row as it comes, and the compiler's cache (CACHE_DIR puts that elsewhere); a second call with
# the same OUT goes on where the first one ended. DATA is the folder that holds CIFAR-10 as cifar10_a.zip, with or without
# cifar10_b.zip; without DATA nothing is trained. --small tries all of it on a small network, on a CPU in some minutes.
# PYTHON names the interpreter; torch, torchvision, timm, numpy and Pillow are taken as they are found.
#
# 1. Tests that want CUDA (100 s), while everything is compiled in parallel processes (110 s).
# 2. Times of steps and memory: compiled and whole steps, beside peers (150 s); in a second call,
#    where that time goes (60 s) and steps of merged kernels (60 s); inductor's CUDA graphs (40 s).
# 3. In a second call the tuner's plan for this device (170 s). Training, seed after seed, in the time that is left:
#    full-mode, ladders, batches that grow as images shrink, the ways of others (three fifths of it), and large kernels.
set -u

usage() {
    sed -n '2,/^set -u/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}
small=
patience=1
if [ "${1:-}" = --small ]; then
    small=--small
    patience=5 # two cores, that others may want too
    shift
fi
[ $# -ge 1 ] && [ $# -le 2 ] && [ "${1#-}" = "$1" ] || usage
mkdir -p "$1/logs" || exit 1
out=$(cd "$1" && pwd)
data=
if [ $# -eq 2 ]; then
    [ -e "$2" ] || { echo "no '$2'" >&2; usage; }
    data=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
fi

cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-}
[ -n "$python" ] || { [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3; }
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export TORCHINDUCTOR_CACHE_DIR=${CACHE_DIR:-$out/cache}
total=${SECONDS_IN_ALL:-540}
lost=3 # the exit status of a process that has lost the device: another one may go on

left() { echo $((total - SECONDS - 5)); }

least() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }

# note NAME STATUS SECONDS: a line in OUT/parts.jsonl
note() { echo "{\"part\": \"$1\", \"status\": $2, \"seconds\": $3, \"at\": $SECONDS}" >>"$out/parts.jsonl"; }

# part NAME SECONDS COMMAND ...: stopped after so many seconds, or when all time is up; a failure stops nothing else.
part() {
    local name=$1 limit began=$SECONDS status
    limit=$(least $(($2 * patience)) "$(left)")
    shift 2
    [ "$limit" -ge 5 ] || { echo "=== $name: no time left"; note "$name" 125 0; return 125; }
    echo "=== $name: at most $limit s: $*"
    timeout --kill-after=10 "$limit" "$@" 2>&1 | tee -a "$out/logs/$name.log"
    status=${PIPESTATUS[0]}
    case $status in
        0) echo "=== $name: done in $((SECONDS - began)) s" ;;
        124 | 137 | 143) echo "=== $name: stopped after $((SECONDS - began)) s; call again to go on" ;;
        *) echo "=== $name: FAILED (status $status) after $((SECONDS - began)) s; see $out/logs/$name.log" ;;
    esac
    note "$name" "$status" $((SECONDS - began))
    return "$status"
}

# persistent NAME SECONDS COMMAND ...: as part; where its process dies or loses the device, another one goes on once.
persistent() {
    local name=$1 limit=$2 began=$SECONDS status
    shift 2
    part "$name" "$limit" "$@"
    status=$?
    if [ "$status" -eq "$lost" ] || { [ "$status" -ge 128 ] && [ "$status" -ne 137 ] && [ "$status" -ne 143 ]; }; then
        part "$name" $((limit - SECONDS + began)) "$@" ${again:-}
    fi
}

tests() {
    if grep -qs '"part": "tests", "status": 0' "$out/parts.jsonl"; then
        echo "=== tests: passed before"
        return
    fi
    part smoke 45 "$python" -m bench.smoke --small
    if "$python" -c 'import pytest' 2>/dev/null; then
        part tests 100 "$python" -m pytest -q --tb=short -p no:cacheprovider -rs --continue-on-collection-errors \
            tests/runtime/test_train_step_cuda.py tests/runtime/test_train_step.py tests/runtime/test_step_in_parts.py \
            tests/runtime/test_taken_steps.py tests/loading/test_device_loader.py tests/loading/test_prefetch.py \
            tests/lowering/test_downsampling.py tests/train/test_train_loading.py -k "cuda or gpu or device or prefetch"
    else
        echo "=== tests: no pytest here, smoke.py alone has run"
        note tests 127 0
    fi
}

{ # read to its end before it runs, whatever happens to this file meanwhile
echo "=== $("$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())')"
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.used,clocks.sm,driver_version --format=csv

compiling=$(least $((110 * patience)) "$(left)")
[ "$compiling" -ge 1 ] || compiling=1
timeout --kill-after=10 $((compiling + 10)) "$python" -m bench.warm_compile --out "$out/compiled" \
    --seconds "$compiling" $small >"$out/logs/compile.log" 2>&1 &
compiler=$!
tests
wait "$compiler"
note compile $? "$SECONDS"
tail -n 3 "$out/logs/compile.log"

if [ -n "$small" ]; then cases="--cases tiny --rounds 2" graphs= tuning=5; else cases="--gpu-cases --rounds 11" graphs=1 tuning=60; fi
second=
grep -qs '"part": "training"' "$out/parts.jsonl" && second=1
steps=$out/step_time.json
again=--skip-failed
# Lists of words are meant to be split here.
# shellcheck disable=SC2086
persistent step_time 150 "$python" -m bench.step_time $cases --compile-mode whole-step --no-profile --resume \
    --seconds 125 --out "$steps"
# By itself, and in a second call before what the first one may have ended with: a profiler of replayed graphs has been known to end its process.
[ -z "$graphs" ] || [ -z "$second" ] || persistent step_profiles 60 "$python" -m bench.step_time \
    --cases resnet18-cifar resnet18-cifar-b512 --compile-mode whole-step --rounds 5 --resume --out "$out/step_profiles.json"
[ -z "$graphs" ] || [ -z "$second" ] || part depthwise 30 "$python" -m bench.depthwise_gradient \
    --out "$out/depthwise_gradient.json"
# Casts of weights, counters of norms and the like, many to a kernel.
# shellcheck disable=SC2086
[ -z "$graphs" ] || [ -z "$second" ] || persistent step_time_combo 60 "$python" -m bench.step_time \
    --cases resnet18-cifar resnet18-cifar-b512 --rounds 11 --compile-mode whole-step --combo-kernels --no-profile \
    --resume --seconds 45 --out "$out/step_time_combo.json"
# shellcheck disable=SC2086
[ -z "$graphs" ] || persistent step_time_graphs 40 "$python" -m bench.step_time --cases resnet18-cifar resnet18-cifar-b512 \
    --rounds 11 --compile-mode cuda-graphs --no-profile --resume --seconds 25 --out "$steps"
# The tuner's plan for this device, in a second call.
# shellcheck disable=SC2086
[ -z "$data" ] || [ -z "$second$small" ] || persistent tuned 170 "$python" -m bench.gpu_training --data "$data" \
    --out "$out/training.jsonl" --tune "$tuning" --seeds 2 --seconds $((160 * patience)) $small
if [ -n "$data" ]; then
    half=$(($(left) * 3 / 5))
    # shellcheck disable=SC2086
    persistent training "$half" "$python" -m bench.gpu_training --data "$data" --out "$out/training.jsonl" \
        --seconds $((half - 10)) $small
    # shellcheck disable=SC2086
    persistent large_kernels "$(left)" "$python" -m bench.gpu_training --data "$data" --study convmixer-13 \
        --images 20000 --out "$out/large_kernels.jsonl" --seconds $(($(left) - 10)) $small
else
    echo "=== training: no DATA"
fi
echo "=== $SECONDS s; results are in $out"
exit 0
}
