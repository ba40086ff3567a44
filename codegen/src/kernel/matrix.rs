//! What the statements of matrix units and asynchronous copies ask of ids and types.

use jtllm_ir::{DType, Expr};

use super::{Access, CHUNK_BYTES, FragmentId, Kernel, Memory, Panel, Role, Stmt, TEAM, TEAM_ROWS};

/// The tile that a statement moves between a fragment and shared memory.
pub(super) struct Tile<'s> {
    pub(super) fragment: FragmentId,
    pub(super) memory: Memory,
    pub(super) at: &'s Expr,
    pub(super) stride: u32,
    /// Whether memory has its columns as rows.
    pub(super) turned: bool,
    /// Whether it goes to memory.
    pub(super) stores: bool,
}

impl Stmt {
    /// The tile of a `Fetch` or `Spill`.
    pub(super) fn tile(&self) -> Option<Tile<'_>> {
        let (fragment, memory, at, stride, turned, stores) = match self {
            Stmt::Fetch { fragment, memory, at, stride, turned } => {
                (fragment, memory, at, stride, *turned, false)
            }
            Stmt::Spill { sum, memory, at, stride } => (sum, memory, at, stride, false, true),
            _ => return None,
        };
        Some(Tile { fragment: *fragment, memory: *memory, at, stride: *stride, turned, stores })
    }

    /// The index expressions of a statement of its own, those of inner blocks excluded.
    pub fn exprs(&self) -> Vec<&Expr> {
        match self {
            Stmt::Store { at, .. }
            | Stmt::Fetch { at, .. }
            | Stmt::Spill { at, .. }
            | Stmt::Scale { at, .. } => vec![at],
            Stmt::Stage { at, from_at, .. } => vec![at, from_at],
            Stmt::Product { left, right, .. } => vec![&left.at, &right.at],
            Stmt::Loop { extent: x, .. } | Stmt::If { cond: x, .. } => vec![x],
            Stmt::Let(_)
            | Stmt::Set(..)
            | Stmt::Barrier
            | Stmt::Clear(_)
            | Stmt::Mma { .. }
            | Stmt::ProductWait { .. }
            | Stmt::Publish
            | Stmt::StageCommit
            | Stmt::StageWait { .. } => Vec::new(),
        }
    }
}

/// Numbers along the depth of one step of a product.
const DEPTH: u32 = 16;

/// Columns of a team's sums, in fragments of them.
const SUMS_MAX: usize = 32;

impl Panel {
    /// Elements from the first to behind the last, of so many rows and numbers.
    pub(super) fn extent(&self, rows: u32, depth: u32, dtype: DType) -> i64 {
        let piece = chunk(dtype);
        (i64::from(depth) / piece - 1) * i64::from(self.stride) + i64::from(rows) * piece
    }
}

/// Both operands of a team's product, each with its rows.
pub(super) fn panels<'s>(sums: &[FragmentId], left: &'s Panel, right: &'s Panel) -> [(&'s Panel, u32); 2] {
    [(left, TEAM_ROWS), (right, sums.len() as u32 * Role::Sum.columns())]
}

/// Whether teams multiply somewhere in a block.
pub fn has_products(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Loop { body, .. } | Stmt::If { body, .. } => has_products(body),
        other => matches!(other, Stmt::Product { .. }),
    })
}

impl Tile<'_> {
    /// Rows in memory and their length, of a fragment of that role.
    pub(super) fn extents(&self, role: Role) -> [i64; 2] {
        let [rows, columns] = [role.rows(), role.columns()].map(i64::from);
        if self.turned { [columns, rows] } else { [rows, columns] }
    }
}

/// Elements of one asynchronous copy.
pub fn chunk(dtype: DType) -> i64 {
    (CHUNK_BYTES / dtype.size()) as i64
}

