//! Attention through a paged cache against softmax in `f64`: ragged sequences, grouped heads, windows.
#![allow(clippy::unwrap_used)]

mod graphs;

use std::collections::BTreeMap;

use jtllm_ir::interp::{Bindings, run};
use jtllm_ir::{DType, Tensor};

const WIDTH: usize = 8;

fn number(seed: usize) -> f32 {
    ((seed * 7919 + 13) % 1009) as f32 / 504.5 - 1.0
}

/// One sequence's keys and values so far, `[position][head][width]`.
#[derive(Default, Clone)]
struct History {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

struct Case {
    heads: usize,
    group: usize,
    window: Option<usize>,
    cache: DType,
}

/// A row of a pass: its sequence, or padding that is written nowhere.
#[derive(Clone, Copy)]
struct Row {
    sequence: usize,
    padding: bool,
}

impl Case {
    fn kv(&self) -> usize {
        self.heads / self.group
    }

    /// The softmax of the visible scores times the values, for one row.
    fn expected(&self, query: &[f32], history: &History, position: usize) -> Vec<f64> {
        let mut out = Vec::new();
        for head in 0..self.heads {
            let shared = head / self.group * WIDTH;
            let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let score = |j: usize| -> f64 {
                let key = &history.keys[j][shared..shared + WIDTH];
                let query = &query[head * WIDTH..(head + 1) * WIDTH];
                key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>() * 0.5
            };
            let scores: Vec<f64> = (first..=position).map(score).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let total: f64 = powers.iter().sum();
            for d in 0..WIDTH {
                let value = |j: usize| f64::from(history.values[j][shared + d]);
                let sum: f64 = powers.iter().enumerate().map(|(at, p)| p * value(first + at)).sum();
                out.push(sum / total);
            }
        }
        out
    }

    /// Runs passes of rows and compares each row that is not padding.
    fn check(&self, passes: &[Vec<Row>]) {
        let (heads, kv) = (self.heads as i64, self.kv());
        let window = self.window.map(|window| window as i64);
        let graph = graphs::attention(heads, self.group as i64, WIDTH as i64, window, self.cache);
        // Pages of the sequences are interleaved and out of order, so that none lies where it would by luck.
        let table = vec![7, 2, 5, 0, 3, 6];
        let mut bindings = Bindings::new();
        for (name, value) in [("B", 2), ("P", 3), ("pages", 8)] {
            bindings.symbols.insert(name.into(), value);
        }
        bindings.inputs.insert("table".into(), Tensor::ints(DType::I32, &[2, 3], table.clone()));
        // What was in the cache before must not matter.
        let stale = |shape: &[usize]| Tensor::floats(self.cache, shape, vec![77.0; shape.iter().product()]);
        bindings.states.insert("k0".into(), stale(&[8, kv, WIDTH, 16]));
        bindings.states.insert("v0".into(), stale(&[8, kv, 16, WIDTH]));
        let mut histories: BTreeMap<usize, History> = BTreeMap::new();
        let mut seed = 0;
        for rows in passes {
            let mut random = |count: usize| -> Vec<f32> {
                seed += count;
                (seed - count..seed).map(|at| self.cache.round(number(at))).collect()
            };
            let tokens = rows.len();
            let (q, k, v) = (
                random(tokens * self.heads * WIDTH),
                random(tokens * kv * WIDTH),
                random(tokens * kv * WIDTH),
            );
            let (mut positions, mut slots) = (Vec::new(), Vec::new());
            for (at, row) in rows.iter().enumerate() {
                let history = histories.entry(row.sequence).or_default();
                if row.padding {
                    positions.push(0);
                    slots.push(-1);
                    continue;
                }
                let position = history.keys.len();
                positions.push(position as i64);
                slots.push(table[row.sequence * 3 + position / 16] * 16 + (position % 16) as i64);
                let part = |x: &[f32]| x[at * kv * WIDTH..(at + 1) * kv * WIDTH].to_vec();
                history.keys.push(part(&k));
                history.values.push(part(&v));
            }
            let sequences = rows.iter().map(|row| row.sequence as i64).collect();
            bindings.symbols.insert("T".into(), tokens as i64);
            let mut input = |name: &str, value| bindings.inputs.insert(name.into(), value);
            input("q", Tensor::floats(DType::F32, &[tokens, self.heads, WIDTH], q.clone()));
            input("k", Tensor::floats(DType::F32, &[tokens, kv, WIDTH], k));
            input("v", Tensor::floats(DType::F32, &[tokens, kv, WIDTH], v));
            input("seq", Tensor::ints(DType::I32, &[tokens], sequences));
            input("pos", Tensor::ints(DType::I32, &[tokens], positions.clone()));
            input("slot", Tensor::ints(DType::I32, &[tokens], slots));
            let found = run(&graph, &mut bindings).unwrap()[0].1.to_floats();
            for (at, row) in rows.iter().enumerate().filter(|(_, row)| !row.padding) {
                let query = &q[at * self.heads * WIDTH..(at + 1) * self.heads * WIDTH];
                let expected = self.expected(query, &histories[&row.sequence], positions[at] as usize);
                let found = &found[at * self.heads * WIDTH..(at + 1) * self.heads * WIDTH];
                for (found, expected) in found.iter().zip(&expected) {
                    let difference = (f64::from(*found) - expected).abs();
                    assert!(
                        difference < 2e-6,
                        "row {at}, position {}: {found} for {expected}",
                        positions[at]
                    );
                }
            }
        }
    }
}

fn rows(sequence: usize, count: usize) -> Vec<Row> {
    vec![Row { sequence, padding: false }; count]
}

fn padding(sequence: usize, count: usize) -> Vec<Row> {
    vec![Row { sequence, padding: true }; count]
}

/// A prompt of each sequence in one pass, padded to tiles, a step of both, a second chunk, single steps.
fn conversation() -> Vec<Vec<Row>> {
    vec![
        [rows(0, 19), padding(0, 13), rows(1, 3), padding(1, 13)].concat(),
        [rows(1, 1), rows(0, 1)].concat(),
        [rows(1, 15), rows(0, 2)].concat(),
        rows(1, 1),
        rows(0, 1),
    ]
}

#[test]
fn each_head_with_its_own_keys() {
    Case { heads: 2, group: 1, window: None, cache: DType::F32 }.check(&conversation());
}

#[test]
fn grouped_heads_share_keys() {
    Case { heads: 6, group: 3, window: None, cache: DType::F32 }.check(&conversation());
    Case { heads: 4, group: 4, window: None, cache: DType::F32 }.check(&conversation());
}

#[test]
fn a_window_hides_what_is_older() {
    for window in [1, 5, 17] {
        Case { heads: 2, group: 1, window: Some(window), cache: DType::F32 }.check(&conversation());
    }
}

#[test]
fn a_cache_of_half_precision_keeps_what_half_precision_can() {
    Case { heads: 4, group: 2, window: Some(9), cache: DType::F16 }.check(&conversation());
    Case { heads: 4, group: 2, window: None, cache: DType::BF16 }.check(&conversation());
}
