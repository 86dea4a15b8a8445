// SPDX-License-Identifier: GPL-2.0

//! What commands print, made as they make it; also of what is rare.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt, fs::symlink},
    process::Command,
    time::SystemTime,
};

use kvm_inspect_pure::{range, uapi};
use kvm_inspect_tool::{
    core, device, host,
    json::{
        self, Candidate, Dmesg, Done, End, Extent, Hex, Hit, Info, InfoVcpu, Inspected, Kinds,
        Later, Linux, List, LogRecord, Pages, Pattern, Place, Range, Read, Regs, Search, Slot,
        Slots, Stream, Stretch, Vcpu, Version,
    },
    manifest::{
        self, Address, Clock, Consistency, FileEntry, FileRange, Format, Host, Manifest, Memory,
        Mode, Proof, Tool, VcpuState, Vmcoreinfo,
    },
};
use serde::Serialize;
use serde_json::Value;
use zerocopy::FromZeros;

/// Returns outputs with their commands.
pub(crate) fn all() -> Vec<(&'static str, Value)> {
    let mut all = vec![("list", listed()), ("list", list()), ("list", no_vm())];
    all.extend([("regs", regs()), ("regs", no_vcpu())]);
    all.extend([("slots", slots()), ("slots", bare_slots())]);
    all.extend(searches().into_iter().map(|search| ("search", search)));
    all.extend([("read", read()), ("read", read_nothing())]);
    all.extend([("info", info()), ("info", no_linux())]);
    all.extend([("dmesg", dmesg()), ("dmesg", no_record())]);
    all.extend(manifests().into_iter().map(|manifest| ("dump", manifest)));
    all
}

/// Returns what is printed.
fn printed(object: &impl Serialize) -> Value {
    let mut text = Vec::new();
    json::write(&mut text, object).expect("written");
    let end = text.iter().position(|byte| *byte == b'\n');
    assert_eq!(end, Some(text.len() - 1), "one line");
    serde_json::from_slice(&text).expect("JSON")
}

/// Returns what the program prints of a folder like `/proc`, with names that are no UTF-8.
fn listed() -> Value {
    let proc = tempfile::tempdir().expect("a folder");
    for (pid, files) in [
        (800, &["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"][..]),
        (801, &["anon_inode:kvm-vm", "anon_inode:kvm-vm"]),
        (802, &["anon_inode:kvm-vcpu:0"]),
    ] {
        let folder = proc.path().join(pid.to_string());
        fs::create_dir_all(folder.join("fd")).expect("created");
        for (fd, file) in files.iter().enumerate() {
            symlink(file, folder.join("fd").join(fd.to_string())).expect("linked");
        }
        fs::write(folder.join("cmdline"), b"vmm\xff\0-name\0\xfe\x1b[2J\0").expect("written");
    }
    let program = env!("CARGO_BIN_EXE_kvm-inspect");
    let output = Command::new(program)
        .args(["list", "--json", "--proc"])
        .arg(proc.path())
        .output()
        .expect("it runs");
    assert!(output.status.success());
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["vm"].as_array().map(Vec::len), Some(4));
    value
}

fn list() -> Value {
    let vm = host::Vm {
        pid: 812,
        fd: Some(9),
        program: OsString::from_vec(b"qemu\xff".to_vec()),
        name: Some(OsString::from_vec(b"\xc3(\0".to_vec())),
        vcpus: Some(2),
        rss_bytes: Some(4096),
        began: None,
    };
    let mut with_memory = json::Vm::new(&vm);
    with_memory.memory_bytes = Some(1 << 40);
    let unknown = json::Vm::new(&host::Vm {
        fd: None,
        name: None,
        vcpus: None,
        rss_bytes: None,
        ..vm
    });
    printed(&List {
        json_version: Version,
        vm: vec![with_memory, unknown],
        hidden: 3,
    })
}

fn no_vm() -> Value {
    printed(&List::default())
}

fn inspected() -> Inspected {
    Inspected {
        pid: i32::MAX,
        fd: None,
        name: None,
        vcpus: 4096,
    }
}

