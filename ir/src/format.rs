//! Number formats: how a family of packed numbers becomes real numbers.
//!
//! One value per format and no code anywhere else: a consumer (matrix product, embedding, tied head)
//! sees the tensor that [`Format::decode`] builds, and fusion does the rest.

use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};

mod chatglm;
mod float;
mod gguf;
pub mod words;

pub use float::F32;

/// The span of a plane with one element for each row, however long.
pub const ROW: usize = usize::MAX;

/// One of the arrays into which a packed matrix is taken apart.
#[derive(Debug)]
pub struct Plane {
    /// Appended to the weight's name after a `#`; empty if the format has one plane only.
    pub suffix: &'static str,
    /// The type of the plane's elements.
    pub dtype: DType,
    /// How many numbers of a row one element of the plane serves. With [`ROW`] the plane is no part of the blocks
    /// but a tensor of the checkpoint itself, `[rows, 1]`, whose name is the weight's with the suffix alone.
    pub span: usize,
}

impl Plane {
    /// Whether the plane is a tensor of its own.
    pub fn is_apart(&self) -> bool {
        self.span == ROW
    }
}

/// A family of packed numbers. Rows are made of blocks of `block` numbers, `block_bytes` each in a file.
#[derive(Debug)]
pub struct Format {
    /// The name, lower case, as GGUF spells it.
    pub name: &'static str,
    /// Numbers in a block.
    pub block: usize,
    /// Bytes of a block in a model file.
    pub block_bytes: usize,
    /// The planes; those that are tensors of their own come last.
    pub planes: &'static [Plane],
    /// From the planes (`[rows, columns / span]` each) to the numbers (`f32 [rows, columns]`).
    pub decode: fn(&mut Graph, &[Node], &[Expr]) -> Node,
    /// From one block of a file to its bytes in each plane that is part of it (`block / span` elements each).
    pub unpack: fn(&[u8], &mut [&mut [u8]]),
}

/// Every format whose blocks hold all that their numbers need.
pub static FORMATS: &[&Format] = &[
    &float::F32,
    &float::F16,
    &float::BF16,
    &gguf::Q8_0,
    &gguf::Q4_0,
    &gguf::Q4_1,
    &gguf::Q5_0,
    &gguf::Q5_1,
    &gguf::IQ4_NL,
    &gguf::super_blocks::Q2_K,
    &gguf::super_blocks::Q3_K,
    &gguf::super_blocks::Q4_K,
    &gguf::super_blocks::Q5_K,
    &gguf::super_blocks::Q6_K,
    &gguf::super_blocks::IQ4_XS,
];

/// The formats with a plane that is a tensor of its own.
pub static APART: &[&Format] = &[&chatglm::INT8, &chatglm::INT4];

impl Format {
    /// The format of that name.
    pub fn find(name: &str) -> Option<&'static Format> {
        FORMATS.iter().chain(APART).copied().find(|format| format.name == name)
    }

    /// The planes that are parts of the blocks.
    pub fn own_planes(&self) -> &'static [Plane] {
        let count = self.planes.iter().take_while(|plane| !plane.is_apart()).count();
        &self.planes[..count]
    }

    /// Whether files hold the one plane just as memory wants it, so that it can be mapped.
    pub fn is_direct(&self) -> bool {
        self.block == 1
    }

    /// The name of a plane of weight `weight`.
    pub fn plane_name(&self, weight: &str, plane: &Plane) -> String {
        match plane.suffix {
            "" => weight.to_owned(),
            suffix if plane.is_apart() => format!("{weight}{suffix}"),
            suffix => format!("{weight}#{suffix}"),
        }
    }

    /// Declares the planes of weight `name` and gives its numbers, `f32` of `shape` (one or two axes).
    pub fn weight(&self, graph: &mut Graph, name: &str, shape: &[Expr]) -> Node {
        let planes: Vec<Node> = self
            .planes
            .iter()
            .map(|plane| {
                let mut shape = shape.to_vec();
                if let Some(last) = shape.last_mut() {
                    *last = match plane.is_apart() {
                        true => Expr::int(1),
                        false => last.clone().div_floor(plane.span as i64),
                    };
                }
                graph.weight(&self.plane_name(name, plane), plane.dtype, &shape)
            })
            .collect();
        (self.decode)(graph, &planes, shape)
    }
}

/// Splits a weight leaf's name into the weight and the plane's suffix.
pub fn split_plane_name(name: &str) -> (&str, &str) {
    name.rsplit_once('#').unwrap_or((name, ""))
}
