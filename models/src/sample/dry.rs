//! DRY ("don't repeat yourself"): a penalty that grows with the length of the text that a token would repeat.

use std::collections::{BTreeMap, HashSet};

use super::Sampling;

/// Tokens that would lengthen a repetition of at least `dry_allowed_length` tokens, with their penalties.
pub(super) fn penalties(sampling: &Sampling, history: &[u32], breakers: &HashSet<u32>) -> Vec<(u32, f32)> {
    let window = usize::try_from(sampling.dry_penalty_last_n).unwrap_or(history.len()).min(history.len());
    if sampling.dry_multiplier <= 0.0 || window == 0 {
        return Vec::new();
    }
    let recent: Vec<u32> = history[history.len() - window..].iter().rev().copied().collect();
    let allowed = sampling.dry_allowed_length as usize;
    let reach = recent.iter().position(|id| breakers.contains(id)).unwrap_or(window);
    let mut longest: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, length) in repeats(&recent).into_iter().enumerate().skip(1) {
        let length = length.min(reach);
        if length >= allowed.max(1) {
            // `recent` runs backwards, so the token before this place is the one that followed it.
            let known = longest.entry(recent[at - 1]).or_insert(0);
            *known = length.max(*known);
        }
    }
    let penalty = |length: usize| sampling.dry_multiplier * sampling.dry_base.powf((length - allowed) as f32);
    // A penalty beyond the range of f32 would forbid the token, and perhaps every token.
    longest.into_iter().map(|(id, length)| (id, penalty(length).min(f32::MAX / 4.0))).collect()
}

/// For each place how many tokens from there equal those from the beginning (the Z function), in linear time.
fn repeats(tokens: &[u32]) -> Vec<usize> {
    let mut lengths = vec![0; tokens.len()];
    let (mut left, mut right) = (0, 0);
    for at in 1..tokens.len() {
        let mut length = if at < right { lengths[at - left].min(right - at) } else { 0 };
        while at + length < tokens.len() && tokens[length] == tokens[at + length] {
            length += 1;
        }
        if at + length > right {
            (left, right) = (at, at + length);
        }
        lengths[at] = length;
    }
    lengths
}