/// Returns vCPUs of each mode, in each state, that lack each thing.
fn vcpus() -> Vec<Vcpu> {
    let mut vcpus = Vec::new();
    let mut vcpu = uapi::Vcpu::new_zeroed();
    vcpu.rip = u64::MAX;
    for (cr0, cr4, efer, rflags, long) in [
        (0x8000_0001, 0x20, 0x500, 0, 1),
        (0x8000_0001, 0x1020, 0x500, 0, 0),
        (0x8000_0001, 0x20, 0, 1 << 17, 0),
        (0x8000_0001, 0, 0, 0, 0),
        (0, 0, 0, 0, 0),
    ] {
        (vcpu.cr0, vcpu.cr4, vcpu.efer, vcpu.rflags) = (cr0, cr4, efer, rflags);
        vcpu.cs.l = long;
        vcpus.push(Vcpu::new(&vcpu));
    }
    vcpu.flags = u32::MAX;
    for state in 0..4 {
        vcpu.state = state;
        vcpus.push(Vcpu::new(&vcpu));
    }
    for bit in 0..32 {
        vcpu.lacks = 1 << bit;
        vcpus.push(Vcpu::new(&vcpu));
    }
    vcpu.lacks = u32::MAX;
    vcpus.push(Vcpu::new(&vcpu));
    vcpus
}

fn regs() -> Value {
    printed(&Regs {
        json_version: Version,
        vm: inspected(),
        freeze_us: 42,
        pause_us: 130,
        vcpu: vcpus(),
    })
}

fn no_vcpu() -> Value {
    printed(&Regs {
        json_version: Version,
        vm: inspected(),
        freeze_us: 0,
        pause_us: 0,
        vcpu: Vec::new(),
    })
}

/// Returns a count of each kind of page; `all` counts those that no version knows, too.
fn kinds(all: bool) -> Kinds {
    let mut kinds: Kinds = device::PageKind::ALL
        .into_iter()
        .filter(|kind| all || !matches!(kind.name(), "outside" | "late"))
        .zip(1..)
        .collect();
    if all {
        kinds.add(device::PageKind::Other(99), 1);
    }
    kinds
}

fn slot() -> Slot {
    let mut slot = uapi::Slot::new_zeroed();
    slot.flags = u32::MAX;
    slot.gpa = 1 << 51;
    slot.hva = u64::MAX - 0xfff;
    slot.id = i16::MAX;
    slot.pages = 1;
    Slot::new(&slot)
}

fn slots() -> Value {
    let with = |all| Slot {
        kinds: Some(kinds(all)),
        ..slot()
    };
    printed(&Slots {
        json_version: Version,
        vm: inspected(),
        slot: vec![with(false), with(true), slot()],
        memory: Some(Pages::new(kinds(true))),
    })
}

fn bare_slots() -> Value {
    printed(&Slots {
        json_version: Version,
        vm: inspected(),
        slot: Vec::new(),
        memory: None,
    })
}

fn hit(bytes: &[u8]) -> Hit {
    Hit::new(&device::Hit {
        address_space: 1,
        gpa: 0xffd_df20,
        pattern: 4095,
        slot: -1,
        hva: u64::MAX,
        before: 1,
        bytes: bytes.to_vec(),
    })
}

fn search() -> Search<(), ()> {
    let figures = uapi::Search::new_zeroed();
    Search {
        json_version: Version,
        vm: inspected(),
        pattern: Vec::new(),
        range: Vec::new(),
        done: Done {
            result: "ok".to_owned(),
            engine: "avx2".to_owned(),
            access: "linear".to_owned(),
            ..Done::new(&figures)
        },
        memory: Pages::new(Kinds::default()),
        vcpu: Vec::new(),
        slot: Vec::new(),
        left: None,
        lost: Vec::new(),
        uncovered: Vec::new(),
        hit: (),
        end: (),
    }
}

