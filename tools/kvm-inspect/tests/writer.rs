// SPDX-License-Identifier: GPL-2.0

//! Writing pages to files and pipes, in each format.

mod guest;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex},
};

use kvm_inspect_tool::{
    core::{
        elf::{self, Options},
        lime, raw, Copied, Layout, PageKind, Range, Ranges, Run, WriteError, Writer,
    },
    output::{Existing, Output, OutputError},
};
use proptest::prelude::*;

use crate::guest::{content, notes, ranges, written, PAGE};

/// A pipe that keeps what goes through.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("it is whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the bytes that go through a pipe if a file is written so.
fn piped(layout: Layout, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let kept = Kept::default();
    let output = Output::stream(kept.clone());
    let mut writer = Writer::begin(output, layout).expect("a writer");
    write(&mut writer);
    let written = writer.finish().expect("finished");
    written.output.commit(None).expect("committed");
    let bytes = kept.0.lock().expect("it is whole");
    bytes.clone()
}

fn write(writer: &mut Writer, first: u64, pages: u64) {
    let range = Range::new(first * PAGE, pages * PAGE);
    let result = writer.write(range.gpa, &content(range), Copied::InTime);
    result.expect("written");
}

fn absent(writer: &mut Writer, first: u64, pages: u64, kind: PageKind) {
    let range = Range::new(first * PAGE, pages * PAGE);
    writer.absent(range, kind).expect("written");
}

fn elf(ranges: &Ranges) -> Layout {
    elf::layout(ranges, &notes(2), &Options::default()).expect("a layout")
}

/// Returns the layouts of all formats.
fn layouts(ranges: &Ranges) -> [Layout; 3] {
    [elf(ranges), lime::layout(ranges), raw::layout(ranges)]
}

fn at(file: &[u8], offset: u64, size: u64) -> &[u8] {
    let offset = usize::try_from(offset).expect("small");
    &file[offset..offset + usize::try_from(size).expect("small")]
}

#[test]
fn a_lime_file_has_a_header_before_each_range() {
    let ranges = ranges(&[(1, 2), (16, 1)]);
    let file = written(lime::layout(&ranges), |writer| {
        write(writer, 16, 1);
        write(writer, 1, 2);
    });
    let mut rest = &file[..];
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at(count);
        rest = left;
        taken
    };
    for range in ranges.as_slice() {
        assert_eq!(take(4), b"EMiL");
        assert_eq!(take(4), 1u32.to_le_bytes());
        assert_eq!(take(8), range.gpa.to_le_bytes());
        assert_eq!(take(8), (range.gpa + range.size - 1).to_le_bytes());
        assert_eq!(take(8), [0; 8]);
        assert_eq!(
            take(usize::try_from(range.size).expect("small")),
            content(*range)
        );
    }
    assert_eq!(take(0), b"");
    assert!(rest.is_empty());
}

#[test]
fn a_raw_file_has_each_byte_at_its_address() {
    let file = written(raw::layout(&ranges(&[(1, 2), (16, 1)])), |writer| {
        write(writer, 1, 2);
        write(writer, 16, 1);
    });
    assert_eq!(file.len() as u64, 17 * PAGE);
    assert_eq!(at(&file, 0, PAGE), [0; 4096]);
    assert_eq!(
        at(&file, PAGE, 2 * PAGE),
        content(Range::new(PAGE, 2 * PAGE))
    );
    assert!(at(&file, 3 * PAGE, 13 * PAGE).iter().all(|byte| *byte == 0));
    assert_eq!(
        at(&file, 16 * PAGE, PAGE),
        content(Range::new(16 * PAGE, PAGE))
    );
}

#[test]
fn pages_of_zeros_and_absent_pages_take_no_space() {
    let ranges = ranges(&[(0, 16384)]);
    for layout in layouts(&ranges) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("core");
        let output = Output::create(&path, Existing::Refuse).expect("an output");
        let mut writer = Writer::begin(output, layout).expect("a writer");
        let zeros = vec![0; 4 << 20];
        writer.write(0, &zeros, Copied::InTime).expect("written");
        write(&mut writer, 5000, 3);
        absent(&mut writer, 8000, 1000, PageKind::Swapped);
        let written = writer.finish().expect("finished");
        written.output.commit(None).expect("committed");
        let metadata = fs::metadata(&path).expect("it is there");
        assert!(metadata.size() >= 64 << 20);
        // The blocks of a LiME file are not those of the pages, because its headers have 32 bytes.
        let kib = metadata.blocks() / 2;
        assert!((12..=64).contains(&kib), "{kib} KiB");
    }
}

