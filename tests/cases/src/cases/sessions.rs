// SPDX-License-Identifier: GPL-2.0

//! The device is safe against those who use it: with wrong arguments, from many threads, killed,
//! stopped, or in a hurry. And the VM may go at any moment.

use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, thread::JoinHandleExt},
    },
    ptr,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Barrier,
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use kvm_inspect_pure::uapi;
use rustix::{io::Errno, process::Signal, system::delete_module};

use super::{
    device::{hold, release},
    secret, Case,
};
use crate::{
    device::{new, size_of_u32, zeroed, Buffer, Device, Module, FREEZE_TIMEOUT_MS},
    inspect::hex,
    process::{own_pid, wait_until, PAGE},
    role::{hear, say, Other, Role},
    vmm::{Backing, Mode, Userfault, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    refuse,
    need_rights,
    attach_once,
    take_turns,
    hold_in_part,
    end_with_lease,
    end_with_holder,
    end_with_vmm,
    end_with_vm,
    interrupted,
    unloaded,
    forked,
];

pub(super) const ROLES: &[Role] = roles![holder, without_rights, guest];

const MIB: u64 = 1 << 20;

/// What is wrong is refused, with a line that says what to do.
fn refuse() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let other = Vm::running(Work::Halt);
    let device = module.open();
    let refuses = |number, argument: &mut uapi::Slots, errno, why: &str| {
        device.refuses(number, argument, errno, why);
    };
    refuses(
        uapi::SLOTS,
        &mut new(),
        Errno::NOTCONN,
        "the session has no VM",
    );
    assert_eq!(
        device.attach(own_pid(), -1).map(|_| ()),
        Err(Errno::from_raw_os_error(libc::ENOTUNIQ))
    );
    assert!(device.explanation().contains("has 2 VMs; name one"));
    let mut attach = uapi::Attach {
        pidfd: device.0.as_raw_fd(),
        vm_fd: -1,
        ..new()
    };
    device.refuses(uapi::ATTACH, &mut attach, Errno::BADF, "is no pidfd");
    attach.pidfd = -1;
    device.refuses(uapi::ATTACH, &mut attach, Errno::BADF, "is no pidfd");
    assert_eq!(device.attach(own_pid(), -2).map(|_| ()), Err(Errno::INVAL));
    assert!(device.explanation().contains("vm_fd=-2 is no descriptor"));
    assert_eq!(device.attach(own_pid(), 0).map(|_| ()), Err(Errno::NOENT));
    assert!(device.explanation().contains("is not a VM; leave out"));
    device.attach(own_pid(), vm.fd()).expect("this is one");
    assert_eq!(
        device.attach(own_pid(), vm.fd()).map(|_| ()),
        Err(Errno::BUSY)
    );
    drop(other);

    refuse_structures(&device);
    refuse_members(&device);
    refuse_copies(&device);
    refuse_searches(&device);
    vm.finish();
}

/// Structures of any size, at any address.
fn refuse_structures(device: &Device) {
    assert_eq!(
        device.raw_call(uapi::SLOTS, ptr::null_mut()),
        Err(Errno::FAULT)
    );
    assert_eq!(
        device.raw_call(uapi::SLOTS, 1 as *mut u8),
        Err(Errno::FAULT)
    );
    let longer = |number, bytes: u32| (number & !uapi::SIZE_MASK) | (bytes << uapi::SIZE_SHIFT);
    let size = size_of_u32::<uapi::Release>();
    let mut long = [0_u8; 4096];
    assert_eq!(
        device.raw_call(longer(uapi::RELEASE, size - 1), long.as_mut_ptr()),
        Err(Errno::INVAL)
    );
    assert!(device.explanation().contains("build with the header"));
    long[4095] = 1;
    assert_eq!(
        device.raw_call(longer(uapi::PROGRESS, 4096), long.as_mut_ptr()),
        Err(Errno::TOOBIG)
    );
    assert!(device.explanation().contains("load a newer module"));
    long[4095] = 0;
    device
        .raw_call(longer(uapi::PROGRESS, 4096), long.as_mut_ptr())
        .expect("what is not known is 0");
    assert_eq!(
        device.raw_call(longer((uapi::SLOTS & !0xff) | 77, 24), long.as_mut_ptr()),
        Err(Errno::NOTTY)
    );
}

