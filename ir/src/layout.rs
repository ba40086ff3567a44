//! How a plane of a weight lies in memory.

use crate::expr::Expr;
use crate::graph::{element_count, row_major};

/// A map from a plane's coordinates to element offsets. Chosen per weight by the code generator over all
/// its uses; part of a packed file's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// Rows one after another, as model files have them.
    RowMajor,
    /// For matrices: element `j` of this many neighbouring rows stands together, then element `j + 1` of
    /// the same rows; the number of rows is padded to a multiple. Lanes then run over rows.
    RowInterleaved(u32),
}

impl Layout {
    /// The offset, in elements, of the element at `at`.
    pub fn offset(self, shape: &[Expr], at: &[Expr]) -> Expr {
        match (self, shape, at) {
            (Layout::RowInterleaved(rows), [_, columns], [row, column]) => {
                let rows = i64::from(rows);
                let group = row.clone().div_floor(rows);
                (group * columns.clone() + column.clone()) * rows + row.clone().modulo(rows)
            }
            _ => row_major(shape, at),
        }
    }

    /// How many elements the plane takes, padding included.
    pub fn len(self, shape: &[Expr]) -> Expr {
        match (self, shape) {
            (Layout::RowInterleaved(rows), [count, columns]) => {
                count.clone().div_ceil(i64::from(rows)) * i64::from(rows) * columns.clone()
            }
            _ => element_count(shape),
        }
    }

    /// The name in text forms.
    pub fn name(self) -> String {
        match self {
            Layout::RowMajor => "rows".to_owned(),
            Layout::RowInterleaved(rows) => format!("interleaved{rows}"),
        }
    }
}
