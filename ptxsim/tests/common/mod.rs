//! A kernel of one warp around a few instructions: three values for each lane in, one out.
#![allow(dead_code)]

use jtllm_fuzz::Random;
use jtllm_ptxsim::{Fault, Launch, Memory, parse};

/// Rounds of 32 lanes.
const ROUNDS: usize = 8;

/// Values of three operands, and what they are.
pub(crate) struct Lanes {
    columns: [Vec<u64>; 3],
    wide: bool,
    module: String,
}

fn mixed(special: &[u64], random: fn(&mut Random) -> u64, column: u64) -> Vec<u64> {
    let mut source = Random::new(17 + column);
    (0..ROUNDS * 32)
        .map(|at| match at % 3 {
            0 => special[source.below(special.len())],
            _ => random(&mut source),
        })
        .collect()
}

fn word(random: &mut Random) -> u64 {
    let shift = random.below(32);
    u64::from_le_bytes(std::array::from_fn(|_| random.below(256) as u8)) >> 32 >> shift
}

impl Lanes {
    fn new(special: &[u64], random: fn(&mut Random) -> u64, wide: bool) -> Lanes {
        let columns = [0, 1, 2].map(|column| mixed(special, random, column));
        Lanes { columns, wide, module: String::new() }
    }

    /// Words: integers of all sizes.
    pub(crate) fn words() -> Lanes {
        Lanes::new(
            &[0, 1, 2, 31, 32, 33, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7F80_0000, 0x7C00],
            word,
            false,
        )
    }

    /// Words that are floats of ordinary sizes, and those at the edges.
    pub(crate) fn floats() -> Lanes {
        let special =
            [0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 1e-40, -1e-45, 3e38, f32::INFINITY, f32::NAN, 255.5, -128.5];
        let float = |random: &mut Random| {
            let x = random.below(1 << 24) as f32 / (1 << 20) as f32 - 8.0;
            u64::from((x * 10f32.powi(random.below(20) as i32 - 10)).to_bits())
        };
        Lanes::new(&special.map(|x: f32| u64::from(x.to_bits())), float, false)
    }

    /// Values of 64 bits.
    pub(crate) fn doubles() -> Lanes {
        let special =
            [0, 1, 63, 64, u64::MAX, 1 << 63, 1.5f64.to_bits(), f64::NAN.to_bits(), 1e-40f64.to_bits()];
        Lanes::new(&special, |random| word(random) << 32 | word(random), true)
    }

    /// With arrays of the module.
    pub(crate) fn with_module(mut self, text: &str) -> Lanes {
        self.module = text.to_owned();
        self
    }

    /// The first round's values of an operand, from 1.
    pub(crate) fn column(&self, operand: usize) -> &[u64] {
        &self.columns[operand - 1][..32]
    }

    /// The results of all rounds. Each lane's operands are in registers 1, 2, 3 of each kind, the result in 0.
    fn run(&self, text: &str) -> Vec<u64> {
        let size = if self.wide { 8 } else { 4 };
        let narrow = if self.wide {
            "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3;"
        } else {
            ""
        };
        let (ty, kind) = if self.wide { ("u64", "rd") } else { ("u32", "r") };
        let floats = match self.wide {
            true => "mov.b64 %fd1, %rd1; mov.b64 %fd2, %rd2; mov.b64 %fd3, %rd3;",
            false => "mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;",
        };
        // The result is in whichever register the text writes last.
        let result = ["%fd0", "%f0", "%rd0", "%r0"].into_iter().find(|name| {
            text.contains(&format!("{name},"))
                || text.contains(&format!("{name}|"))
                || text.contains(&format!("{name};"))
        });
        let store = match result.unwrap_or("%r0") {
            "%fd0" => "st.global.f64 [%out], %fd0;",
            "%f0" => {
                "{ .reg .b64 %w; .reg .b32 %b; mov.b32 %b, %f0; cvt.u64.u32 %w, %b; st.global.u64 [%out], %w; }"
            }
            "%rd0" => "st.global.u64 [%out], %rd0;",
            _ => "{ .reg .b64 %w; cvt.u64.u32 %w, %r0; st.global.u64 [%out], %w; }",
        };
        let source = format!(
            ".version 7.8\n.target sm_90\n.address_size 64\n{module}
.visible .entry k(.param .u64 out, .param .u64 in) {{
  .reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .f32 %f<10>; .reg .f64 %fd<10>; .reg .pred %p<5>;
  .reg .b64 %out, %in, %off; .reg .b32 %lane, %block;
  ld.param.u64 %out, [out]; ld.param.u64 %in, [in];
  mov.u32 %lane, %laneid; mov.u32 %block, %ctaid.x; mad.lo.u32 %block, %block, 32, %lane;
  mul.wide.u32 %off, %block, 8; add.u64 %out, %out, %off;
  mul.wide.u32 %off, %block, {size}; add.u64 %in, %in, %off;
  ld.global.{ty} %{kind}1, [%in]; ld.global.{ty} %{kind}2, [%in+{second}]; ld.global.{ty} %{kind}3, [%in+{third}];
  {narrow} {floats}
  {text}
  {store}
  ret;
}}",
            module = self.module,
            second = ROUNDS * 32 * size,
            third = 2 * ROUNDS * 32 * size,
        );
        let bytes: Vec<u8> =
            self.columns.iter().flatten().flat_map(|x| x.to_le_bytes()[..size].to_vec()).collect();
        let mut memory = Memory::new();
        let (out, input) = (memory.alloc(ROUNDS as u64 * 32 * 8), memory.alloc(bytes.len() as u64));
        memory.write(input, &bytes).unwrap();
        let parameters: Vec<u8> = [out, input].iter().flat_map(|x| x.to_le_bytes()).collect();
        let module = parse(&source).unwrap_or_else(|error| panic!("{text}: {error}"));
        let kernel = module.kernel("k").unwrap();
        Launch::new(kernel, [ROUNDS as u32, 1, 1], [32, 1, 1], &parameters)
            .run(&memory)
            .unwrap_or_else(|fault| panic!("{text}: {fault}"));
        let mut found = vec![0; ROUNDS * 32 * 8];
        memory.read(out, &mut found).unwrap();
        found.as_chunks::<8>().0.iter().map(|x| u64::from_le_bytes(*x)).collect()
    }

