// SPDX-License-Identifier: GPL-2.0

//! The device under calls that make no sense, from several threads at once.

use std::{
    collections::BTreeMap,
    ffi::c_void,
    fs::File,
    os::unix::fs::FileExt,
    ptr,
    sync::{Arc, Mutex},
    thread,
};

use kvm_inspect_pure::uapi;
use rustix::{
    io::Errno,
    mm::{mmap_anonymous, MapFlags, ProtFlags},
};
use zerocopy::IntoBytes;

use super::{secret, times, Case};
use crate::{
    device::{new, size_of_u32, Device, Module, PAGE_SIZE},
    process::{own_pid, PAGE},
    vmm::{Backing, Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![ioctls.within(900).with_debug()];

const MIB: u64 = 1 << 20;

/// How many threads make calls.
const THREADS: u64 = 4;

/// The memory that calls may write to: no other's.
const ARENA: usize = 4 << 20;

/// Whatever is asked in whatever order, each call ends, with an error that it may have; the guest
/// goes on, and each kind of call has succeeded, too.
fn ioctls() {
    let module = Module::load();
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Halt).start();
    vm.add_memory(MIB, MIB, Backing::Anonymous);
    vm.write(MIB, &secret(1, 100 * PAGE_SIZE));
    let devices: Arc<Mutex<Vec<Device>>> = Arc::default();
    for _ in 0..3 {
        devices.lock().expect("no panic").push(module.session(&vm));
    }
    let fd = vm.fd();
    let count = times(2400);
    let threads: Vec<_> = (0..THREADS)
        .map(|seed| {
            let devices = devices.clone();
            thread::spawn(move || Fuzzer::new(seed, devices, fd).run(count))
        })
        .collect();
    let mut succeeded = BTreeMap::<u32, u32>::new();
    for thread in threads {
        for (number, count) in thread.join().expect("a thread has failed") {
            *succeeded.entry(number).or_default() += count;
        }
    }
    devices.lock().expect("no panic").clear();
    println!("counted: calls={}", u64::from(count) * THREADS);
    println!("succeeded: {succeeded:?}");
    for number in 0..=11 {
        assert!(
            succeeded.contains_key(&number),
            "call {number} never succeeded"
        );
    }
    vm.wait_until_it_goes_on();
    assert!(!module.session(&vm).vcpus(0).0.is_empty());
    vm.finish();
}

/// A thread that makes calls.
struct Fuzzer {
    state: u64,
    devices: Arc<Mutex<Vec<Device>>>,
    vm_fd: i32,
    /// Where the arena begins.
    arena: u64,
    pidfd: i32,
    succeeded: BTreeMap<u32, u32>,
}

impl Fuzzer {
    fn new(seed: u64, devices: Arc<Mutex<Vec<Device>>>, vm_fd: i32) -> Self {
        let map = |at: *mut c_void, len, rights, more| {
            // SAFETY: New memory, or a part of that, which stays for as long as the process.
            let mapped = unsafe { mmap_anonymous(at, len, rights, MapFlags::PRIVATE | more) };
            mapped.expect("there is memory")
        };
        // What is written beyond its end must meet nothing of others.
        let all = map(
            ptr::null_mut(),
            2 * ARENA,
            ProtFlags::empty(),
            MapFlags::empty(),
        );
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let arena = map(all, ARENA, rights, MapFlags::FIXED);
        // SAFETY: The process is this one.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, own_pid(), 0) };
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            devices,
            vm_fd,
            arena: arena as u64,
            pidfd: i32::try_from(pidfd).expect("a descriptor"),
            succeeded: BTreeMap::new(),
        }
    }

    fn run(mut self, count: u32) -> BTreeMap<u32, u32> {
        for _ in 0..count {
            let number = self.index(devices_len(&self.devices));
            let device = self.devices.lock().expect("no panic")[number].clone();
            match self.below(30) {
                0 => self.replace(number),
                1..=3 => self.read(&device.0),
                _ => self.call(&device),
            }
        }
        self.succeeded
    }

    /// Closes a session, perhaps in the middle of others' calls, and opens another one.
    fn replace(&mut self, number: usize) {
        let device = Device::open().expect("the device can be opened");
        if self.below(4) > 0 {
            device.attach(own_pid(), self.vm_fd).expect("there is a VM");
            self.note(uapi::ATTACH);
        }
        let before = {
            let mut devices = self.devices.lock().expect("no panic");
            std::mem::replace(&mut devices[number], device)
        };
        drop(before);
    }

    fn read(&mut self, file: &File) {
        let mut bytes = vec![0; self.index(3 * 4096)];
        let position = self.number();
        // Any error will do.
        let _ = file.read_at(&mut bytes, position);
    }

    fn call(&mut self, device: &Device) {
        const NUMBERS: [u32; 12] = [
            uapi::ATTACH,
            uapi::EXPLAIN,
            uapi::PROGRESS,
            uapi::SLOTS,
            uapi::VCPUS,
            uapi::PRESENT_PAGES,
            uapi::COPY,
            uapi::SEARCH,
            uapi::HITS,
            uapi::UNCOVERED,
            uapi::HOLD,
            uapi::RELEASE,
        ];
        let number = NUMBERS[self.index(12)];
        let mut argument = self.argument(number);
        // Each member may be anything.
        let words = argument.len() / 4;
        for _ in 0..self.below(6).saturating_sub(2) {
            let at = 4 * self.index(words);
            let value = self.number();
            let len = if self.below(2) == 0 { 4 } else { 8 };
            let end = (at + len).min(argument.len());
            argument[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            // What may now be an address of this process's memory must be one in the arena.
            for word in argument.chunks_exact_mut(8).skip(at / 8).take(2) {
                let address = u64::from_le_bytes(word.try_into().expect("eight bytes"));
                let is_own = (self.arena..self.arena + ARENA as u64).contains(&address);
                if (1 << 20..1 << 47).contains(&address) && !is_own {
                    word.copy_from_slice(&self.arena.to_le_bytes());
                }
            }
        }
        if number == uapi::HOLD {
            // Else nothing else comes to pass.
            let lease = u32::from_le_bytes(argument[..4].try_into().expect("four bytes"));
            argument[..4].copy_from_slice(&(lease % 100).to_le_bytes());
        }
        let mut called = number;
        if self.below(16) == 0 {
            let size = self.word(2 * u32::try_from(argument.len()).expect("it is small"));
            called = (number & !uapi::SIZE_MASK) | (size << uapi::SIZE_SHIFT);
            argument.resize(2 * argument.len(), 0);
        }
        match device.raw_call(called, argument.as_mut_ptr()) {
            Ok(()) => self.note(called),
            Err(
                Errno::BADF
                | Errno::BUSY
                | Errno::FAULT
                | Errno::INTR
                | Errno::INVAL
                | Errno::NODATA
                | Errno::NOENT
                | Errno::NOMEM
                | Errno::NOTCONN
                | Errno::OPNOTSUPP
                | Errno::OVERFLOW
                | Errno::SRCH
                | Errno::TIMEDOUT
                | Errno::TOOBIG,
            ) => (),
            // Else all calls would fail from here on.
            Err(Errno::TIME) => {
                let _ = device.call(uapi::RELEASE, &mut new::<uapi::Release>());
            }
            Err(error) => panic!("{called:#x}: {error}, {}", device.explanation()),
        }
    }

    fn note(&mut self, called: u32) {
        *self.succeeded.entry(called & 0xff).or_default() += 1;
    }

    /// Returns an argument that makes sense, or nearly.
    fn argument(&mut self, number: u32) -> Vec<u8> {
        let room = self.word(8);
        match number {
            uapi::ATTACH => uapi::Attach {
                pidfd: self.pidfd,
                vm_fd: self.vm_fd,
                ..new()
            }
            .as_bytes()
            .to_vec(),
            uapi::EXPLAIN => uapi::Explain {
                text: self.address(),
                room: 100 * room,
                length: 0,
            }
            .as_bytes()
            .to_vec(),
            uapi::PROGRESS => new::<uapi::Progress>().as_bytes().to_vec(),
            uapi::SLOTS => uapi::Slots {
                slots: self.address(),
                slot_size: size_of_u32::<uapi::Slot>(),
                room,
                count: 0,
                flags: self.word(2),
            }
            .as_bytes()
            .to_vec(),
            uapi::VCPUS => uapi::Vcpus {
                vcpus: self.address(),
                vcpu_size: size_of_u32::<uapi::Vcpu>(),
                room,
                flags: self.word(4),
                ..new()
            }
            .as_bytes()
            .to_vec(),
            uapi::PRESENT_PAGES => uapi::Present {
                gpa: self.below(512) * PAGE,
                pages: self.below(512),
                extents: self.address(),
                extent_size: size_of_u32::<uapi::Extent>(),
                room,
                ..new()
            }
            .as_bytes()
            .to_vec(),
            uapi::COPY => self.copy(),
            uapi::SEARCH => self.search(),
            uapi::HITS => uapi::Hits {
                first: self.below(4),
                hits: self.address(),
                bytes: self.address(),
                hit_size: size_of_u32::<uapi::Hit>(),
                room,
                bytes_room: 100 * room,
                count: 0,
            }
            .as_bytes()
            .to_vec(),
            uapi::UNCOVERED => uapi::Uncovereds {
                uncovered: self.address(),
                uncovered_size: size_of_u32::<uapi::Uncovered>(),
                room,
                ..new()
            }
            .as_bytes()
            .to_vec(),
            uapi::HOLD => uapi::Hold {
                lease_ms: 1 + self.word(50),
                ..new()
            }
            .as_bytes()
            .to_vec(),
            _ => new::<uapi::Release>().as_bytes().to_vec(),
        }
    }

    fn copy(&mut self) -> Vec<u8> {
        let ranges = self.address();
        let pages = uapi::Pages {
            gpa: self.below(512) * PAGE,
            pages: self.below(200),
        };
        self.write(ranges, pages.as_bytes());
        uapi::Copy {
            ranges,
            buffer: self.arena,
            kinds: self.address(),
            digests: if self.below(2) == 0 {
                0
            } else {
                self.address()
            },
            range_count: 1,
            flags: self.word(16) & !1,
            ..new()
        }
        .as_bytes()
        .to_vec()
    }

    fn search(&mut self) -> Vec<u8> {
        let text = b"text:kvm_inspect";
        let (at, patterns, spans) = (self.address(), self.address(), self.address());
        self.write(at, text);
        let pattern = uapi::Pattern {
            text: at,
            length: u32::try_from(text.len()).expect("it is short"),
            reserved: 0,
        };
        self.write(patterns, pattern.as_bytes());
        let span = uapi::Span {
            first: self.below(MIB),
            last: MIB + self.below(MIB),
        };
        self.write(spans, span.as_bytes());
        uapi::Search {
            patterns,
            spans,
            pattern_count: self.word(2),
            span_count: self.word(2),
            max_hits: self.word(100),
            context: self.word(64),
            ..new()
        }
        .as_bytes()
        .to_vec()
    }

    /// Returns an address in the arena, which other members may have, too.
    fn address(&mut self) -> u64 {
        self.arena + self.below(ARENA as u64 - 64 * 1024)
    }

    /// Writes to the arena.
    fn write(&self, address: u64, bytes: &[u8]) {
        let offset = address - self.arena;
        assert!(offset + bytes.len() as u64 <= ARENA as u64);
        // SAFETY: It is in the arena, which only this thread and the module use.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }

    /// Returns a number of which some are likely to be wrong somewhere.
    fn number(&mut self) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => PAGE,
            4 => self.below(64),
            5 => (u64::from(u32::MAX) << 32) | self.below(1 << 32),
            6 => self.address(),
            7 => self.below(1 << 20),
            8 => 1 << (48 + self.below(16)),
            _ => u64::from(u32::MAX) << self.below(33),
        }
    }

    /// As [`Self::below`].
    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("it is below")
    }

    /// As [`Self::below`].
    fn word(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(bound.into())).expect("it is below")
    }

    /// Returns a number below `bound` (0 for 0).
    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.checked_rem(bound).unwrap_or(0)
    }
}

fn devices_len(devices: &Mutex<Vec<Device>>) -> usize {
    devices.lock().expect("no panic").len()
}
