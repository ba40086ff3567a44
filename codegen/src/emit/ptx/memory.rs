//! Loads and stores: addresses, numbers of 8 and 16 bits, and loads of neighbours.

use std::collections::BTreeMap;

use jtllm_ir::{DType, Expr};

use super::function::{Class, Emitter};
use super::index::{Known, add, is_word};
use super::pattern::stored;
use super::{JOINED_TOGETHER, STATIC_BYTES};
use crate::kernel::{Access, Kernel, Memory, Stmt, Value, ValueId};

/// Bytes of the longest load or store.
const LOAD_BYTES: i64 = 16;

/// Where the memories of a group lie.
pub(super) struct Places {
    shared: Vec<u32>,
    /// Where lanes leave what they join; behind the kernel's own memories.
    pub(super) joins: u32,
    bytes: u32,
}

impl Places {
    pub(super) fn of(kernel: &Kernel) -> Places {
        let mut bytes: u32 = 0;
        let mut place = |size: u32| {
            let start = bytes.next_multiple_of(16);
            bytes = start + size;
            start
        };
        let shared =
            kernel.shared.iter().map(|shared| place(shared.len * shared.dtype.size() as u32)).collect();
        let reduces = kernel.values.iter().filter(|record| matches!(record.value, Value::LaneReduce(..)));
        let together = (reduces.count()).min(JOINED_TOGETHER) as u32;
        let joins = place(if kernel.lanes > 32 { together * kernel.lanes * 4 } else { 0 });
        Places { shared, joins, bytes }
    }

    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Whether the launch has to ask for the memory.
    pub(super) fn is_dynamic(&self) -> bool {
        self.bytes > STATIC_BYTES
    }
}

/// Neighbours that come in one load.
#[derive(Clone)]
pub(super) struct Bundle {
    /// The offset of the first element.
    first: Expr,
    /// The values that each element is for.
    members: Vec<Vec<ValueId>>,
}

