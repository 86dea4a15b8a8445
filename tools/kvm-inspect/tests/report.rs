// SPDX-License-Identifier: GPL-2.0

//! Reading a report that the module has made.

use kvm_inspect_tool::report::{
    Conclusion, Hit, Output, ParseError, Pattern, Report, Source, State, Table,
};

/// Of a Linux guest with two vCPUs in QEMU.
const RECORDED: &str = include_str!("recorded.txt");

fn recorded() -> Vec<String> {
    RECORDED.lines().map(str::to_owned).collect()
}

/// Returns the recorded lines with `from` replaced by `to` in the first line that has it.
fn changed(from: &str, to: &str) -> Vec<String> {
    let mut lines = recorded();
    let line = lines.iter_mut().find(|line| line.contains(from));
    let line = line.expect("a line has it");
    *line = line.replacen(from, to, 1);
    lines
}

/// Numbers lines anew.
fn numbered(lines: &[String]) -> Vec<String> {
    let count = lines.len();
    let lines = lines.iter().enumerate().map(|(index, line)| {
        let words = line.split(' ').filter(|word| !word.starts_with("n="));
        let mut words: Vec<_> = words
            .filter(|word| !word.starts_with("lines="))
            .map(str::to_owned)
            .collect();
        words.insert(1, format!("n={}", index + 1));
        if words[0] == "done" {
            words.push(format!("lines={count}"));
        }
        words.join(" ")
    });
    lines.collect()
}

#[test]
fn a_report_is_read_whole() {
    let report = Report::parse(&recorded()).expect("it is a report");
    assert_eq!((report.pid, report.fd), (91, Some(11)));
    let pattern = Pattern {
        kind: "hex".to_owned(),
        length: 16,
        bits: 128,
        digest: "9f86d081884c7d65".to_owned(),
    };
    assert_eq!(report.patterns, [pattern]);
    assert_eq!(report.ranges, [0..=u64::MAX]);
    assert_eq!((report.limits["max_slots"], report.is_checked), (128, true));
    assert_eq!(report.states(), [State::Parked; 2]);
    assert_eq!(report.slots.len(), 8);
    assert_eq!(report.slots[2].gpa, 0x10_0000..=0xfff_ffff);
    assert_eq!(report.slots[2].hva, 0x7f2d_4bf0_0000..=0x7f2d_5bdf_ffff);
    assert_eq!(report.slots[6].space, 1);
    assert_eq!((report.pages(), report.present()), (131_136, 63_552));
    let hit = Hit {
        space: 0,
        gpa: 0xcdd_8f20,
        pattern: 0,
        slot: 2,
        hva: 0x7f2d_58bd_8f20,
        bytes: None,
    };
    assert_eq!(report.hits, [hit]);
    assert_eq!(report.hits_of(0), [0xcdd_8f20]);
    assert_eq!((report.left, report.uncovered.len()), (None, 0));
    assert_eq!(report.done.result, Conclusion::Ok);
    assert_eq!(report.done.absent_pages, 67_584);
    assert_eq!(report.done.engine, "avx2");
    assert_eq!(report.unknown, [""; 0]);
}

#[test]
fn registers_belong_to_their_vcpu() {
    let report = Report::parse(&recorded()).expect("it is a report");
    let vcpu = report.vcpu(1).expect("there are two");
    assert_eq!(vcpu.source, Source::Kvm);
    let mode = vcpu.mode.as_ref().expect("all registers are known");
    assert_eq!((&*mode.name, &*mode.paging, mode.cpl), ("long", "5", 0));
    assert_eq!(vcpu.general["rflags"], 0x212);
    assert_eq!(vcpu.control["efer"], 0xd01);
    assert_eq!(vcpu.segments.len(), 8);
    assert_eq!(vcpu.segments["tr"]["limit"], 0x4087);
    let table = Table {
        base: 0xffff_fe42_4edb_f000,
        limit: 0x7f,
    };
    assert_eq!(vcpu.tables["gdt"], table);
    assert_eq!(report.vcpu(2), None);
}

#[test]
fn a_vcpu_may_have_only_some_registers() {
    let mut lines = changed(
        "state=parked source=kvm mode=long paging=5 cpl=0",
        "state=outside source=cached",
    );
    lines.retain(|line| !line.contains("segment n=") || !line.contains(" vcpu=0 "));
    let report = Report::parse(&numbered(&lines)).expect("it is a report");
    let vcpu = &report.vcpus[0];
    assert_eq!((vcpu.state, vcpu.source), (State::Outside, Source::Cached));
    assert!(vcpu.mode.is_none() && vcpu.segments.is_empty());
}

#[test]
fn rare_lines_are_read() {
    let mut lines = changed("fd=11", "fd=none");
    let last = lines.len() - 1;
    for line in [
        "left as=1 slot=2 gpa=0x1000",
        "uncovered as=0 slot=2 gpa=0x0-0x3ffff",
    ] {
        lines.insert(last, line.to_owned());
    }
    let report = Report::parse(&numbered(&lines)).expect("it is a report");
    assert_eq!(report.fd, None);
    assert_eq!(
        report.left.map(|place| (place.space, place.gpa)),
        Some((1, 0x1000))
    );
    assert_eq!(report.uncovered[0].gpa, 0..=0x3_ffff);
}

