//! The registers of 32 lanes, and where each lane is.

use crate::error::{Broken, Reason};
use crate::instruction::{Register, Special};
use crate::run::Launch;
use crate::run::block::exists;
use crate::run::copies::Copies;
use crate::run::group::Products;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// One value for each lane.
pub(crate) type Lanes = [u64; LANES];

/// A warp.
pub(crate) struct Warp {
    /// Its number in the block.
    pub(crate) number: u32,
    registers: Vec<Lanes>,
    /// For each register the lanes that have written it.
    defined: Vec<u32>,
    /// Registers that were written since the last `wgmma.fence`.
    fresh: Vec<bool>,
    pub(crate) place: [u32; LANES],
    /// Lanes that can go on, wait at a barrier, or have left.
    pub(crate) running: u32,
    pub(crate) waiting: u32,
    pub(crate) gone: u32,
    /// When its lanes last met.
    pub(crate) barrier: u32,
    pub(crate) copies: Copies,
    pub(crate) products: Products,
    /// Local memory, a stretch for each lane.
    pub(crate) local: Vec<u8>,
    pub(crate) local_written: Vec<bool>,
}

/// The lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

impl Warp {
    /// A warp for blocks of that launch.
    pub(crate) fn new(number: u32, launch: &Launch<'_>) -> Warp {
        let kernel = launch.kernel;
        let local = kernel.local_bytes as usize * LANES;
        let mut warp = Warp {
            number,
            registers: vec![[0; LANES]; kernel.registers as usize],
            defined: vec![0; kernel.registers as usize],
            fresh: vec![false; kernel.registers as usize],
            place: [0; LANES],
            running: 0,
            waiting: 0,
            gone: 0,
            barrier: 0,
            copies: Copies::default(),
            products: Products::default(),
            local: vec![0; local],
            local_written: vec![false; local],
        };
        for (register, value) in &kernel.constants {
            warp.registers[*register as usize] = [*value; LANES];
        }
        warp
    }

    /// At the beginning of a block at that place. What the registers hold from the last block counts as unwritten.
    pub(crate) fn begin(&mut self, launch: &Launch<'_>, block: [u32; 3], now: u32) {
        let kernel = launch.kernel;
        let exists = exists(launch.block.iter().product::<u32>(), self.number);
        self.place = [0; LANES];
        (self.running, self.waiting, self.gone) = (exists, 0, !exists);
        self.barrier = now;
        self.copies = Copies::default();
        self.products = Products::default();
        self.local_written.fill(false);
        self.defined.fill(0);
        for (register, _) in &kernel.constants {
            self.defined[*register as usize] = u32::MAX;
        }
        for (register, special) in &kernel.specials {
            let value = |lane: usize| warp_value(*special, self.number, lane as u32, launch, block);
            self.registers[*register as usize] = std::array::from_fn(|lane| u64::from(value(lane)));
            self.defined[*register as usize] = u32::MAX;
        }
    }

    /// A register's values, which these lanes must have written.
    #[inline(always)]
    pub(crate) fn get(&self, register: Register, active: u32) -> Result<&Lanes, Broken> {
        let missing = active & !self.defined[register as usize];
        if missing != 0 {
            return Err(self.undefined(register, missing));
        }
        Ok(&self.registers[register as usize])
    }

    /// Changes a register of these lanes.
    #[inline(always)]
    pub(crate) fn set(&mut self, register: Register, active: u32, values: &Lanes) {
        let to = &mut self.registers[register as usize];
        self.defined[register as usize] |= active;
        self.fresh[register as usize] = true;
        if active == u32::MAX {
            *to = *values;
        } else {
            for lane in 0..LANES {
                if active >> lane & 1 == 1 {
                    to[lane] = values[lane];
                }
            }
        }
    }

    /// Takes a register's values away until a product gives new ones.
    pub(crate) fn give(&mut self, register: Register) -> Lanes {
        self.defined[register as usize] = 0;
        self.registers[register as usize]
    }

