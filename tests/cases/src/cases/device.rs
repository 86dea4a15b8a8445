// SPDX-License-Identifier: GPL-2.0

//! The device tells the same as the report, and the truth.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use kvm_inspect_pure::uapi;
use kvm_inspect_tool::{
    device::{open_process, Late, Session},
    dump::{self, Options, Stage},
    guest::{CoreFile, GuestMemory},
    live::{control_registers, LiveMemory},
    manifest::{self, Format, Manifest, Mode as Consistency},
    output::{manifest_path, Existing, Output},
    paging::{AddressSpace, VirtualMemory},
};
use rustix::{
    io::Errno,
    mount::{mount, unmount, MountFlags, UnmountFlags},
};

use super::{secret, Case};
use crate::{
    device::{new, size_of_u32, zeroed, Device, Module, FREEZE_TIMEOUT_MS, PAGE_SIZE},
    inspect::hex,
    process::{own_pid, wait_until, PAGE},
    vmm::{Backing, Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    attaches,
    slots,
    registers,
    presence,
    reads,
    copies,
    copies_what_changed,
    copies_what_was_late,
    searches,
    searches_for_all_hits,
    holds,
    dumps,
    walks,
];

const MIB: u64 = 1 << 20;

/// A session has the VM that was named, and tells of it.
fn attaches() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Halt);
    let device = module.open();
    let attached = device.attach(own_pid(), -1).expect("there is one VM");
    assert_eq!(
        (attached.pid, attached.vm_fd, attached.vcpus),
        (own_pid(), vm.fd(), 2)
    );
    let session = module.session(&vm);
    assert_eq!(session.slots(), device.slots());
    vm.finish();
}

/// The memslots are the VM's.
fn slots() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, MIB, Backing::Anonymous);
    let device = module.session(&vm);
    let user = |slots: Vec<uapi::Slot>| {
        let slots = slots.into_iter().filter(|slot| slot.id < 32764);
        slots
            .map(|slot| (slot.gpa, slot.pages, slot.hva))
            .collect::<Vec<_>>()
    };
    let expected = |vm: &Vm| {
        let gpas = [0, MIB].into_iter();
        let slots = gpas.map(|gpa| vm.slot_at(gpa));
        slots
            .map(|slot| (slot.gpa, slot.len / PAGE, slot.hva(slot.gpa)))
            .collect::<Vec<_>>()
    };
    assert_eq!(user(device.slots()), expected(&vm));
    // Without room it only counts, and what is longer than the module knows is filled with zeros.
    let mut list = uapi::Slots {
        slot_size: size_of_u32::<uapi::Slot>(),
        ..new()
    };
    device.must(uapi::SLOTS, &mut list);
    assert_eq!(list.count as usize, device.slots().len());
    let mut long = vec![[0xee_u8; size_of::<uapi::Slot>() + 8]; 2];
    list = uapi::Slots {
        slots: long.as_mut_ptr() as u64,
        slot_size: size_of_u32::<uapi::Slot>() + 8,
        room: 2,
        ..new()
    };
    device.must(uapi::SLOTS, &mut list);
    assert!(long.iter().all(|slot| slot.ends_with(&[0; 8])));
    vm.finish();
}

