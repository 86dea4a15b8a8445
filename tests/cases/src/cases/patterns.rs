// SPDX-License-Identifier: GPL-2.0

//! All kinds of patterns are found.

use super::{secret, Case};
use crate::{
    inspect::{hex, load_as_written, Inspection, SLOW},
    process::{own_pid, PAGE},
    vmm::{Backing, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    many.with_stock(),
    wildcards.with_stock(),
    text.with_stock(),
    as_written.with_stock(),
    slow.with_stock(),
];

const MIB: u64 = 1 << 20;

/// 32 patterns of 1 to 256 bytes are found at once, each in several places.
fn many() {
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous)
        .touch_all();
    let range = format!("{MIB:#x}+{:#x}", 64 * PAGE);

    // The first ones are so short that they need bytes of their own.
    let plain_secret = |number, len| -> Vec<u8> {
        let bytes = secret(number, len);
        bytes.into_iter().map(|byte| byte & 0x7f).collect()
    };
    let secrets: Vec<Vec<u8>> = (0..32_u8)
        .map(|index| match index {
            0 => vec![0xf1],
            1 => vec![0xf2, 0xf3],
            2 => vec![0xf4, 0xf5, 0xf6],
            31 => plain_secret(51, 256),
            _ => plain_secret(20 + u64::from(index), usize::from(index) * 8),
        })
        .collect();
    let mut expected = Vec::new();
    for (index, secret) in secrets.iter().enumerate() {
        // At the border of two pages, and a page further down, close to that of the next one.
        let border = MIB + (2 * index as u64 + 1) * PAGE;
        let places = [border - secret.len() as u64 / 2, border + PAGE / 2];
        for place in places {
            vm.write(place, secret);
        }
        expected.extend(vm.hits(index, &places));
    }
    let patterns: Vec<String> = secrets.iter().map(|secret| hex(secret)).collect();
    let report = Inspection::of_self()
        .patterns(&patterns)
        .ranges(&[&range])
        .report();
    let mut hits = report.hits.clone();
    hits.sort();
    expected.sort();
    assert_eq!(hits, expected);
    assert_eq!(report.done.hits, 64);
    vm.finish();
}

/// Open bytes and nibbles match any, and the others only theirs.
fn wildcards() {
    let mut vm = Vm::running(Work::Halt);
    vm.add_memory(MIB, 8 * PAGE, Backing::Anonymous).touch_all();
    let written: [(u64, &[u8]); 7] = [
        (0x100, &[0x48, 0x8b, 0x00, 0x40, 0xd7]),
        (0x200, &[0x48, 0x8b, 0xff, 0x4f, 0xd7]),
        // Wrong: the high nibble, the low nibble, the last byte.
        (0x300, &[0x48, 0x8b, 0xff, 0x5f, 0xd7]),
        (0x400, &[0x49, 0x8b, 0xff, 0x4f, 0xd7]),
        (0x500, &[0x48, 0x8b, 0xff, 0x4f, 0xd6]),
        // Across the border of two pages, with the open byte on each side.
        (PAGE - 3, &[0x48, 0x8b, 0x12, 0x43, 0xd7]),
        (2 * PAGE - 2, &[0x48, 0x8b, 0x12, 0x43, 0xd7]),
    ];
    for (offset, bytes) in written {
        vm.write(MIB + offset, bytes);
    }
    let at = |offsets: &[u64]| -> Vec<u64> { offsets.iter().map(|offset| MIB + offset).collect() };
    let exact = at(&[0x100, 0x200, PAGE - 3, 2 * PAGE - 2]);
    let report = Inspection::of_self()
        .patterns(&[
            "hex:48 8b ?? 4? d7",
            "hex:488B??4?D7",
            "hex:4? 8b ?? ?? d7",
            "hex:?8 8b ff ?f",
            // Open at both ends, with the last byte beyond the end of memory.
            "hex:?? 8b 12 43 ??",
            "hex:d6 ?? ??",
        ])
        .ranges(&[format!("{MIB:#x}+{:#x}", 8 * PAGE)])
        .report();
    assert_eq!(report.hits_of(0), exact);
    assert_eq!(report.hits_of(1), exact);
    assert_eq!(
        report.hits_of(2),
        at(&[0x100, 0x200, 0x300, 0x400, PAGE - 3, 2 * PAGE - 2])
    );
    assert_eq!(report.hits_of(3), at(&[0x200, 0x300, 0x500]));
    assert_eq!(report.hits_of(4), at(&[PAGE - 3, 2 * PAGE - 2]));
    assert_eq!(report.hits_of(5), at(&[0x504]));

    // An open byte needs a byte, and after the end of memory there is none.
    let end = MIB + 8 * PAGE;
    vm.write(end - 2, &[0xd6, 0x11]);
    let report = Inspection::of_self()
        .patterns(&["hex:d6 11 ??", "hex:?? d6 11", "hex:d6 11"])
        .report();
    assert_eq!(report.hits_of(0), [0; 0]);
    assert_eq!(report.hits_of(1), [end - 3]);
    assert_eq!(report.hits_of(2), [end - 2]);
    vm.finish();
}