fn refuse_members(device: &Device) {
    let refuses = |number, argument: &mut uapi::Slots, errno, why: &str| {
        device.refuses(number, argument, errno, why);
    };
    let mut slots = uapi::Slots {
        slot_size: size_of_u32::<uapi::Slot>(),
        flags: 1 << 9,
        ..new()
    };
    refuses(
        uapi::SLOTS,
        &mut slots,
        Errno::INVAL,
        "flags 0x200 are not known",
    );
    slots.flags = uapi::OF_SEARCH;
    refuses(
        uapi::SLOTS,
        &mut slots,
        Errno::NODATA,
        "nothing was searched yet",
    );
    (slots.flags, slots.room, slots.slot_size) = (0, 10, 0);
    refuses(
        uapi::SLOTS,
        &mut slots,
        Errno::INVAL,
        "the size of an element is 0",
    );
    slots.slot_size = size_of_u32::<uapi::Slot>();
    assert_eq!(device.call(uapi::SLOTS, &mut slots), Err(Errno::FAULT));

    let mut hold = uapi::Hold {
        lease_ms: 60_001,
        ..new()
    };
    device.refuses(
        uapi::HOLD,
        &mut hold,
        Errno::INVAL,
        "lease_ms=60001 is out of range",
    );
    (hold.lease_ms, hold.freeze_timeout_ms) = (1, 86_400_001);
    device.refuses(
        uapi::HOLD,
        &mut hold,
        Errno::INVAL,
        "freeze_timeout_ms=86400001 is out",
    );
    (hold.freeze_timeout_ms, hold.reserved) = (0, 1);
    device.refuses(
        uapi::HOLD,
        &mut hold,
        Errno::INVAL,
        "a reserved member is not 0",
    );
    device.refuses::<uapi::Release>(uapi::RELEASE, &mut new(), Errno::INVAL, "is not held");

    let mut present = uapi::Present {
        gpa: 1,
        pages: 1,
        ..new()
    };
    device.refuses(
        uapi::PRESENT_PAGES,
        &mut present,
        Errno::INVAL,
        "multiple of 4096",
    );
    (present.gpa, present.address_space) = (0, 2);
    device.refuses(
        uapi::PRESENT_PAGES,
        &mut present,
        Errno::INVAL,
        "address_space=2 is out of range",
    );
    (present.gpa, present.pages) = (u64::MAX & !0xfff, 2);
    device.refuses(
        uapi::PRESENT_PAGES,
        &mut present,
        Errno::INVAL,
        "64-bit space",
    );
}

fn refuse_copies(device: &Device) {
    let ranges = [uapi::Pages { gpa: 0, pages: 4 }];
    let buffer = Buffer::new(4);
    let copy = || uapi::Copy {
        ranges: ranges.as_ptr() as u64,
        range_count: 1,
        buffer: buffer.address(),
        ..new()
    };
    let refuses = |mut copy: uapi::Copy, errno, why: &str| {
        device.refuses(uapi::COPY, &mut copy, errno, why);
    };
    let with = |change: &dyn Fn(&mut uapi::Copy)| {
        let mut copy = copy();
        change(&mut copy);
        copy
    };
    let changed = uapi::COPY_CHANGED;
    refuses(
        with(&|copy| copy.flags = 1),
        Errno::INVAL,
        "are not known here",
    );
    refuses(
        with(&|copy| copy.flags = changed),
        Errno::INVAL,
        "needs digests",
    );
    refuses(with(&|copy| copy.buffer += 1), Errno::INVAL, "align it");
    refuses(
        with(&|copy| copy.address_space = 2),
        Errno::INVAL,
        "address_space=2 is out of range",
    );
    refuses(
        with(&|copy| copy.buffer = PAGE),
        Errno::FAULT,
        "cannot be written",
    );
    refuses(
        with(&|copy| copy.threads = 1000),
        Errno::INVAL,
        "threads=1000",
    );
    refuses(
        with(&|copy| copy.range_count = 65537),
        Errno::TOOBIG,
        "65536 ranges",
    );
    let huge = [uapi::Pages {
        gpa: 0,
        pages: 1 << 29,
    }];
    let address = huge.as_ptr() as u64;
    refuses(
        with(&|copy| copy.ranges = address),
        Errno::TOOBIG,
        "call several times",
    );
    let beyond = [uapi::Pages {
        gpa: u64::MAX & !0xfff,
        pages: 2,
    }];
    let address = beyond.as_ptr() as u64;
    refuses(
        with(&|copy| copy.ranges = address),
        Errno::INVAL,
        "64-bit space",
    );
    // Memory that cannot be written.
    let text = include_bytes!("sessions.rs").as_ptr() as u64 & !0xfff;
    refuses(
        with(&|copy| copy.buffer = text),
        Errno::FAULT,
        "cannot be written",
    );
}