/// The registers are those that the guest has loaded, and the guest has stood meanwhile.
fn registers() {
    let module = Module::load();
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::RegistersHalt);
    vm.add_vcpu(Mode::Long, Work::RegistersSpin);
    vm.add_vcpu(Mode::Long, Work::Spin);
    for id in [0, 1] {
        vm.vcpu(id).start();
        vm.vcpu(id).wait_until_at_work();
    }
    let device = module.session(&vm);
    let (vcpus, call) = device.vcpus(0);
    assert!(
        call.pause_ns >= call.freeze_ns && call.freeze_ns > 0,
        "{call:?}"
    );
    let states: Vec<u32> = vcpus.iter().map(|vcpu| vcpu.state).collect();
    assert_eq!(
        states,
        [uapi::VCPU_PARKED, uapi::VCPU_PARKED, uapi::VCPU_AWAY]
    );
    let ids: Vec<i32> = vcpus.iter().map(|vcpu| vcpu.id).collect();
    assert_eq!(ids, [0, 1, 2]);
    vm.stop();
    for (id, vcpu) in vcpus.iter().enumerate() {
        let (regs, sregs) = (vm.vcpu(id).regs(), vm.vcpu(id).sregs());
        assert_eq!(
            [vcpu.rip, vcpu.rax, vcpu.rbx, vcpu.rcx, vcpu.rdx, vcpu.rsi, vcpu.rdi, vcpu.rsp],
            [regs.rip, regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp]
        );
        assert_eq!(
            [
                vcpu.rbp,
                vcpu.r8,
                vcpu.r9,
                vcpu.r10,
                vcpu.r11,
                vcpu.r12,
                vcpu.r15,
                vcpu.rflags
            ],
            [
                regs.rbp,
                regs.r8,
                regs.r9,
                regs.r10,
                regs.r11,
                regs.r12,
                regs.r15,
                regs.rflags
            ]
        );
        assert_eq!(
            [
                vcpu.cr0,
                vcpu.cr2,
                vcpu.cr3,
                vcpu.cr4,
                vcpu.efer,
                vcpu.apic_base
            ],
            [
                sregs.cr0,
                sregs.cr2,
                sregs.cr3,
                sregs.cr4,
                sregs.efer,
                sregs.apic_base
            ]
        );
        assert_eq!(
            (vcpu.gdt.base, vcpu.idt.base),
            (sregs.gdt.base, sregs.idt.base)
        );
        for (has, wants) in [
            (vcpu.cs, sregs.cs),
            (vcpu.ds, sregs.ds),
            (vcpu.ss, sregs.ss),
            (vcpu.tr, sregs.tr),
        ] {
            assert_eq!(
                (has.base, has.limit, has.selector, has.type_, has.l, has.dpl),
                (
                    wants.base,
                    wants.limit,
                    wants.selector,
                    wants.type_,
                    wants.l,
                    wants.dpl
                )
            );
        }
    }
    vm.finish();
}

/// Pages are told apart: touched, untouched, and those in no memslot.
fn presence() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, 64 * PAGE, Backing::Anonymous);
    for page in [0, 1, 2, 10, 63] {
        vm.write(MIB + page * PAGE, &[1]);
    }
    let device = module.session(&vm);
    let extents = device.present(MIB - PAGE, 66);
    let runs: Vec<_> = extents
        .iter()
        .map(|extent| ((extent.gpa + PAGE - MIB) / PAGE, extent.pages, extent.kind))
        .collect();
    assert_eq!(
        runs,
        [
            (0, 1, uapi::PAGE_OUTSIDE),
            (1, 3, uapi::PAGE_PRESENT),
            (4, 7, uapi::PAGE_UNTOUCHED),
            (11, 1, uapi::PAGE_PRESENT),
            (12, 52, uapi::PAGE_UNTOUCHED),
            (64, 1, uapi::PAGE_PRESENT),
            (65, 1, uapi::PAGE_OUTSIDE),
        ]
    );
    // With room for less it tells how far it came.
    let mut extents = zeroed::<uapi::Extent>(2);
    let mut list = uapi::Present {
        gpa: MIB,
        pages: 64,
        extents: extents.as_mut_ptr() as u64,
        extent_size: size_of_u32::<uapi::Extent>(),
        room: 2,
        ..new()
    };
    device.must(uapi::PRESENT_PAGES, &mut list);
    assert_eq!((list.count, list.seen), (2, 10));
    vm.finish();
}

/// `pread` gives the guest's memory, zeros where nothing is, and ends after it.
fn reads() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, 4 * PAGE, Backing::Anonymous);
    let secret = secret(1, 5000);
    vm.write(MIB + 100, &secret);
    let device = module.session(&vm);
    assert_eq!(device.read(MIB + 100, 5000), secret);
    let mut whole = vec![0; 4 * PAGE_SIZE];
    whole[100..5100].copy_from_slice(&secret);
    assert_eq!(device.read(MIB, whole.len()), whole);
    assert_eq!(device.read(MIB - 10, 10), [0; 10]);
    vm.finish();
}

