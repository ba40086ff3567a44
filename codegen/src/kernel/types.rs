//! The type that a value has by what it is.

use jtllm_ir::DType;

use super::{Kernel, Value};

/// The type of a value, or what is wrong with it; looks up whatever it names.
pub(super) fn of(kernel: &Kernel, value: &Value, stated: DType) -> Result<DType, String> {
    let operand = |x: &super::ValueId| match kernel.values.get(x.0 as usize) {
        Some(record) => Ok(record.dtype),
        None => Err(format!("v{}, which does not exist", x.0)),
    };
    match value {
        Value::Const(_) => Ok(stated),
        Value::Index(_) => match stated {
            DType::I32 | DType::U32 | DType::Bool => Ok(stated),
            other => Err(format!("an index as {other}; i32, u32 or bool is expected")),
        },
        Value::Cell(cell) => match kernel.cells.get(cell.0 as usize) {
            Some(dtype) => Ok(*dtype),
            None => Err(format!("c{}, which does not exist", cell.0)),
        },
        Value::Load { memory, .. } if kernel.memory_exists(*memory) => Ok(kernel.memory_dtype(*memory)),
        Value::Load { memory, .. } => Err(format!("{memory}, which does not exist")),
        Value::Scalar(op, xs) => {
            let dtypes = xs.iter().map(operand).collect::<Result<Vec<_>, _>>()?;
            op.result(&dtypes).map_err(|expected| {
                let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
                format!("{} of {}; it takes {expected}", op.name(), names.join(", "))
            })
        }
        Value::LaneReduce(monoid, x) => {
            let dtype = operand(x)?;
            let joined = monoid.scalar().result(&[dtype, dtype]);
            joined.map_err(|expected| format!("lane_reduce of {dtype}; it takes {expected}"))
        }
    }
}
