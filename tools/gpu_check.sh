#!/usr/bin/env bash
# Check and measure training on a GPU in less than ten minutes:
#
#     tools/gpu_check.sh                                 # one CUDA device, Fashion-MNIST
#     DEVICE=cpu QUICK=1 OUT=/tmp/check tools/gpu_check.sh      # rehearse on a CPU, with tiny sizes
#
# DATASET and DATA_DIR choose the data, OUT the folder of the results, PYTHON the interpreter. Paths
# are relative to the repository. Each part has a time limit and appends its results at once to
# results.txt. A part that fails does not stop the next one, but makes the exit code 1.
set -u
cd "$(dirname "$0")/.."
export OUT="${OUT:-gpu_check}"
python="${PYTHON:-python}"
"$python" tools/gpu_check.py header > /dev/null || exit
failed=0
for part in training_steps:90 resume:60 features:50 epochs:50 speed:110 profile:80 tests:110; do
    name="${part%:*}" limit="${part#*:}" began=$SECONDS
    [ -z "${QUICK:-}" ] || limit=$((10 * limit))  # a CPU may be slow and busy
    timeout -k 2 "$limit" "$python" tools/gpu_check.py "$name" >> "$OUT/log.txt" 2>&1
    code=$?
    case $code in
        0) verdict=ok ;;
        124 | 137) verdict="FAILED: stopped after $limit s" ;;
        *) verdict="FAILED: exit code $code, see log.txt" ;;
    esac
    [ $code = 0 ] || failed=1
    echo "| $name | all of it | $((SECONDS - began)) s | $verdict |" >> "$OUT/results.txt"
done
cat "$OUT/results.txt"
exit $failed
