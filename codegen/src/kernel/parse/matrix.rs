//! Fragments, the statements of matrix units, asynchronous copies.

use super::{COUNT_MAX, Context, ParseError, Parser, Token};
use crate::kernel::{Fragment, FragmentId, Panel, Role, Stmt, matrix};

impl Parser<'_> {
    pub(super) fn fragment_declaration(&mut self, context: &mut Context) -> Result<(), ParseError> {
        self.in_order('f', context.kernel.fragments.len())?;
        self.demand(":")?;
        let token = self.peek();
        let word = self.word("`left`, `right` or `sum`")?;
        let Some((role, _)) = Role::ALL.into_iter().find(|(_, name)| *name == word) else {
            return self.error_at(token, format!("`left`, `right` or `sum` expected, not `{word}`"));
        };
        let dtype = self.dtype()?;
        context.kernel.fragments.push(Fragment { role, dtype });
        Ok(())
    }

    fn fragment(&mut self, context: &Context) -> Result<FragmentId, ParseError> {
        let token = self.peek();
        let number = self.numbered('f', "a fragment")?;
        match context.kernel.fragment(FragmentId(number)) {
            Some(_) => Ok(FragmentId(number)),
            None => self.error_at(token, format!("f{number} is not declared")),
        }
    }

    fn stride(&mut self) -> Result<u32, ParseError> {
        self.demand("stride")?;
        Ok(self.integer(0, COUNT_MAX)? as u32)
    }

    fn panel(&mut self, context: &Context) -> Result<Panel, ParseError> {
        let (memory, at) = self.element(context)?;
        Ok(Panel { memory, at, stride: self.stride()? })
    }

    fn team_product(&mut self, context: &Context) -> Result<Stmt, ParseError> {
        let mut sums = vec![self.fragment(context)?];
        while self.take(",") {
            sums.push(self.fragment(context)?);
        }
        self.demand("by")?;
        let left = self.panel(context)?;
        self.demand(",")?;
        let right = self.panel(context)?;
        self.demand("depth")?;
        Ok(Stmt::Product { sums, left, right, depth: self.integer(0, COUNT_MAX)? as u32 })
    }

    /// The statement that begins with `word`, at `token`.
    pub(super) fn matrix_statement(
        &mut self,
        context: &Context,
        token: Token<'_>,
        word: &str,
    ) -> Result<Stmt, ParseError> {
        let stmt = match word {
            "clear" => Stmt::Clear(self.fragment(context)?),
            "fetch" => {
                let fragment = self.fragment(context)?;
                self.demand("=")?;
                let (memory, at) = self.element(context)?;
                let stride = self.stride()?;
                Stmt::Fetch { fragment, memory, at, stride, turned: self.take("turned") }
            }
            "mma" => {
                let sum = self.fragment(context)?;
                self.demand(",")?;
                let left = self.fragment(context)?;
                self.demand(",")?;
                Stmt::Mma { sum, left, right: self.fragment(context)? }
            }
            "product" => self.team_product(context)?,
            "product_wait" => Stmt::ProductWait { pending: self.integer(0, COUNT_MAX)? as u32 },
            "publish" => Stmt::Publish,
            "spill" => {
                let (memory, at) = self.element(context)?;
                let stride = self.stride()?;
                self.demand("=")?;
                Stmt::Spill { sum: self.fragment(context)?, memory, at, stride }
            }
            "scale" => {
                let sum = self.fragment(context)?;
                self.demand("by")?;
                let (memory, at) = self.element(context)?;
                Stmt::Scale { sum, memory, at, stride: self.stride()? }
            }
            "stage" => {
                let (to, at) = self.element(context)?;
                self.demand("=")?;
                let (from, from_at) = self.element(context)?;
                Stmt::Stage { to, at, from, from_at }
            }
            "stage_commit" => Stmt::StageCommit,
            "stage_wait" => Stmt::StageWait { pending: self.integer(0, COUNT_MAX)? as u32 },
            other => return self.error_at(token, format!("a statement expected, not `{other}`")),
        };
        match matrix::fault(&context.kernel, &stmt) {
            Some(found) => self.error_at(token, format!("{word} has operands that do not fit: {found}")),
            None => Ok(stmt),
        }
    }
}