fn refuse_searches(device: &Device) {
    let refuses = |text: &str, change: &dyn Fn(&mut uapi::Search), errno, why: &str| {
        let pattern = uapi::Pattern {
            text: text.as_ptr() as u64,
            length: u32::try_from(text.len()).expect("it is short"),
            reserved: 0,
        };
        let mut search = uapi::Search {
            patterns: (&raw const pattern) as u64,
            pattern_count: 1,
            ..new()
        };
        change(&mut search);
        device.refuses(uapi::SEARCH, &mut search, errno, why);
    };
    refuses("nothing:x", &|_| (), Errno::INVAL, "pattern 0: ");
    refuses("hex:0", &|_| (), Errno::INVAL, "pattern 0: ");
    let good = "text:abcdefgh";
    refuses(
        good,
        &|search| search.engine = 9,
        Errno::INVAL,
        "engine=9 is not known",
    );
    refuses(
        good,
        &|search| search.access = 9,
        Errno::INVAL,
        "access=9 is not known",
    );
    refuses(
        good,
        &|search| search.context = 65,
        Errno::INVAL,
        "context=65 is out",
    );
    let most = 1 << 20;
    refuses(
        good,
        &|search| search.max_hits = most + 1,
        Errno::INVAL,
        "max_hits=1048577",
    );
    refuses(
        good,
        &|search| search.pattern_count = 4097,
        Errno::INVAL,
        "pattern_count=4097",
    );
    let much = |search: &mut uapi::Search| (search.max_hits, search.context) = (most, 64);
    let long = format!("hex:{}", "41".repeat(200));
    refuses(&long, &much, Errno::TOOBIG, "would take too much memory");
    let span = uapi::Span { first: 2, last: 1 };
    let address = (&raw const span) as u64;
    let change = |search: &mut uapi::Search| (search.spans, search.span_count) = (address, 1);
    refuses(
        good,
        &change,
        Errno::INVAL,
        "the span from 0x2 to 0x1 is empty",
    );
}

/// Who lacks the right is kept out, by the mode of the file and by the device itself.
fn need_rights() {
    let _module = Module::load();
    let status = fs::metadata(uapi::DEVICE).expect("the device is there");
    assert_eq!(status.permissions().mode() & 0o777, 0o600);
    let mut other = Other::start("without_rights", &[]);
    assert_eq!(other.hear(), "EPERM");
    other.finish();
}

/// Root without `CAP_SYS_RAWIO`, which the mode of the file does not stop.
fn without_rights(_: &[&str]) {
    const CAP_SYS_RAWIO: u32 = 17;

    // SAFETY: The header and the data are those of version 3 of capset(2).
    let result = unsafe {
        let header = [0x2008_0522_u32, 0];
        let mut data = [[0_u32; 3]; 2];
        libc::syscall(libc::SYS_capget, &raw const header, &raw mut data);
        for set in &mut data[0][..2] {
            *set &= !(1 << CAP_SYS_RAWIO);
        }
        libc::syscall(libc::SYS_capset, &raw const header, &raw const data)
    };
    assert_eq!(result, 0, "the capability can be dropped");
    match Device::open() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => say("EPERM"),
        other => say(&format!("{:?}", other.map(|_| ()))),
    }
}

