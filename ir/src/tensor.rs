//! Values of whole tensors on the host: constants of graphs, and what interpreters pass around.

use crate::dtype::DType;
use crate::scalar::Scalar;

/// A dense row-major tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The type of its elements.
    pub dtype: DType,
    /// The extent of each axis, outermost first.
    pub shape: Vec<usize>,
    elements: Elements,
}

#[derive(Clone, Debug, PartialEq)]
enum Elements {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl std::hash::Hash for Tensor {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.dtype, &self.shape, self.to_bytes()).hash(state);
    }
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        let elements =
            if dtype.is_float() { Elements::Float(vec![0.0; count]) } else { Elements::Int(vec![0; count]) };
        Tensor { dtype, shape: shape.to_vec(), elements }
    }

    /// A tensor of floats, each rounded to `dtype`.
    pub fn floats(dtype: DType, shape: &[usize], values: Vec<f32>) -> Tensor {
        assert!(dtype.is_float() && values.len() == shape.iter().product::<usize>());
        let values = values.into_iter().map(|x| dtype.round(x)).collect();
        Tensor { dtype, shape: shape.to_vec(), elements: Elements::Float(values) }
    }

    /// A tensor of integers, each wrapped to `dtype`.
    pub fn ints(dtype: DType, shape: &[usize], values: Vec<i64>) -> Tensor {
        assert!(!dtype.is_float() && values.len() == shape.iter().product::<usize>());
        let values = values.into_iter().map(|x| dtype.wrap(x)).collect();
        Tensor { dtype, shape: shape.to_vec(), elements: Elements::Int(values) }
    }

    /// A tensor of no axes.
    pub fn scalar(dtype: DType, value: Scalar) -> Tensor {
        if dtype.is_float() {
            Tensor::floats(dtype, &[], vec![value.float()])
        } else {
            Tensor::ints(dtype, &[], vec![value.int()])
        }
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        match &self.elements {
            Elements::Float(x) => x.len(),
            Elements::Int(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at a row-major position.
    pub fn get(&self, at: usize) -> Scalar {
        match &self.elements {
            Elements::Float(x) => Scalar::Float(x[at]),
            Elements::Int(x) => Scalar::Int(x[at]),
        }
    }

    /// Replaces the element at a row-major position; the value must already fit the type.
    pub fn set(&mut self, at: usize, value: Scalar) {
        match &mut self.elements {
            Elements::Float(x) => x[at] = value.float(),
            Elements::Int(x) => x[at] = value.int(),
        }
    }

    /// The elements, if the type is a float type.
    pub fn as_floats(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::Float(x) => Some(x),
            Elements::Int(_) => None,
        }
    }

    /// The elements, if the type is an integer type or the truth values.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match &self.elements {
            Elements::Float(_) => None,
            Elements::Int(x) => Some(x),
        }
    }

    /// The slice number `index` along `axis`, which disappears. Both must be inside the shape.
    pub fn slice(&self, axis: usize, index: usize) -> Tensor {
        let mut shape = self.shape.clone();
        let extent = shape.remove(axis);
        let mut out = Tensor::zeros(self.dtype, &shape);
        let inner: usize = shape[axis..].iter().product();
        for at in 0..out.len() {
            out.set(at, self.get((at / inner * extent + index) * inner + at % inner));
        }
        out
    }

    /// Replaces slice number `index` along `axis` by `value`, which has the shape without `axis`.
    pub fn set_slice(&mut self, axis: usize, index: usize, value: &Tensor) {
        let inner: usize = self.shape[axis + 1..].iter().product();
        let extent = self.shape[axis];
        for at in 0..value.len() {
            self.set((at / inner * extent + index) * inner + at % inner, value.get(at));
        }
    }

    /// The row-major position of a coordinate.
    pub fn position(&self, at: &[i64]) -> Option<usize> {
        at.iter().zip(&self.shape).try_fold(0usize, |position, (x, extent)| {
            let x = usize::try_from(*x).ok().filter(|x| x < extent)?;
            Some(position * extent + x)
        })
    }

    /// All elements as floats.
    pub fn to_floats(&self) -> Vec<f32> {
        (0..self.len()).map(|at| self.get(at).float()).collect()
    }

    /// The elements as they stand in memory, little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.dtype.size();
        (0..self.len())
            .flat_map(|at| self.get(at).to_bits(self.dtype).to_le_bytes()[..size].to_vec())
            .collect()
    }

    /// The tensor whose elements stand in memory as `bytes`, little endian; `None` if the length is not
    /// that of the shape.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Option<Tensor> {
        let size = dtype.size();
        if bytes.len() != shape.iter().product::<usize>() * size {
            return None;
        }
        let mut tensor = Tensor::zeros(dtype, shape);
        for (at, chunk) in bytes.chunks_exact(size).enumerate() {
            let mut word = [0; 4];
            word[..size].copy_from_slice(chunk);
            tensor.set(at, Scalar::from_bits(dtype, u32::from_le_bytes(word)));
        }
        Some(tensor)
    }
}