/// Copies are the guest's memory, live and in a pause.
fn copies() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Halt).start();
    vm.add_memory(MIB, MIB, Backing::Anonymous);
    let content = secret(2, 100 * PAGE_SIZE);
    vm.write(MIB + 3 * PAGE, &content);
    let device = module.session(&vm);
    // In an order of its own, beyond the memory, too.
    let ranges = [(MIB + 50 * PAGE, 60), (MIB, 50), (MIB + 255 * PAGE, 3)];
    for flags in [0, uapi::COPY_PAUSED] {
        let copied = device.copy(&ranges, flags);
        let expected: Vec<u8> = [
            vm.read(MIB + 50 * PAGE, 60 * PAGE),
            vm.read(MIB, 50 * PAGE),
            vec![0; 3 * PAGE_SIZE],
        ]
        .concat();
        assert!(copied.buffer.bytes() == expected, "flags {flags:#x}");
        assert_eq!((copied.call.copied, copied.call.late), (100, 0));
        assert_eq!(copied.call.present, 100);
        let kinds: Vec<u32> = copied.kinds.iter().map(|kind| u32::from(*kind)).collect();
        let of = |kind, count| vec![kind; count];
        assert_eq!(
            kinds,
            [
                of(uapi::PAGE_PRESENT, 53),
                of(uapi::PAGE_UNTOUCHED, 7),
                of(uapi::PAGE_UNTOUCHED, 3),
                of(uapi::PAGE_PRESENT, 47),
                of(uapi::PAGE_UNTOUCHED, 1),
                of(uapi::PAGE_OUTSIDE, 2),
            ]
            .concat()
        );
        let is_paused = flags == uapi::COPY_PAUSED;
        assert_eq!(copied.call.pause_ns > 0, is_paused);
        assert!(copied.call.threads >= 1, "{:?}", copied.call);
        for (kind, digest) in copied.kinds.iter().zip(&copied.digests) {
            assert_eq!(u32::from(*kind) == uapi::PAGE_PRESENT, *digest != 0);
        }
    }
    vm.finish();
}

/// A second copy brings only what has changed since the first one.
fn copies_what_changed() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, MIB, Backing::Anonymous);
    let content = secret(3, 200 * PAGE_SIZE);
    vm.write(MIB, &content);
    // Equal pages.
    vm.write(MIB + PAGE, &content[..PAGE_SIZE]);
    let device = module.session(&vm);
    let ranges = [(MIB, 256)];
    let mut copied = device.copy(&ranges, 0);
    assert_eq!(copied.digests[0], copied.digests[1]);
    assert_ne!(copied.digests[1], copied.digests[2]);
    let before = copied.digests.clone();
    vm.write(MIB + 7 * PAGE + 4095, &[!content[8 * PAGE_SIZE - 1]]);
    vm.write(MIB + 255 * PAGE, &[1]);
    let flags = uapi::COPY_PAUSED | uapi::COPY_CHANGED;
    copied
        .again(&device, &ranges, flags)
        .expect("it can be copied");
    assert_eq!((copied.call.copied, copied.call.present), (2, 201));
    assert!(copied.buffer.bytes() == vm.read(MIB, MIB));
    let changed = |index: &usize| before[*index] != copied.digests[*index];
    assert_eq!((0..256).filter(changed).collect::<Vec<_>>(), [7, 255]);
    vm.finish();
}

/// What a copy did not reach in time is copied by the next one, which says so of all of it.
fn copies_what_was_late() {
    const PAGES: u64 = 64 * 256;

    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let memory = vm.add_memory(64 * MIB, PAGES * PAGE, Backing::Anonymous);
    memory.fill_all(&[7]);
    let device = module.session(&vm);
    let ranges = [(64 * MIB, PAGES)];
    let mut copied = device.copy(&ranges, 0);
    assert_eq!(copied.call.present, PAGES);
    // No machine reads 64 MiB in a millisecond, and none needs time to stop a guest that is held.
    hold(&device, 60_000);
    let pages = [uapi::Pages {
        gpa: 64 * MIB,
        pages: PAGES,
    }];
    let mut call = uapi::Copy {
        ranges: pages.as_ptr() as u64,
        flags: uapi::COPY_PAUSED | uapi::COPY_CHANGED,
        max_pause_ms: 1,
        threads: 1,
        ..copied.call
    };
    device.must(uapi::COPY, &mut call);
    assert!(!release(&device));
    assert!(call.late > 0, "{call:?}");
    let late = |kind: &&u8| u32::from(**kind) == uapi::PAGE_LATE;
    assert_eq!(copied.kinds.iter().filter(late).count() as u64, call.late);
    // The guest's balloon takes it all.
    memory.discard(0, memory.len());
    copied
        .again(&device, &ranges, uapi::COPY_CHANGED)
        .expect("it can be copied");
    let untouched = |kind: &u8| u32::from(*kind) == uapi::PAGE_UNTOUCHED;
    assert!(copied.kinds.iter().all(untouched));
    assert!(copied.buffer.bytes().iter().all(|byte| *byte == 0));
    vm.finish();
}

