#!/usr/bin/env bash
# Everything that wants a real NVIDIA GPU, in one command and one table.
#
#   benches/gpu.sh pack DIR          here: builds what is carried to the machine, into DIR
#   benches/gpu.sh run DIR [SCRATCH] there, in a checkout: needs the driver and DIR; with python3 and torch it compares
#                                    with PyTorch.
#                                    SCRATCH (default: a temporary folder) takes up to 14 GB of random weights at a time.
#
# 1. conformance on the hardware, and the PTX interpreter of the tests against it, bit by bit;
# 2. `verify` of the models in tests/fixtures on the hardware;
# 3. decode and prefill of a model in the shape of LLaMA-7B, beside the copy bandwidth and the matrix peak
#    that this machine reaches, and beside PyTorch on the same shapes; on Hopper prefill also without wgmma.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
usage() {
    sed -n 's/^# \{0,1\}//; 2,13p' "$0" >&2
    exit 2
}
[ $# -ge 2 ] || usage
# Folders are told from where the caller stands.
absolute() {
    case $1 in
        /*) echo "$1" ;;
        *) echo "$here/$1" ;;
    esac
}
dir=$(absolute "$2")

pack() {
    mkdir -p "$dir"
    cargo build --release --bin jtllm --package jtllm
    cargo build --release --package xtask
    suite=$(cargo test --release --package jtllm-runtime --test conformance --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*conformance[^"]*\)".*/\1/p' | tail -n 1)
    built=${CARGO_TARGET_DIR:-target}/release
    cp "$built/jtllm" "$built/xtask" "$dir/"
    cp "$suite" "$dir/conformance"
    strip "$dir/jtllm" "$dir/xtask" "$dir/conformance"
    ls -l "$dir"
}

# One row: what, its figure in tokens a second, and what share of a limit that is.
row() {
    printf '| %-28s | %12s | %14s |\n' "$1" "$2" "$3"
}

# A field of the JSON lines of `jtllm bench`: $1 the lines, $2 the test, $3 the field.
field() {
    sed -n "/\"$2\":[1-9]/s/.*\"$3\":\([^,}]*\).*/\1/p" <<< "$1" | head -n 1
}

share() {
    awk -v a="${1:-0}" -v b="${2:-0}" 'BEGIN { if (b > 0) printf "%.2f", a / b; else printf "-" }'
}

# Ends here, before anything is computed, unless this machine has what is measured.
check() {
    for tool in jtllm xtask conformance; do
        [ -x "$dir/$tool" ] || { echo "$dir has no $tool: benches/gpu.sh pack $dir makes it" >&2; exit 1; }
    done
    if ! why=$("$dir/jtllm" run --backend cuda -p Hi -n 1 2>&1 > /dev/null); then
        echo "$why" >&2
        echo "nothing was measured: this machine has no CUDA GPU that can be used" >&2
        exit 1
    fi
}

conform() {
    echo "==> conformance and the PTX interpreter against the hardware"
    "$dir/conformance" --test-threads 1 --show-output | tee "$scratch/conformance.log"
    if grep '^skipped: cuda' "$scratch/conformance.log"; then
        echo "no CUDA device was tested" >&2
        exit 1
    fi
    echo "==> verify"
    for model in tests/fixtures/*/golden.safetensors; do
        "$dir/jtllm" verify "$(dirname "$model")" --backend cuda > "$scratch/verify.log" ||
            { cat "$scratch/verify.log"; exit 1; }
        echo "$(dirname "$model"): $(grep -c ' ok$' "$scratch/verify.log") checks passed"
    done
}

measure() {
    torch=
    if python3 -c 'import torch; assert torch.cuda.is_available()' 2> /dev/null; then
        torch=$(python3 benches/gpu/reference.py)
        echo "$torch"
    fi
    copy=$(sed -n 's/^copy_bytes_per_second //p' <<< "$torch")
    peak=$(sed -n 's/^matrix_operations_per_second //p' <<< "$torch")
    row "LLaMA-7B shape" "tokens/s" "of the limit"
    row "----" "---:" "---:"
    for format in bf16 q8_0 q4_0; do
        "$dir/xtask" synthetic llama-7b "$format" "$scratch/$format.gguf"
        lines=$("$dir/jtllm" bench --backend cuda -p 2048 -n 128 -r 3 -o jsonl "$scratch/$format.gguf")
        # Where the device's units multiply out of shared memory: what that gains.
        without=
        devices=$("$dir/jtllm" doctor)
        if grep -q 'cuda .*compute capability 9\.0' <<< "$devices" && ! grep -q 'wgmma are not used' <<< "$devices"; then
            without=$(JTLLM_WGMMA=off "$dir/jtllm" bench --backend cuda -p 2048 -n 0 -r 3 -o jsonl "$scratch/$format.gguf")
        fi
        rm "$scratch/$format.gguf"
        rate=$(field "$lines" n_gen avg_ts)
        limit=${copy:-$(field "$lines" n_gen limit_measured)}
        row "$format decode" "$rate" "$(share "$(field "$lines" n_gen limit_reached)" "$limit") of the copy"
        rate=$(field "$lines" n_prompt avg_ts)
        row "$format prefill 2048" "$rate" "$(share "$(field "$lines" n_prompt limit_reached)" "$peak") of the peak"
        if [ -n "$without" ]; then
            rate=$(field "$without" n_prompt avg_ts)
            reached=$(field "$without" n_prompt limit_reached)
            row "$format prefill, no wgmma" "$rate" "$(share "$reached" "$peak") of the peak"
        fi
    done
    grep '^torch' <<< "$torch" | while read -r _ name rate; do row "PyTorch bf16 $name" "$rate" ""; done
}

case $1 in
    pack) pack ;;
    run)
        check
        if [ $# -ge 3 ]; then
            scratch=$(absolute "$3")
        else
            scratch=$(mktemp -d)
            trap 'rm -rf "$scratch"' EXIT
        fi
        mkdir -p "$scratch"
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
        conform
        measure
        ;;
    *) usage ;;
esac