    pub(crate) fn compare3(
        &self,
        text: &str,
        expected: impl Fn(u64, u64, u64) -> u64,
        alike: impl Fn(u64, u64) -> bool,
    ) {
        for (at, found) in self.run(text).into_iter().enumerate() {
            let [a, b, c] = [0, 1, 2].map(|column: usize| self.columns[column][at]);
            let wanted = expected(a, b, c);
            assert!(
                alike(found, wanted),
                "{text} of {a:#x}, {b:#x}, {c:#x}: {found:#x}, expected {wanted:#x}"
            );
        }
    }

    pub(crate) fn compare2(
        &self,
        text: &str,
        expected: impl Fn(u64, u64) -> u64,
        alike: impl Fn(u64, u64) -> bool,
    ) {
        self.compare3(text, |a, b, _| expected(a, b), alike);
    }

    pub(crate) fn compare1(
        &self,
        text: &str,
        expected: impl Fn(u64) -> u64,
        alike: impl Fn(u64, u64) -> bool,
    ) {
        self.compare3(text, |a, _, _| expected(a), alike);
    }

    pub(crate) fn check3(&self, text: &str, expected: impl Fn(u64, u64, u64) -> u64) {
        self.compare3(text, expected, |a, b| a == b);
    }

    pub(crate) fn check2(&self, text: &str, expected: impl Fn(u64, u64) -> u64) {
        self.check3(text, |a, b, _| expected(a, b));
    }

    pub(crate) fn check1(&self, text: &str, expected: impl Fn(u64) -> u64) {
        self.check3(text, |a, _, _| expected(a));
    }

    /// Compares the lanes of the first round with what each should have.
    pub(crate) fn check_lanes(&self, text: &str, expected: impl Fn(usize) -> u64) {
        for (lane, found) in self.run(text).into_iter().take(32).enumerate() {
            assert_eq!(found, expected(lane), "{text}: lane {lane}");
        }
    }
}

/// Runs a whole kernel on buffers of these bytes, whose addresses are its parameters; gives the buffers back.
pub(crate) fn run(source: &str, grid: u32, block: u32, buffers: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Fault> {
    run_with(source, grid, block, buffers, |_| {})
}

/// As [`run`], with the launch changed first.
pub(crate) fn run_with(
    source: &str,
    grid: u32,
    block: u32,
    buffers: &[Vec<u8>],
    change: impl Fn(&mut Launch<'_>),
) -> Result<Vec<Vec<u8>>, Fault> {
    let module = parse(source).unwrap_or_else(|error| panic!("{error}\n{source}"));
    let mut memory = Memory::new();
    let mut parameters = Vec::new();
    let mut addresses = Vec::new();
    for bytes in buffers {
        let address = memory.alloc(bytes.len() as u64);
        memory.write(address, bytes).unwrap();
        parameters.extend(address.to_le_bytes());
        addresses.push(address);
    }
    let mut launch = Launch::new(&module.kernels()[0], [grid, 1, 1], [block, 1, 1], &parameters);
    change(&mut launch);
    launch.run(&memory)?;
    let read = |(address, bytes): (&u64, &Vec<u8>)| {
        let mut found = vec![0; bytes.len()];
        memory.read(*address, &mut found).unwrap();
        found
    };
    Ok(addresses.iter().zip(buffers).map(read).collect())
}
