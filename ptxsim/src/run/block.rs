//! The warps of a block, and which of their lanes go next.

use crate::error::{Broken, Fault, Reason};
use crate::instruction::{Instruction, Op};
use crate::run::group::agree;
use crate::run::memory::View;
use crate::run::shared::{Shared, Toucher};
use crate::run::warp::{LANES, Warp, lanes};
use crate::run::{Launch, Stats};

/// What runs one block after another.
pub(crate) struct Worker<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) view: View<'a>,
    pub(crate) shared: Shared,
    stats: Stats,
    /// The warps of the last block, whose memory is used again.
    warps: Vec<Warp>,
}

/// What became of the lanes that took a step.
enum Turn {
    /// All go on at this place.
    On(u32),
    /// Their places are written down.
    Parted,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(launch: &'a Launch<'a>, view: View<'a>) -> Worker<'a> {
        let bytes = launch.kernel.shared_bytes as usize + launch.shared_bytes as usize;
        Worker {
            launch,
            view,
            shared: Shared::new(bytes, launch.kernel.multiplies),
            stats: Stats::default(),
            warps: Vec::new(),
        }
    }

    /// Runs a block to its end.
    pub(crate) fn block(&mut self, place: [u32; 3]) -> Result<Stats, Fault> {
        self.stats = Stats::default();
        let now = self.shared.begin_block();
        let threads = self.launch.block.iter().product::<u32>();
        let count = threads.div_ceil(LANES as u32);
        let mut warps = std::mem::take(&mut self.warps);
        warps.extend((warps.len() as u32..count).map(|number| Warp::new(number, self.launch)));
        warps.iter_mut().for_each(|warp| warp.begin(self.launch, place, now));
        self.run(&mut warps, place)?;
        self.warps = warps;
        Ok(self.stats)
    }

    fn run(&mut self, warps: &mut [Warp], place: [u32; 3]) -> Result<(), Fault> {
        loop {
            for warp in warps.iter_mut() {
                self.warp(warp).map_err(|(line, broken)| self.fault(place, warp.number, line, broken))?;
            }
            agree(warps).map_err(|(warp, line, broken)| self.fault(place, warp, line, broken))?;
            if warps.iter().all(|warp| warp.waiting == 0) {
                return Ok(());
            }
            self.meet(warps).map_err(|(warp, line, broken)| self.fault(place, warp, line, broken))?;
        }
    }

    fn fault(&self, block: [u32; 3], warp: u32, line: u32, broken: Broken) -> Fault {
        let kernel = self.launch.kernel;
        let why = match broken.register {
            Some(register) => {
                format!("{} is read before anything was written to it", kernel.register_name(register))
            }
            None => broken.why,
        };
        let thread = broken.lane.map(|lane| warp * LANES as u32 + lane);
        Fault { kernel: kernel.name.clone(), line, block, thread, reason: broken.reason, why }
    }

    /// Lets all threads pass the barrier at which they wait.
    fn meet(&mut self, warps: &mut [Warp]) -> Result<(), (u32, u32, Broken)> {
        // The place of a waiting lane is behind the barrier.
        let line = |place: u32| self.launch.kernel.code[place as usize - 1].line;
        let mut waits: Option<u32> = None;
        for warp in warps.iter() {
            for lane in lanes(warp.waiting) {
                let place = warp.place[lane];
                if let Some(other) = waits.filter(|other| *other != place) {
                    let why = format!("other threads wait at the barrier of line {}", line(other));
                    let broken = Broken::new(Reason::Barrier, lane as u32, why);
                    return Err((warp.number, line(place), broken));
                }
                waits = Some(place);
            }
        }
        let threads = self.launch.block.iter().product::<u32>();
        let at = waits.map_or(0, line);
        for warp in warps.iter_mut() {
            let left = warp.gone & exists(threads, warp.number);
            if left != 0 {
                let why = "the thread left the kernel while others wait at this barrier".to_owned();
                return Err((warp.number, at, Broken::new(Reason::Barrier, left.trailing_zeros(), why)));
            }
            warp.running = std::mem::take(&mut warp.waiting);
        }
        let now = self.shared.pass_barrier();
        warps.iter_mut().for_each(|warp| warp.barrier = now);
        self.stats.barriers += 1;
        Ok(())
    }

    /// Runs a warp until all of its lanes wait or have left.
    fn warp(&mut self, warp: &mut Warp) -> Result<(), (u32, Broken)> {
        while warp.running != 0 {
            let first = lanes(warp.running).map(|lane| warp.place[lane]).min().unwrap_or(0);
            let (mut active, mut next) = (0u32, u32::MAX);
            for lane in lanes(warp.running) {
                match warp.place[lane] {
                    place if place == first => active |= 1 << lane,
                    place => next = next.min(place),
                }
            }
            self.stretch(warp, first, active, next)?;
        }
        Ok(())
    }

    /// Runs lanes that are at one place until they part, or come to where others are.
    fn stretch(&mut self, warp: &mut Warp, first: u32, active: u32, next: u32) -> Result<(), (u32, Broken)> {
        let code = &self.launch.kernel.code;
        let mut place = first;
        loop {
            let instruction = &code[place as usize];
            let turn = self.turn(warp, instruction, place, active).map_err(|e| (instruction.line, e))?;
            match turn {
                Turn::Parted => return Ok(()),
                Turn::On(to) => place = to,
            }
            // Going back lets lanes that are further on be passed; going on stops where they are.
            if place >= next {
                lanes(active).for_each(|lane| warp.place[lane] = place);
                return Ok(());
            }
        }
    }

    fn turn(
        &mut self,
        warp: &mut Warp,
        instruction: &Instruction,
        place: u32,
        active: u32,
    ) -> Result<Turn, Broken> {
        let taking = match instruction.guard {
            None => active,
            Some((register, negated)) => {
                let truth = warp.truth(register, active)?;
                if negated { active & !truth } else { truth }
            }
        };
        self.stats.steps += 1;
        self.stats.lane_steps += u64::from(taking.count_ones());
        if self.stats.steps > self.launch.steps_max {
            let why = format!("the block still runs after {} instructions", self.launch.steps_max);
            return Err(Broken::new(Reason::EndlessLoop, None, why));
        }
        let others = active & !taking;
        match instruction.op {
            Op::Branch { target } if others == 0 => return Ok(Turn::On(target)),
            _ if taking == 0 => return Ok(Turn::On(place + 1)),
            Op::Branch { target } => {
                self.stats.partings += 1;
                lanes(taking).for_each(|lane| warp.place[lane] = target);
            }
            Op::Exit => {
                warp.running &= !taking;
                warp.gone |= taking;
            }
            Op::Barrier => {
                self.arrive(warp, taking)?;
                lanes(taking).for_each(|lane| warp.place[lane] = place + 1);
            }
            _ => {
                self.step(warp, &instruction.op, taking)?;
                return Ok(Turn::On(place + 1));
            }
        }
        lanes(others).for_each(|lane| warp.place[lane] = place + 1);
        Ok(Turn::Parted)
    }

    /// Lanes come to a barrier of the block: all of a warp together.
    fn arrive(&mut self, warp: &mut Warp, taking: u32) -> Result<(), Broken> {
        let missing = !taking & exists(self.launch.block.iter().product(), warp.number);
        if missing != 0 {
            let why =
                format!("the lane is not among those {taking:#010x} of its warp that come to the barrier");
            return Err(Broken::new(Reason::Barrier, missing.trailing_zeros(), why));
        }
        warp.running &= !taking;
        warp.waiting |= taking;
        Ok(())
    }

    /// A lane as one that touches shared memory.
    pub(crate) fn toucher(warp: &Warp, lane: usize) -> Toucher {
        Toucher { thread: (warp.number as usize * LANES + lane) as u16, warp_barrier: warp.barrier }
    }
}

/// The lanes of a warp that a block of so many threads has.
pub(crate) fn exists(threads: u32, warp: u32) -> u32 {
    match threads.saturating_sub(warp * LANES as u32) {
        count @ 0..32 => (1 << count) - 1,
        _ => u32::MAX,
    }
}
