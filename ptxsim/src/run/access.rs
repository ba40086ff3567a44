//! Loads, stores and atomic operations, in all memories.

use crate::error::{Broken, Reason};
use crate::instruction::{Address, Atomic, Binary, Register, Space};
use crate::run::block::Worker;
use crate::run::integer;
use crate::run::shared::Manner;
use crate::run::warp::{LANES, Lanes, Warp, lanes};
use crate::types::Type;

/// Where the windows of other memories lie among generic addresses.
const SHARED_WINDOW: u64 = 1 << 56;
const LOCAL_WINDOW: u64 = 2 << 56;
const MODULE_WINDOW: u64 = 3 << 56;
const OFFSET: u64 = SHARED_WINDOW - 1;

fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Module => MODULE_WINDOW,
        Space::Global | Space::Generic => 0,
    }
}

/// The memory that an address is of, and where in it.
fn resolved(space: Space, address: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, address);
    }
    match address & !OFFSET {
        SHARED_WINDOW => (Space::Shared, address & OFFSET),
        LOCAL_WINDOW => (Space::Local, address & OFFSET),
        MODULE_WINDOW => (Space::Module, address & OFFSET),
        _ => (Space::Global, address),
    }
}

impl Warp {
    /// The address of each lane.
    pub(crate) fn addresses(&self, at: Address, active: u32) -> Result<Lanes, Broken> {
        let base = self.get(at.base, active)?;
        Ok(base.map(|base| base.wrapping_add(at.offset as u64)))
    }

    /// Where an element of a lane's local memory lies.
    fn local(&self, lane: usize, address: u64, bytes: u8) -> Result<std::ops::Range<usize>, Broken> {
        let all = self.local.len() as u64 / LANES as u64;
        let broken = |reason, why| Err(Broken::new(reason, lane as u32, why));
        if !address.is_multiple_of(u64::from(bytes)) {
            return broken(Reason::Misaligned, format!("{bytes} bytes at {address} of local memory"));
        }
        if address >= all || address + u64::from(bytes) > all {
            let why = format!("out of bounds: {bytes} bytes at byte {address} of {all} of local memory");
            return broken(Reason::OutOfBounds, why);
        }
        let start = (lane as u64 * all + address) as usize;
        Ok(start..start + usize::from(bytes))
    }
}

