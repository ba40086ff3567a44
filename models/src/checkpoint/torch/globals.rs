//! The names that a pickle may mention. Whatever is not in these tables is refused where it is named, before
//! anything could be done with it.

/// An element type of torch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// The class of storages that hold it, `FloatStorage`; empty where torch has none.
    storage: &'static str,
    /// Its name as a `torch.dtype`.
    dtype: &'static str,
    /// This project's spelling: `f32`.
    pub encoding: &'static str,
    /// Bytes of one element.
    pub bytes: u64,
}

const fn element(storage: &'static str, dtype: &'static str, encoding: &'static str, bytes: u64) -> Element {
    Element { storage, dtype, encoding, bytes }
}

/// Every element type that is read.
pub static ELEMENTS: &[Element] = &[
    element("FloatStorage", "float32", "f32", 4),
    element("HalfStorage", "float16", "f16", 2),
    element("BFloat16Storage", "bfloat16", "bf16", 2),
    element("DoubleStorage", "float64", "f64", 8),
    element("CharStorage", "int8", "i8", 1),
    element("ByteStorage", "uint8", "u8", 1),
    element("BoolStorage", "bool", "bool", 1),
    element("ShortStorage", "int16", "i16", 2),
    element("IntStorage", "int32", "i32", 4),
    element("LongStorage", "int64", "i64", 8),
    element("ComplexFloatStorage", "complex64", "c64", 8),
    element("", "uint16", "u16", 2),
    element("", "uint32", "u32", 4),
    element("", "uint64", "u64", 8),
    element("", "float8_e4m3fn", "f8_e4m3", 1),
    element("", "float8_e5m2", "f8_e5m2", 1),
];

/// What an allowed name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `(storage, offset, size, stride, ...)`: a tensor of the storage's element type.
    RebuildTensor,
    /// The same with the element type after six others.
    RebuildTensorOfType,
    /// `(tensor, ...)`: that tensor.
    RebuildParameter,
    /// A class of storages; the element type is `None` for bytes of any.
    Storage(Option<&'static Element>),
    /// An element type.
    DType(&'static Element),
    /// `collections.OrderedDict`.
    OrderedDict,
    /// An object of named values and nothing else.
    Namespace,
    /// `(sequence)`: that sequence.
    Sequence,
    /// A maker of data that no model needs: random generators' states, devices, dates.
    Data,
}

static GLOBALS: &[(&str, &str, Global)] = &[
    ("torch._utils", "_rebuild_tensor", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v3", Global::RebuildTensorOfType),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch.storage", "UntypedStorage", Global::Storage(None)),
    ("torch", "UntypedStorage", Global::Storage(None)),
    ("torch", "Size", Global::Sequence),
    ("torch", "device", Global::Data),
    ("collections", "OrderedDict", Global::OrderedDict),
    ("collections", "defaultdict", Global::Data),
    ("argparse", "Namespace", Global::Namespace),
    ("_codecs", "encode", Global::Data),
    ("numpy", "dtype", Global::Data),
    ("numpy", "ndarray", Global::Data),
    ("numpy.core.multiarray", "_reconstruct", Global::Data),
    ("numpy.core.multiarray", "scalar", Global::Data),
    ("numpy._core.multiarray", "_reconstruct", Global::Data),
    ("numpy._core.multiarray", "scalar", Global::Data),
];

/// Built-in types whose making runs nobody's code.
static BUILTINS: &[&str] = &[
    "bool",
    "bytearray",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "range",
    "set",
    "str",
    "tuple",
];

/// The meaning of a name; `None` if it is not allowed.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    if let Some((.., global)) = GLOBALS.iter().find(|(known, member, _)| *known == module && *member == name)
    {
        return Some(*global);
    }
    match module {
        "torch" => ELEMENTS.iter().find_map(|element| match name {
            "" => None,
            _ if name == element.storage => Some(Global::Storage(Some(element))),
            _ if name == element.dtype => Some(Global::DType(element)),
            _ => None,
        }),
        "builtins" | "__builtin__" if BUILTINS.contains(&name) => Some(Global::Data),
        _ => None,
    }
}
