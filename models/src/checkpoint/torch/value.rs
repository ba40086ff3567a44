//! What a pickle is made of, once it was read.

use super::globals::{Element, Global};

/// A value. Texts lie in the file; what can hold other values lies in an arena and is named by its place
/// there, so that a value which holds itself is no trouble.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// A whole number of more than eight bytes: those bytes, the lowest first.
    Long(&'a [u8]),
    Global(Global),
    Object(u32),
    /// Data that no model needs, such as the state of a random generator.
    Unread,
}

/// A value that can hold others, or stands for a part of the file.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    /// Keys and values in the order in which they were set.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// The members of an `argparse.Namespace`.
    Namespace(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Tensor),
}

/// A run of elements of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// Its elements; `None` for bytes of any type.
    pub(super) element: Option<&'static Element>,
    /// The name that the file finds it by.
    pub(super) key: &'a str,
    /// How many elements, or bytes.
    pub(super) count: u64,
}

/// A view of a storage. The numbers are those of the file, and not checked against it yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    pub(super) element: &'static Element,
    /// The place of the storage in the arena.
    pub(super) storage: u32,
    /// Elements before the first.
    pub(super) offset: u64,
    /// The places of the tuples of dimensions and of distances in elements.
    pub(super) shape: u32,
    pub(super) strides: u32,
}