impl Worker<'_> {
    /// An element of one lane.
    #[inline]
    fn load_one(
        &mut self,
        warp: &Warp,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u8,
    ) -> Result<u64, Broken> {
        let (space, address) = resolved(space, address);
        match space {
            Space::Shared => {
                let len = usize::from(bytes);
                let at = self.shared.touch(address, len, Manner::Read, Self::toucher(warp, lane))?;
                Ok(self.shared.load(at, len))
            }
            Space::Local => {
                let range = warp.local(lane, address, bytes)?;
                if warp.local_written[range.clone()].contains(&false) {
                    let why = format!("byte {address} of local memory is read before it is written");
                    return Err(Broken::new(Reason::Uninitialised, lane as u32, why));
                }
                Ok(value_of(&warp.local[range]))
            }
            Space::Module => {
                let memory = &self.launch.kernel.module_memory;
                let start = usize::try_from(address).unwrap_or(usize::MAX);
                match memory.get(start..start.saturating_add(usize::from(bytes))) {
                    Some(found) => Ok(value_of(found)),
                    None => {
                        let all = memory.len();
                        let why = format!("out of bounds: byte {address} of {all} of the module's arrays");
                        Err(Broken::new(Reason::OutOfBounds, lane as u32, why))
                    }
                }
            }
            _ => self.view.load(lane as u32, address, bytes),
        }
    }

    #[inline]
    fn store_one(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        space: Space,
        address: u64,
        (bytes, value): (u8, u64),
    ) -> Result<(), Broken> {
        let (space, address) = resolved(space, address);
        let len = usize::from(bytes);
        let new = value.to_le_bytes();
        match space {
            Space::Shared => {
                let by = Self::toucher(warp, lane);
                if self.shared.is_same(address, &new[..len], by) {
                    return Ok(());
                }
                let at = self.shared.touch(address, len, Manner::Write, by)?;
                self.shared.store(at, &new[..len]);
                Ok(())
            }
            Space::Local => {
                let range = warp.local(lane, address, bytes)?;
                warp.local[range.clone()].copy_from_slice(&new[..len]);
                warp.local_written[range].fill(true);
                Ok(())
            }
            Space::Module => {
                let why = "a store into an array of the module, which are only read here".to_owned();
                Err(Broken::new(Reason::OutOfBounds, lane as u32, why))
            }
            _ => self.view.store(lane as u32, address, bytes, value),
        }
    }

    /// A vector must lie on a multiple of its whole size.
    fn check_vector(space: Space, lane: usize, address: u64, size: u64) -> Result<(), Broken> {
        let (_, address) = resolved(space, address);
        match address.is_multiple_of(size) {
            true => Ok(()),
            false => {
                let why =
                    format!("an access of {size} bytes at {address:#x}, which is no multiple of its size");
                Err(Broken::new(Reason::Misaligned, lane as u32, why))
            }
        }
    }

    pub(crate) fn load(
        &mut self,
        warp: &mut Warp,
        active: u32,
        space: Space,
        (ty, wide): (Type, u8),
        to: &[Option<Register>],
        at: Address,
    ) -> Result<(), Broken> {
        let addresses = warp.addresses(at, active)?;
        let bytes = ty.bytes();
        let size = u64::from(bytes) * to.len() as u64;
        if to.len() > 1 {
            for lane in lanes(active) {
                Self::check_vector(space, lane, addresses[lane], size)?;
            }
        }
        for (part, to) in to.iter().enumerate() {
            let offset = part as u64 * u64::from(bytes);
            let mut out = [0u64; LANES];
            if space == Space::Global {
                for lane in lanes(active) {
                    out[lane] = self.view.load(lane as u32, addresses[lane].wrapping_add(offset), bytes)?;
                }
            } else {
                for lane in lanes(active) {
                    let address = addresses[lane].wrapping_add(offset);
                    out[lane] = self.load_one(warp, lane, space, address, bytes)?;
                }
            }
            if ty.is_signed() && wide > bytes {
                out = out.map(|x| Type::Bits(wide).truncate(ty.extend(x) as u64));
            }
            if let Some(to) = to {
                warp.set(*to, active, &out);
            }
        }
        Ok(())
    }

    pub(crate) fn store(
        &mut self,
        warp: &mut Warp,
        active: u32,
        space: Space,
        ty: Type,
        from: &[Register],
        at: Address,
    ) -> Result<(), Broken> {
        let addresses = warp.addresses(at, active)?;
        let bytes = ty.bytes();
        let size = u64::from(bytes) * from.len() as u64;
        if from.len() > 1 {
            for lane in lanes(active) {
                Self::check_vector(space, lane, addresses[lane], size)?;
            }
        }
        for (part, from) in from.iter().enumerate() {
            let offset = part as u64 * u64::from(bytes);
            let values = *warp.get(*from, active)?;
            for lane in lanes(active) {
                let value = (bytes, ty.truncate(values[lane]));
                self.store_one(warp, lane, space, addresses[lane].wrapping_add(offset), value)?;
            }
        }
        Ok(())
    }

    pub(crate) fn load_parameter(
        &mut self,
        warp: &mut Warp,
        active: u32,
        (ty, wide): (Type, u8),
        to: &[Option<Register>],
        offset: u32,
    ) -> Result<(), Broken> {
        for (part, to) in to.iter().enumerate() {
            let start = offset as usize + part * usize::from(ty.bytes());
            let found = self.launch.parameters.get(start..start + usize::from(ty.bytes()));
            let Some(found) = found else {
                let why =
                    format!("out of bounds: byte {start} of {} of parameters", self.launch.parameters.len());
                return Err(Broken::new(Reason::OutOfBounds, None, why));
            };
            let value = Type::Bits(wide).truncate(ty.extend(value_of(found)) as u64);
            if let Some(to) = to {
                warp.set(*to, active, &[value; LANES]);
            }
        }
        Ok(())
    }

    pub(crate) fn convey(
        &mut self,
        warp: &mut Warp,
        active: u32,
        space: Space,
        to_generic: bool,
        [to, from]: [Register; 2],
    ) -> Result<(), Broken> {
        let base = window(space);
        let values = *warp.get(from, active)?;
        for lane in lanes(active).filter(|_| !to_generic) {
            let (found, _) = resolved(Space::Generic, values[lane]);
            if found != space && space != Space::Generic {
                let why = format!("address {:#x} is not one of {space:?} memory", values[lane]);
                return Err(Broken::new(Reason::OutOfBounds, lane as u32, why));
            }
        }
        match to_generic {
            true => warp.set(to, active, &values.map(|x| x.wrapping_add(base))),
            false => warp.set(to, active, &values.map(|x| x.wrapping_sub(base))),
        }
        Ok(())
    }

    pub(crate) fn atomic(
        &mut self,
        warp: &mut Warp,
        active: u32,
        space: Space,
        (op, ty): (Atomic, Type),
        to: Option<Register>,
        (at, a, b): (Address, Register, Option<Register>),
    ) -> Result<(), Broken> {
        let addresses = warp.addresses(at, active)?;
        let a = *warp.get(a, active)?;
        let b = match b {
            Some(b) => *warp.get(b, active)?,
            None => [0; LANES],
        };
        let bytes = ty.bytes();
        let mut out = [0; LANES];
        for lane in lanes(active) {
            let (space, address) = resolved(space, addresses[lane]);
            let change = |old: u64| changed(op, ty, old, a[lane], b[lane]);
            out[lane] = match space {
                Space::Shared => {
                    let by = Self::toucher(warp, lane);
                    let at = self.shared.touch(address, usize::from(bytes), Manner::Atomic, by)?;
                    let old = self.shared.load(at, usize::from(bytes));
                    self.shared.store(at, &change(old).to_le_bytes()[..usize::from(bytes)]);
                    old
                }
                Space::Global => self.view.update(lane as u32, address, bytes, change)?,
                other => {
                    let why = format!("an atomic operation on {other:?} memory");
                    return Err(Broken::new(Reason::OutOfBounds, lane as u32, why));
                }
            };
        }
        if let Some(to) = to {
            warp.set(to, active, &out);
        }
        Ok(())
    }
}

fn value_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// What an atomic operation leaves behind.
fn changed(op: Atomic, ty: Type, old: u64, a: u64, b: u64) -> u64 {
    let float = |bits: u64| f32::from_bits(bits as u32);
    match op {
        Atomic::Add if ty == Type::F32 => u64::from((float(old) + float(a)).to_bits()),
        Atomic::Add => integer::join(Binary::Add, ty, old, a),
        Atomic::Minimum => integer::join(Binary::Minimum, ty, old, a),
        Atomic::Maximum => integer::join(Binary::Maximum, ty, old, a),
        Atomic::And => old & a,
        Atomic::Or => old | a,
        Atomic::Xor => old ^ a,
        Atomic::Exchange => a,
        Atomic::CompareExchange => {
            if old == a {
                b
            } else {
                old
            }
        }
    }
}
