//! Sizes as people write them.
#![allow(clippy::unwrap_used)]

#[path = "../cli/size.rs"]
mod size;

use size::Limit;

#[test]
fn sizes_mean_what_their_units_say() {
    for (text, bytes) in [
        ("2147483648", 1u64 << 31),
        ("2GB", 2_000_000_000),
        ("2GiB", 1 << 31),
        ("2gib", 1 << 31),
        ("2G", 2_000_000_000),
        ("1.8GB", 1_800_000_000),
        ("1.5GiB", 3 << 29),
        (".5 MiB", 1 << 19),
        ("5.MB", 5_000_000),
        (" 64 MB ", 64_000_000),
        ("0.0015k", 1),
        ("12TiB", 12 << 40),
        ("007B", 7),
        ("18446744073709551615", u64::MAX),
        ("0.000000000001TB", 1),
    ] {
        assert_eq!(text.parse(), Ok(Limit::Bytes(bytes)), "{text}");
        assert_eq!(text.parse::<Limit>().unwrap().bytes(), Some(bytes));
    }
}

#[test]
fn no_limit_has_the_spellings_that_are_in_use() {
    for text in ["-1", "0", "0GB", "0.0", "none", " None "] {
        assert_eq!(text.parse(), Ok(Limit::None), "{text}");
        assert_eq!(text.parse::<Limit>().unwrap().bytes(), None);
    }
}

#[test]
fn what_is_no_size_is_refused_with_an_example() {
    for text in [
        "", " ", "GB", ".", "-2", "-1GB", "2 Gigs", "two", "1,8GB", "1.2.3", "2GBs", "1e9", "+5", "0x10",
        "٣MB",
    ] {
        let why = text.parse::<Limit>().unwrap_err();
        assert!(why.contains("2GB"), "{text}: {why}");
    }
    for text in ["18446744073709551616", "99999999TiB", &"9".repeat(60)] {
        let why = text.parse::<Limit>().unwrap_err();
        assert!(why.contains("more bytes than any memory has"), "{text}: {why}");
    }
    assert!("0.4B".parse::<Limit>().unwrap_err().contains("less than a byte"));
}