fn searches() -> Vec<Value> {
    let end = |printed| {
        Later::new(move || End {
            printed,
            searches: 1,
            is_cut: printed > 0,
        })
    };
    let none = Vec::<Result<Hit, String>>::new().into_iter();
    let nothing = search().with(Stream::new(none), end(0));
    let kinds = ["text", "itext", "utf16", "iutf16", "hex"].into_iter();
    let all = range::Range {
        first: 0,
        last: u64::MAX,
    };
    let stretch = Stretch {
        address_space: 1,
        slot: -2,
        gpa: 1 << 52,
        pages: 1,
    };
    let much = Search {
        pattern: kinds
            .enumerate()
            .map(|(number, kind)| Pattern {
                number,
                kind: kind.to_owned(),
                length: 256,
                bits: 2048,
                digest: "70f3dcd3e88c2ecb".to_owned(),
            })
            .collect(),
        range: vec![Range::new(&all)],
        done: Done {
            result: "time_up".to_owned(),
            ..search().done
        },
        vcpu: vcpus(),
        slot: vec![slot()],
        left: Some(Place {
            address_space: 0,
            gpa: 0x1000,
        }),
        lost: vec![stretch],
        uncovered: vec![stretch],
        ..search()
    };
    let hits = [hit(b"\0\xff"), hit(b"")].map(Ok::<_, String>).into_iter();
    let much = much.with(Stream::new(hits), end(2));
    vec![printed(&nothing), printed(&much)]
}

fn read() -> Value {
    let mut kinds: Vec<_> = device::PageKind::ALL.map(|kind| Some(kind.name())).to_vec();
    kinds.extend([Some(device::PageKind::Other(99).name()), None]);
    let extents = kinds.into_iter().flat_map(|kind| {
        let bytes = (kind == Some("present")).then(|| "00ff".to_owned());
        [None, Some(Hex(u64::MAX - 1))].map(|gva| {
            Ok::<_, String>(Extent {
                gva,
                gpa: kind.map(|_| 0x1000),
                size: 2,
                kind: kind.unwrap_or("not_mapped").to_owned(),
                bytes: bytes.clone(),
            })
        })
    });
    printed(&Read {
        json_version: Version,
        vm: inspected(),
        extent: Stream::new(extents),
    })
}

fn read_nothing() -> Value {
    printed(&Read {
        json_version: Version,
        vm: inspected(),
        extent: Vec::<Extent>::new(),
    })
}

fn linux(proof: &str, is_known: bool) -> Linux {
    let text = |text: &str| is_known.then(|| text.to_owned());
    Linux {
        os_release: text("6.12.57+deb13-amd64"),
        build_id: text("5c8a"),
        vmcoreinfo_gpa: 0x1_009a_0000,
        proof: proof.to_owned(),
        kaslr_offset: is_known.then_some(Hex(0x1_1000_0000)),
        phys_base: is_known.then_some(Hex(u64::MAX)),
        paging: "4".to_owned(),
        direct_map: is_known.then_some(Hex(0xffff_8880_0000_0000)),
        direct_map_source: text("tables"),
        symbols: is_known.then_some(200_000),
        vcpus: 2,
        cpus: is_known.then(|| vec![1, 0]),
    }
}

fn info() -> Value {
    let candidate = |proof: &str, is_known: bool| Candidate {
        gpa: 0,
        os_release: is_known.then(|| "6.1".to_owned()),
        proof: proof.to_owned(),
        vcpus: 0,
        why: (!is_known).then(|| "its page tables are not in memory".to_owned()),
    };
    let vcpu = |paging: Option<&str>| InfoVcpu {
        id: -1,
        paging: paging.map(ToOwned::to_owned),
        cr3: paging.map(|_| Hex(0x1000)),
    };
    let modes = ["off", "legacy", "pae", "4", "5"].map(Some);
    let vcpu = modes.into_iter().chain([None]).map(vcpu).collect();
    let proofs = ["pointer", "root", "none", "refuted"];
    printed(&Info {
        json_version: Version,
        vm: inspected(),
        linux: Some(linux("pointer", true)),
        candidate: proofs
            .into_iter()
            .flat_map(|proof| [candidate(proof, true), candidate(proof, false)])
            .collect(),
        is_ambiguous: true,
        vcpu,
    })
}

