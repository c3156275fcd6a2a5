#!/usr/bin/env bash
# Train on a lent GPU machine for one call: mixing on its cores, bfloat16, a checkpoint a minute below $OUT.
#
# 1. Wheels of what its Python (3.12) lacks, into PACK/wheels, by a Python of that version; soundfile needs cffi:
#      python3.12 -m pip wheel --no-deps -w PACK/wheels soundfile cffi pycparser soxr pystoi pesq
# 2. The pack; `git ls-files` is 11 MB, and all together may have 64 MiB. A folder in "start" is packed too.
#      python benchmarks/gpu_pack.py --config examples/fine_tune_cruse.json --data-dir DATA --cache DIR --out PACK
# 3. There, with a limit of 600 s and PACK carried (runs/ is ignored by git, so it may be runs/gpu):
#      benchmarks/gpu_round.sh runs/gpu
#    With MORE_S=200 the learning rates end 200 s of training later, in a second call. While the machine is kept, the
#    call continues from WORK_DIR. On a new one it continues from PACK/state, a copy of $OUT: 30 MB for the CRUSE, so
#    pack with --megabytes 20 from the beginning then; another pack is another run.
# 4. The averaged weights of the best validation are $OUT/best, a model folder.
#
# Rehearsal: OUT=/tmp/out ROUND_S=120 BATCH=2 WORKERS=1 PROBE=10 PYTHON=… benchmarks/gpu_round.sh PACK
set -euo pipefail
: "${OUT:?a folder for checkpoints}" "${ROUND_S:=530}" "${MORE_S:=0}" "${BATCH:=64}" "${WORKERS:=15}" "${PROBE:=100}"
: "${GRACE_S:=30}" "${WORK_DIR:=/tmp/gpu_round}" "${PYTHON:=python3}"
pack=$(realpath "${1:?a pack of gpu_pack.py}")
mkdir -p "$OUT" "$WORK_DIR"
OUT=$(realpath "$OUT")
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD:$WORK_DIR/site OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
if [ -d "$pack/wheels" ] && [ ! -d "$WORK_DIR/site" ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$WORK_DIR/site" "$pack"/wheels/*.whl
fi
# Workers hand over batches in shared memory.
[ "$(df --output=size /dev/shm | tail -n 1)" -gt 4000000 ] || mount -o remount,size=16G /dev/shm || true
# SIGTERM ends the training after a step, with a checkpoint.
timeout --signal TERM "$((ROUND_S + GRACE_S))" "$PYTHON" benchmarks/gpu_round.py "$pack" --work-dir "$WORK_DIR" --out "$OUT" \
  --seconds "$((ROUND_S - SECONDS))" --more-seconds "$MORE_S" --batch "$BATCH" --workers "$WORKERS" --probe "$PROBE" 2>&1 |
  tee "$OUT/round.log"
