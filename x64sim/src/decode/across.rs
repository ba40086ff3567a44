//! Operations that move elements from lane to lane.

use crate::operation::Lanes;

fn bytes(lanes: &Lanes) -> [u8; 64] {
    std::array::from_fn(|at| lanes[at / 4].to_le_bytes()[at % 4])
}

fn of_bytes(bytes: &[u8; 64]) -> Lanes {
    std::array::from_fn(|lane| u32::from_le_bytes(std::array::from_fn(|at| bytes[4 * lane + at])))
}

/// The lowest lane everywhere.
pub(super) fn first([x, ..]: &[Lanes; 3], _: u8) -> Lanes {
    [x[0]; 16]
}

/// The lowest word everywhere.
pub(super) fn first_word([x, ..]: &[Lanes; 3], _: u8) -> Lanes {
    [(x[0] & 0xffff) * 0x1_0001; 16]
}

/// Eight words of memory, two to a lane, in the lower and in the upper half.
pub(super) fn same_sixteen_bytes([x, ..]: &[Lanes; 3], _: u8) -> Lanes {
    std::array::from_fn(|lane| x[lane % 4 * 2] | x[lane % 4 * 2 + 1] << 16)
}

/// Bytes of each four lanes by indices; 0 where an index has its highest bit set.
pub(super) fn bytes_of_fours([x, places, _]: &[Lanes; 3], _: u8) -> Lanes {
    let (x, places) = (bytes(x), bytes(places));
    of_bytes(&std::array::from_fn(|at| match places[at] {
        0x80.. => 0,
        place => x[at / 16 * 16 + usize::from(place % 16)],
    }))
}

/// Any bytes of the second, by the indices of the first.
pub(super) fn bytes_anywhere([places, x, _]: &[Lanes; 3], _: u8) -> Lanes {
    let (x, places) = (bytes(x), bytes(places));
    of_bytes(&std::array::from_fn(|at| x[usize::from(places[at] % 64)]))
}

/// Of each four lanes, two of the first and two of the second.
pub(super) fn two_of_both([x, y, _]: &[Lanes; 3], pick: u8) -> Lanes {
    std::array::from_fn(|lane| {
        let from = if lane % 4 < 2 { x } else { y };
        from[lane / 4 * 4 + usize::from(pick >> (2 * (lane % 4)) & 3)]
    })
}

/// Two fours of the first, then two of the second.
pub(super) fn fours([x, y, _]: &[Lanes; 3], pick: u8) -> Lanes {
    std::array::from_fn(|lane| {
        let from = if lane < 8 { x } else { y };
        from[usize::from(pick >> (2 * (lane / 4)) & 3) * 4 + lane % 4]
    })
}

/// Any lanes of the second, a vector of eight, by the indices of the first.
pub(super) fn anywhere([places, x, _]: &[Lanes; 3], _: u8) -> Lanes {
    std::array::from_fn(|lane| x[places[lane] as usize % 8])
}

/// Two of the four halves of vectors of eight.
pub(super) fn halves([x, y, _]: &[Lanes; 3], pick: u8) -> Lanes {
    std::array::from_fn(|lane| {
        let half = usize::from(pick >> (lane / 4 % 2 * 4) & 3);
        let from = if half < 2 { x } else { y };
        from[half % 2 * 4 + lane % 4]
    })
}

/// One half of a vector of eight.
pub(super) fn upper_or_lower([x, ..]: &[Lanes; 3], pick: u8) -> Lanes {
    std::array::from_fn(|lane| x[usize::from(pick & 1) * 4 + lane % 4])
}

/// Four lanes of each as words, cut off at the ends of what fits.
pub(super) fn words_of_both([x, y, _]: &[Lanes; 3], _: u8) -> Lanes {
    let word = |at: usize| {
        let lane = if at < 4 { x[at] } else { y[at % 4] };
        (lane as i32).clamp(0, 0xffff) as u32
    };
    std::array::from_fn(|lane| if lane < 4 { word(2 * lane) | word(2 * lane + 1) << 16 } else { 0 })
}

/// Eight words of each as bytes, cut off at the ends of what fits.
pub(super) fn bytes_of_both([x, y, _]: &[Lanes; 3], _: u8) -> Lanes {
    let byte = |at: usize| {
        let from = if at < 8 { x } else { y };
        let word = from[at % 8 / 2] >> (at % 2 * 16);
        (word as i16).clamp(0, 0xff) as u32
    };
    let bytes = |lane: usize| (0..4).fold(0, |all, at| all | byte(4 * lane + at) << (8 * at));
    std::array::from_fn(|lane| if lane < 4 { bytes(lane) } else { 0 })
}
