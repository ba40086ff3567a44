#!/usr/bin/env bash
# Builds the program that measures candle, optimised for this machine.
#
#   benches/peers/build-candle.sh DIR
#
# The program ends up as DIR/bin/candle-bench. Needs the Rust toolchain.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
mkdir -p "$1/bin"
dir=$(cd "$1" && pwd)
# cargo reads the native flags from the folder in which it is started.
cd "$(dirname "$0")/candle"
cargo build --release --target-dir "$dir/target"
ln -sf ../target/release/jtllm-peer-candle "$dir/bin/candle-bench"
echo "built $dir/bin/candle-bench"