#[test]
fn the_last_word_on_a_page_counts() {
    let ranges = ranges(&[(0, 8)]);
    for layout in layouts(&ranges) {
        let offset = layout.extents()[0].offset;
        let other = vec![0xaa; 4096];
        let file = written(layout, |writer| {
            write(writer, 0, 8);
            absent(writer, 1, 1, PageKind::Poisoned);
            writer
                .write(2 * PAGE, &other, Copied::Late)
                .expect("written");
            writer
                .write(3 * PAGE, &[0; 4096], Copied::InTime)
                .expect("written");
            absent(writer, 4, 1, PageKind::Swapped);
            write(writer, 4, 1);
            writer
                .mark(Range::new(0, PAGE), Copied::Late)
                .expect("marked");
            writer
                .mark(Range::new(PAGE, PAGE), Copied::Late)
                .expect("marked");
            let runs: Vec<_> = writer.pages().runs().collect();
            let run = |kind, first, pages| Run {
                kind,
                gpa: first * PAGE,
                size: pages * PAGE,
            };
            let expected = [
                run(PageKind::Late, 0, 1),
                run(PageKind::Poisoned, 1, 1),
                run(PageKind::Late, 2, 1),
                run(PageKind::Present, 3, 5),
            ];
            assert_eq!(runs, expected);
        });
        let page = |number: u64| at(&file, offset + number * PAGE, PAGE);
        assert_eq!(page(0), content(Range::new(0, PAGE)));
        assert_eq!(page(1), [0; 4096]);
        assert_eq!(page(2), other);
        assert_eq!(page(3), [0; 4096]);
        assert_eq!(page(4), content(Range::new(4 * PAGE, PAGE)));
    }
}

#[test]
fn pages_that_never_come_are_unreadable_zeros() {
    let ranges = ranges(&[(0, 3)]);
    for layout in layouts(&ranges) {
        let offset = layout.extents()[0].offset;
        for file in [
            written(layout.clone(), |writer| write(writer, 1, 1)),
            piped(layout, |writer| {
                write(writer, 1, 1);
                assert_eq!(writer.pages().counts()[&PageKind::Unreadable], 2);
            }),
        ] {
            assert_eq!(at(&file, offset, PAGE), [0; 4096]);
            assert_eq!(at(&file, offset + 2 * PAGE, PAGE), [0; 4096]);
        }
    }
}

#[test]
fn a_pipe_takes_pages_in_ascending_order_only() {
    for layout in layouts(&ranges(&[(0, 8), (16, 8)])) {
        piped(layout, |writer| {
            write(writer, 2, 2);
            absent(writer, 16, 2, PageKind::Swapped);
            let again = writer.write(3 * PAGE, &[1; 4096], Copied::InTime);
            let out_of_order =
                |result| matches!(result, Err(WriteError::Output(OutputError::OutOfOrder)));
            assert!(out_of_order(again));
            let range = Range::new(17 * PAGE, PAGE);
            assert!(out_of_order(writer.absent(range, PageKind::Device)));
            assert_eq!(writer.pages().counts()[&PageKind::Swapped], 2);
            write(writer, 18, 1);
        });
    }
}

#[test]
fn headers_can_be_replaced_in_a_file_only() {
    let ranges = ranges(&[(0, 2)]);
    let mut later = notes(2);
    later.own = "later".to_owned();
    later.cpus[0].registers = None;
    let later = elf::layout(&ranges, &later, &Options::default()).expect("a layout");
    let expected = written(later.clone(), |writer| write(writer, 0, 2));
    let file = written(elf(&ranges), |writer| {
        write(writer, 0, 2);
        writer.replace_headers(later.clone()).expect("replaced");
    });
    assert!(file == expected);
    piped(elf(&ranges), |writer| {
        assert!(writer.replace_headers(later).is_err());
    });
}

#[test]
fn headers_that_outgrow_their_place_are_refused() {
    let ranges = ranges(&[(0, 2)]);
    let longer = elf::layout(&ranges, &notes(20), &Options::default()).expect("a layout");
    written(elf(&ranges), |writer| {
        let result = writer.replace_headers(longer);
        assert!(matches!(result, Err(WriteError::OtherLayout)));
    });
}