/// Of two threads that attach one session at once, one succeeds, and all calls are about its VM.
fn attach_once() {
    let module = Module::load();
    let mut one = Vm::running(Work::Count);
    let mut two = Vm::running(Work::Count);
    two.add_memory(MIB, MIB, Backing::Anonymous);
    let vms = [&one, &two].map(|vm| (vm.fd(), module.session(vm).slots()));
    assert_ne!(vms[0].1, vms[1].1);
    for _ in 0..200 {
        let device = module.open();
        let barrier = Barrier::new(vms.len());
        let attached = thread::scope(|scope| {
            let threads = vms.each_ref().map(|(fd, slots)| {
                let (device, barrier) = (&device, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let is_attached = device.attach(own_pid(), *fd).is_ok();
                    if is_attached {
                        for _ in 0..4 {
                            assert_eq!(device.slots(), *slots, "they are of its VM");
                        }
                    }
                    is_attached
                })
            });
            threads.map(|thread| thread.join().expect("it has seen its VM"))
        });
        assert_eq!(attached.iter().filter(|is| **is).count(), 1);
    }
    one.finish();
    two.finish();
}

/// A guest that is held although one of its vCPUs does not stop is not taken for one that stands.
fn hold_in_part() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Count);
    let device = module.session(&vm);
    let fault = Userfault::new();
    let second = &vm.vcpus()[1];
    thread::scope(|scope| {
        let call = scope.spawn(|| second.set_regs_from(&fault));
        fault.wait();
        let mut held = uapi::Hold {
            lease_ms: 60_000,
            freeze_timeout_ms: 2000,
            flags: uapi::REPORT_LATE,
            ..new()
        };
        device.must(uapi::HOLD, &mut held);
        let ranges = [uapi::Pages { gpa: 0, pages: 1 }];
        let mut copy = uapi::Copy {
            ranges: ranges.as_ptr() as u64,
            range_count: 1,
            flags: uapi::COPY_PAUSED,
            ..new()
        };
        let why = "not all vCPUs had stopped";
        device.refuses(uapi::COPY, &mut copy, Errno::TIMEDOUT, why);
        let mut list = uapi::Vcpus {
            vcpu_size: size_of_u32::<uapi::Vcpu>(),
            ..new()
        };
        device.refuses(uapi::VCPUS, &mut list, Errno::TIMEDOUT, why);
        let (vcpus, _) = device.vcpus(uapi::REPORT_LATE);
        assert_eq!(vcpus[1].state, uapi::VCPU_RUNNING, "{vcpus:?}");
        release(&device);
        fault.resolve();
        call.join().expect("it has ended");
    });
    vm.finish();
}

/// Two sessions on one VM take turns: one waits while the other holds the guest, and both see the
/// truth. A signal ends the wait.
fn take_turns() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let (one, other) = (module.session(&vm), module.session(&vm));
    hold(&one, 60_000);
    let waits = Arc::new(AtomicBool::new(true));
    let asks = {
        let (other, waits) = (other.clone(), waits.clone());
        thread::spawn(move || {
            let (vcpus, _) = other.vcpus(0);
            assert!(!waits.load(Ordering::Relaxed), "it has not waited");
            vcpus
        })
    };
    // What needs no turn is done meanwhile.
    assert_eq!(one.slots().len(), other_slots(&vm, &module));
    sleep(Duration::from_millis(300));
    assert!(!asks.is_finished());
    let held = one.vcpus(0).0;
    waits.store(false, Ordering::Relaxed);
    assert!(!release(&one));
    let vcpus = asks.join().expect("it has had its turn");
    assert_eq!(vcpus.len(), held.len());
    vm.finish();
}

fn other_slots(vm: &Vm, module: &Module) -> usize {
    let session = module.session(vm);
    assert!(!session.read(0, 4096).is_empty());
    session.slots().len()
}