/// What is wrong with the ids and types of a statement of this kind, if anything: nothing more may be asked
/// of it then.
pub(super) fn fault(kernel: &Kernel, stmt: &Stmt) -> Option<String> {
    let has = |fragment: &FragmentId, roles: &[Role]| match kernel.fragment(*fragment) {
        None => Some(format!("f{}, which does not exist", fragment.0)),
        Some(found) if !roles.contains(&found.role) => {
            Some(format!("f{}, which is a {} fragment", fragment.0, found.role.name()))
        }
        Some(_) => None,
    };
    let shared = |memory: &Memory, dtype: DType| match memory {
        Memory::Shared(_) if kernel.memory_exists(*memory) && kernel.memory_dtype(*memory) == dtype => None,
        _ => Some(format!("{memory}, which is no shared memory of {dtype}")),
    };
    let dtype = |fragment: &FragmentId| kernel.fragment(*fragment).map_or(DType::F32, |found| found.dtype);
    match stmt {
        Stmt::Clear(sum) => has(sum, &[Role::Sum]),
        Stmt::Fetch { fragment, memory, turned, .. } => {
            has(fragment, if *turned { &[Role::Right] } else { &[Role::Left, Role::Right] })
                .or_else(|| shared(memory, dtype(fragment)))
        }
        Stmt::Mma { sum, left, right } => has(sum, &[Role::Sum])
            .or_else(|| has(left, &[Role::Left]))
            .or_else(|| has(right, &[Role::Right]))
            .or_else(|| {
                let (a, b) = (dtype(left), dtype(right));
                (a != b).then(|| format!("a product of {a} and {b}"))
            }),
        Stmt::Product { sums, left, right, depth } => {
            let sum = sums.iter().find_map(|sum| has(sum, &[Role::Sum]));
            sum.or_else(|| product_fault(kernel, sums, [left, right], *depth))
        }
        Stmt::Spill { sum, memory, .. } | Stmt::Scale { sum, memory, .. } => {
            has(sum, &[Role::Sum]).or_else(|| shared(memory, dtype(sum)))
        }
        Stmt::Stage { to, from, .. } => match from {
            Memory::Param(_) if kernel.memory_exists(*from) && kernel.access(*from) == Some(Access::Read) => {
                shared(to, kernel.memory_dtype(*from))
            }
            _ => Some(format!("{from}, which is no parameter that is only read")),
        },
        _ => None,
    }
}

/// What is wrong with a team's product whose sums are sums.
fn product_fault(kernel: &Kernel, sums: &[FragmentId], panels: [&Panel; 2], depth: u32) -> Option<String> {
    let dtype = |panel: &Panel| match panel.memory {
        Memory::Shared(_) if kernel.memory_exists(panel.memory) => Some(kernel.memory_dtype(panel.memory)),
        _ => None,
    };
    let [left, right] = panels.map(dtype);
    let twice = sums.iter().enumerate().any(|(at, sum)| sums[..at].contains(sum));
    if sums.is_empty() || sums.len() > SUMS_MAX || twice {
        return Some(format!("{} sums, where 1 to {SUMS_MAX} different ones are expected", sums.len()));
    }
    if depth == 0 || !depth.is_multiple_of(DEPTH) {
        return Some(format!("a depth of {depth}, which is no multiple of {DEPTH}"));
    }
    if !kernel.lanes.is_multiple_of(TEAM) {
        return Some(format!("teams among {} lanes", kernel.lanes));
    }
    match (left, right) {
        (Some(a @ (DType::F16 | DType::BF16)), Some(b)) if a == b => None,
        _ => Some(format!("{} by {}", panels[0].memory, panels[1].memory)),
    }
}

/// What is wrong with a fragment itself.
pub(super) fn fragment_fault(role: Role, dtype: DType) -> Option<String> {
    let fits = match role {
        Role::Left | Role::Right => matches!(dtype, DType::F16 | DType::BF16),
        Role::Sum => dtype == DType::F32,
    };
    (!fits).then(|| format!("a {} fragment of {dtype}", role.name()))
}
