#!/bin/bash
# Everything that wants a GPU, the most valuable first; nothing is fetched from a network.
#
#   bench/gpu.sh DATA_FOLDER [OUT_FOLDER [STEP ...]]
#
# DATA_FOLDER holds CIFAR-10 as images: train/CLASS/*.png and test/CLASS/*.png. Results go to OUT_FOLDER (runs/gpu), the
# training runs with their checkpoints to OUT_FOLDER/table1. Each step ends within 8 minutes, keeps what it has, and goes
# on when the script is called again. STEPs (all of them without) run in the order below; PYTHON names the interpreter.
set -u

usage() {
    sed -n '2,/^set -u/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}
[ $# -ge 1 ] || usage
[ -d "$1/train" ] && [ -d "$1/test" ] || { echo "no train/ and test/ in '$1'" >&2; usage; }
data=$(cd "$1" && pwd)
shift
out=${1:-runs/gpu}
[ $# -eq 0 ] || shift
chosen=" $* "
every="smoke step_time step_time_graphs ablation table1_resnet18 step_time_others step_time_others_graphs overhead scaling"
every="$every table1_resnet50 kernel_scores large_kernels"
for name in "$@"; do
    case " $every " in *" $name "*) ;; *) echo "no step '$name'; there are $every" >&2; exit 2 ;; esac
done
case $out in /*) ;; *) out=$PWD/$out ;; esac
mkdir -p "$out/logs" || exit 1

cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-}
[ -n "$python" ] || { [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3; }
export PYTHONUNBUFFERED=1

# step NAME RESULT MODULE ARGUMENT ...: one benchmark, stopped after 8 minutes; a failure is said and stops nothing else.
step() {
    local name=$1 result=$2 began=$SECONDS status
    shift 2
    case $chosen in "  " | *" $name "*) ;; *) return ;; esac
    echo "=== $name: python -m $*"
    timeout --kill-after=20 480 "$python" -m "$@" 2>&1 | tee -a "$out/logs/$name.log"
    status=${PIPESTATUS[0]}
    case $status in
        0) echo "=== $name: done in $((SECONDS - began)) s; see $result" ;;
        124 | 137 | 143) echo "=== $name: stopped after $((SECONDS - began)) s, call again to go on; see $result" ;;
        *) echo "=== $name: FAILED (status $status) after $((SECONDS - began)) s; see $out/logs/$name.log and $result" ;;
    esac
}

resnets="resnet18-cifar resnet50-cifar resnet18-imagenet resnet50-imagenet"
others="efficientnet_b0 convnext_tiny regnety_008 mobilenetv3_large_100 vgg16 densenet121"
times=$out/step_time_cuda.json
table=$out/table1_cuda.json
again="--resume --seconds"

# Lists of words are meant to be split here.
# shellcheck disable=SC2086
{
    step smoke "$out/logs/smoke.log" bench.smoke
    step step_time "$times" bench.step_time --cases $resnets $again 330 --out "$times"
    step step_time_graphs "$times" bench.step_time --cases $resnets --compile-mode cuda-graphs $again 330 --out "$times"
    step ablation "$out/ablation_cuda.json" \
        bench.ablation --data "folder:$data" --tune-seconds 120 $again 420 --out "$out/ablation_cuda.json"
    step table1_resnet18 "$table" \
        bench.table1 --data "folder:$data" --networks resnet18 $again 450 --out "$table" --runs "$out/table1"
    step step_time_others "$times" bench.step_time --cases $others $again 330 --out "$times"
    step step_time_others_graphs "$times" \
        bench.step_time --cases $others --compile-mode cuda-graphs $again 330 --out "$times"
    step overhead "$out/overhead_cuda.json" bench.overhead --resume --out "$out/overhead_cuda.json"
    step scaling "$out/scaling_cuda.json" bench.scaling $again 400 --out "$out/scaling_cuda.json"
    step table1_resnet50 "$table" \
        bench.table1 --data "folder:$data" --networks resnet50 $again 450 --out "$table" --runs "$out/table1"
    step kernel_scores "$out/kernel_scores_cuda.json" \
        bench.kernel_scores --data "folder:$data" --resume --out "$out/kernel_scores_cuda.json"
    step large_kernels "$out/large_kernels_cuda.json" \
        bench.large_kernels --data "folder:$data" $again 420 --out "$out/large_kernels_cuda.json"
}
echo "results are in $out"