#[test]
fn what_is_no_ram_is_refused() {
    written(raw::layout(&ranges(&[(1, 2), (4, 1)])), |writer| {
        let page = [1; 4096];
        for gpa in [0, 3 * PAGE, 5 * PAGE, PAGE + 1, 0u64.wrapping_sub(PAGE)] {
            let result = writer.write(gpa, &page, Copied::InTime);
            assert!(matches!(result, Err(WriteError::NotRam(_))), "{gpa:#x}");
        }
        for size in [1, 4095, 3 * 4096] {
            let result = writer.write(PAGE, &vec![1; size], Copied::InTime);
            assert!(matches!(result, Err(WriteError::NotRam(_))), "{size:#x}");
        }
        let present = writer.absent(Range::new(PAGE, PAGE), PageKind::Late);
        assert!(matches!(
            present,
            Err(WriteError::NotAbsent(PageKind::Late))
        ));
    });
}

#[test]
fn an_impossible_size_is_refused_at_once() {
    // 2^52 - 1 pages of 4 KiB are no file of any file system.
    let layout = raw::layout(&ranges(&[((1 << 40) - 1, 1)]));
    let folder = tempfile::tempdir().expect("a folder");
    let output = Output::create(&folder.path().join("core"), Existing::Refuse);
    // A tmpfs has room for its size, if not for its bytes.
    match Writer::begin(output.expect("an output"), layout) {
        Ok(_) => {}
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("bigger than a file may be; "), "{text}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).expect("names").count(), 0);
}

/// What is done with pages: some are written, with zeros among them, or are said to be absent.
#[derive(Clone, Debug)]
enum Step {
    Write { first: u64, pages: Vec<bool> },
    Absent { first: u64, pages: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0u64..24, proptest::collection::vec(any::<bool>(), 1..8));
    let write = write.prop_map(|(first, pages)| Step::Write { first, pages });
    let absent = (0u64..24, 1u64..8);
    prop_oneof![
        write,
        absent.prop_map(|(first, pages)| Step::Absent { first, pages })
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_is_what_the_steps_made_of_it(
        steps in proptest::collection::vec(step(), 0..20),
    ) {
        let ranges = ranges(&[(0, 24), (32, 4)]);
        for layout in layouts(&ranges) {
            let offset = layout.extents()[0].offset;
            let mut model = vec![0; 24 * 4096];
            let mut there = [false; 24];
            let file = written(layout, |writer| {
                for (number, step) in (1..).zip(&steps) {
                    let (first, bytes, is_there) = match step {
                        Step::Write { first, pages } => {
                            let page = |full: &bool| [if *full { number } else { 0 }; 4096];
                            let bytes: Vec<u8> = pages.iter().flat_map(page).collect();
                            (*first, bytes, true)
                        }
                        Step::Absent { first, pages } => {
                            (*first, vec![0; usize::try_from(pages * PAGE).expect("small")], false)
                        }
                    };
                    let range = Range::new(first * PAGE, bytes.len() as u64);
                    let result = match step {
                        Step::Write { .. } => writer.write(range.gpa, &bytes, Copied::InTime),
                        Step::Absent { .. } => writer.absent(range, PageKind::Swapped),
                    };
                    let begin = usize::try_from(range.gpa).expect("small");
                    let end = begin + bytes.len();
                    assert_eq!(result.is_ok(), end <= model.len());
                    if result.is_ok() {
                        model[begin..end].copy_from_slice(&bytes);
                        there[begin / 4096..end / 4096].fill(is_there);
                    }
                }
                let present = writer.pages().counts().get(&PageKind::Present).copied();
                let expected = there.iter().filter(|is_there| **is_there).count() as u64;
                assert_eq!(present.unwrap_or(0), expected);
            });
            prop_assert!(at(&file, offset, 24 * PAGE) == model);
        }
    }

    #[test]
    fn a_pipe_gets_the_bytes_that_a_file_has(
        pieces in proptest::collection::vec((0u64..6, 1u64..4, any::<bool>()), 0..8),
    ) {
        for layout in layouts(&ranges(&[(0, 20), (30, 30)])) {
            let write_all = |writer: &mut Writer| {
                let mut page = 0;
                for (gap, pages, is_there) in &pieces {
                    page += gap;
                    if page < 30 && page + pages > 20 {
                        page = 30;
                    }
                    if *is_there {
                        write(writer, page, *pages);
                    } else {
                        absent(writer, page, *pages, PageKind::InFile);
                    }
                    page += pages;
                    if page > 45 {
                        break;
                    }
                }
            };
            let file = written(layout.clone(), write_all);
            prop_assert!(piped(layout, write_all) == file);
        }
    }
}