/// Searches for patterns, and returns the call.
fn search(device: &Device, patterns: &[String], wanted: &uapi::Search) -> uapi::Search {
    let texts: Vec<uapi::Pattern> = patterns
        .iter()
        .map(|text| uapi::Pattern {
            text: text.as_ptr() as u64,
            length: u32::try_from(text.len()).expect("it is short"),
            reserved: 0,
        })
        .collect();
    let mut search = uapi::Search {
        patterns: texts.as_ptr() as u64,
        pattern_count: u32::try_from(texts.len()).expect("a few patterns"),
        freeze_timeout_ms: FREEZE_TIMEOUT_MS,
        max_pause_ms: uapi::NO_LIMIT,
        ..*wanted
    };
    device.must(uapi::SEARCH, &mut search);
    search
}

/// Returns the hits of the last search from number `first` on, with their bytes.
fn hits(device: &Device, first: u64, room: usize, bytes: usize) -> Vec<(uapi::Hit, Vec<u8>)> {
    let mut hits = zeroed::<uapi::Hit>(room);
    let mut shown = vec![0_u8; bytes];
    let mut list = uapi::Hits {
        first,
        hits: hits.as_mut_ptr() as u64,
        bytes: shown.as_mut_ptr() as u64,
        hit_size: size_of_u32::<uapi::Hit>(),
        room: u32::try_from(room).expect("it is small"),
        bytes_room: u32::try_from(bytes).expect("it is small"),
        count: 0,
    };
    device.must(uapi::HITS, &mut list);
    hits.truncate(list.count as usize);
    let with_bytes = hits.into_iter().map(|hit| {
        let at = hit.bytes as usize;
        (hit, shown[at..at + usize::from(hit.length)].to_vec())
    });
    with_bytes.collect()
}

/// A search finds what is there, and tells of the vCPUs and memslots as they were then.
fn searches() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Halt).start();
    vm.add_memory(MIB, MIB, Backing::Anonymous);
    let (one, other) = (secret(4, 16), secret(5, 24));
    let places = [MIB + 5, MIB + 4090, MIB + 100 * PAGE];
    for place in places {
        vm.write(place, &one);
    }
    vm.write(MIB + 200 * PAGE, &other);
    let device = module.session(&vm);
    let patterns = [hex(&one), hex(&other)];
    let found = search(
        &device,
        &patterns,
        &uapi::Search {
            max_hits: 100,
            context: 8,
            ..new()
        },
    );
    assert_eq!(found.result, uapi::RESULT_OK, "{found:?}");
    assert_eq!((found.hits, found.kept, found.vcpus), (4, 4, 2));
    let all = hits(&device, 0, 100, 10_000);
    let at: Vec<(u64, u32)> = all.iter().map(|(hit, _)| (hit.gpa, hit.pattern)).collect();
    let [first, second, third] = places;
    assert_eq!(
        at,
        [(first, 0), (second, 0), (third, 0), (MIB + 200 * PAGE, 1)]
    );
    for (hit, bytes) in &all {
        let before = u64::from(hit.before);
        assert_eq!(*bytes, vm.read(hit.gpa - before, bytes.len() as u64));
        assert_eq!(hit.hva, vm.slot_at(hit.gpa).hva(hit.gpa));
    }
    assert_eq!(all[0].0.before, 5);
    let last = hits(&device, 3, 100, 10_000);
    assert_eq!(
        (last.len(), last[0].0.gpa, &last[0].1),
        (1, all[3].0.gpa, &all[3].1)
    );
    assert_eq!(
        hits(&device, 0, 100, 60),
        all[..1],
        "there is room for the bytes of one"
    );
    assert_eq!(hits(&device, 4, 100, 10_000), []);
    let slots = device.slots_of(uapi::OF_SEARCH);
    assert_eq!(slots.len(), found.slots as usize);
    let slot = slots.iter().find(|slot| slot.gpa == MIB).expect("the slot");
    assert_eq!(slot.kinds[uapi::PAGE_PRESENT as usize], 4);
    assert_eq!(slot.kinds[uapi::PAGE_UNTOUCHED as usize], 252);
    assert_eq!(device.vcpus(uapi::OF_SEARCH).0.len(), 2);
    // Only in a part of the memory.
    let span = uapi::Span {
        first: MIB + 4090,
        last: MIB + 4090 + 15,
    };
    let found = search(
        &device,
        &patterns,
        &uapi::Search {
            spans: (&raw const span) as u64,
            span_count: 1,
            max_hits: 100,
            ..new()
        },
    );
    assert_eq!((found.result, found.hits), (uapi::RESULT_OK, 1));
    vm.finish();
}

