// SPDX-License-Identifier: GPL-2.0

//! Manifests of files, written and read back.

mod guest;

use std::fs;

use kvm_inspect_tool::{
    core::{
        elf::{self, Options},
        Copied, Notes, PageKind, Range, Writer,
    },
    manifest::{
        Address, Clock, Consistency, FileEntry, Format, Host, Manifest, ManifestError, Memory,
        Mode, Proof, Tool, Vcpu, VcpuState, Vm, Vmcoreinfo, VERSION,
    },
    output::{manifest_path, Existing, Output},
};
use serde_json::{json, Value};

use crate::guest::{content, notes, ranges, PAGE};

/// Returns the manifest of a file that is being written.
fn early_note(manifest: &Manifest) -> String {
    Manifest::early_note(&manifest.vm, &manifest.vcpus)
}

fn manifest(writer: &Writer) -> Manifest {
    Manifest {
        manifest_version: VERSION,
        tool: Tool::default(),
        host: Host::this(),
        vm: Vm {
            pid: 91,
            fd: Some(11),
            name: Some("guest \"one\"".to_owned()),
            vmm: Some("qemu-system-x86".to_owned()),
        },
        file: FileEntry {
            name: "core".to_owned(),
            format: Format::Elf,
            size: writer.layout().size(),
            sha256: None,
        },
        times: Clock::start().stop(None),
        consistency: Consistency {
            mode: Mode::Instant,
            pauses: 2,
            paused_us: 5000,
            longest_pause_us: 3000,
        },
        memory: Memory::from(writer),
        vcpus: vec![Vcpu {
            id: 0,
            cpu: 0,
            cpu_assumed: true,
            state: VcpuState::Parked,
            registers: true,
        }],
        direct_map_base: Some(Address(0xffff_8880_0000_0000)),
        vmcoreinfo: Some(Vmcoreinfo {
            gpa: 0x1_009a_0000,
            size: 3240,
            proofs: vec![Proof::RootMapsItself, Proof::Kallsyms],
        }),
        warnings: vec!["one sentence".to_owned()],
    }
}

fn writer(output: Output) -> Writer {
    let layout = elf::layout(&ranges(&[(0, 8), (16, 4)]), &notes(1), &Options::default());
    let mut writer = Writer::begin(output, layout.expect("a layout")).expect("a writer");
    let range = Range::new(0, 4 * PAGE);
    writer
        .write(0, &content(range), Copied::InTime)
        .expect("written");
    let swapped = Range::new(4 * PAGE, 4 * PAGE);
    writer.absent(swapped, PageKind::Swapped).expect("absent");
    let high = Range::new(16 * PAGE, 4 * PAGE);
    writer.absent(high, PageKind::Untouched).expect("absent");
    writer
}

#[test]
fn a_manifest_is_what_was_written() {
    let manifest = manifest(&writer(Output::stream(Vec::new())));
    let text = manifest.to_json().expect("text");
    assert_eq!(Manifest::parse(&text).expect("a manifest"), manifest);
}

#[test]
fn names_and_values_of_fields_stay() {
    let mut manifest = manifest(&writer(Output::stream(Vec::new())));
    manifest.file.set_digest(&[0xab; 32]);
    let text = manifest.to_json().expect("text");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["manifest_version"], 1);
    assert_eq!(value["tool"]["name"], "kvm-inspect");
    assert_eq!(value["vm"]["name"], "guest \"one\"");
    let file = json!({
        "name": "core",
        "format": "elf",
        "size": 13 * PAGE,
        "sha256": "ab".repeat(32),
    });
    assert_eq!(value["file"], file);
    let consistency = json!({
        "mode": "instant",
        "pauses": 2,
        "paused_us": 5000,
        "longest_pause_us": 3000,
    });
    assert_eq!(value["consistency"], consistency);
    let memory = json!({
        "complete": false,
        "page_size": 4096,
        "ranges": [
            { "gpa": 0, "size": 0x8000, "offset": 0x1000 },
            { "gpa": 0x10000, "size": 0x4000, "offset": 0x9000 },
        ],
        "pages": {
            "present": 4, "late": 0, "untouched": 4, "unmapped": 0, "swapped": 4, "in_file": 0,
            "userfault": 0, "poisoned": 0, "device": 0, "unreadable": 0, "private": 0,
        },
        "runs": [
            { "kind": "swapped", "gpa": 0x4000, "size": 0x4000 },
            { "kind": "untouched", "gpa": 0x10000, "size": 0x4000 },
        ],
        "runs_omitted": 0,
    });
    assert_eq!(value["memory"], memory);
    let vcpu = json!({
        "id": 0, "cpu": 0, "cpu_assumed": true, "state": "parked", "registers": true,
    });
    assert_eq!(value["vcpus"], json!([vcpu]));
    assert_eq!(value["direct_map_base"], "0xffff888000000000");
    let proofs = json!(["root_maps_itself", "kallsyms"]);
    assert_eq!(value["vmcoreinfo"]["proofs"], proofs);
    assert!(value["times"]["started"]
        .as_str()
        .expect("a time")
        .ends_with('Z'));
}