impl Emitter<'_> {
    /// The address of the symbol block.
    pub(super) fn symbols(&mut self) -> String {
        self.know(Known::Symbols, 0, |emitter| emitter.parameter("symbols"))
    }

    /// Where memory of the group starts.
    pub(super) fn shared_base(&mut self) -> String {
        self.know(Known::Shared, 0, |emitter| emitter.make(Class::Word, "mov.u32", &["shared"]))
    }

    fn parameter(&mut self, name: &str) -> String {
        let generic = self.make(Class::Long, "ld.param.u64", &[&format!("[{name}]")]);
        self.make(Class::Long, "cvta.to.global.u64", &[&generic])
    }

    /// An element's address, as it stands in an instruction: a register and a constant.
    pub(super) fn element(&mut self, memory: Memory, at: &Expr) -> String {
        match self.address(memory, at) {
            (pointer, 0) => format!("[{pointer}]"),
            (pointer, bytes) => format!("[{pointer}+{bytes}]"),
        }
    }

    /// The register and the constant.
    pub(super) fn address(&mut self, memory: Memory, at: &Expr) -> (String, i64) {
        let size = self.kernel.memory_dtype(memory).size() as i64;
        let (_, constant) = at.terms();
        let start = match memory {
            Memory::Param(_) => 0,
            Memory::Shared(shared) => i64::from(self.places.shared[usize::from(shared)]),
        };
        // The instruction's constant has 32 bits; a vector reaches 16 bytes further.
        let (rest, bytes) = match i32::try_from(constant * size + start) {
            Ok(bytes) if bytes < i32::MAX - 64 => (at.clone() - Expr::int(constant), i64::from(bytes)),
            _ => (at.clone(), start),
        };
        (self.pointer(memory, &rest), bytes)
    }

    /// The address of the element at `at` of a memory, beside where memory of the group starts in it.
    fn pointer(&mut self, memory: Memory, at: &Expr) -> String {
        let key = Known::Pointer(memory, at.clone());
        if at.as_int() == Some(0) {
            return match memory {
                Memory::Param(param) => self.know(key, 0, |emitter| emitter.parameter(&format!("p{param}"))),
                Memory::Shared(_) => self.shared_base(),
            };
        }
        let size = self.kernel.memory_dtype(memory).size() as i64;
        let depth = self.depth(at);
        self.know(key, depth, |emitter| {
            let (terms, constant) = at.terms();
            let (outer, inner) = emitter.cut(&terms);
            let base = emitter.pointer(memory, &add(outer));
            let offset = add(inner) + Expr::int(constant);
            emitter.advance(memory, &base, &offset, size)
        })
    }

    /// `base + offset * size`.
    fn advance(&mut self, memory: Memory, base: &str, offset: &Expr, size: i64) -> String {
        // One term takes its factor into the instruction.
        let (atom, factor) = match offset.terms() {
            (terms, 0) if terms.len() == 1 && i32::try_from(terms[0].1 * size).is_ok() => {
                (terms[0].0.clone(), terms[0].1 * size)
            }
            _ => (offset.clone(), size),
        };
        let factor = factor.to_string();
        if matches!(memory, Memory::Shared(_)) {
            let word = self.word(&atom);
            return self.make(Class::Word, "mad.lo.s32", &[&word, &factor, base]);
        }
        if is_word(&atom) {
            let word = self.word(&atom);
            return self.make(Class::Long, "mad.wide.s32", &[&word, &factor, base]);
        }
        let long = self.long(&atom);
        self.make(Class::Long, "mad.lo.s64", &[&long, &factor, base])
    }

    /// The start of a load's name.
    fn loads(&self, memory: Memory) -> &'static str {
        match memory {
            Memory::Shared(_) => "ld.shared",
            Memory::Param(param) if self.is_constant(param) => "ld.global.nc",
            Memory::Param(_) => "ld.global",
        }
    }

    /// Whether no group of the launch writes what a parameter is bound to: buffers of a pass that are in use
    /// at the same time are apart, so only a state can be bound twice, with one type and one length.
    fn is_constant(&self, param: u16) -> bool {
        let params = &self.kernel.params;
        let this = &params[usize::from(param)];
        let may_be = |other: &&crate::kernel::Param| {
            other.access.writes() && other.dtype == this.dtype && other.len == this.len
        };
        this.access == Access::Read && !params.iter().any(|other| may_be(&other))
    }

    /// Defines a value by a load, with those of its neighbours.
    pub(super) fn load(&mut self, id: ValueId, memory: Memory, at: &Expr) {
        if let Some(bundle) = self.bundles.get(&id).cloned() {
            return self.load_bundle(memory, &bundle);
        }
        let address = self.element(memory, at);
        let name = self.loads(memory);
        let dtype = self.kernel.memory_dtype(memory);
        let value = match dtype {
            DType::F32 => self.make(Class::Float, &format!("{name}.f32"), &[&address]),
            DType::I32 | DType::U32 => self.make(Class::Word, &format!("{name}.u32"), &[&address]),
            DType::F16 => {
                let half = self.make(Class::Half, &format!("{name}.b16"), &[&address]);
                self.make(Class::Float, "cvt.f32.f16", &[&half])
            }
            DType::BF16 => {
                let bits = self.make(Class::Word, &format!("{name}.u16"), &[&address]);
                self.brain_value(&bits)
            }
            DType::I8 => self.make(Class::Word, &format!("{name}.s8"), &[&address]),
            DType::U8 => self.make(Class::Word, &format!("{name}.u8"), &[&address]),
            DType::Bool => {
                let byte = self.make(Class::Word, &format!("{name}.u8"), &[&address]);
                self.make(Class::Truth, "setp.ne.u32", &[&byte, "0"])
            }
        };
        self.values.insert(id, (value, self.at));
    }

    fn load_bundle(&mut self, memory: Memory, bundle: &Bundle) {
        let dtype = self.kernel.memory_dtype(memory);
        let words = bundle.members.len() * dtype.size() / 4;
        let address = self.element(memory, &bundle.first);
        let (class, kind) = if dtype == DType::F32 { (Class::Float, "f32") } else { (Class::Word, "b32") };
        let registers: Vec<String> = (0..words).map(|_| self.register(class)).collect();
        let name = self.loads(memory);
        match registers.as_slice() {
            [one] => self.line(&format!("{name}.{kind} {one}, {address}")),
            all => self.line(&format!("{name}.v{words}.{kind} {{{}}}, {address}", all.join(", "))),
        }
        let per_word = bundle.members.len() / words;
        for (word, members) in registers.iter().zip(bundle.members.chunks(per_word)) {
            let elements = self.elements(word, dtype);
            for (element, members) in elements.into_iter().zip(members) {
                for id in members {
                    self.values.insert(*id, (element.clone(), self.at));
                }
            }
        }
    }

    /// The elements of a word.
    fn elements(&mut self, word: &str, dtype: DType) -> Vec<String> {
        match dtype {
            DType::F16 => {
                let (low, high) = (self.register(Class::Half), self.register(Class::Half));
                self.line(&format!("mov.b32 {{{low}, {high}}}, {word}"));
                [low, high].map(|half| self.make(Class::Float, "cvt.f32.f16", &[&half])).to_vec()
            }
            DType::BF16 => {
                let low = self.brain_value(word);
                let high = self.make(Class::Word, "and.b32", &[word, "-65536"]);
                vec![low, self.make(Class::Float, "mov.b32", &[&high])]
            }
            DType::I8 | DType::U8 => {
                let name = if dtype == DType::I8 { "bfe.s32" } else { "bfe.u32" };
                (0..4).map(|at| self.make(Class::Word, name, &[word, &(at * 8).to_string(), "8"])).collect()
            }
            _ => vec![word.to_owned()],
        }
    }

    /// Notes which loads of a block can come together: no store and no other block lies between them.
    pub(super) fn bundle(&mut self, body: &[Stmt]) {
        let is_let = |stmt: &Stmt| matches!(stmt, Stmt::Let(_) | Stmt::Set(..));
        for window in body.split(|stmt| !is_let(stmt)) {
            let mut found: Vec<(Memory, Expr, BTreeMap<i64, Vec<ValueId>>)> = Vec::new();
            for stmt in window {
                let Stmt::Let(id) = stmt else { continue };
                let Value::Load { memory, at } = &self.kernel.record(*id).value else { continue };
                let (_, constant) = at.terms();
                let rest = at.clone() - Expr::int(constant);
                let place = found.iter().position(|(m, r, _)| (*m, r) == (*memory, &rest));
                let place = place.unwrap_or_else(|| {
                    found.push((*memory, rest, BTreeMap::new()));
                    found.len() - 1
                });
                found[place].2.entry(constant).or_default().push(*id);
            }
            for (memory, rest, by_constant) in found {
                self.bundle_neighbours(memory, &rest, &by_constant);
            }
        }
    }

    fn bundle_neighbours(&mut self, memory: Memory, rest: &Expr, found: &BTreeMap<i64, Vec<ValueId>>) {
        let size = self.kernel.memory_dtype(memory).size() as i64;
        let mut bytes = LOAD_BYTES;
        while bytes >= (2 * size).max(4) {
            let count = bytes / size;
            let aligned = self.is_aligned(memory, rest, count);
            for first in found.keys().filter(|first| aligned && **first % count == 0) {
                let members: Vec<Vec<ValueId>> =
                    (*first..first + count).filter_map(|at| found.get(&at).cloned()).collect();
                let is_free = |id: &ValueId| !self.bundles.contains_key(id);
                if members.len() as i64 == count && members.iter().flatten().all(is_free) {
                    let bundle = Bundle { first: rest.clone() + *first, members: members.clone() };
                    for id in members.into_iter().flatten() {
                        self.bundles.insert(id, bundle.clone());
                    }
                }
            }
            bytes /= 2;
        }
    }

    /// Stores, and the stores behind it that go to the elements behind; gives the statements that are left.
    pub(super) fn stores<'s>(&mut self, first: &Stmt, after: &'s [Stmt]) -> &'s [Stmt] {
        let Stmt::Store { memory, at, value } = first else { unreachable!("a store is given") };
        let size = self.kernel.memory_dtype(*memory).size() as i64;
        let (_, constant) = at.terms();
        let rest = at.clone() - Expr::int(constant);
        let mut values = vec![*value];
        for (place, stmt) in (1..LOAD_BYTES / size).zip(after) {
            match stmt {
                Stmt::Store { memory: m, at: a, value } if m == memory && *a == at.clone() + place => {
                    values.push(*value);
                }
                _ => break,
            }
        }
        let mut count = LOAD_BYTES / size;
        while count > 1 {
            let fits = values.len() as i64 >= count && count * size >= 4;
            if fits && constant % count == 0 && self.is_aligned(*memory, &rest, count) {
                self.store_neighbours(*memory, at, &values[..count as usize]);
                return &after[count as usize - 1..];
            }
            count /= 2;
        }
        self.store(*memory, at, *value);
        after
    }

    fn store_neighbours(&mut self, memory: Memory, at: &Expr, values: &[ValueId]) {
        let dtype = self.kernel.memory_dtype(memory);
        let per_word = 4 / dtype.size();
        let words: Vec<String> = values.chunks(per_word).map(|values| self.packed(values, dtype)).collect();
        let address = self.element(memory, at);
        let space = if matches!(memory, Memory::Shared(_)) { "st.shared" } else { "st.global" };
        let kind = if dtype == DType::F32 { "f32" } else { "b32" };
        match words.as_slice() {
            [one] => self.line(&format!("{space}.{kind} {address}, {one}")),
            all => self.line(&format!("{space}.v{}.{kind} {address}, {{{}}}", all.len(), all.join(", "))),
        }
    }

    /// Values of a type as the bits of one word.
    fn packed(&mut self, values: &[ValueId], dtype: DType) -> String {
        let names: Vec<(String, bool)> = values
            .iter()
            .map(|id| {
                let (id, rounded) = stored(self.kernel, *id);
                (self.value(id), rounded)
            })
            .collect();
        match (dtype, names.as_slice()) {
            (DType::BF16, [(low, true), (high, true)]) => {
                let bits = [low, high].map(|x| self.make(Class::Word, "mov.b32", &[x]));
                self.make(Class::Word, "prmt.b32", &[&bits[0], &bits[1], "30258"])
            }
            (DType::F16 | DType::BF16, [(low, _), (high, _)]) if self.has(80) => {
                self.needs(80);
                self.make(Class::Word, &format!("cvt.rn.{dtype}x2.f32"), &[high, low])
            }
            (DType::F16, [(low, _), (high, _)]) => {
                let [low, high] = [low, high].map(|x| self.make(Class::Half, "cvt.rn.f16.f32", &[x]));
                self.make(Class::Word, "mov.b32", &[&format!("{{{low}, {high}}}")])
            }
            (DType::BF16, [(low, _), (high, _)]) => {
                let [low, high] = [low, high].map(|x| self.brain_bits(x));
                self.make(Class::Word, "prmt.b32", &[&low, &high, "21520"])
            }
            (_, [(one, _)]) => one.clone(),
            // Bytes, the lowest first.
            (_, bytes) => {
                let mut word = bytes[0].0.clone();
                for (at, (byte, _)) in bytes.iter().enumerate().skip(1) {
                    word = self.make(Class::Word, "bfi.b32", &[byte, &word, &(at * 8).to_string(), "8"]);
                }
                word
            }
        }
    }

    /// Stores a value of the memory's type.
    fn store(&mut self, memory: Memory, at: &Expr, value: ValueId) {
        let (value, rounded) = stored(self.kernel, value);
        let value = self.value(value);
        let address = self.element(memory, at);
        let space = if matches!(memory, Memory::Shared(_)) { "st.shared" } else { "st.global" };
        match self.kernel.memory_dtype(memory) {
            DType::F32 => self.line(&format!("{space}.f32 {address}, {value}")),
            DType::I32 | DType::U32 => self.line(&format!("{space}.b32 {address}, {value}")),
            DType::F16 => {
                let half = self.make(Class::Half, "cvt.rn.f16.f32", &[&value]);
                self.line(&format!("{space}.b16 {address}, {half}"));
            }
            DType::BF16 if rounded => {
                let bits = self.make(Class::Word, "mov.b32", &[&value]);
                let bits = self.make(Class::Word, "shr.u32", &[&bits, "16"]);
                self.line(&format!("{space}.u16 {address}, {bits}"));
            }
            DType::BF16 => {
                let bits = self.brain_bits(&value);
                self.line(&format!("{space}.u16 {address}, {bits}"));
            }
            DType::I8 | DType::U8 => self.line(&format!("{space}.u8 {address}, {value}")),
            DType::Bool => {
                let byte = self.make(Class::Word, "selp.b32", &["1", "0", &value]);
                self.line(&format!("{space}.u8 {address}, {byte}"));
            }
        }
    }

    /// Whether an offset, beside a constant, is a multiple of `count` elements from where the memory starts.
    fn is_aligned(&self, memory: Memory, rest: &Expr, count: i64) -> bool {
        let aligned = match memory {
            Memory::Param(param) => self.kernel.params[usize::from(param)].aligned,
            Memory::Shared(_) => true,
        };
        let known = if rest.as_int() == Some(0) { 0 } else { rest.divisor() };
        aligned && self.kernel.memory_dtype(memory) != DType::Bool && known % count == 0
    }
}
