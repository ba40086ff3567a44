//! The rules of matrix units and asynchronous copies.

use std::collections::HashSet;

use jtllm_ir::{DType, Expr};

use super::bounds::Lane;
use super::{Check, text};
use crate::kernel::matrix::{Tile, chunk, fault, fragment_fault, has_products, panels};
use crate::kernel::{FragmentId, Memory, Panel, Role, Stmt, TEAM, WARP};
use crate::target::Caps;

impl Check<'_> {
    /// The target has the units that the kernel uses.
    pub(super) fn matrix_header(&mut self, caps: &Caps) {
        let kernel = self.kernel;
        for (at, fragment) in kernel.fragments.iter().enumerate() {
            let place = format!("f{at}");
            if let Some(found) = fragment_fault(fragment.role, fragment.dtype) {
                self.fault(place.clone(), "operands have types that fit", found);
            }
            let has = caps.matrix.is_some_and(|m| fragment.dtype == DType::F32 || m.has(fragment.dtype));
            if !has {
                let found = format!("{} {}", fragment.role.name(), fragment.dtype);
                self.fault(place, "the target has matrix units for a fragment's type", found);
            }
        }
        if !kernel.fragments.is_empty() && !kernel.lanes.is_multiple_of(WARP) {
            self.fault("lanes", "fragments belong to whole warps", format!("{} lanes", kernel.lanes));
        }
        let teams = caps.matrix.is_some_and(|matrix| matrix.teams > 0);
        if !teams && has_products(&kernel.body) {
            self.fault("product", "the target has units that multiply for teams", "a product");
        }
        if !caps.stage && any(&kernel.body, &|stmt| matches!(stmt, Stmt::Stage { .. })) {
            self.fault("stage", "the target has asynchronous copies", "a copy");
        }
    }

    pub(super) fn matrix_types(&mut self, stmt: &Stmt) {
        if let Some(found) = fault(self.kernel, stmt) {
            self.fault(place(stmt), "operands have types that fit", found);
        }
    }

    pub(super) fn matrix_statement(&mut self, stmt: &Stmt) {
        let place = place(stmt);
        if let Some(tile) = stmt.tile() {
            self.together(&place);
            return self.tile(&place, &tile);
        }
        match stmt {
            Stmt::Product { sums, left, right, depth } => {
                self.together(&place);
                for sum in sums {
                    self.contents(&place, *sum);
                    self.under_way[sum.0 as usize] = true;
                }
                for (panel, rows) in panels(sums, left, right) {
                    self.panel(&place, panel, rows, *depth);
                }
            }
            Stmt::ProductWait { pending } => {
                self.together(&place);
                if *pending == 0 {
                    self.under_way.fill(false);
                }
            }
            Stmt::Publish => self.together(&place),
            Stmt::Clear(sum) => {
                self.together(&place);
                self.settled(&place, *sum);
                self.fragments[sum.0 as usize] = true;
            }
            Stmt::Scale { sum, memory, at, stride } => {
                self.together(&place);
                self.filled(&place, *sum);
                self.span(&place, *memory, at, i64::from(Role::Sum.rows() - 1) * i64::from(*stride) + 1);
                self.belongs_to_warps(&place, &self.inlined(at));
            }
            Stmt::Mma { sum, left, right } => {
                self.together(&place);
                [sum, left, right].into_iter().for_each(|fragment| self.filled(&place, *fragment));
            }
            Stmt::Stage { to, at, from, from_at } => self.stage(&place, (*to, at), (*from, from_at)),
            Stmt::StageCommit | Stmt::StageWait { .. } => self.together(&place),
            _ => {}
        }
    }

    /// A block inside another, which runs once at most or, if it repeats, any number of times: what products it
    /// leaves under way, they may be before it too.
    pub(super) fn nested(&mut self, body: &[Stmt], repeats: bool) {
        let before = self.under_way.clone();
        if repeats {
            flow(body, &mut self.under_way);
            self.under_way.iter_mut().zip(&before).for_each(|(now, before)| *now |= before);
        }
        self.block(body);
        self.under_way.iter_mut().zip(before).for_each(|(now, before)| *now |= before);
    }

    fn panel(&mut self, place: &str, panel: &Panel, rows: u32, depth: u32) {
        let dtype = self.kernel.memory_dtype(panel.memory);
        self.span(place, panel.memory, &panel.at, panel.extent(rows, depth, dtype));
        let at = self.inlined(&panel.at);
        self.begins(place, &at, dtype);
        self.begins(place, &Expr::int(i64::from(panel.stride)), dtype);
        if self.places(&at, TEAM).is_none() {
            self.fault(place, "a panel's place is the same for all lanes of a team", text(&at));
        }
    }

    fn settled(&mut self, place: &str, fragment: FragmentId) {
        if self.under_way[fragment.0 as usize] {
            let found = format!("f{} with a product under way", fragment.0);
            self.fault(place, "a product is waited for before its sums are used", found);
        }
    }

    fn filled(&mut self, place: &str, fragment: FragmentId) {
        self.settled(place, fragment);
        self.contents(place, fragment);
    }

    fn contents(&mut self, place: &str, fragment: FragmentId) {
        if !self.fragments[fragment.0 as usize] {
            let found = format!("f{} with nothing in it", fragment.0);
            self.fault(place, "a fragment is filled before it is used", found);
        }
    }

    fn tile(&mut self, place: &str, tile: &Tile<'_>) {
        match tile.stores {
            true => self.filled(place, tile.fragment),
            false => self.fragments[tile.fragment.0 as usize] = true,
        }
        let Some(fragment) = self.kernel.fragment(tile.fragment) else { return };
        let [rows, columns] = tile.extents(fragment.role);
        let stride = i64::from(tile.stride);
        self.span(place, tile.memory, tile.at, (rows - 1) * stride + columns);
        let at = self.inlined(tile.at);
        self.begins(place, &at, fragment.dtype);
        self.begins(place, &Expr::int(stride), fragment.dtype);
        let places = self.belongs_to_warps(place, &at).filter(|_| tile.stores);
        if places.is_some_and(|places| stride < columns || meet(&places, rows, columns, stride)) {
            self.fault(place, "no two lanes store to one element", text(&at));
        }
    }

    /// That an offset is the same for all lanes of a warp; gives what [`Check::places`] does.
    fn belongs_to_warps(&mut self, place: &str, at: &Expr) -> Option<Vec<i64>> {
        let places = self.places(at, WARP);
        if places.is_none() {
            self.fault(place, "a tile's place is the same for all lanes of a warp", text(at));
        }
        places
    }

    /// That an offset is a multiple of 16 bytes.
    fn begins(&mut self, place: &str, at: &Expr, dtype: DType) {
        if at.divisor() % chunk(dtype) != 0 {
            let found = format!("{}, a multiple of {} elements of {dtype}", text(at), at.divisor());
            self.fault(place, "rows of tiles and copies begin at multiples of 16 bytes", found);
        }
    }

    /// What the lanes' numbers add to an offset, for each so many lanes; `None` if those may differ.
    fn places(&self, at: &Expr, together: u32) -> Option<Vec<i64>> {
        let [own, others] = self.own_terms(at);
        if others.iter().any(|(x, _)| self.varies(x)) {
            return None;
        }
        let place = |lane: u32| {
            let lane = Lane(i64::from(lane));
            own.iter().fold(0i64, |sum, (x, c)| sum.wrapping_add(x.evaluate(&lane).wrapping_mul(*c)))
        };
        let same = |number: u32| {
            let first = place(number * together);
            (1..together).all(|lane| place(number * together + lane) == first).then_some(first)
        };
        (0..self.kernel.lanes / together).map(same).collect()
    }

    fn stage(&mut self, place: &str, to: (Memory, &Expr), from: (Memory, &Expr)) {
        let dtype = self.kernel.memory_dtype(to.0);
        for (memory, at) in [to, from] {
            self.span(place, memory, at, chunk(dtype));
            let at = self.inlined(at);
            self.begins(place, &at, dtype);
        }
        if let Memory::Param(param) = from.0
            && !self.kernel.params[usize::from(param)].aligned
        {
            let found = format!("{}, which need not be", from.0);
            self.fault(place, "what copies come from is aligned", found);
        }
        if self.varying.is_some() && !self.lanes_part(to.1) {
            self.fault(place, "no two lanes store to one element", text(to.1));
        }
    }
}