#[test]
fn later_manifests_are_read_if_they_can_be() {
    let manifest = manifest(&writer(Output::stream(Vec::new())));
    let mut value = serde_json::to_value(&manifest).expect("JSON");
    value["new"] = json!({ "field": 1 });
    value["vm"]["new"] = json!(1);
    assert_eq!(
        Manifest::parse(&value.to_string()).expect("a manifest"),
        manifest
    );
    value["manifest_version"] = json!(2);
    let error = Manifest::parse(&value.to_string()).unwrap_err();
    assert!(matches!(error, ManifestError::Version(2)));
    for text in [
        "",
        "{}",
        "[]",
        r#"{"manifest_version":1}"#,
        r#"{"manifest_version":-1}"#,
    ] {
        let error = Manifest::parse(text).unwrap_err();
        assert!(matches!(error, ManifestError::Json(_)), "{text}");
    }
}

#[test]
fn the_note_has_one_size_from_begin_to_end() {
    let mut manifest = manifest(&writer(Output::stream(Vec::new())));
    // The longest that Linux has, of what JSON makes longer.
    manifest.host.name = "\u{1}".repeat(64);
    manifest.host.kernel = "\u{1}".repeat(64);
    manifest.times.instant = Some(manifest.times.started.clone());
    manifest.times.duration_us = u64::MAX;
    manifest.consistency.pauses = u32::MAX;
    manifest.consistency.paused_us = u64::MAX;
    manifest.consistency.longest_pause_us = u64::MAX;
    manifest
        .memory
        .pages
        .values_mut()
        .for_each(|count| *count = 1 << 40);
    manifest.vm.pid = i32::MAX;
    manifest.vm.fd = Some(i32::MAX);
    let layout = |own: String| {
        let notes = Notes { own, ..notes(1) };
        elf::layout(&ranges(&[(0, 1)]), &notes, &Options::default()).expect("a layout")
    };
    assert_eq!(
        layout(early_note(&manifest)).extents(),
        layout(manifest.note()).extents()
    );
    assert!(manifest.note().len() <= 2048, "{}", manifest.note().len());
    let note: Value = serde_json::from_str(&manifest.note()).expect("JSON");
    assert_eq!(note["complete"], false);
    assert_eq!(note["pages"]["swapped"], 1u64 << 40);
    let early: Value = serde_json::from_str(&early_note(&manifest)).expect("JSON");
    assert_eq!(early["vm"]["pid"], i32::MAX);
    assert_eq!(early.get("complete"), None);
}

#[test]
fn a_core_file_comes_with_its_manifest() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("core");
    let output = Output::create(&path, Existing::Refuse).expect("an output");
    let mut writer = writer(output);
    let mut manifest = manifest(&writer);
    let own = Notes {
        own: manifest.note(),
        ..notes(1)
    };
    let layout = elf::layout(writer.layout().ranges(), &own, &Options::default());
    writer
        .replace_headers(layout.expect("a layout"))
        .expect("replaced");
    let written = writer.finish().expect("finished");
    let digest = written.output.sha256(&mut |_| {}).expect("a digest");
    manifest.file.set_digest(&digest);
    let text = manifest.to_json().expect("text");
    written
        .output
        .commit(Some(text.as_bytes()))
        .expect("committed");
    let text = fs::read_to_string(manifest_path(&path)).expect("it is there");
    let manifest = Manifest::parse(&text).expect("a manifest");
    let file = fs::read(&path).expect("it is there");
    assert_eq!(manifest.file.size, file.len() as u64);
    let program = std::process::Command::new("sha256sum").arg(&path).output();
    let line = String::from_utf8(program.expect("it runs").stdout).expect("text");
    assert_eq!(line.split(' ').next(), manifest.file.sha256.as_deref());
}