/// When the lease ends, the guest goes on, whatever its holder does; and its holder is told.
fn end_with_lease() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let device = module.session(&vm);
    hold(&device, 200);
    sleep(Duration::from_millis(200));
    vm.wait_until_it_goes_on();
    let expired = |device: &Device| {
        let mut list = uapi::Vcpus {
            vcpu_size: size_of_u32::<uapi::Vcpu>(),
            ..new()
        };
        device.refuses(uapi::VCPUS, &mut list, Errno::TIME, "the lease has ended");
    };
    expired(&device);
    assert!(release(&device), "the lease had ended");
    assert!(!device.vcpus(0).0.is_empty());

    // It can be made longer while it lasts.
    hold(&device, 2000);
    hold(&device, 60_000);
    let before = vm.vcpu(0).rounds();
    sleep(Duration::from_millis(2500));
    // Its pause begins with the call, not with the hold.
    let ranges = [uapi::Pages { gpa: 0, pages: 4 }];
    let mut copy = uapi::Copy {
        ranges: ranges.as_ptr() as u64,
        range_count: 1,
        flags: uapi::COPY_PAUSED,
        max_pause_ms: 2000,
        ..new()
    };
    device.must(uapi::COPY, &mut copy);
    assert_eq!(copy.late, 0);
    assert_eq!(vm.vcpu(0).rounds(), before, "it stands");
    assert!(!release(&device));
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// When the holder is killed, or has closed the device, the guest goes on at once. When it is
/// stopped, it goes on at the end of the lease.
fn end_with_holder() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let numbers = [own_pid().to_string(), vm.fd().to_string()];
    let start = |lease: &str| {
        let mut holder = Other::start("holder", &[&numbers[0], &numbers[1], lease]);
        assert_eq!(holder.hear(), "holds");
        holder
    };
    let holder = start("60000");
    let before = vm.vcpu(0).rounds();
    sleep(Duration::from_millis(100));
    assert_eq!(vm.vcpu(0).rounds(), before, "it stands");
    holder.kill();
    vm.wait_until_it_goes_on();

    let mut holder = start("60000");
    assert_eq!(holder.ask("close"), "closed");
    vm.wait_until_it_goes_on();
    holder.kill();

    let holder = start("500");
    holder.signal(Signal::STOP);
    vm.wait_until_it_goes_on();
    holder.kill();
    drop(module);
    vm.finish();
}

/// Holds the guest of another process.
fn holder(arguments: &[&str]) {
    let numbers: Vec<i32> = arguments.iter().flat_map(|text| text.parse()).collect();
    let [pid, fd, lease] = numbers[..] else {
        panic!("arguments: {arguments:?}");
    };
    let device = Device::open().expect("the device can be opened");
    device.attach(pid, fd).expect("there is a VM");
    hold(&device, u32::try_from(lease).expect("a time"));
    say("holds");
    assert_eq!(hear(), "close");
    drop(device);
    say("closed");
    hear();
}

/// A VMM with a guest that counts.
fn guest(_: &[&str]) {
    let mut vm = Vm::running(Work::Count);
    vm.add_memory(MIB, MIB, Backing::Anonymous).touch_all();
    vm.add_vcpu(Mode::Long, Work::Halt).start();
    say(&vm.fd().to_string());
    assert_eq!(hear(), "close");
    vm.stop();
    drop(vm);
    say("closed");
    hear();
}

/// A VMM dies while its guest is held. Nothing of it stays, and the session says so.
fn end_with_vmm() {
    let module = Module::load();
    for is_held in [true, false] {
        let mut vmm = Other::start("guest", &[]);
        let fd = vmm.hear().parse().expect("a descriptor");
        let device = module.open();
        device.attach(vmm.pid(), fd).expect("there is a VM");
        if is_held {
            hold(&device, 60_000);
        } else {
            device.vcpus(0);
        }
        let debugfs = vms_in_debugfs();
        assert_eq!(debugfs, 1);
        vmm.kill();
        let gone = |device: &Device| {
            let mut list = uapi::Vcpus {
                vcpu_size: size_of_u32::<uapi::Vcpu>(),
                ..new()
            };
            device.refuses(uapi::VCPUS, &mut list, Errno::SRCH, "the VM has gone");
        };
        gone(&device);
        wait_until("KVM has given up the VM", || vms_in_debugfs() == 0);
        gone(&device);
    }
}

