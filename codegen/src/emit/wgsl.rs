//! The portable graphics target: kernels as text in the WebGPU shading language.
//!
//! # What the text is
//!
//! One entry point, `main`, whose workgroup is a group of lanes. Binding 0 is the symbol block (uniform); the
//! parameters follow in order, all `read_write`: buffers of a plan lie in one arena, and WebGPU lets one buffer
//! be bound many times only if every binding may write. Groups are counted in two directions of the launch
//! ([`dispatch`]), since neither may have more than 65535; the kernel finds its place in the grid itself.
//!
//! # How types are carried
//!
//! Memory of 8- and 16-bit elements is `array<u32>`; a store into a part of a word is two atomic operations,
//! so that neighbours may be written by other lanes. Such values are `f32`, `i32` or `u32` while computed with.
//!
//! # Uniformity
//!
//! Browsers refuse a barrier where they cannot prove that all lanes reach it. What decides about a barrier is
//! therefore read through `workgroupUniformLoad`, unless it is made of symbols and of the group's place alone.
//!
//! # Where arithmetic differs from the rule
//!
//! `Fma` may round twice (drivers choose), subnormal numbers may be 0, and quotients and roots have the errors
//! that the language allows: 2.5 units in the last place.

mod function;
mod index;
mod operation;

use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::kernel::Kernel;
use crate::target::{Artifact, Caps, EmitError, TILE_LANES_MIN, Target, limit, operations, plain_only};

/// Groups that one direction of a launch may have.
pub const GROUPS_MAX: u32 = 65535;

/// The directions of a launch of so many groups.
pub fn dispatch(groups: u64) -> [u32; 3] {
    let wide = groups.min(u64::from(GROUPS_MAX)) as u32;
    [wide, groups.div_ceil(u64::from(wide.max(1))) as u32, 1]
}

/// The target `wgsl`.
#[derive(Clone, Debug)]
pub struct Wgsl {
    caps: Caps,
    joins: Joins,
    dialect: Dialect,
}

/// Whose reader the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `naga`, the reader of `wgpu`: it knows subgroups without being told, and refuses to be told.
    Naga,
    /// Browsers: extensions are named first.
    Browser,
}

/// How lanes join values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// Through workgroup memory, with a barrier at each step.
    Shared,
    /// By shuffles: a group is part of one subgroup. Larger groups, which multiply tiles, do so through memory.
    Subgroup,
}

impl Wgsl {
    /// For an adapter that allows so many lanes in a workgroup, bytes of workgroup memory, storage buffers of a
    /// stage, and bytes of one of them.
    ///
    /// `subgroup` is the least size of a subgroup, where there are any: then a group is as large.
    pub fn new(lanes: u32, shared_bytes: u32, buffers: u32, binding: u64, subgroup: Option<u32>) -> Wgsl {
        let subgroup = subgroup.filter(|size| *size >= 4);
        let joins = if subgroup.is_some() { Joins::Subgroup } else { Joins::Shared };
        let lanes = lanes.clamp(1, subgroup.unwrap_or(64).min(64));
        let lanes = if lanes.is_power_of_two() { lanes } else { lanes.next_power_of_two() / 2 };
        let caps = Caps {
            // The tree that joins lanes needs a word for each.
            shared_bytes: shared_bytes.saturating_sub(lanes * 4 + 16),
            max_bindings: buffers,
            max_span: binding,
            bytes: false,
            decompose: true,
            ..Caps::threads(lanes)
        };
        Wgsl { caps, joins, dialect: Dialect::Naga }
    }

    /// The same with groups of [`TILE_LANES_MIN`] lanes for products of many rows, however few a subgroup has; an adapter
    /// that has no such groups goes without. Not for software: there barriers cost more than tiles save.
    pub fn with_tiles(self, most: u32) -> Wgsl {
        if most < TILE_LANES_MIN {
            return self;
        }
        let Caps { lanes, tile_lanes, shared_bytes, .. } = self.caps;
        let tile_lanes = tile_lanes.max(TILE_LANES_MIN);
        let shared_bytes = shared_bytes.saturating_sub(tile_lanes.saturating_sub(lanes) * 4);
        Wgsl { caps: Caps { tile_lanes, shared_bytes, ..self.caps }, ..self }
    }

    /// How the lanes of a kernel join values.
    fn joins(&self, kernel: &Kernel) -> Joins {
        if kernel.lanes > self.caps.lanes { Joins::Shared } else { self.joins }
    }

    /// The same for the readers of browsers.
    pub fn for_browsers(self) -> Wgsl {
        Wgsl { dialect: Dialect::Browser, ..self }
    }

    /// What every adapter that conforms to WebGPU has.
    pub fn least() -> Wgsl {
        Wgsl::new(256, 16 << 10, 8, 128 << 20, None)
    }

    fn check(&self, kernel: &Kernel) -> Result<(), EmitError> {
        plain_only(kernel, self.name())?;
        limit("lanes", u64::from(kernel.lanes), u64::from(self.caps.lanes.max(self.caps.tile_lanes)))?;
        let shared = kernel.shared.iter().map(|shared| u64::from(shared.len) * 4);
        limit("bytes of shared memory", shared.sum(), u64::from(self.caps.shared_bytes))?;
        operations(kernel, self.name(), operation::is_supported)
    }
}

impl Target for Wgsl {
    fn name(&self) -> &'static str {
        "wgsl"
    }

    fn variant(&self) -> String {
        format!("lanes {} {:?} {:?}", self.caps.lanes, self.joins, self.dialect)
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError> {
        self.check(kernel)?;
        let joins = self.joins(kernel);
        let text = function::emit(kernel, joins)?;
        validate(&text, joins)
            .map_err(|why| EmitError::Refused { why: format!("{}: {why}\n{text}", kernel.name) })?;
        let extensions = match (self.dialect, joins) {
            (Dialect::Browser, Joins::Subgroup) => "enable subgroups;\n",
            _ => "",
        };
        Ok(Artifact { bytes: [extensions, &text].concat().into_bytes() })
    }
}

/// Whether the text is in the language, with nothing but its core, of which `unpack2x16float` is part.
fn validate(text: &str, joins: Joins) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let core = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let capabilities = if joins == Joins::Subgroup { core | Capabilities::SUBGROUP } else { core };
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.validate(&module).map_err(|error| error.emit_to_string(text))?;
    Ok(())
}
