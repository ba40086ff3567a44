//! Scans: the body is run once for each slice.

use std::borrow::Cow;

use super::evaluate::Machine;
use super::{InterpError, Plan, check_tensor};
use crate::graph::{Node, Op, Scan};
use crate::tensor::Tensor;

impl Machine<'_> {
    /// The last carries, then the stacked slices.
    pub(super) fn scan(&self, node: Node, scan: &Scan) -> Result<Vec<Tensor>, InterpError> {
        let malformed = |why| InterpError::Malformed { node, why };
        let body = &scan.body;
        let plan = Plan::new(body, self.symbols)?;
        let inputs: Vec<Node> = body.nodes().filter(|n| matches!(body.op(*n), Op::Input { .. })).collect();
        let (carried, sliced) = (scan.carries.len(), scan.xs.len());
        if inputs.len() != carried + sliced || body.outputs.len() < carried {
            return Err(malformed("the body has another number of inputs or outputs than the scan"));
        }
        let xs = scan.xs.iter().map(|x| self.value(*x)).collect::<Result<Vec<_>, _>>()?;
        let steps = xs.first().and_then(|x| x.shape.get(scan.axis)).copied();
        let steps = steps.ok_or(malformed("a scan needs an operand to walk along"))?;
        let mut carries =
            scan.carries.iter().map(|x| self.value(*x).cloned()).collect::<Result<Vec<_>, _>>()?;
        let mut outs: Vec<Tensor> = body.outputs[carried..]
            .iter()
            .map(|(_, out)| {
                let mut shape = plan.shape(*out).to_vec();
                shape.insert(scan.axis.min(shape.len()), steps);
                Tensor::zeros(body.dtype(*out), &shape)
            })
            .collect();
        for step in 0..steps {
            let mut machine = Machine::new(body, &plan, self.symbols, self.functions);
            let slices = xs.iter().map(|x| x.slice(scan.axis, step));
            for (input, value) in inputs.iter().zip(carries.into_iter().chain(slices)) {
                check_tensor("input", "of a scan's body", body.dtype(*input), plan.shape(*input), &value)?;
                machine.give(*input, Cow::Owned(value));
            }
            for constant in body.nodes() {
                if let Op::Const(value) = body.op(constant) {
                    machine.give(constant, Cow::Borrowed(value));
                }
            }
            machine.run()?;
            let mut results = machine.outputs()?.into_iter().map(|(_, value)| value);
            carries = results.by_ref().take(carried).collect();
            outs.iter_mut().zip(results).for_each(|(out, value)| out.set_slice(scan.axis, step, &value));
        }
        carries.extend(outs);
        Ok(carries)
    }
}