    /// Gives a register the values of a product, which no fence need order.
    pub(crate) fn receive(&mut self, register: Register, values: Lanes) {
        self.registers[register as usize] = values;
        self.defined[register as usize] = u32::MAX;
        self.fresh[register as usize] = false;
    }

    /// Whether some lane has written a register since its values were taken.
    pub(crate) fn is_written(&self, register: Register) -> bool {
        self.defined[register as usize] != 0
    }

    /// Whether a register was written since the last fence of products.
    pub(crate) fn is_fresh(&self, register: Register) -> bool {
        self.fresh[register as usize]
    }

    /// What was done to registers so far is in order with the products that follow.
    pub(crate) fn fence(&mut self) {
        self.fresh.fill(false);
    }

    #[cold]
    fn undefined(&self, register: Register, missing: u32) -> Broken {
        let lane = missing.trailing_zeros();
        if self.products.is_under_way(register) {
            return pending(lane);
        }
        let broken = Broken::new(Reason::Uninitialised, lane, String::new());
        // The block knows how the text calls it.
        Broken { register: Some(register), ..broken }
    }

    /// The lanes in which a predicate is true.
    #[inline]
    pub(crate) fn truth(&self, register: Register, active: u32) -> Result<u32, Broken> {
        let values = self.get(register, active)?;
        let mut mask = 0;
        for (lane, value) in values.iter().enumerate() {
            mask |= ((value & 1) as u32) << lane;
        }
        Ok(mask & active)
    }

    #[inline(always)]
    pub(crate) fn map1(
        &mut self,
        active: u32,
        [to, a]: [Register; 2],
        f: impl Fn(u64) -> u64,
    ) -> Result<(), Broken> {
        let a = self.get(a, active)?;
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane]);
        }
        self.set(to, active, &out);
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn map2(
        &mut self,
        active: u32,
        [to, a, b]: [Register; 3],
        f: impl Fn(u64, u64) -> u64,
    ) -> Result<(), Broken> {
        let (a, b) = (self.get(a, active)?, self.get(b, active)?);
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane]);
        }
        self.set(to, active, &out);
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn map3(
        &mut self,
        active: u32,
        [to, a, b, c]: [Register; 4],
        f: impl Fn(u64, u64, u64) -> u64,
    ) -> Result<(), Broken> {
        let (a, b, c) = (self.get(a, active)?, self.get(b, active)?, self.get(c, active)?);
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.set(to, active, &out);
        Ok(())
    }
}

/// A sum that is touched too soon.
pub(crate) fn pending(lane: u32) -> Broken {
    let why = "a product of the register is not waited for".to_owned();
    Broken::new(Reason::PendingProduct, lane, why)
}

fn warp_value(special: Special, warp: u32, lane: u32, launch: &Launch<'_>, block: [u32; 3]) -> u32 {
    let [wide, high, _] = launch.block;
    let thread = warp * LANES as u32 + lane;
    match special {
        Special::Thread(0) => thread % wide,
        Special::Thread(1) => thread / wide % high,
        Special::Thread(_) => thread / wide / high,
        Special::BlockSize(axis) => launch.block[usize::from(axis)],
        Special::Block(axis) => block[usize::from(axis)],
        Special::GridSize(axis) => launch.grid[usize::from(axis)],
        Special::Lane => lane,
        Special::Warp => warp,
        Special::WarpCount => launch.block.iter().product::<u32>().div_ceil(LANES as u32),
        Special::LaneMaskEqual => 1 << lane,
        Special::LaneMaskLess => (1 << lane) - 1,
        Special::LaneMaskLessOrEqual => (1u64 << (lane + 1)).wrapping_sub(1) as u32,
        Special::LaneMaskGreater => !((1u64 << (lane + 1)).wrapping_sub(1) as u32),
        Special::LaneMaskGreaterOrEqual => !((1 << lane) - 1),
    }
}
