//! Typed access to the members of a JSON object.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::LoadError;

/// The members of one JSON object of a file. Every reader checks type and range, and its error gives the
/// file, the field with the objects around it, what was expected and what was found. In the `optional_`
/// readers a field that is missing or `null` is `None`; a wrong type or range is an error all the same.
#[derive(Debug, Clone)]
pub struct Fields {
    file: PathBuf,
    /// The names of the objects around this one, each with a full stop after it.
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn new(file: &Path, map: Map<String, Value>) -> Self {
        Fields { file: file.to_owned(), prefix: String::new(), map }
    }

    /// The same fields with one more, or another value for it.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.map.insert(field.to_owned(), value);
        self
    }

    /// The file that the fields stand in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether the object has no members.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The field as it stands in the file; `None` if it is missing or `null`.
    pub fn raw(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The error for a field that is not what the caller needs; finds out itself what stands there.
    pub fn wrong(&self, field: &str, expected: impl Into<String>) -> LoadError {
        LoadError::Field {
            file: self.file.clone(),
            field: format!("{}{field}", self.prefix),
            expected: expected.into(),
            found: self.raw(field).map_or("nothing".to_owned(), shortened),
        }
    }

    fn required<T>(&self, field: &str, value: Option<T>, expected: &str) -> Result<T, LoadError> {
        value.ok_or_else(|| self.wrong(field, expected))
    }

    /// A whole number within a range: a size, a count, an id.
    pub fn count(&self, field: &str, range: RangeInclusive<u64>) -> Result<u64, LoadError> {
        let value = self.optional_count(field, range.clone())?;
        self.required(field, value, &whole(&range))
    }

    /// As [`Fields::count`].
    pub fn optional_count(&self, field: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, LoadError> {
        self.optional(field, || whole(&range), |value| value.as_u64().filter(|count| range.contains(count)))
    }

    /// A number within a range.
    pub fn number(&self, field: &str, range: RangeInclusive<f64>) -> Result<f64, LoadError> {
        let value = self.optional_number(field, range.clone())?;
        self.required(field, value, &real(&range))
    }

    /// As [`Fields::number`].
    pub fn optional_number(&self, field: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, LoadError> {
        self.optional(field, || real(&range), |value| value.as_f64().filter(|number| range.contains(number)))
    }

    /// `true` or `false`.
    pub fn flag(&self, field: &str) -> Result<bool, LoadError> {
        let value = self.optional_flag(field)?;
        self.required(field, value, "true or false")
    }

    /// As [`Fields::flag`].
    pub fn optional_flag(&self, field: &str) -> Result<Option<bool>, LoadError> {
        self.optional(field, || "true or false".to_owned(), Value::as_bool)
    }

    /// A string.
    pub fn text(&self, field: &str) -> Result<&str, LoadError> {
        let value = self.optional_text(field)?;
        self.required(field, value, "a string")
    }

    /// As [`Fields::text`].
    pub fn optional_text(&self, field: &str) -> Result<Option<&str>, LoadError> {
        self.optional(field, || "a string".to_owned(), Value::as_str)
    }

    /// An object.
    pub fn object(&self, field: &str) -> Result<Option<Fields>, LoadError> {
        let map = self.optional(field, || "an object".to_owned(), Value::as_object)?;
        Ok(map.map(|map| Fields {
            file: self.file.clone(),
            prefix: format!("{}{field}.", self.prefix),
            map: map.clone(),
        }))
    }

    /// A list of any values.
    pub fn list(&self, field: &str) -> Result<&[Value], LoadError> {
        let value = self.optional_list(field)?;
        self.required(field, value, "a list")
    }

    /// As [`Fields::list`].
    pub fn optional_list(&self, field: &str) -> Result<Option<&[Value]>, LoadError> {
        self.optional(field, || "a list".to_owned(), |value| value.as_array().map(Vec::as_slice))
    }

    /// A list of whole numbers within a range.
    pub fn counts(&self, field: &str, range: RangeInclusive<u64>) -> Result<Vec<u64>, LoadError> {
        let expected = format!("a list of which each is {}", whole(&range));
        let within = |value: &Value| value.as_u64().filter(|count| range.contains(count));
        self.required(field, self.raw(field).and_then(|value| each(value, within)), &expected)
    }

    /// A list of numbers within a range.
    pub fn numbers(&self, field: &str, range: RangeInclusive<f64>) -> Result<Vec<f64>, LoadError> {
        let expected = format!("a list of which each is {}", real(&range));
        let within = |value: &Value| value.as_f64().filter(|number| range.contains(number));
        self.required(field, self.raw(field).and_then(|value| each(value, within)), &expected)
    }

    /// A whole number or a list of them; nothing, if the field is missing.
    pub(crate) fn one_or_more(&self, field: &str, range: RangeInclusive<u64>) -> Result<Vec<u64>, LoadError> {
        let within = |value: &Value| value.as_u64().filter(|count| range.contains(count));
        let read = |value: &Value| within(value).map(|one| vec![one]).or_else(|| each(value, within));
        let expected = || format!("{}, or a list of such", whole(&range));
        Ok(self.optional(field, expected, read)?.unwrap_or_default())
    }

    fn optional<'a, T>(
        &'a self,
        field: &str,
        expected: impl Fn() -> String,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.raw(field) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(field, expected())),
        }
    }
}

fn each<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(read).collect()
}

fn whole(range: &RangeInclusive<u64>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

fn real(range: &RangeInclusive<f64>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

/// JSON for an error message: at most 60 characters, none of which controls a terminal.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string().replace(char::is_control, "\u{fffd}");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
