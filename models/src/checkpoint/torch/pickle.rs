//! A machine for pickles that executes nothing: names outside of a list end the reading, and what is on the
//! list makes plain values, storages and tensors.
//!
//! The opcodes are those of Python's `pickletools` that protocols 2 to 5 write. Every value that is kept is
//! counted, so that memory has a bound whatever the file says.

use std::path::Path;

use super::globals;
use super::value::{Object, Value};
use crate::error::{LoadError, quoted};

mod call;
mod opcodes;

/// Most values, members of containers and memo entries together. A tensor takes about twenty.
pub(super) const VALUES_MAX: usize = 1 << 19;
/// Most values that wait to become members of something.
const STACK_MAX: usize = 1 << 16;
/// Most containers inside each other. Models' own have less than ten.
pub(super) const DEPTH_MAX: u8 = 64;

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub(super) objects: Vec<Object<'a>>,
    pub(super) root: Value<'a>,
    /// The bytes that it took.
    pub(super) len: usize,
}

/// Reads the pickle of at most `values_max` values at the beginning of `bytes`, which themselves begin at byte
/// `start` of `file`.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    file: &Path,
    start: u64,
    values_max: usize,
) -> Result<Pickle<'a>, LoadError> {
    let mut machine = Machine {
        bytes,
        file,
        start,
        next: 0,
        opcode_at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        objects: Vec::new(),
        depths: Vec::new(),
        values_max,
        values_left: values_max,
    };
    let root = machine.run()?;
    Ok(Pickle { objects: machine.objects, root, len: machine.next })
}

struct Machine<'a, 'f> {
    bytes: &'a [u8],
    file: &'f Path,
    start: u64,
    next: usize,
    opcode_at: usize,
    stack: Vec<Value<'a>>,
    /// The heights of the stack at which unfinished containers begin.
    marks: Vec<usize>,
    memo: Vec<Option<Value<'a>>>,
    objects: Vec<Object<'a>>,
    /// How deep the containers inside each object are nested, as far as they were when they were put there.
    depths: Vec<u8>,
    values_max: usize,
    values_left: usize,
}