/// Text is found, with escapes, as bytes and as UTF-16.
fn text() {
    let mut vm = Vm::running(Work::PortIo);
    vm.add_memory(MIB, 4 * PAGE, Backing::Anonymous).touch_all();
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let written = [
        (0x100, b"user=root, \\ secret".to_vec()),
        (0x200, "größer".as_bytes().to_vec()),
        (0x300, utf16("Passwort: größer 🔑")),
        // Big endian does not match.
        (
            0x400,
            "PasswortĀ"
                .encode_utf16()
                .flat_map(u16::to_be_bytes)
                .collect(),
        ),
        (PAGE - 5, utf16("across")),
    ];
    for (offset, bytes) in &written {
        vm.write(MIB + offset, bytes);
    }
    let report = Inspection::of_self()
        .patterns(&[
            r"text:user=root\x2c\s\\",
            "text:root\\x2C \\x5c",
            "text:größer",
            "utf16:größer 🔑",
            r"utf16:Passwort:\s",
            "utf16:across",
            "text:Passwort",
            "utf16:Passwort",
            r"utf16:gr\xf6\xdfer",
            r"iutf16:pASSWORT:\sGRößEr",
            "utf16:pASSWORT",
        ])
        .report();
    let expected: [&[u64]; 11] = [
        &[0x100],
        &[0x105],
        &[0x200],
        &[0x314],
        &[0x300],
        &[PAGE - 5],
        &[],
        &[0x300],
        &[0x314],
        &[0x300],
        &[],
    ];
    for (pattern, offsets) in expected.into_iter().enumerate() {
        let places: Vec<u64> = offsets.iter().map(|offset| MIB + offset).collect();
        assert_eq!(report.hits_of(pattern), places, "pattern {pattern}");
    }
    vm.finish();
}

/// What is searched for is what was written, and the report tells: lists that are given several
/// times, the longest pattern as escapes, spaces in quotes.
fn as_written() {
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, 8 * PAGE, Backing::Anonymous).touch_all();
    let long = secret(52, 256);
    vm.write(MIB, b"first one");
    vm.write(MIB + PAGE, &long);
    let escapes: Vec<String> = long.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let escapes = escapes.concat();
    assert!(escapes.len() == 1024);
    let inspect = |parameters: &str| {
        let parameters = format!(
            "pid={} freeze_timeout_ms=60000 max_pause_ms=0 {parameters}",
            own_pid()
        );
        let mut reports = load_as_written(&parameters).unload();
        assert_eq!(reports.len(), 1, "{reports:#?}");
        reports.remove(0)
    };
    let report = inspect(&format!(
        "pattern=text:secret range=0+1K pattern=\"text:first one,iutf16:ab\" range=1M+1T \
         pattern=text:{escapes}"
    ));
    assert_eq!(report.hits_of(1), [MIB]);
    assert_eq!(report.hits_of(3), [MIB + PAGE]);
    assert_eq!(report.done.hits, 2);
    assert_eq!(report.ranges, [0..=0x3ff, MIB..=0x100_000f_ffff]);
    let patterns: Vec<_> = report
        .patterns
        .iter()
        .map(|pattern| (pattern.kind.as_str(), pattern.length, pattern.bits))
        .collect();
    let expected = [
        ("text", 6, 48),
        ("text", 9, 72),
        ("iutf16", 4, 30),
        ("text", 256, 2048),
    ];
    assert_eq!(patterns, expected);
    // Of `printf %s text:secret | sha256sum`.
    assert_eq!(report.patterns[0].digest, "70f3dcd3e88c2ecb");

    // 256 of the longest.
    let all = vec![format!("pattern=text:{escapes}"); 256].join(" ");
    let report = inspect(&format!("max_hits=300 {all}"));
    assert_eq!(report.done.hits, 256);
    assert_eq!(report.patterns.len(), 256);
    vm.finish();
}

/// Patterns with which a search can only be slow are told of first of all; others are not.
fn slow() {
    let mut vm = Vm::running(Work::Count);
    let lines_of = |pattern: &str| {
        let inspection = Inspection::of_self().patterns(&[pattern.to_owned()]);
        inspection.load().unload_for_lines()
    };
    let is_told = |line: &String| line.starts_with(SLOW);
    let lines = lines_of("hex:??4?");
    let told = lines.first().filter(|line| is_told(line));
    let told = told.unwrap_or_else(|| panic!("not told: {lines:#?}"));
    assert!(
        told.contains(" pattern 0 has 4 given bits only: "),
        "{told}"
    );
    for pattern in ["text:ab", "itext:abc", "hex:48 8b ?? 4? ??", "utf16:abc"] {
        let lines = lines_of(pattern);
        assert!(!lines.iter().any(is_told), "{pattern}: {lines:#?}");
    }
    vm.finish();
}
