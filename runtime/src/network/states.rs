//! What a model keeps from pass to pass: states in memory of their own, or in pages that come and go.

use std::ops::Range;

use jtllm_codegen::Compilation;
use jtllm_ir::expr::Kind;
use jtllm_ir::graph::element_count;
use jtllm_ir::{Expr, Op};

use super::{Batch, Network, TILE};
use crate::error::Error;
use crate::residence::Residence;

impl Network {
    /// Makes the states of a compiled part that are not there yet, all zeros.
    pub(super) fn make_states(&mut self, compilation: &Compilation) -> Result<(), Error> {
        let graph = &compilation.graph;
        for node in graph.nodes() {
            let Op::State { name } = graph.op(node) else { continue };
            if self.states.contains_key(name) {
                continue;
            }
            let [page, two, all] = [1, 2, self.pages as i64].map(|pages| {
                let known = |leaf: &Expr| match leaf.kind() {
                    Kind::Sym(symbol) if symbol.name() == "pages" => Some(pages.into()),
                    _ => None,
                };
                let count = element_count(graph.shape(node)).substitute(&mut { known }).as_int();
                count.map(|count| count as u64 * graph.dtype(node).size() as u64)
            });
            let fixed =
                || Error::Pass { why: format!("the size of state {name} depends on more than pages") };
            let all = all.ok_or_else(fixed)?;
            let pages = self.pages as u64;
            // What has another length than so many pages is small, and stays.
            let page = page.filter(|page| two == Some(2 * page));
            let spills = self.residence().filter(|residence| residence.spills());
            let mem = match (spills, page) {
                (Some(residence), Some(page)) => {
                    let (blob, mem) = residence.add_pages(page, pages)?;
                    self.paged.insert(name.clone(), blob);
                    mem
                }
                _ => {
                    self.in_pages.extend(page.map(|_| all));
                    self.device.alloc(all)?
                }
            };
            self.states.insert(name.clone(), mem);
        }
        Ok(())
    }

    /// Says that nobody wants what the cache holds.
    pub(crate) fn forget(&self) {
        if let Some(residence) = self.residence() {
            residence.forget_pages();
        }
    }
}

impl Batch {
    /// The pages from the first one to the last one that it writes to.
    fn written(&self) -> Range<u64> {
        let pages =
            || self.rows.iter().filter_map(|row| u64::try_from(row.slot).ok()).map(|slot| slot / TILE as u64);
        pages().min().unwrap_or(0)..pages().max().map_or(0, |last| last + 1)
    }
}

/// Tells where keys and values come and go, if they do, which pages sequences have, and to which a pass writes.
pub(super) fn say_pages(residence: &Residence, batch: &Batch) -> Result<(), Error> {
    if !residence.spills() {
        return Ok(());
    }
    let used = batch.tables.iter().flat_map(|table| table.iter()).max();
    residence.use_pages(used.map_or(0, |last| u64::from(*last) + 1), batch.written())
}