/// Which sums a block may leave to a product, if those had one before.
fn flow(body: &[Stmt], under_way: &mut [bool]) {
    for stmt in body {
        match stmt {
            Stmt::Product { sums, .. } => sums.iter().for_each(|sum| under_way[sum.0 as usize] = true),
            Stmt::ProductWait { pending: 0 } => under_way.fill(false),
            Stmt::Loop { body, .. } | Stmt::If { body, .. } => {
                let before = under_way.to_vec();
                flow(body, under_way);
                under_way.iter_mut().zip(before).for_each(|(now, before)| *now |= before);
            }
            _ => {}
        }
    }
}

/// Whether tiles of different warps have an element in common.
fn meet(places: &[i64], rows: i64, columns: i64, stride: i64) -> bool {
    let mut seen = HashSet::new();
    let elements = (0..rows).flat_map(|row| (0..columns).map(move |column| row * stride + column));
    let elements: Vec<i64> = elements.collect();
    places.iter().any(|place| elements.iter().any(|at| !seen.insert(place.wrapping_add(*at))))
}

/// Whether some statement of a block, or inside it, is like that.
fn any(body: &[Stmt], like: &dyn Fn(&Stmt) -> bool) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Loop { body, .. } | Stmt::If { body, .. } => any(body, like),
        other => like(other),
    })
}

/// A statement's place in the words of a fault.
fn place(stmt: &Stmt) -> String {
    match stmt {
        Stmt::Clear(sum) => format!("clear f{}", sum.0),
        Stmt::Fetch { fragment, memory, at, .. } => format!("fetch f{} = {memory}[{}]", fragment.0, text(at)),
        Stmt::Mma { sum, left, right } => format!("mma f{}, f{}, f{}", sum.0, left.0, right.0),
        Stmt::Spill { sum, memory, at, .. } => format!("spill {memory}[{}] = f{}", text(at), sum.0),
        Stmt::Scale { sum, memory, at, .. } => format!("scale f{} by {memory}[{}]", sum.0, text(at)),
        Stmt::Stage { to, at, from, from_at } => {
            format!("stage {to}[{}] = {from}[{}]", text(at), text(from_at))
        }
        Stmt::Product { sums, left, right, .. } => {
            let [first, last] = [sums.first(), sums.last()].map(|sum| sum.map_or(0, |sum| sum.0));
            let [a, b] = [left, right].map(|panel| format!("{}[{}]", panel.memory, text(&panel.at)));
            format!("product f{first}..f{last} by {a}, {b}")
        }
        Stmt::ProductWait { pending } => format!("product_wait {pending}"),
        Stmt::Publish => "publish".to_owned(),
        Stmt::StageCommit => "stage_commit".to_owned(),
        Stmt::StageWait { pending } => format!("stage_wait {pending}"),
        _ => "a statement".to_owned(),
    }
}
