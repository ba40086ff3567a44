#!/usr/bin/env bash
# Builds those of llama.cpp's programs that we compare with, optimised for this machine,
# from the sources that the PyPI source package llama-cpp-python carries.
#
#   benches/peers/build-llama-cpp.sh DIR
#
# Programs end up in DIR/bin. JOBS sets the number of compile jobs (default: all processors).
# Needs python3 with venv, tar, a C++ compiler and make.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
version=0.3.36
mkdir -p "$1"
dir=$(cd "$1" && pwd)
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}

# cmake comes from PyPI as well, so that no system package is asked for.
if [ ! -x "$dir/venv/bin/cmake" ]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet cmake ninja setuptools wheel scikit-build-core
fi
export PATH="$dir/venv/bin:$PATH"

source=$dir/llama_cpp_python-$version/vendor/llama.cpp
if [ ! -d "$source" ]; then
    pip download --quiet --no-binary llama-cpp-python --no-deps --no-build-isolation \
        --dest "$dir" "llama-cpp-python==$version"
    tar xzf "$dir/llama_cpp_python-$version.tar.gz" -C "$dir"
fi
# The package keeps a .git file that points nowhere; with it ninja configures again for ever.
rm -rf "$source/.git"

cmake -S "$source" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF
cmake --build "$dir/build" -j"$jobs" --target llama-bench llama-batched-bench llama-perplexity llama-quantize llama-completion

ln -sfn build/bin "$dir/bin"
echo "built in $dir/bin: llama-bench llama-batched-bench llama-perplexity llama-quantize llama-completion"
