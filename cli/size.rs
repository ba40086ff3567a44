//! Sizes of memory as people write them: on the command line, in variables, in whatever is said.

use std::str::FromStr;

/// The most bytes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// As many as there are: `0`, `-1` (as JittorLLMs writes it) or `none`.
    None,
    /// So many.
    Bytes(u64),
}

impl Limit {
    /// The number of bytes, if there is one.
    pub(crate) fn bytes(self) -> Option<u64> {
        match self {
            Limit::None => None,
            Limit::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Names of units, in small letters, and what they multiply by. A letter alone is the decimal unit, the smaller of the two
/// that people mean by it: a limit that is taken too low is kept in either meaning.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// Digits behind the point that are read: more would say nothing, and overflow.
const DECIMALS_MAX: usize = 12;

impl FromStr for Limit {
    type Err = String;

    /// `2GB` (2 * 10^9), `1.5 GiB` (1.5 * 2^30), `800M`, plain bytes; parts of a byte are left out.
    fn from_str(text: &str) -> Result<Limit, String> {
        let text = text.trim();
        if text == "-1" || text.eq_ignore_ascii_case("none") {
            return Ok(Limit::None);
        }
        let expected = || "expected a number of bytes such as 2147483648, 2GB or 1.5GiB, or -1 for no limit";
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim_start().to_ascii_lowercase();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let is_number =
            !(whole.is_empty() && part.is_empty()) && part.len() <= DECIMALS_MAX && !part.contains('.');
        if !is_number {
            return Err(expected().to_owned());
        }
        let digits = |digits: &str| match digits {
            "" => Some(0),
            digits => digits.parse::<u128>().ok(),
        };
        let too_many = || format!("more bytes than any memory has; {}", expected());
        let scale = 10u128.pow(part.len() as u32);
        let bytes = digits(whole)
            .zip(digits(part))
            .and_then(|(whole, part)| {
                whole.checked_mul(scale)?.checked_add(part)?.checked_mul(u128::from(*factor))
            })
            .and_then(|scaled| u64::try_from(scaled / scale).ok())
            .ok_or_else(too_many)?;
        match bytes {
            0 if digits(whole) == Some(0) && digits(part) == Some(0) => Ok(Limit::None),
            0 => Err(format!("less than a byte; {}", expected())),
            bytes => Ok(Limit::Bytes(bytes)),
        }
    }
}
