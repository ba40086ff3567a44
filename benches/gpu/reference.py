"""What PyTorch reaches on the same machine: copy bandwidth, matrix peak, and a LLaMA of the shape of 7B in bfloat16.

Prints lines of a name and a figure, which benches/gpu.sh puts into its table.
"""

import math
import time

import torch
import torch.nn.functional as F

WIDTH, LAYERS, HEADS, HIDDEN, VOCABULARY = 4096, 32, 32, 11008, 32000
HEAD = WIDTH // HEADS
PROMPT, TOKENS = 2048, 128


def seconds(work, times):
    """The fastest of some runs, each waited for."""
    fastest = math.inf
    for _ in range(times):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - begin)
    return fastest


def limits():
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    taken = seconds(lambda: [target.copy_(source) for _ in range(20)], 5) / 20
    print("copy_bytes_per_second", 2 * source.numel() / taken)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    taken = seconds(lambda: [a @ b for _ in range(10)], 5) / 10
    print("matrix_operations_per_second", 2 * 8192**3 / taken)


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda inner, outer: torch.nn.Linear(inner, outer, bias=False)
        self.query, self.key, self.value, self.out = (linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up, self.down = linear(WIDTH, HIDDEN), linear(WIDTH, HIDDEN), linear(HIDDEN, WIDTH)
        self.before, self.after = torch.nn.RMSNorm(WIDTH, eps=1e-5), torch.nn.RMSNorm(WIDTH, eps=1e-5)
        cache = torch.zeros(1, HEADS, PROMPT, HEAD)
        self.register_buffer("keys", cache.clone())
        self.register_buffer("values", cache)

    def forward(self, x, position, turn, mask):
        rows = x.shape[1]
        normal = self.before(x)
        split = lambda y: y.view(1, rows, HEADS, HEAD).transpose(1, 2)
        q, k, v = turned(split(self.query(normal)), turn), turned(split(self.key(normal)), turn), split(self.value(normal))
        self.keys.index_copy_(2, position, k)
        self.values.index_copy_(2, position, v)
        if rows > 1:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            keys, values = self.keys[:, :, :TOKENS], self.values[:, :, :TOKENS]
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(1, rows, WIDTH))
        normal = self.after(x)
        return x + self.down(F.silu(self.gate(normal)) * self.up(normal))


def turned(x, turn):
    a, b = x.chunk(2, -1)
    cos, sin = turn
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = torch.nn.RMSNorm(WIDTH, eps=1e-5)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        frequency = 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
        angles = torch.outer(torch.arange(PROMPT).float(), frequency)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids, position):
        turn = self.cos[position], self.sin[position]
        mask = (torch.arange(TOKENS, device=ids.device) <= position[-1]).view(1, 1, 1, TOKENS)
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, position, turn, mask)
        return self.head(self.norm(x[:, -1]))


def captured(step):
    """A step as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


@torch.inference_mode()
def main():
    limits()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Model()
        ids = torch.randint(0, VOCABULARY, (1, PROMPT))
        everywhere = torch.arange(PROMPT)
        one, position = ids[:, :1].clone(), torch.zeros(1, dtype=torch.long)

    def decode(step):
        position.zero_()
        for _ in range(TOKENS):
            step()
            position.add_(1)
            torch.cuda.current_stream().synchronize()

    eager = lambda: model(one, position)
    print("torch eager-decode", TOKENS / seconds(lambda: decode(eager), 3))
    graph = captured(eager)
    print("torch graph-decode", TOKENS / seconds(lambda: decode(graph.replay), 5))
    compiled = torch.compile(model, mode="max-autotune-no-cudagraphs", dynamic=False)
    fast = captured(lambda: compiled(one, position))
    print("torch compiled-graph-decode", TOKENS / seconds(lambda: decode(fast.replay), 5))
    print("torch eager-prefill", PROMPT / seconds(lambda: model(ids, everywhere), 5))


main()
