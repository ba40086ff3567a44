//! What the allowed functions make of their arguments.

use super::Machine;
use crate::checkpoint::torch::globals::{Element, Global};
use crate::checkpoint::torch::value::{Object, Storage, Tensor, Value};
use crate::error::LoadError;

impl<'a> Machine<'a, '_> {
    fn members(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        let Value::Object(at) = value else { return None };
        match &self.objects[at as usize] {
            Object::Tuple(members) | Object::List(members) => Some(members),
            _ => None,
        }
    }

    /// The value of `function` at `arguments`, or the new object of a class.
    pub(super) fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>, LoadError> {
        let Value::Global(function) = function else {
            return match function {
                Value::Unread => Ok(Value::Unread),
                _ => Err(self.fault("a call of what is no function")),
            };
        };
        let given =
            self.members(arguments).ok_or_else(|| self.fault("a call without a tuple of arguments"))?;
        match (function, given) {
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                self.tensor(storage, offset, [shape, strides], None)
            }
            (Global::RebuildTensorOfType, &[storage, offset, shape, strides, _, _, dtype, ..]) => match dtype
            {
                Value::Global(Global::DType(element)) => {
                    self.tensor(storage, offset, [shape, strides], Some(element))
                }
                _ => Err(self.fault("a tensor whose type is no torch.dtype")),
            },
            (Global::RebuildParameter, &[tensor, ..]) | (Global::Sequence, &[tensor]) => Ok(tensor),
            (Global::OrderedDict, &[]) => self.keep(Object::Dict(Vec::new())),
            (Global::OrderedDict, &[pairs]) => self.dict_of(pairs),
            (Global::Namespace, &[]) => self.keep(Object::Namespace(Vec::new())),
            (Global::Data, _) => Ok(Value::Unread),
            (function, given) => {
                Err(self.fault(format!("{function:?} cannot be made of {} arguments", given.len())))
            }
        }
    }

    /// A dict of a list of pairs, as protocols before 2 wrote ordered dicts.
    fn dict_of(&mut self, pairs: Value<'a>) -> Result<Value<'a>, LoadError> {
        let fault = || self.fault("a dict of what is no list of pairs");
        let mut members = Vec::new();
        for pair in self.members(pairs).ok_or_else(fault)? {
            match self.members(*pair) {
                Some(&[key, value]) => members.extend([key, value]),
                _ => return Err(fault()),
            }
        }
        let dict = self.keep(Object::Dict(Vec::new()))?;
        self.push(dict)?;
        self.extend_dict(&members)?;
        self.pop()
    }

    /// The storage that a persistent id names: `("storage", class, key, device, count)` and, in the legacy
    /// form, a part of another storage.
    pub(super) fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>, LoadError> {
        let fault = || self.fault("a persistent id that does not describe a storage");
        match *self.members(id).ok_or_else(fault)? {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(element)),
                Value::Text(key),
                _,
                Value::Int(count),
                ref view @ ..,
            ] => {
                if !matches!(view, [] | [Value::None]) {
                    return Err(
                        self.fault("a storage that is a part of another, as torch before 0.4 wrote them")
                    );
                }
                let count =
                    u64::try_from(count).map_err(|_| self.fault(format!("a storage of {count} elements")))?;
                self.keep(Object::Storage(Storage { element, key, count }))
            }
            _ => Err(fault()),
        }
    }

    fn tensor(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        [shape, strides]: [Value<'a>; 2],
        of_type: Option<&'static Element>,
    ) -> Result<Value<'a>, LoadError> {
        let (Value::Object(storage), Value::Object(shape), Value::Object(strides)) =
            (storage, shape, strides)
        else {
            return Err(self.fault("a tensor without a storage, dimensions and strides"));
        };
        let Object::Storage(held) = &self.objects[storage as usize] else {
            return Err(self.fault("a tensor of what is no storage"));
        };
        let element = of_type.or(held.element).ok_or_else(|| self.fault("a tensor without a type"))?;
        let both_tuples =
            [shape, strides].iter().all(|&at| matches!(self.objects[at as usize], Object::Tuple(_)));
        if !both_tuples {
            return Err(self.fault("a tensor whose dimensions or strides are no tuples"));
        }
        let offset = match offset {
            Value::Int(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        let offset = offset.ok_or_else(|| self.fault("a tensor that begins before its storage"))?;
        self.keep(Object::Tensor(Tensor { element, storage, offset, shape, strides }))
    }
}