impl<'a> Machine<'a, '_> {
    /// The error that the opcode at hand ends with.
    fn fault(&self, why: impl Into<String>) -> LoadError {
        LoadError::header(self.file, self.start + self.opcode_at as u64, why)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], LoadError> {
        let rest = &self.bytes[self.next..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count)).ok_or_else(|| {
            let left = rest.len();
            self.fault(format!("the pickle ends inside an opcode: {count} bytes expected, {left} found"))
        })?;
        self.next += taken.len();
        Ok(taken)
    }

    /// A little-endian whole number of one to eight bytes.
    fn number(&mut self, width: u64) -> Result<u64, LoadError> {
        Ok(self.take(width)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, LoadError> {
        let rest = &self.bytes[self.next..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        let line = line.ok_or_else(|| self.fault("expected a line of UTF-8 text"))?;
        self.next += line.len() + 1;
        Ok(line)
    }

    fn count(&mut self, values: usize) -> Result<(), LoadError> {
        match self.values_left.checked_sub(values) {
            Some(left) => self.values_left = left,
            None => {
                let most = self.values_max;
                return Err(self.fault(format!("the pickle holds more than {most} values")));
            }
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), LoadError> {
        if self.stack.len() == STACK_MAX {
            return Err(self.fault(format!("more than {STACK_MAX} values on the stack")));
        }
        self.stack.push(value);
        Ok(())
    }

    /// The topmost value, which must lie above the last mark.
    fn pop(&mut self) -> Result<Value<'a>, LoadError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().expect("the stack is higher than its floor")),
            false => Err(self.fault("an opcode takes a value from an empty stack")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, LoadError> {
        let mark =
            self.marks.pop().ok_or_else(|| self.fault("an opcode looks for a mark that is not there"))?;
        Ok(self.stack.split_off(mark))
    }

    fn depth_with(&self, depth: u8, members: &[Value<'a>]) -> Result<u8, LoadError> {
        let inner = members.iter().filter_map(|member| match member {
            Value::Object(at) => Some(self.depths[*at as usize] + 1),
            _ => None,
        });
        match inner.chain([depth]).max().unwrap_or(depth) {
            deep if deep > DEPTH_MAX => Err(self.fault(format!("values nested more than {DEPTH_MAX} deep"))),
            depth => Ok(depth),
        }
    }

    /// Keeps an object and gives the value that names it.
    fn keep(&mut self, object: Object<'a>) -> Result<Value<'a>, LoadError> {
        let depth = match &object {
            Object::Tuple(members) | Object::List(members) => {
                self.count(members.len())?;
                self.depth_with(0, members)?
            }
            _ => 0,
        };
        self.count(1)?;
        let place = u32::try_from(self.objects.len()).expect("values are counted, and fewer than 2^32");
        self.objects.push(object);
        self.depths.push(depth);
        Ok(Value::Object(place))
    }

    fn tuple(&mut self, members: Vec<Value<'a>>) -> Result<(), LoadError> {
        let tuple = self.keep(Object::Tuple(members))?;
        self.push(tuple)
    }

    fn pop_tuple(&mut self, len: usize) -> Result<(), LoadError> {
        let mut members = Vec::with_capacity(len);
        for _ in 0..len {
            members.push(self.pop()?);
        }
        members.reverse();
        self.tuple(members)
    }

    /// Adds to the list below what was popped.
    fn extend_list(&mut self, added: Vec<Value<'a>>) -> Result<(), LoadError> {
        self.count(added.len())?;
        match self.top()? {
            Value::Unread => Ok(()),
            Value::Object(at) => {
                let depth = self.depth_with(self.depths[at as usize], &added)?;
                self.depths[at as usize] = depth;
                match &mut self.objects[at as usize] {
                    Object::List(members) => members.extend(added),
                    _ => return Err(self.fault("members are added to what is no list")),
                }
                Ok(())
            }
            _ => Err(self.fault("members are added to what is no list")),
        }
    }

    /// Sets members of the dict below what was popped: keys and values in turn.
    fn extend_dict(&mut self, added: &[Value<'a>]) -> Result<(), LoadError> {
        self.count(added.len())?;
        let (pairs, rest) = added.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.fault("a key without its value"));
        }
        match self.top()? {
            Value::Unread => Ok(()),
            Value::Object(at) => {
                let depth = self.depth_with(self.depths[at as usize], added)?;
                self.depths[at as usize] = depth;
                match &mut self.objects[at as usize] {
                    Object::Dict(members) => members.extend(pairs.iter().map(|&[key, value]| (key, value))),
                    _ => return Err(self.fault("a key is set in what is no dict")),
                }
                Ok(())
            }
            _ => Err(self.fault("a key is set in what is no dict")),
        }
    }

    fn top(&self) -> Result<Value<'a>, LoadError> {
        self.stack.last().copied().ok_or_else(|| self.fault("an opcode takes a value from an empty stack"))
    }

    fn text(&mut self, len: u64) -> Result<(), LoadError> {
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.fault("text that is not UTF-8"))?;
        self.push(Value::Text(text))
    }

    /// Bytes, or a string of Python 2: text if they can be, else nothing that a model needs.
    fn string(&mut self, len: u64) -> Result<(), LoadError> {
        let bytes = self.take(len)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Unread, Value::Text))
    }

    fn long(&mut self, len: u64) -> Result<(), LoadError> {
        let bytes = self.take(len)?;
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { !0 } else { 0 };
        let small = bytes.iter().rev().fold(sign, |number: u64, &byte| number << 8 | u64::from(byte));
        self.push(if bytes.len() <= 8 { Value::Int(small.cast_signed()) } else { Value::Long(bytes) })
    }

    fn remember(&mut self, at: u64) -> Result<(), LoadError> {
        let value = self.top()?;
        let at = usize::try_from(at).ok().filter(|&at| at < self.values_max);
        let at = at.ok_or_else(|| self.fault(format!("a memo entry beyond {}", self.values_max)))?;
        if at >= self.memo.len() {
            self.count(at + 1 - self.memo.len())?;
            self.memo.resize(at + 1, None);
        }
        self.memo[at] = Some(value);
        Ok(())
    }

    fn recall(&mut self, at: u64) -> Result<(), LoadError> {
        let found = usize::try_from(at).ok().and_then(|at| self.memo.get(at).copied().flatten());
        let value = found.ok_or_else(|| self.fault(format!("memo entry {at} was never set")))?;
        self.push(value)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), LoadError> {
        let global = globals::find(module, name).ok_or_else(|| {
            let full = quoted(&format!("{module}.{name}"));
            let full = full.trim_matches('"');
            self.fault(format!(
                "global {full} is not allowed: a checkpoint holds tensors and plain values only"
            ))
        })?;
        self.push(Value::Global(global))
    }

    fn stack_global(&mut self) -> Result<(), LoadError> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => self.global(module, name),
            _ => Err(self.fault("a global whose name is no text")),
        }
    }
}