/// However little room there is, all hits can be had of one instant.
fn searches_for_all_hits() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, MIB, Backing::Anonymous);
    let secret = secret(6, 16);
    let places: Vec<u64> = (0..256).map(|page| MIB + page * PAGE + 8 * page).collect();
    for &place in &places {
        vm.write(place, &secret);
    }
    let device = module.session(&vm);
    hold(&device, 60_000);
    let mut gpas = Vec::new();
    let mut first = 0;
    loop {
        let span = uapi::Span {
            first,
            last: u64::MAX,
        };
        let found = search(
            &device,
            &[hex(&secret)],
            &uapi::Search {
                spans: (&raw const span) as u64,
                span_count: 1,
                max_hits: 100,
                ..new()
            },
        );
        assert_eq!(found.result, uapi::RESULT_OK, "{found:?}");
        assert_eq!(found.hits, (places.len() - gpas.len()) as u64);
        gpas.extend(hits(&device, 0, 1000, 0).iter().map(|(hit, _)| hit.gpa));
        if u64::from(found.kept) == found.hits {
            break;
        }
        first = gpas.last().expect("some were kept") + 1;
    }
    assert_eq!(gpas, places);
    assert!(!release(&device));
    vm.finish();
}

/// Holds the guest.
pub(super) fn hold(device: &Device, lease_ms: u32) {
    let mut hold = uapi::Hold {
        lease_ms,
        freeze_timeout_ms: FREEZE_TIMEOUT_MS,
        ..new()
    };
    device.must(uapi::HOLD, &mut hold);
}

/// Lets the guest go on. Returns whether the lease had ended before.
pub(super) fn release(device: &Device) -> bool {
    let mut release: uapi::Release = new();
    device.must(uapi::RELEASE, &mut release);
    assert!(release.pause_ns > 0);
    release.is_expired == 1
}

/// A guest that is held stands, whatever is asked meanwhile, and goes on after that.
fn holds() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, MIB, Backing::Anonymous).touch_all();
    let device = module.session(&vm);
    let entries = |vm: &mut Vm| vm.vcpu(0).entries();
    for _ in 0..3 {
        hold(&device, 60_000);
        let before = (entries(&mut vm), vm.vcpu(0).rounds());
        let (vcpus, _) = device.vcpus(0);
        for _ in 0..3 {
            let copied = device.copy(&[(0, 16), (MIB, 256)], uapi::COPY_PAUSED);
            assert!(copied.call.copied >= 256, "{:?}", copied.call);
            assert_eq!(device.read(0, 4096).len(), 4096);
            assert_eq!(device.vcpus(0).0, vcpus);
        }
        // The guest may serve the disk that would be waited for.
        let mut search = uapi::Search {
            flags: uapi::BRING_IN,
            ..new()
        };
        let why = "nothing can be brought in while the guest is held";
        device.refuses(uapi::SEARCH, &mut search, Errno::INVAL, why);
        assert_eq!((entries(&mut vm), vm.vcpu(0).rounds()), before, "it stands");
        assert!(!release(&device));
        vm.wait_until_it_goes_on();
    }
    vm.finish();
}