/// A VMM closes its VM while sessions have it. KVM can give it up, though they stay.
fn end_with_vm() {
    let module = Module::load();
    let mut vmm = Other::start("guest", &[]);
    let fd = vmm.hear().parse().expect("a descriptor");
    let sessions = [module.open(), module.open()];
    for session in &sessions {
        session.attach(vmm.pid(), fd).expect("there is a VM");
        session.vcpus(0);
    }
    assert_eq!(vmm.ask("close"), "closed");
    // Also if somebody asks all the time.
    wait_until("KVM has given up the VM", || {
        let _ = sessions[1].call(uapi::SLOTS, &mut new::<uapi::Slots>());
        vms_in_debugfs() == 0
    });
    let why = "the VM has gone";
    for session in &sessions {
        session.refuses::<uapi::Slots>(uapi::SLOTS, &mut new(), Errno::SRCH, why);
        session.refuses::<uapi::Release>(uapi::RELEASE, &mut new(), Errno::SRCH, why);
    }
    vmm.kill();
}

/// Returns how many VMs KVM has.
fn vms_in_debugfs() -> usize {
    let entries = fs::read_dir("/sys/kernel/debug/kvm").expect("KVM has its folder");
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    folders.count()
}

extern "C" fn nothing(_: libc::c_int) {}

/// A signal ends a long search, and the guest goes on.
fn interrupted() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let memory = vm.add_memory(MIB, 16 * MIB, Backing::Anonymous);
    memory.touch_all();
    for times in 1..64 {
        vm.add_mapping(MIB + 16 * MIB * times, &memory);
    }
    let device = module.session(&vm);
    // Without a handler it would kill the process.
    // SAFETY: The handler does nothing. Without SA_RESTART the call ends.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut());
    }
    let ends = Arc::new(AtomicBool::new(false));
    let searcher = {
        let (device, ends) = (device.clone(), ends.clone());
        thread::spawn(move || {
            let text = hex(&secret(1, 16));
            let pattern = uapi::Pattern {
                text: text.as_ptr() as u64,
                length: u32::try_from(text.len()).expect("it is short"),
                reserved: 0,
            };
            let mut rounds = 0;
            while !ends.load(Ordering::Relaxed) {
                let mut search = uapi::Search {
                    patterns: (&raw const pattern) as u64,
                    pattern_count: 1,
                    freeze_timeout_ms: FREEZE_TIMEOUT_MS,
                    max_pause_ms: uapi::NO_LIMIT,
                    ..new()
                };
                match device.call(uapi::SEARCH, &mut search) {
                    Ok(()) => rounds += 1,
                    Err(Errno::INTR) => return Some(rounds),
                    Err(error) => panic!("{error}: {}", device.explanation()),
                }
            }
            None
        })
    };
    // Progress is told from another thread.
    wait_until("it searches", || {
        let mut progress: uapi::Progress = new();
        device.must(uapi::PROGRESS, &mut progress);
        progress.does == uapi::SEARCHES && progress.done > 0 && progress.all >= progress.done
    });
    let begun = Instant::now();
    while !searcher.is_finished() && begun.elapsed() < Duration::from_secs(60) {
        // SAFETY: The thread has not been joined.
        unsafe { libc::pthread_kill(searcher.as_pthread_t(), libc::SIGUSR1) };
        sleep(Duration::from_millis(20));
    }
    ends.store(true, Ordering::Relaxed);
    let rounds = searcher.join().expect("no error but that");
    assert!(rounds.is_some(), "no signal has ended a search");
    vm.wait_until_it_goes_on();
    assert!(!device.vcpus(0).0.is_empty());
    vm.finish();
}

/// An open file keeps the module.
fn unloaded() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let device = module.session(&vm);
    device.vcpus(0);
    let name = c"kvm_inspect";
    assert_eq!(
        delete_module(name, libc::O_NONBLOCK),
        Err(Errno::WOULDBLOCK)
    );
    device.vcpus(0);
    drop(device);
    drop(module);
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// A session goes on in a child of its process.
fn forked() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    let device = module.session(&vm);
    let mut slots = zeroed::<uapi::Slot>(16);
    let mut list = uapi::Slots {
        slots: slots.as_mut_ptr() as u64,
        slot_size: size_of_u32::<uapi::Slot>(),
        room: 16,
        ..new()
    };
    // SAFETY: The child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_ok = device.call(uapi::SLOTS, &mut list).is_ok() && list.count > 0;
        // SAFETY: It ends without anything of its parent's.
        unsafe { libc::_exit(i32::from(!is_ok)) };
    }
    let mut status = -1;
    // SAFETY: The child is this process's.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the call in the child");
    assert!(!device.slots().is_empty());
    vm.finish();
}
