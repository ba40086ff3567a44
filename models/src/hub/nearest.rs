//! Names that look like a given one.

/// Most characters of a name that are compared.
const LONGEST: usize = 128;

/// Up to three of `names` that look most like `wanted`, the best first. A name counts if at most a third of
/// its letters must change, or if one contains the other.
pub(super) fn nearest(wanted: &str, names: &[String]) -> Vec<String> {
    let wanted = letters(wanted);
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut ranked: Vec<(usize, &String)> = Vec::new();
    for name in names {
        // A repository is often asked for without its organisation.
        let last = name.rsplit_once('/').map_or(name.as_str(), |(_, last)| last);
        let rank = [name.as_str(), last].into_iter().filter_map(|name| rank(&wanted, &letters(name))).min();
        ranked.extend(rank.map(|rank| (rank, name)));
    }
    ranked.sort();
    ranked.dedup_by(|a, b| a.1 == b.1);
    ranked.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}

fn rank(wanted: &[char], name: &[char]) -> Option<usize> {
    let distance = distance(wanted, name);
    let (short, long) = if wanted.len() < name.len() { (wanted, name) } else { (name, wanted) };
    let contained = short.len() >= 3 && long.windows(short.len()).any(|window| window == short);
    (contained || distance * 3 <= long.len()).then_some(distance)
}

fn letters(name: &str) -> Vec<char> {
    name.chars().take(LONGEST).flat_map(char::to_lowercase).collect()
}

/// Levenshtein's edit distance: the fewest letters to insert, delete or change.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