/// A dump is the guest's memory, in each form and of an instant or not, with what changes while it
/// is made.
fn dumps() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Halt).start();
    vm.add_memory(MIB, 8 * MIB, Backing::Anonymous);
    vm.write(MIB + PAGE, &secret(7, 5 * PAGE_SIZE * 256));
    drop(module.session(&vm));
    for (format, mode) in [
        (Format::Elf, Consistency::Instant),
        (Format::Elf, Consistency::Live),
        (Format::Raw, Consistency::Instant),
    ] {
        let (manifest, path) = dump_to_file(&vm, format, mode);
        assert!(
            manifest.memory.complete || mode == Consistency::Live,
            "{manifest:#?}"
        );
        assert_eq!(manifest.consistency.mode, mode);
        assert!(manifest.consistency.paused_us > 0);
        assert_eq!(manifest.vcpus.len(), 2);
        let beside = fs::read_to_string(manifest_path(Path::new(path)));
        let beside = Manifest::parse(&beside.expect("it is there")).expect("a manifest");
        assert_eq!(beside, manifest);
        assert_is_dump(&vm, path, format);
        assert_is_of_its_instant(&mut vm, path, format, mode);

        // A pipe gets the same, and has no place for a manifest.
        let path = "/tmp/piped";
        let pipe = File::create(path).expect("a file");
        let output = match mode {
            Consistency::Live => Output::stream(pipe),
            _ => Output::spooled_to(pipe).expect("a temporary file"),
        };
        let manifest = dump_into(&vm, output, &options(format, mode)).expect("a dump can be made");
        assert_eq!(
            fs::metadata(path).expect("it is there").len(),
            manifest.file.size
        );
        assert!(manifest.file.sha256.is_some());
        assert!(!manifest_path(Path::new(path)).exists());
        assert_is_dump(&vm, path, format);
    }
    // What would take too long is refused, and leaves no file.
    let none = Options {
        memory: 0,
        ..options(Format::Elf, Consistency::Instant)
    };
    let refused = dump_with(&vm, "/tmp/refused", &none);
    assert!(refused.is_err_and(|error| error.contains("raise --memory")));
    assert!(!Path::new("/tmp/refused").exists());
    // So is what a disk has no room for.
    let full = Path::new("/tmp/full");
    fs::create_dir(full).expect("a folder");
    let size = c"size=1m";
    mount("tmpfs", full, "tmpfs", MountFlags::empty(), Some(size)).expect("a file system");
    let refused = dump_with(
        &vm,
        "/tmp/full/core",
        &options(Format::Elf, Consistency::Instant),
    );
    assert!(
        refused
            .as_ref()
            .is_err_and(|error| error.starts_with("no space is left for /tmp/full/core; ")),
        "{refused:?}"
    );
    assert_eq!(fs::read_dir(full).expect("a folder").count(), 0);
    unmount(full, UnmountFlags::empty()).expect("nothing uses it");
    vm.finish();
}

/// Checks that a file has the memory of a VM.
fn assert_is_dump(vm: &Vm, path: &str, format: Format) {
    let bytes = read_dump(path, format, MIB, PAGE_SIZE * 8 * 256);
    assert!(bytes == vm.read(MIB, 8 * MIB), "{path} {format:?}");
}

/// Dumps a guest that counts, and checks that the number in the file is that of the pause, or if
/// there was none, older than the end of the copy.
fn assert_is_of_its_instant(vm: &mut Vm, path: &str, format: Format, mode: Consistency) {
    let fd = vm.fd();
    let vcpu = &*vm.vcpu(0);
    let mut copied = 0;
    let output = Output::create(Path::new(path), Existing::Replace).expect("a file");
    let dumped = dump_and_watch(
        fd,
        output,
        &options(format, mode),
        &mut |stage, done, all| {
            if (stage, done) == (Stage::Copy, all) {
                copied = vcpu.count().0;
                wait_until("the guest counts", || vcpu.count().0 > copied);
            }
        },
    );
    dumped.expect("a dump can be made");
    let now = vcpu.count().0;
    let count = read_dump(path, format, vcpu.counter(), 8);
    let count = u64::from_le_bytes(count.try_into().expect("eight bytes"));
    if mode == Consistency::Instant {
        assert!(
            (copied + 1..=now).contains(&count),
            "{copied} {count} {now}"
        );
    } else {
        assert!(count <= copied, "{copied} {count} {now}");
    }
}

