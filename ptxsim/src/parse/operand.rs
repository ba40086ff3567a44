//! Tokens in order, and the operands of an instruction.

use crate::error::ParseError;
use crate::lexer::Token;

/// Reads tokens one after another.
pub(crate) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// A number as it is written; what it means depends on the type that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// In two's complement.
    Integer(u64),
    /// Bits of a single.
    Single(u32),
    /// Bits of a double.
    Double(u64),
}

#[derive(Clone, Debug)]
pub(crate) enum Operand<'a> {
    Word(&'a str),
    Not(&'a str),
    Number(Number),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[a+8]`
    Address(&'a str, i64),
    /// `a|b`
    Pair(&'a str, &'a str),
}

/// Elements that a vector may have: the sums of a warp group's widest product.
const VECTOR_MAX: usize = 128;

impl<'a> Cursor<'a> {
    pub(crate) fn new(tokens: Vec<Token<'a>>) -> Cursor<'a> {
        Cursor { tokens, at: 0 }
    }

    pub(crate) fn peek(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", |token| token.text)
    }

    pub(crate) fn peek_second(&self) -> &'a str {
        self.tokens.get(self.at + 1).map_or("", |token| token.text)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    pub(crate) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    pub(crate) fn wrong<T>(&self, why: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.line(), why: why.into() })
    }

    pub(crate) fn next(&mut self) -> Result<&'a str, ParseError> {
        if self.is_done() {
            return self.wrong("the text ends here");
        }
        self.at += 1;
        Ok(self.tokens[self.at - 1].text)
    }

    pub(crate) fn eat(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.at += usize::from(found);
        found
    }

    pub(crate) fn want(&mut self, text: &str) -> Result<(), ParseError> {
        match self.eat(text) {
            true => Ok(()),
            false => self.wrong(format!("expected '{text}', found '{}'", self.peek())),
        }
    }

    /// A whole number that is not negative and not above `max`.
    pub(crate) fn count(&mut self, what: &str, max: u64) -> Result<u32, ParseError> {
        match number(self.peek()) {
            Some(Number::Integer(value)) if value <= max => {
                self.at += 1;
                Ok(value as u32)
            }
            _ => self.wrong(format!("{what} '{}', expected a number up to {max}", self.peek())),
        }
    }

    /// The operands up to the semicolon.
    pub(crate) fn operands(&mut self) -> Result<Vec<Operand<'a>>, ParseError> {
        let mut found = Vec::new();
        if self.eat(";") {
            return Ok(found);
        }
        loop {
            found.push(self.operand(true)?);
            if self.eat(";") {
                return Ok(found);
            }
            self.want(",")?;
        }
    }

    fn operand(&mut self, vector: bool) -> Result<Operand<'a>, ParseError> {
        if self.eat("{") {
            if !vector {
                return self.wrong("a vector inside a vector");
            }
            let mut parts = Vec::new();
            loop {
                parts.push(self.operand(false)?);
                if self.eat("}") {
                    return Ok(Operand::Vector(parts));
                }
                if parts.len() >= VECTOR_MAX {
                    return self.wrong(format!("a vector has at most {VECTOR_MAX} elements"));
                }
                self.want(",")?;
            }
        }
        if self.eat("[") {
            let base = self.next()?;
            let offset = self.offset()?;
            self.want("]")?;
            return Ok(Operand::Address(base, offset));
        }
        if self.eat("!") {
            return Ok(Operand::Not(self.next()?));
        }
        if self.peek() == "-" || self.peek().starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Operand::Number(self.number()?));
        }
        let word = self.next()?;
        match self.eat("|") {
            true => Ok(Operand::Pair(word, self.next()?)),
            false => Ok(Operand::Word(word)),
        }
    }

    /// What is added to an address: `+8`, `+-8`, `-8`.
    fn offset(&mut self) -> Result<i64, ParseError> {
        let mut sum = 0i64;
        while matches!(self.peek(), "+" | "-") {
            let plus = self.eat("+");
            match (plus, self.number()?) {
                (_, Number::Integer(value)) => sum = sum.wrapping_add(value as i64),
                _ => return self.wrong("an address plus a number that is no integer"),
            }
        }
        Ok(sum)
    }

    pub(crate) fn number(&mut self) -> Result<Number, ParseError> {
        let negative = self.eat("-");
        let text = self.peek();
        let Some(found) = number(text) else { return self.wrong(format!("'{text}' is no number")) };
        self.at += 1;
        Ok(match (negative, found) {
            (false, found) => found,
            (true, Number::Integer(value)) => Number::Integer(value.wrapping_neg()),
            (true, Number::Single(bits)) => Number::Single(bits ^ 1 << 31),
            (true, Number::Double(bits)) => Number::Double(bits ^ 1 << 63),
        })
    }
}

fn number(text: &str) -> Option<Number> {
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).ok();
    if let Some(digits) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return (digits.len() == 8)
            .then(|| hexadecimal(digits))
            .flatten()
            .map(|bits| Number::Single(bits as u32));
    }
    if let Some(digits) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return (digits.len() == 16).then(|| hexadecimal(digits)).flatten().map(Number::Double);
    }
    let integer = text.strip_suffix('U').unwrap_or(text);
    if let Some(digits) = integer.strip_prefix("0x").or(integer.strip_prefix("0X")) {
        return hexadecimal(digits).map(Number::Integer);
    }
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if text.contains('.') {
        return text.parse::<f64>().ok().map(|value| Number::Double(value.to_bits()));
    }
    integer.parse().ok().map(Number::Integer)
}
