"""Tensors of safetensors files and of PyTorch's, as numpy arrays of f32."""
import io
import json
import pickle
import zipfile

import numpy

SAFETENSORS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2"}


def floats(array, kind):
    """What the elements stand for; numpy has no bfloat16."""
    if kind == "<u2":
        array = (array.astype("<u4") << 16).view("<f4")
    return array.astype("<f4")


def tensors(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != "golden.safetensors":
            found.update(safetensors(file.read_bytes()))
    for file in [] if found else sorted(folder.glob("*.pth")):
        found.update(pytorch(file))
    return found


def safetensors(data):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        kind, (start, end) = SAFETENSORS[entry["dtype"]], entry["data_offsets"]
        array = numpy.frombuffer(data[8 + length + start : 8 + length + end], dtype=kind)
        found[name] = floats(array, kind).reshape(entry["shape"])
    return found


def pytorch(file):
    """A state dictionary in PyTorch's zip form; nothing but tensors is built of it."""
    archive = zipfile.ZipFile(file)
    root = archive.namelist()[0].split("/")[0]

    def rebuild(storage, offset, shape, strides, *_):
        kind, key = storage
        array = numpy.frombuffer(archive.read(f"{root}/data/{key}"), dtype=kind)[offset:]
        return numpy.lib.stride_tricks.as_strided(
            floats(array, kind), shape, [4 * stride for stride in strides]
        ).copy()

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if name in STORAGES:
                return STORAGES[name]
            return {"_rebuild_tensor_v2": rebuild, "OrderedDict": dict}[name]

        def persistent_load(self, saved):
            return saved[1], saved[2]

    return Reader(io.BytesIO(archive.read(f"{root}/data.pkl"))).load()
