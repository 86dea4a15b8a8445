// SPDX-License-Identifier: GPL-2.0

//! Reading ranges, and sets of ranges.

use kvm_inspect_pure::range::{
    clip,
    covers,
    merge,
    Part,
    Range,
    RangeError, //
};
use proptest::{
    collection::vec,
    prelude::*, //
};

fn error(spec: &str) -> RangeError {
    Range::parse(spec.as_bytes()).expect_err("a bad range")
}

#[test]
fn from_start_to_end() {
    for (spec, first, last) in [
        ("0-0", 0, 0),
        ("16-31", 16, 31),
        ("0x10-0x1f", 16, 31),
        ("0X10-31", 16, 31),
        ("0xaBc-0xABC", 0xabc, 0xabc),
        ("007-010", 7, 10),
        ("0-0xffffffffffffffff", 0, u64::MAX),
        (
            "18446744073709551615-18446744073709551615",
            u64::MAX,
            u64::MAX,
        ),
    ] {
        let parsed = Range::parse(spec.as_bytes());
        assert_eq!(parsed, Ok(Range { first, last }), "{spec}");
    }
}

#[test]
fn from_start_on() {
    for (spec, first, last) in [
        ("0+1", 0, 0),
        ("0x1000+0x1000", 0x1000, 0x1fff),
        ("1M+4K", 0x10_0000, 0x10_0fff),
        ("4g+1m", 0x1_0000_0000, 0x1_000f_ffff),
        ("0x10k+2", 0x4000, 0x4001),
        ("1T+2t", 1 << 40, (3 << 40) - 1),
        ("1+18446744073709551615", 1, u64::MAX),
        ("0xffffffffffffffff+1", u64::MAX, u64::MAX),
    ] {
        let parsed = Range::parse(spec.as_bytes());
        assert_eq!(parsed, Ok(Range { first, last }), "{spec}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    use Part::{
        End,
        Size,
        Start, //
    };
    use RangeError::{
        Backwards,
        BeyondEnd,
        NoSeparator,
        NoSize,
        NotANumber,
        TooLarge, //
    };
    for (spec, expected) in [
        ("", NoSeparator),
        ("4096", NoSeparator),
        ("0x1000..0x2000", NoSeparator),
        ("-", NotANumber(Start)),
        ("-4", NotANumber(Start)),
        ("+4", NotANumber(Start)),
        ("4-", NotANumber(End)),
        ("4+", NotANumber(Size)),
        ("4+K", NotANumber(Size)),
        ("0x-4", NotANumber(Start)),
        ("1000-1fff", NotANumber(End)),
        ("0x1000 -0x1fff", NotANumber(Start)),
        ("0-1M", NotANumber(End)),
        ("1M-2M", NotANumber(Start)),
        ("1+2P", NotANumber(Size)),
        ("1-2-3", NotANumber(End)),
        ("1--3", NotANumber(End)),
        ("0x10000000000000000-1", TooLarge(Start)),
        ("0-18446744073709551616", TooLarge(End)),
        ("0+18446744073709551615K", TooLarge(Size)),
        ("99999999999999999999999999x-1", NotANumber(Start)),
        ("2-1", Backwards),
        ("5+0", NoSize),
        ("1+0G", NoSize),
        ("2+0xffffffffffffffff", BeyondEnd),
    ] {
        assert_eq!(error(spec), expected, "{spec}");
    }
}

#[test]
fn errors_say_what_to_do() {
    for (spec, message) in [
        (
            "1",
            "the range has no separator; write START-END or START+SIZE",
        ),
        (
            "x-1",
            "the range's start is no number; write digits, or 0x and hex digits, and in \
             START+SIZE a K, M or G if wanted",
        ),
        (
            "1-1K",
            "the range's end is no number; write digits, or 0x and hex digits",
        ),
        (
            "1+0xffffffffffffffffffff",
            "the range's size is larger than 64 bits; write at most 0xffffffffffffffff",
        ),
        (
            "2-1",
            "the range ends before it starts; write the lower address first, or START+SIZE",
        ),
        ("2+0", "the range's size is 0; write at least 1"),
        (
            "2+0xffffffffffffffff",
            "the range goes beyond 0xffffffffffffffff; write a smaller size",
        ),
    ] {
        assert_eq!(error(spec).to_string(), message);
    }
}

#[test]
fn one_range() {
    let range = Range {
        first: 10,
        last: 19,
    };
    assert!(range.contains(10) && range.contains(19));
    assert!(!range.contains(9) && !range.contains(20));
    assert_eq!(range.size(), 10);
    assert_eq!(
        range.intersect(0, 10),
        Some(Range {
            first: 10,
            last: 10
        })
    );
    assert_eq!(
        range.intersect(15, 99),
        Some(Range {
            first: 15,
            last: 19
        })
    );
    assert_eq!(range.intersect(0, 9), None);
    assert_eq!(range.intersect(20, 99), None);
    assert_eq!(Range::ALL.size(), u64::MAX);
    assert_eq!(
        Range::ALL.intersect(3, 4),
        Some(Range { first: 3, last: 4 })
    );
    assert_eq!(Range { first: 1, last: 0 }.size(), 0);
}

#[test]
fn merging_at_the_ends_of_the_address_space() {
    let top = Range {
        first: u64::MAX,
        last: u64::MAX,
    };
    let mut ranges = [top, Range::ALL, top];
    assert_eq!(merge(&mut ranges), 1);
    assert_eq!(ranges[0], Range::ALL);

    let mut ranges = [
        top,
        Range {
            first: 0,
            last: u64::MAX - 1,
        },
    ];
    assert_eq!(merge(&mut ranges), 1);
    assert_eq!(ranges[0], Range::ALL);

    assert_eq!(merge(&mut []), 0);
    assert_eq!(merge(&mut [Range { first: 1, last: 0 }]), 0);
    assert!(covers(&[Range::ALL], 0, u64::MAX));
    assert!(!covers(&[], 0, 0));
}

/// Generated sets have addresses below this.
const SPACE: u64 = 100;

/// Returns sets with overlapping, touching, nested, equal and sometimes empty ranges.
fn any_ranges() -> impl Strategy<Value = Vec<Range>> {
    let range = (0..SPACE, 0..25_u64).prop_map(|(first, size)| Range {
        first,
        last: (first + size).saturating_sub(1).min(SPACE - 1),
    });
    vec(range, 0..12)
}

/// Returns which addresses are in `ranges`.
fn bitmap(ranges: &[Range]) -> Vec<bool> {
    (0..SPACE)
        .map(|address| ranges.iter().any(|range| range.contains(address)))
        .collect()
}

proptest! {
    #[test]
    fn merged_ranges_have_the_same_addresses(mut ranges in any_ranges()) {
        let expected = bitmap(&ranges);
        let count = merge(&mut ranges);
        let merged = &ranges[..count];
        prop_assert_eq!(bitmap(merged), expected);
        prop_assert!(merged.iter().all(|range| range.first <= range.last));
        // Ascending, with a gap in between.
        prop_assert!(merged.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
    }

    #[test]
    fn clipping_is_an_intersection(
        mut ranges in any_ranges(),
        first in 0..SPACE,
        size in 1..50_u64,
    ) {
        let last = (first + size - 1).min(SPACE - 1);
        let count = merge(&mut ranges);
        let merged = &ranges[..count];
        let there = bitmap(merged);

        let parts: Vec<_> = clip(merged, first, last).collect();
        let expected: Vec<_> = (0..SPACE)
            .zip(&there)
            .map(|(address, &there)| there && (first..=last).contains(&address))
            .collect();
        prop_assert_eq!(bitmap(&parts), expected);
        prop_assert!(parts.windows(2).all(|pair| pair[0].last < pair[1].first));

        let all = (first..=last).all(|address| there[usize::try_from(address).unwrap()]);
        prop_assert_eq!(covers(merged, first, last), all);
    }

    #[test]
    fn numbers_come_back(one in any::<u64>(), other in any::<u64>()) {
        let (first, last) = (one.min(other), one.max(other));
        for spec in [
            format!("{first}-{last}"),
            format!("{first:#x}-{last}"),
            format!("{first}-{last:#X}").replace("0X", "0x"),
        ] {
            prop_assert_eq!(Range::parse(spec.as_bytes()), Ok(Range { first, last }));
        }
        if let Some(size) = (last - first).checked_add(1) {
            let spec = format!("{first:#x}+{size:#x}");
            prop_assert_eq!(Range::parse(spec.as_bytes()), Ok(Range { first, last }));
        }
    }

    #[test]
    fn anything_is_read_or_refused(
        spec in prop_oneof![
            vec(any::<u8>(), 0..50),
            "[0-9a-fxKMGT+-]{0,40}".prop_map(String::into_bytes),
        ],
    ) {
        match Range::parse(&spec) {
            Ok(range) => prop_assert!(range.first <= range.last),
            Err(error) => prop_assert!(error.to_string().contains("; ")),
        }
    }
}
