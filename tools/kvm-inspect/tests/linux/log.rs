// SPDX-License-Identifier: GPL-2.0

//! The kernel's log.

use kvm_inspect_tool::linux::{Caller, Log, LogError};

use crate::{
    guest::{Guest, Offsets, RING},
    ring::{Writer, COUNT_BITS},
};

fn writer() -> Writer {
    Writer::new(Guest::new(Offsets::FromThemselves))
}

fn read(writer: &Writer) -> Log {
    Log::read(&writer.guest.kernel()).expect("it is there")
}

fn texts(log: &Log) -> Vec<String> {
    let texts = log.records.iter().map(|record| &record.text);
    texts
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect()
}

#[test]
fn an_empty_log_has_no_records() {
    assert_eq!(read(&writer()), Log::default());
}

#[test]
fn records_have_all_that_was_written() {
    let mut writer = writer();
    writer.push("first");
    writer.push_empty();
    writer.push("third\nline");
    let log = read(&writer);
    assert_eq!(texts(&log), ["first", "", "third\nline"]);
    let record = &log.records[2];
    assert_eq!((record.sequence, record.timestamp), (2, 2_000_000));
    assert_eq!(
        (record.level, record.facility, record.caller),
        (6, 3, Caller::Cpu(2))
    );
    assert_eq!(record.lines().collect::<Vec<_>>()[1], "[    0.002000] line");
    assert_eq!(
        (log.skipped, log.omitted, log.first_sequence()),
        (0, 0, Some(0))
    );
}

#[test]
fn only_the_newest_records_are_left_of_a_ring_that_is_full() {
    // Short records use up the descriptors, long ones the text; 24 bytes fit it just.
    for length in [0, 1, 7, 8, 16, 24, 41, 56, 100] {
        let mut writer = writer();
        let text = |number: usize| {
            let text = format!("{number:x}").repeat(length);
            text[..length].to_owned()
        };
        for number in 0..50 {
            if length == 0 {
                writer.push_empty();
            } else {
                writer.push(&text(number));
            }
            let log = read(&writer);
            let texts = texts(&log);
            let first = number + 1 - texts.len();
            let expected: Vec<_> = (first..=number).map(text).collect();
            assert_eq!((texts, log.skipped), (expected, 0), "{length} {number}");
            assert_eq!(log.first_sequence(), Some(first as u64));
            let fitting = (256 / (8 + length).next_multiple_of(8)).min(1 << COUNT_BITS);
            assert!(
                log.records.len() + 1 >= fitting.min(number + 1),
                "{length} {number}"
            );
        }
    }
}

#[test]
fn incomplete_records_are_counted() {
    let mut writer = writer();
    let ids =
        ["reserved", "committed", "other", "lost", "id", "last"].map(|text| writer.push(text));
    writer.set_state(ids[0], 0);
    writer.set_state(ids[1], 1);
    // This descriptor is that of a later record by now.
    let later = Writer::descriptor(ids[2]);
    writer.guest.write_u64(later, (ids[2] + 8) | (2 << 62));
    let lost = Writer::descriptor(ids[3]);
    writer.guest.write_u64(lost + 8, 1);
    writer.guest.write_u64(lost + 16, 1);
    // This text is overwritten; those before it have 72 bytes.
    writer.guest.write_u64(RING + 0x800 + 72, 7);
    let log = read(&writer);
    assert_eq!(
        (texts(&log), log.skipped),
        (vec!["committed".to_owned(), "last".to_owned()], 4)
    );
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let refused = |gva: u64, bytes: &[u8]| {
        let mut writer = writer();
        writer.push("text");
        writer.guest.write(gva, bytes);
        Log::read(&writer.guest.kernel()).expect_err("it is not valid")
    };
    assert!(matches!(refused(RING, &[32]), LogError::Invalid(_)));
    assert!(matches!(refused(RING + 48, &[64]), LogError::Invalid(_)));
    assert!(matches!(refused(RING + 24, &[0; 8]), LogError::Invalid(_)));
}

#[test]
fn a_missing_key_is_named() {
    let mut guest = Guest::new(Offsets::FromThemselves);
    guest.note = guest.note.replace("SIZE(printk_info)", "SIZE(info)");
    let writer = Writer::new(guest);
    let error = Log::read(&writer.guest.kernel()).expect_err("a key is missing");
    assert_eq!(error.to_string(), "VMCOREINFO has no SIZE(printk_info)");
}