/// Reads memory in a dump.
fn read_dump(path: &str, format: Format, gpa: u64, size: usize) -> Vec<u8> {
    let file = File::open(path).expect("it is there");
    let mut bytes = vec![0; size];
    if format == Format::Raw {
        file.read_exact_at(&mut bytes, gpa)
            .expect("it is that long");
    } else {
        let core = CoreFile::open(file).expect("a core file");
        core.read(gpa, &mut bytes).expect("it is in the file");
    }
    bytes
}

fn options(format: Format, mode: Consistency) -> Options {
    Options {
        format,
        mode,
        max_pause_ms: 60_000,
        memory: 1 << 30,
        freeze_timeout_ms: FREEZE_TIMEOUT_MS,
        is_digested: true,
    }
}

fn dump_to_file(vm: &Vm, format: Format, mode: Consistency) -> (Manifest, &'static str) {
    let path = "/tmp/dump";
    let manifest = dump_with(vm, path, &options(format, mode));
    (manifest.expect("a dump can be made"), path)
}

/// Opens a session as the tool does.
fn session_of_tool(fd: i32) -> Session {
    let session = Session::open().expect("the device can be opened");
    let pidfd = open_process(own_pid()).expect("this process");
    session.attach(pidfd, Some(fd)).expect("there is a VM");
    session
}

fn dump_with(vm: &Vm, path: &str, options: &Options) -> Result<Manifest, String> {
    let output = Output::create(Path::new(path), Existing::Replace).expect("a file");
    dump_into(vm, output, options)
}

fn dump_into(vm: &Vm, output: Output, options: &Options) -> Result<Manifest, String> {
    dump_and_watch(vm.fd(), output, options, &mut |_, _, _| ())
}

fn dump_and_watch(
    fd: i32,
    output: Output,
    options: &Options,
    progress: &mut dyn FnMut(Stage, u64, u64),
) -> Result<Manifest, String> {
    let session = session_of_tool(fd);
    let of = manifest::Vm {
        pid: own_pid(),
        fd: Some(fd),
        name: None,
        vmm: None,
    };
    // The first pages of memory change all the time.
    std::thread::sleep(Duration::from_millis(10));
    dump::dump(&session, of, output, "dump", options, progress)
        .map(|dumped| dumped.manifest)
        .map_err(|error| error.to_string())
}

/// Guest-virtual addresses lead where the guest's page tables lead, in each form of them. Those of
/// the guests here map the first 2 MiB to themselves.
fn walks() {
    let _module = Module::load();
    for mode in [
        Mode::Long,
        Mode::ProtectedPaging,
        Mode::ProtectedPae,
        Mode::Compatibility,
    ] {
        let mut vm = Vm::bootable();
        vm.add_vcpu(mode, Work::RegistersHalt);
        vm.start();
        vm.vcpu(0).wait_until_at_work();
        vm.add_memory(MIB, MIB, Backing::Anonymous);
        let secret = secret(8, 100);
        vm.write(MIB + PAGE - 50, &secret);
        let session = session_of_tool(vm.fd());
        let vcpus = session.vcpus(Late::Refuse, FREEZE_TIMEOUT_MS);
        let registers = control_registers(&vcpus.expect("it stops").vcpus);
        let memory = LiveMemory::new(&session).expect("it has memory");
        let mapped = VirtualMemory::new(&memory, AddressSpace::of(&registers[0]));
        let mut bytes = [0; 100];
        let read = mapped.read(MIB + PAGE - 50, &mut bytes);
        read.unwrap_or_else(|fault| panic!("{mode:?}: {fault}"));
        assert_eq!(bytes[..], secret, "{mode:?}");
        assert!(mapped.translate(4 * MIB).is_err(), "{mode:?}");
        vm.finish();
    }
}
