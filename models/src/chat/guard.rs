//! Marks in user text that keep it from spelling a special token.
//!
//! A template may trim, split or join what users wrote, so the border between its text and theirs cannot be
//! drawn around whole messages. Instead a mark, a character that occurs nowhere else, is put inside every
//! place of user text that spells a special token, and at an edge that could complete one together with its
//! neighbour. The marks survive rendering, block the recognition of special tokens, and are taken out
//! before the text is cut into words, so that ordinary text gets the very ids it would get without them.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

pub(super) struct Guard<'a> {
    specials: &'a [String],
    mark: char,
}

/// Unicode's noncharacters first: no text means anything by them.
fn candidates() -> impl Iterator<Item = char> {
    ('\u{fdd0}'..='\u{fdef}').chain('\u{e000}'..='\u{f8ff}').chain('\u{100000}'..='\u{10fffd}')
}

impl<'a> Guard<'a> {
    /// Chooses a mark that occurs in none of the texts; `None` if all candidates do.
    pub(super) fn new(
        specials: &'a [String],
        messages: &[Value],
        extra: &Map<String, Value>,
        source: &str,
    ) -> Option<Self> {
        let mut used: HashSet<char> = HashSet::new();
        let mut collect = |text: &str| used.extend(text.chars().filter(|found| *found >= '\u{e000}'));
        collect(source);
        specials.iter().for_each(|text| collect(text));
        for value in messages.iter().chain(extra.values()) {
            each_text(value, &mut collect);
        }
        let mark = candidates().find(|mark| !used.contains(mark))?;
        Some(Guard { specials, mark })
    }

    pub(super) fn character(&self) -> char {
        self.mark
    }

    /// Marks all texts of a value and returns how many marks that took. Names of fields are marked inside
    /// only: templates look fields up by their names, which may begin or end like a special token.
    pub(super) fn mark(&self, value: &mut Value) -> usize {
        match value {
            Value::String(text) => {
                let places = self.places(text);
                self.mark_places(text, &places)
            }
            Value::Array(items) => items.iter_mut().map(|item| self.mark(item)).sum(),
            Value::Object(fields) => {
                let mut marks = 0;
                let old = std::mem::take(fields);
                for (mut key, mut value) in old {
                    let mut places = BTreeSet::new();
                    self.inside(&key, &mut places);
                    marks += self.mark_places(&mut key, &places) + self.mark(&mut value);
                    fields.insert(key, value);
                }
                marks
            }
            _ => 0,
        }
    }

    fn mark_places(&self, text: &mut String, places: &BTreeSet<usize>) -> usize {
        for at in places.iter().rev() {
            text.insert(*at, self.mark);
        }
        places.len()
    }

    /// A place inside each special token that the text spells.
    fn inside(&self, text: &str, places: &mut BTreeSet<usize>) {
        for special in self.specials {
            let mut from = 0;
            while let Some(found) = text[from..].find(special.as_str()) {
                // Occurrences may overlap, so the search goes on after the first character.
                from += found + text[from + found..].chars().next().map_or(1, char::len_utf8);
                places.insert(from);
            }
        }
    }

    fn places(&self, text: &str) -> BTreeSet<usize> {
        let mut places = BTreeSet::new();
        self.inside(text, &mut places);
        let trimmed_end = text.trim_end();
        let start = text.len() - text.trim_start().len();
        let inner = &trimmed_end[start.min(trimmed_end.len())..];
        for special in self.specials {
            let mut cuts = special.char_indices().map(|(at, _)| at).skip(1);
            if cuts.clone().any(|at| inner.starts_with(&special[at..])) {
                places.insert(start);
            }
            if cuts.any(|at| inner.ends_with(&special[..at])) {
                places.insert(trimmed_end.len());
            }
        }
        places
    }
}

fn each_text(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, visit)),
        Value::Object(fields) => {
            for (key, value) in fields {
                visit(key);
                each_text(value, visit);
            }
        }
        _ => {}
    }
}
