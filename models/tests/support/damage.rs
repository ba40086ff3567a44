//! Files as attackers and failing disks write them: sound ones with faults, and random bytes.
#![allow(dead_code)]

use jtllm_fuzz::Random;
use serde_json::{Map, Value, json};

/// A number of the kind that overflows, or a small one.
pub(crate) fn extreme(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << 63,
        3 => 1 << 60,
        4 => 1 << 32,
        5 => u32::MAX.into(),
        _ => random.below(100_000) as u64,
    }
}

/// Random bytes, or one of the `sound` files with faults: bits turned, parts lost, repeated or replaced by
/// parts of another, numbers that overflow, the end cut off or extended.
pub(crate) fn bytes(random: &mut Random, sound: &[Vec<u8>]) -> Vec<u8> {
    let (one, other) = (random.choice(sound), random.choice(sound));
    let mut bytes = match random.below(8) {
        0 => random.bytes(400),
        // Behind a sound beginning it takes longer to be refused.
        1 => [&one[..random.below(one.len().min(64) + 1)], &random.bytes(400)].concat(),
        2 => [&one[..random.below(one.len() + 1)], &other[random.below(other.len() + 1)..]].concat(),
        3 | 4 => with_extremes(random, one.clone()),
        _ => random.mutated(one),
    };
    if random.below(4) == 0 {
        bytes.extend(random.bytes(20));
    }
    bytes
}

/// Overwrites one or two numbers of four or eight bytes.
fn with_extremes(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..1 + random.below(2) {
        let number = extreme(random).to_le_bytes();
        let at = random.below(bytes.len() + 1);
        let width = (*random.choice(&[4, 8])).min(bytes.len() - at);
        bytes[at..at + width].copy_from_slice(&number[..width]);
    }
    bytes
}

/// As [`bytes`], or one of the `sound` JSON files with its structure changed: numbers that overflow, values
/// of another type, members that are missing, renamed, doubled, swapped, nested or taken from another file.
pub(crate) fn json(random: &mut Random, sound: &[Vec<u8>]) -> Vec<u8> {
    if random.below(4) == 0 {
        return bytes(random, sound);
    }
    let parse = |file: &Vec<u8>| -> Value { serde_json::from_slice(file).expect("the files are sound") };
    let mut root = parse(random.choice(sound));
    let mut donor = parse(random.choice(sound));
    for _ in 0..1 + random.below(4) {
        let gift = place(random, &mut donor).clone();
        change(random, &mut root, gift);
    }
    let text = root.to_string();
    match random.below(8) {
        0 => random.mutated(text.as_bytes()),
        1 => doubled(random, &root).into_bytes(),
        _ => text.into_bytes(),
    }
}

/// A random value inside of `value`, or itself. What is near the root comes more often.
fn place<'a>(random: &mut Random, value: &'a mut Value) -> &'a mut Value {
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if count == 0 || random.below(5) == 0 {
        return value;
    }
    let at = random.below(count);
    let inner = match value {
        Value::Array(items) => &mut items[at],
        Value::Object(fields) => fields.values_mut().nth(at).expect("the place is below the count"),
        _ => unreachable!("only containers have a count"),
    };
    place(random, inner)
}

fn change(random: &mut Random, root: &mut Value, gift: Value) {
    let found = place(random, root);
    match random.below(7) {
        0 | 1 => *found = scalar(random),
        2 => *found = gift,
        3 => *found = json!([found.take()]),
        _ => match found {
            Value::Array(items) => change_items(random, items, gift),
            Value::Object(fields) => change_fields(random, fields, gift),
            Value::String(text) => {
                *text = String::from_utf8_lossy(&random.mutated(text.as_bytes())).into_owned();
            }
            other => *other = scalar(random),
        },
    }
}

fn change_items(random: &mut Random, items: &mut Vec<Value>, gift: Value) {
    if items.is_empty() {
        return items.push(gift);
    }
    let (at, other) = (random.below(items.len()), random.below(items.len()));
    match random.below(4) {
        0 => drop(items.remove(at)),
        1 => items.swap(at, other),
        2 => items.insert(at, gift),
        _ => items.extend(vec![items[at].clone(); 1 + other.min(100)]),
    }
}

fn change_fields(random: &mut Random, fields: &mut Map<String, Value>, gift: Value) {
    let names: Vec<String> = fields.keys().cloned().collect();
    if names.is_empty() {
        return drop(fields.insert("type".to_owned(), gift));
    }
    let (name, other) = (random.choice(&names), random.choice(&names));
    match random.below(4) {
        0 => drop(fields.remove(name)),
        1 => drop(fields.insert(name.clone(), gift)),
        2 => {
            let renamed = String::from_utf8_lossy(&random.mutated(name.as_bytes())).into_owned();
            let value = fields.remove(name).expect("the name is one of the object's");
            fields.insert(renamed, value);
        }
        _ => {
            let value = fields[other].clone();
            fields.insert(name.clone(), value);
        }
    }
}

/// The text of an object in which one member comes twice, as no tree of values can hold it.
fn doubled(random: &mut Random, root: &Value) -> String {
    let text = root.to_string();
    let Some(fields) = root.as_object().filter(|fields| !fields.is_empty()) else { return text };
    let (name, value) = fields.iter().nth(random.below(fields.len())).expect("the place is below the count");
    format!("{{{}:{value},{}", Value::from(name.as_str()), &text[1..])
}

/// A value that is no container: of any type, and the numbers often beyond what is expected.
fn scalar(random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Null,
        1 => Value::Bool(random.below(2) == 0),
        2 => Value::from(*random.choice(&["", " ", "a", "é", "\u{2581}", "<0x0A>", "[UNK]", "\0", "../x"])),
        3 => Value::from(*random.choice(&[-1.0, 0.0, -0.0, 0.5, 1e-320, 1e15, 1e39, f64::MAX, f64::MIN])),
        4 => Value::from(*random.choice(&[-1, -2, i64::MIN, i64::from(i32::MIN)])),
        5 => Value::from(random.below(4)),
        6 => Value::from(random.value("\\PC{0,12}")),
        _ => Value::from(extreme(random)),
    }
}