fn no_linux() -> Value {
    let mut value = printed(&Info {
        json_version: Version,
        vm: inspected(),
        linux: Some(linux("none", false)),
        candidate: Vec::new(),
        is_ambiguous: false,
        vcpu: Vec::new(),
    });
    value["linux"] = Value::Null;
    value
}

fn dmesg() -> Value {
    let record = LogRecord {
        sequence: u64::MAX,
        timestamp_ns: u64::MAX,
        level: 7,
        facility: u8::MAX,
        thread: Some(0),
        cpu: None,
        text: String::from_utf8_lossy(b"a\xff\x1b[2J\nb").into_owned(),
    };
    let of_interrupt = LogRecord {
        thread: None,
        cpu: Some(u32::MAX),
        text: String::new(),
        ..record.clone()
    };
    printed(&Dmesg {
        json_version: Version,
        vm: inspected(),
        record: vec![record, of_interrupt],
        skipped: 1,
        omitted: 2,
    })
}

fn no_record() -> Value {
    printed(&Dmesg {
        json_version: Version,
        vm: inspected(),
        record: Vec::new(),
        skipped: 0,
        omitted: 0,
    })
}

fn manifest() -> Manifest {
    let counts = core::PageKind::ALL.iter().map(|kind| (*kind, 0));
    Manifest {
        manifest_version: manifest::VERSION,
        tool: Tool::default(),
        host: Host::this(),
        vm: manifest::Vm {
            pid: 1,
            fd: None,
            name: None,
            vmm: None,
        },
        file: FileEntry {
            name: "\u{fffd}".to_owned(),
            format: Format::Raw,
            size: 0,
            sha256: None,
        },
        times: Clock::start().stop(None),
        consistency: Consistency {
            mode: Mode::Live,
            pauses: 0,
            paused_us: 0,
            longest_pause_us: 0,
        },
        memory: Memory {
            complete: true,
            page_size: 4096,
            ranges: Vec::new(),
            pages: counts.collect::<BTreeMap<_, _>>(),
            runs: Vec::new(),
            runs_omitted: 0,
        },
        vcpus: Vec::new(),
        direct_map_base: None,
        vmcoreinfo: None,
        warnings: Vec::new(),
    }
}

fn manifests() -> Vec<Value> {
    let mut full = manifest();
    full.vm.fd = Some(11);
    full.vm.name = Some("web".to_owned());
    full.vm.vmm = Some("qemu-system-x86".to_owned());
    full.file.set_digest(&[0xab; 32]);
    full.times = Clock::start().stop(Some(SystemTime::now()));
    full.consistency.mode = Mode::Instant;
    let run = |kind: &core::PageKind| core::Run {
        kind: *kind,
        gpa: 1 << 52,
        size: 4096,
    };
    full.memory.runs = core::PageKind::ALL.iter().map(run).collect();
    full.memory.ranges = vec![FileRange {
        gpa: 0,
        size: 4096,
        offset: 1 << 52,
    }];
    let states = [VcpuState::Parked, VcpuState::Outside, VcpuState::Running];
    full.vcpus = states
        .into_iter()
        .map(|state| manifest::Vcpu {
            id: 0,
            cpu: 0,
            cpu_assumed: true,
            state,
            registers: false,
        })
        .collect();
    full.direct_map_base = Some(Address(0xffff_8880_0000_0000));
    full.vmcoreinfo = Some(Vmcoreinfo {
        gpa: 0x1000,
        size: 3240,
        proofs: vec![
            Proof::VcpuRoot,
            Proof::RootMapsItself,
            Proof::Release,
            Proof::Kallsyms,
        ],
    });
    full.warnings = vec!["one sentence".to_owned()];
    let mut manifests = vec![printed(&manifest()), printed(&full)];
    for format in [Format::Elf, Format::ElfGdb, Format::Lime] {
        let mut manifest = manifest();
        manifest.file.format = format;
        // As it is in the file beside the dump.
        let text = manifest.to_json().expect("text");
        manifests.push(serde_json::from_str(&text).expect("JSON"));
    }
    manifests
}
