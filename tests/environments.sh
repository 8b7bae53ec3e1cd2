#!/usr/bin/env bash
# Run the tests that depend on arithmetic or media as they would run on other machines: with other numbers of threads,
# and with parts of this processor's instruction sets unused. About five minutes per environment. Needs a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cc -shared -fPIC -o "$folder/no_assembler.so" tests/no_assembler.c -ldl

failed=()
while read -r environment; do
    echo "== $environment"
    env $environment pytest -q -m "not system and not slow and not apiserver" -p no:cacheprovider \
        tests/data tests/model tests/train tests/evaluation tests/monitor "$@" || failed+=("$environment")
done <<EOF
OMP_NUM_THREADS=1
OMP_NUM_THREADS=2
ATEN_CPU_CAPABILITY=default
ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=SSE41
ONEDNN_MAX_CPU_ISA=AVX2
MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem
LD_PRELOAD=$folder/no_assembler.so
EOF
for environment in "${failed[@]}"; do
    echo "failed with $environment" >&2
done
exit $((${#failed[@]} > 0))