#[test]
fn what_is_new_is_no_error() {
    let mut lines = changed("uncovered_bytes=0", "uncovered_bytes=0 copied_bytes=1");
    lines.insert(1, "clock tsc=1".to_owned());
    let report = Report::parse(&numbered(&lines)).expect("it is a report");
    assert_eq!(report.unknown, ["clock n=2 tsc=1", "done copied_bytes=1"]);
}

#[test]
fn a_truncated_line_is_an_error() {
    let error = |to: &str| {
        let from = "flags=none";
        Report::parse(&changed(from, to))
            .expect_err("it is cut off")
            .to_string()
    };
    let line = "slot n=31 as=0 id=0 gpa=0x0-0xdffff hva=0x7f2d4be00000-0x7f2d4bedffff pages=224 \
                present=224";
    assert_eq!(
        error("fla"),
        format!("\"fla\" is not key=value in: {line} fla")
    );
    let without = changed(" flags=none", "");
    assert_eq!(
        Report::parse(&without),
        Err(ParseError::KeyMissing {
            key: "flags".to_owned(),
            line: line.to_owned(),
        })
    );
}

#[test]
fn a_value_without_sense_is_an_error() {
    for (from, to) in [
        ("present=224", "present=many"),
        ("gpa=0x0-0xdffff", "gpa=0x0"),
        ("state=parked", "state=asleep"),
        ("result=ok", "result=fine"),
        ("id=2 gpa", "id=65536 gpa"),
        ("rip=0x", "rip=0y"),
    ] {
        let error = Report::parse(&changed(from, to)).expect_err(to);
        assert!(matches!(error, ParseError::Value { .. }), "{to}: {error}");
    }
}

#[test]
fn what_comes_twice_is_an_error() {
    let error = Report::parse(&changed("pid=91", "pid=91 pid=92"));
    assert!(matches!(error, Err(ParseError::KeyTwice { .. })));
    for (from, to) in [("name=ds", "name=cs"), ("name=idt", "name=gdt")] {
        let error = Report::parse(&changed(from, to));
        assert!(matches!(error, Err(ParseError::LineTwice(_))), "{to}");
    }
}

#[test]
fn a_missing_line_is_an_error() {
    for (prefix, keyword) in [("as=1 id=3", "slot"), ("hit ", "hit")] {
        let mut lines = recorded();
        lines.retain(|line| !line.contains(prefix));
        let error = Report::parse(&numbered(&lines)).expect_err(keyword);
        assert!(
            matches!(error, ParseError::Count { keyword: of, .. } if of == keyword),
            "{error}"
        );
    }
    let mut lines = recorded();
    lines.retain(|line| !line.contains(" id=1 state="));
    assert_eq!(
        Report::parse(&numbered(&lines)),
        Err(ParseError::VcpuMissing(1))
    );
    let lines = recorded();
    assert_eq!(
        Report::parse(&numbered(&lines[1..])),
        Err(ParseError::LineMissing("vm"))
    );
    let end = lines.len() - 1;
    assert_eq!(
        Report::parse(&lines[..end]),
        Err(ParseError::LineMissing("done"))
    );
    assert_eq!(Report::parse(&[""; 0]), Err(ParseError::LineMissing("vm")));
}

#[test]
fn omitted_lines_are_counted() {
    let mut lines = changed("slots=8", "slots=1008");
    let last = lines.len() - 1;
    lines.insert(last, "omitted what=slots count=1000".to_owned());
    let report = Report::parse(&numbered(&lines)).expect("it is a report");
    assert_eq!((report.slots.len(), report.omitted_slots), (8, 1000));
}

#[test]
fn lost_lines_are_named() {
    let mut lines = recorded();
    lines.retain(|line| {
        let lost = ["vm n=1 ", "pattern n=2 ", "hit n=39 "];
        !lost.iter().any(|lost| line.starts_with(lost))
    });
    let expected = ParseError::LinesLost(vec![1..=2, 39..=39]);
    let text = expected.to_string();
    assert!(
        text.contains("with the numbers 1-2, 39; read the log"),
        "{text}"
    );
    assert_eq!(Output::parse(&lines), Err(expected));
    let more = changed("lines=40", "lines=42");
    assert_eq!(
        Report::parse(&more),
        Err(ParseError::LinesLost(vec![41..=42]))
    );
    let fewer = Report::parse(&changed("lines=40", "lines=39"));
    assert!(matches!(fewer, Err(ParseError::Value { .. })), "{fewer:?}");
}

#[test]
fn output_is_sorted_into_reports_and_others() {
    let late = "vcpu 3 did not stop: in user space".to_owned();
    let lines = [
        vec![late.clone()],
        recorded(),
        recorded(),
        vec![late.clone()],
    ]
    .concat();
    let output = Output::parse(&lines).expect("they are reports");
    assert_eq!(output.reports.len(), 2);
    assert_eq!(output.others, [late.clone(), late]);
    assert_eq!(output.cut_off, [""; 0]);
}

#[test]
fn a_report_without_its_end_is_kept_apart() {
    let beginning = recorded()[..5].to_vec();
    let output = Output::parse(&[recorded(), beginning.clone()].concat());
    let output = output.expect("the first one is a report");
    assert_eq!(
        (output.reports.len(), output.cut_off),
        (1, beginning.clone())
    );
    let output = Output::parse(&[beginning, recorded()].concat());
    assert_eq!(output, Err(ParseError::LineMissing("done")));
}
