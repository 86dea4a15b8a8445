// SPDX-License-Identifier: GPL-2.0

//! A vCPU and its thread.

use std::{
    ffi::{c_int, c_void},
    ops::{ControlFlow, Range},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::thread::JoinHandleExt,
    },
    ptr,
    sync::{
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst},
        Arc, LazyLock, Once,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use cases::protocol::{GUEST_LOST, HOST_IN_GUEST};
use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_guest_debug, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    Msrs, KVMIO, KVM_EXIT_INTERNAL_ERROR, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP,
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::thread::gettid;
use vmm_sys_util::{
    ioctl::{ioctl_with_mut_ref, ioctl_with_ptr},
    ioctl_ior_nr, ioctl_iow_nr,
    signal::{register_signal_handler, Killable, SIGRTMIN},
};

use super::{
    code::{self, Program, READY_PORT, SPIN_PAUSE_LEN},
    forger::Forger,
    intruder::Intruder,
    lone::Lone,
    manner::{masked_signal, Conduct, Manner},
    mapping::{to_usize, Mapping},
    mode::{self, Mode, TABLE_OPERANDS},
    nested,
    ring::Event,
    Userfault,
};
use crate::process::{has_feature, process_state, thread_state, wait_or, wait_until};

ioctl_ior_nr!(KVM_GET_SREGS, KVMIO, 0x83, kvm_sregs);
ioctl_iow_nr!(KVM_SET_REGS, KVMIO, 0x82, kvm_regs);

/// The guest-physical address of the first program.
const CODE: u64 = 0x8000;
/// The distance between two programs.
const CODE_STEP: u64 = 0x200;
/// The guest-physical address of the first vCPU's own memory. Real mode can reach the first ones.
const DATA: u64 = 0xa000;
/// The size of each vCPU's own memory.
const DATA_STEP: u64 = 0x1000;

/// The offset of the flags in KVM's clock (`struct pvclock_vcpu_time_info`).
pub(crate) const CLOCK_FLAGS: u64 = 29;
/// `PVCLOCK_GUEST_STOPPED`.
pub(crate) const CLOCK_GUEST_STOPPED: u8 = 1 << 1;

/// Where [`Work::Mmio`] reads. No case has memory there.
const HOLE: u64 = 0x8_0000;

/// The first address behind that.
const HOLE_END: u64 = HOLE + 0x10;

/// The byte that it reads.
pub(crate) const MMIO_BYTE: u8 = 0x3c;

/// The port of [`Work::PortIo`].
const IO_PORT: u64 = 0x20;

/// The work of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Spins at one instruction.
    Spin,
    /// Halts, in the kernel.
    Halt,
    /// Reads and writes a port all the time. The VMM checks what it writes.
    PortIo,
    /// Counts, and keeps the sum.
    Count,
    /// Runs a guest of its own, which counts, too.
    Nested,
    /// Exits from the guest once. The thread stays in user space then.
    UserSpace,
    /// Reads where there is no memory. The thread has the answer, and stays in user space then.
    Mmio,
    /// Loads every register, and halts.
    RegistersHalt,
    /// Loads every register, and spins.
    RegistersSpin,
}

impl Work {
    const ALL: [fn() -> Program; 14] = [
        code::spin,
        code::halt,
        code::port_io,
        code::count,
        code::long_halt,
        code::long_spin,
        code::protected_halt,
        code::protected_spin,
        code::real_halt,
        code::real_spin,
        code::mmio,
        code::nested,
        code::nested_guest,
        code::bare_spin,
    ];

    /// Returns the index of its program for this mode.
    fn program(self, mode: Mode) -> usize {
        let registers = match mode {
            Mode::Long | Mode::LongLa57 => 4,
            Mode::Protected | Mode::ProtectedPaging | Mode::ProtectedPae | Mode::Compatibility => 6,
            Mode::Real => 8,
            // Privilege level 3 may neither load the registers nor halt.
            Mode::LongUser => return SPIN,
        };
        match self {
            Self::Spin | Self::UserSpace if pauses_exit() => 13,
            Self::Spin | Self::UserSpace => SPIN,
            Self::Halt => 1,
            Self::PortIo => 2,
            Self::Count => 3,
            Self::Mmio => 10,
            Self::Nested => 11,
            Self::RegistersHalt => registers,
            Self::RegistersSpin => registers + 1,
        }
    }

    fn halts(self) -> bool {
        matches!(self, Self::Halt | Self::RegistersHalt)
    }
}

/// The index of the program that spins with a `pause`.
const SPIN: usize = 0;

/// Returns whether a loop of `pause` may cause an exit, as on Intel's processors. Spinning guests
/// then do without.
fn pauses_exit() -> bool {
    static IS_INTEL: LazyLock<bool> = LazyLock::new(|| has_feature("vmx"));
    *IS_INTEL
}

/// Writes all programs into guest memory that begins at address 0.
pub(crate) fn write_programs(memory: &Mapping) {
    for (address, program) in (CODE..DATA).step_by(to_usize(CODE_STEP)).zip(Work::ALL) {
        let code = program().code;
        assert!(code.len() as u64 <= CODE_STEP, "the program has its place");
        memory.write(address, code);
    }
}

/// The count of a vCPU that does [`Work::Count`], from guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

/// The state that the VMM and the vCPU's thread share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The thread's number, when it runs.
    tid: AtomicI32,
    /// Whether the program has said that it runs.
    ready: AtomicBool,
    /// How often `KVM_RUN` was called.
    entries: AtomicU64,
    /// How often `KVM_RUN` returned `EINTR` without a reason that the VMM knows.
    interruptions: AtomicU64,
    /// Whether the thread stays in user space.
    stays_outside: AtomicBool,
    /// How often a number went through the port.
    rounds: AtomicU64,
    /// How often a call returned `EINTR` for a signal of the manner.
    expected_interruptions: AtomicU64,
    /// Whether the process goes on if the guest is lost.
    may_be_lost: AtomicBool,
    /// Whether the guest was lost.
    is_lost: AtomicBool,
    /// Whether the guest was waited for in vain: the thread is to say in which state it is.
    is_stuck: AtomicBool,
}

enum Thread {
    Stopped(Box<Runner>),
    Running(JoinHandle<Box<Runner>>),
    /// A process of its own runs it in place of the thread.
    Lone(Lone, Box<Runner>),
    /// Neither, while one replaces the other.
    None,
}

/// A vCPU.
pub(crate) struct Vcpu {
    thread: Thread,
    shared: Arc<Shared>,
    memory: Option<Arc<Mapping>>,
    id: u64,
    mode: Mode,
    work: Work,
    first_regs: kvm_regs,
    /// The number of its `KVM_RUN` calls until it is at work.
    entries_at_work: u64,
}

impl Vcpu {
    /// Creates a vCPU that is ready to run, in memory with tables and programs.
    pub(super) fn new(
        kvm: &Kvm,
        vm: &VmFd,
        id: u64,
        mode: Mode,
        work: Work,
        memory: Option<Arc<Mapping>>,
    ) -> Self {
        let fd = vm.create_vcpu(id).expect("a vCPU can be made");
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .expect("KVM knows its CPUID");
        fd.set_cpuid2(&cpuid).expect("KVM takes its own CPUID");
        if let Some(memory) = &memory {
            mode::write_descriptors(memory, DATA + id * DATA_STEP);
        }
        let mut sregs = fd.get_sregs().expect("the registers can be read");
        mode.set(&mut sregs, DATA + id * DATA_STEP);
        fd.set_sregs(&sregs).expect("the registers are consistent");
        // All but the first vCPU wait for a start-up interrupt otherwise.
        let runnable = kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        fd.set_mp_state(runnable)
            .expect("the vCPU can be made runnable");
        if work == Work::Nested {
            let memory = memory.as_ref().expect("it needs memory");
            sregs.efer |= nested::EFER_SVME;
            fd.set_sregs(&sregs).expect("the registers are consistent");
            set_msr(&fd, nested::MSR_HOST_SAVE_AREA, nested::HOST_SAVE_AREA);
            nested::write_control_block(memory, &sregs, final_loop_address(NESTED_GUEST));
        }
        let first_regs = first_registers(id, mode, work);
        fd.set_regs(&first_regs).expect("the registers can be set");
        let shared = Arc::<Shared>::default();
        let runner = Runner {
            fd,
            shared: shared.clone(),
            work,
            given: None,
            conduct: Conduct::new(Manner::Plain),
        };
        Self {
            thread: Thread::Stopped(Box::new(runner)),
            shared,
            memory,
            id,
            mode,
            work,
            first_regs,
            entries_at_work: 0,
        }
    }

    /// Gives the guest KVM's clock at this address, as if the guest had asked for it. It must not
    /// run.
    pub(crate) fn set_clock(&mut self, gpa: u64) {
        // `MSR_KVM_SYSTEM_TIME_NEW` of `Documentation/virt/kvm/x86/msr.rst`; bit 0 turns it on.
        set_msr(self.fd(), 0x4b56_4d01, gpa | 1);
    }

    /// Returns the addresses of the programs of [`Work::Nested`] and of its inner guest.
    pub(crate) fn nested_programs(&self) -> [Range<u64>; 2] {
        [self.work.program(self.mode), NESTED_GUEST].map(|index| {
            let start = final_loop_address(index);
            start..program_address(index) + Work::ALL[index]().code.len() as u64
        })
    }

    /// Returns its mode.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns its work.
    pub(crate) fn work(&self) -> Work {
        self.work
    }

    /// Starts a thread that runs it.
    pub(crate) fn start(&mut self) {
        self.start_thread(Runner::run);
    }

    /// Starts a thread that calls `KVM_RUN` again and again without entering the guest. All stays
    /// as the last exit left it, but for what KVM completes.
    pub(crate) fn start_without_guest(&mut self) {
        self.start_thread(Runner::run_without_guest);
        let from = self.entries();
        wait_until("KVM_RUN is called", || self.entries() > from);
    }

    /// Starts a process that runs it. That shares all with the VMM, and [`Self::stop`] kills it.
    /// The vCPU must halt, as it has done before.
    pub(crate) fn start_in_process(&mut self) {
        assert!(self.work.halts() && self.shared.ready.load(SeqCst));
        let Thread::Stopped(runner) = std::mem::replace(&mut self.thread, Thread::None) else {
            panic!("it runs already");
        };
        let process = Lone::start(&runner.fd);
        let pid = process.pid();
        self.thread = Thread::Lone(process, runner);
        wait_until("the vCPU halts in the kernel", || process_state(pid) == 'S');
    }

    /// Returns the number of that process.
    pub(crate) fn pid(&self) -> i32 {
        match &self.thread {
            Thread::Lone(process, _) => process.pid(),
            _ => panic!("vCPU {} runs in no process of its own", self.id),
        }
    }

    fn start_thread(&mut self, run: fn(&mut Runner)) {
        register_stop_signal();
        let Thread::Stopped(mut runner) = std::mem::replace(&mut self.thread, Thread::None) else {
            panic!("it runs already");
        };
        self.shared.stop.store(false, SeqCst);
        self.shared.tid.store(0, SeqCst);
        let first_exit = u64::from(!self.shared.ready.load(SeqCst));
        self.entries_at_work = self.entries() + first_exit + 1;
        let thread = thread::Builder::new().name(format!("vcpu {}", self.id));
        let thread = thread.spawn(move || {
            runner
                .shared
                .tid
                .store(gettid().as_raw_nonzero().get(), SeqCst);
            run(&mut runner);
            runner
        });
        self.thread = Thread::Running(thread.expect("a thread can be made"));
    }

    /// Waits until it does its work.
    pub(crate) fn wait_until_at_work(&mut self) {
        let shared = &self.shared;
        wait_until("the guest says that it runs", || shared.ready.load(SeqCst));
        match self.work {
            Work::UserSpace | Work::Mmio => self.wait_until_outside(),
            Work::PortIo => {
                wait_until("numbers go through the port", || {
                    shared.rounds.load(SeqCst) > 2
                });
            }
            Work::Count | Work::Nested => {
                let from = self.count();
                wait_until("the guest counts", || self.count() != from);
            }
            _ => {
                let has_entered = |vcpu: &Self| vcpu.entries() >= vcpu.entries_at_work;
                wait_until("the guest is entered", || has_entered(self));
                if self.work.halts() {
                    let tid = self.tid();
                    wait_until("the vCPU halts in the kernel", || thread_state(tid) == 'S');
                } else {
                    // Only its registers show that, which cannot be read while it runs.
                    wait_until("the guest spins", || {
                        self.stop();
                        let spins = self.is_in_final_loop(self.regs().rip);
                        self.start();
                        spins
                    });
                    wait_until("the guest is entered", || has_entered(self));
                }
            }
        }
    }

    /// Waits until its work has advanced, if that leaves a trace.
    pub(crate) fn wait_until_it_goes_on(&self) {
        match self.work {
            Work::Count | Work::Nested => {
                let steps = if self.work == Work::Count { 1000 } else { 10 };
                let from = self.count();
                self.wait_for_guest("the guest goes on counting", || {
                    self.count().0 > from.0 + steps
                });
            }
            Work::PortIo => {
                let from = self.rounds();
                self.wait_for_guest("the guest goes on with its port", || {
                    self.rounds() > from + 10
                });
            }
            _ => (),
        }
    }

    /// Waits for something that its guest does. If that does not come, its thread says why.
    fn wait_for_guest(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_or(what, condition, || {
            self.shared.is_stuck.store(true, SeqCst);
            // As in `stop`.
            for _ in 0..1000 {
                if self.runs() {
                    self.send_signal(SIGRTMIN());
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
    }

    /// Returns how far [`Work::Count`] is.
    pub(crate) fn count(&self) -> Count {
        let memory = self.memory.as_ref().expect("it runs in memory");
        Count(memory.read_u64(self.counter()))
    }

    /// Returns the guest-physical address of that number.
    pub(crate) fn counter(&self) -> u64 {
        DATA + self.id * DATA_STEP
    }

    /// Returns how often `KVM_RUN` was called.
    pub(crate) fn entries(&self) -> u64 {
        self.shared.entries.load(SeqCst)
    }

    /// Returns how often [`Work::PortIo`] wrote a number.
    pub(crate) fn rounds(&self) -> u64 {
        self.shared.rounds.load(SeqCst)
    }

    /// Returns how often `KVM_RUN` returned `EINTR` though the VMM had sent no signal.
    pub(crate) fn interruptions(&self) -> u64 {
        self.shared.interruptions.load(SeqCst)
    }

    /// Sets how its thread uses `KVM_RUN`. It must not run.
    pub(crate) fn set_manner(&mut self, manner: Manner) {
        match &mut self.thread {
            Thread::Stopped(runner) => runner.conduct = Conduct::new(manner),
            _ => panic!("vCPU {} runs", self.id),
        }
    }

    /// Returns what its thread waits for ([`Manner::Ring`]). It must not run.
    pub(crate) fn event(&self) -> Arc<Event> {
        match &self.thread {
            Thread::Stopped(runner) => runner.conduct.event(),
            _ => panic!("vCPU {} runs", self.id),
        }
    }

    /// Returns the number of its thread, which runs.
    pub(crate) fn tid(&self) -> i32 {
        self.shared.tid.load(SeqCst)
    }

    /// Sends the signal of [`Manner::SignalMask`] to its thread.
    pub(crate) fn send_masked_signal(&self) {
        assert!(self.send_signal(masked_signal()), "the signal is sent");
    }

    /// Sends a signal to its thread. Returns whether that was possible.
    pub(crate) fn send_signal(&self, signal: c_int) -> bool {
        match &self.thread {
            // `Killable::kill` takes an error for success: `pthread_kill` returns its number.
            // SAFETY: The thread is not joined, so that its handle is valid.
            Thread::Running(thread) => unsafe {
                libc::pthread_kill(thread.as_pthread_t(), signal) == 0
            },
            _ => panic!("vCPU {} does not run", self.id),
        }
    }

    /// Returns how many signals of its manner the thread has taken.
    pub(crate) fn signals_taken(&self) -> u64 {
        self.shared.expected_interruptions.load(SeqCst)
    }

    /// Lets the process go on if the guest is lost.
    pub(crate) fn let_guest_be_lost(&self) {
        self.shared.may_be_lost.store(true, SeqCst);
    }

    /// Returns whether the guest was lost.
    pub(crate) fn has_lost_guest(&self) -> bool {
        self.shared.is_lost.load(SeqCst)
    }

    /// Returns whether a thread runs it.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.thread, Thread::Running(_))
    }

    /// Stops it, wherever it is.
    pub(crate) fn stop(&mut self) {
        match std::mem::replace(&mut self.thread, Thread::None) {
            Thread::Running(thread) => {
                self.shared.stop.store(true, SeqCst);
                // The signal may come just before KVM_RUN, so one is not enough.
                while !thread.is_finished() {
                    thread.kill(SIGRTMIN()).expect("the thread is there");
                    thread::sleep(Duration::from_millis(1));
                }
                let runner = thread.join().expect("a panic would have ended the process");
                self.thread = Thread::Stopped(runner);
            }
            Thread::Lone(process, runner) => {
                process.kill();
                self.thread = Thread::Stopped(runner);
            }
            other => self.thread = other,
        }
    }

    /// Stops it, and checks that its work was not disturbed.
    pub(crate) fn finish(&mut self) {
        self.stop();
        assert_eq!(
            self.interruptions(),
            0,
            "EINTR that the VMM of vCPU {} saw",
            self.id
        );
        match self.work {
            _ if !self.shared.ready.load(SeqCst) => (),
            Work::Count => self.check_count(),
            Work::Nested => self.check_nested_counts(),
            Work::Spin | Work::UserSpace => self.check_registers(0),
            // The halt is complete: RIP is at the instruction after it.
            Work::Halt => self.check_registers(1),
            Work::PortIo => {
                let rounds = self.own_regs().rbx;
                let seen = self.rounds();
                // The guest may have written the last number, and not counted it yet.
                assert!(
                    rounds == seen || rounds + 1 == seen,
                    "{rounds} rounds, {seen} seen"
                );
            }
            Work::Mmio | Work::RegistersHalt | Work::RegistersSpin => (),
        }
    }

    /// Returns the general registers. It must not run.
    pub(crate) fn regs(&self) -> kvm_regs {
        self.fd().get_regs().expect("the registers can be read")
    }

    /// Returns the other registers. It must not run.
    pub(crate) fn sregs(&self) -> kvm_sregs {
        self.fd().get_sregs().expect("the registers can be read")
    }

    /// Returns a model-specific register. It must not run.
    pub(crate) fn msr(&self, index: u32) -> u64 {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry]).expect("one fits");
        assert_eq!(self.fd().get_msrs(&mut msrs), Ok(1), "MSR {index:#x}");
        msrs.as_slice()[0].data
    }

    /// Sets a model-specific register. It must not run.
    pub(crate) fn set_msr(&mut self, index: u32, data: u64) {
        set_msr(self.fd(), index, data);
    }

    /// Returns the debug registers. It must not run.
    pub(crate) fn debug_regs(&self) -> kvm_debugregs {
        let result = self.fd().get_debug_regs();
        result.expect("the registers can be read")
    }

    /// Sets the debug registers. It must not run.
    pub(crate) fn set_debug_regs(&mut self, registers: &kvm_debugregs) {
        let result = self.fd().set_debug_regs(registers);
        result.expect("the registers are consistent");
    }

    /// Returns XCR0; [`None`] if the processor has none. It must not run.
    pub(crate) fn xcr0(&self) -> Option<u64> {
        let xcrs = self.fd().get_xcrs().ok()?;
        xcrs.xcrs
            .iter()
            .take(to_usize(xcrs.nr_xcrs.into()))
            .find(|xcr| xcr.xcr == 0)
            .map(|xcr| xcr.value)
    }

    /// Starts a thread that writes lies into its `kvm_run` page. It must not run.
    pub(crate) fn forge(&self) -> Forger {
        // SAFETY: The descriptor is open, and borrowed for this call only.
        Forger::start(unsafe { BorrowedFd::borrow_raw(self.fd().as_raw_fd()) })
    }

    /// Starts a second thread that can run it, and does when told so ([`Work::Count`]). It must not
    /// run.
    pub(crate) fn second_thread(&self) -> Intruder {
        // SAFETY: The descriptor is open, and borrowed for this call only.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd().as_raw_fd()) };
        let memory = self.memory.clone().expect("it runs in memory");
        let address = DATA + self.id * DATA_STEP;
        let fd = fd.try_clone_to_owned().expect("there can be one more");
        Intruder::start(fd, move || memory.read_u64(address))
    }

    /// Sets CR8. It must not run.
    pub(crate) fn set_cr8(&mut self, cr8: u64) {
        let sregs = kvm_sregs {
            cr8,
            ..self.sregs()
        };
        let result = self.fd().set_sregs(&sregs);
        result.expect("the registers are consistent");
    }

    /// Sets where it goes on, and its stack. It must not run.
    pub(crate) fn set_start(&mut self, rip: u64, stack: u64) {
        let regs = kvm_regs {
            rip,
            rsp: stack,
            ..self.regs()
        };
        let result = self.fd().set_regs(&regs);
        result.expect("the registers can be set");
    }

    /// Lets its stack begin where there is no memory, at the address that is returned. It must not
    /// run.
    pub(crate) fn set_stack_in_hole(&mut self, rip: u64) -> u64 {
        self.set_start(rip, HOLE);
        HOLE
    }

    /// Takes its interrupt table away, so that each exception is a triple fault. It must not run.
    pub(crate) fn take_interrupt_table(&mut self) {
        let sregs = kvm_sregs {
            idt: kvm_dtable::default(),
            ..self.sregs()
        };
        let result = self.fd().set_sregs(&sregs);
        result.expect("the registers are consistent");
    }

    /// Has KVM step the guest, as a debugger in the VMM does. It must not run.
    pub(crate) fn single_step(&mut self) {
        let debug = kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            ..kvm_guest_debug::default()
        };
        let result = self.fd().set_guest_debug(&debug);
        result.expect("KVM can step");
    }

    /// Asks for an interrupt to system management mode. It must not run.
    pub(crate) fn interrupt_to_smm(&mut self) {
        let result = self.fd().smi();
        result.expect("KVM has that mode");
    }

    /// Returns whether it is in system management mode. It must not run.
    pub(crate) fn is_in_smm(&self) -> bool {
        let events = self.fd().get_vcpu_events();
        events.expect("the state can be read").smi.smm != 0
    }

    /// Waits until the thread stays in user space.
    pub(crate) fn wait_until_outside(&self) {
        wait_until("the thread is in user space", || {
            self.shared.stays_outside.load(SeqCst)
        });
    }

    /// Returns its file descriptor. It must not run.
    pub(crate) fn file_number(&self) -> i32 {
        self.fd().as_raw_fd()
    }

    /// Calls `KVM_SET_REGS` with registers from a page that has to be waited for, and puts the old
    /// ones back. It must not run.
    pub(crate) fn set_regs_from(&self, fault: &Userfault) {
        let saved = self.regs();
        let address = ptr::with_exposed_provenance::<kvm_regs>(to_usize(fault.address()));
        // SAFETY: The page at the address is large enough for the registers, and is only read.
        let result = unsafe { ioctl_with_ptr(self.fd(), KVM_SET_REGS(), address) };
        assert_eq!(result, 0, "the registers were set");
        self.fd()
            .set_regs(&saved)
            .expect("the registers can be set");
    }

    fn fd(&self) -> &VcpuFd {
        match &self.thread {
            Thread::Stopped(runner) => &runner.fd,
            _ => panic!("vCPU {} runs", self.id),
        }
    }

    /// Returns the address of the loop that its program ends in.
    pub(crate) fn final_loop_address(&self) -> u64 {
        final_loop_address(self.work.program(self.mode))
    }

    /// Returns whether RIP is in that loop, for a program that spins.
    pub(crate) fn is_in_final_loop(&self, rip: u64) -> bool {
        let pause = self.final_loop_address() + SPIN_PAUSE_LEN;
        let has_pause = self.work.program(self.mode) == SPIN;
        rip == self.final_loop_address() || (has_pause && rip == pause)
    }

    /// Checks that both guests have counted as far as each other, but for one step.
    fn check_nested_counts(&self) {
        let memory = self.memory.as_ref().expect("it runs in memory");
        let data = DATA + self.id * DATA_STEP;
        let (outer, inner) = (memory.read_u64(data), memory.read_u64(data + 8));
        assert!(
            outer > 0 && (inner == outer || inner == outer + 1),
            "the outer guest has counted {outer}, the inner one {inner}"
        );
    }

    /// Returns the general registers, which must be the guest's. It must not run.
    fn own_regs(&self) -> kvm_regs {
        let regs = self.regs();
        assert!(!has_registers_of_host(&regs), "{HOST_IN_GUEST}: {regs:#x?}");
        regs
    }

    /// Checks that the registers are the first ones, but for RIP.
    fn check_registers(&self, offset: u64) {
        let rip = match self.work {
            // KVM completes the exit in the next KVM_RUN, which never came.
            Work::UserSpace => self.first_regs.rip,
            _ => self.final_loop_address() + offset,
        };
        let mut regs = self.own_regs();
        if self.work == Work::Spin && self.is_in_final_loop(regs.rip) {
            // RIP is at one of the loop's two instructions.
            regs.rip = rip;
        }
        let expected = kvm_regs {
            rip,
            ..self.first_regs
        };
        assert_eq!(regs, expected, "registers of vCPU {}", self.id);
    }

    /// Checks that the count and the sum agree, in registers and in memory, and that all else is
    /// unchanged.
    fn check_count(&self) {
        let regs = self.own_regs();
        let memory = self.memory.as_ref().expect("it runs in memory");
        let data = DATA + self.id * DATA_STEP;
        let (count, sum) = (memory.read_u64(data), memory.read_u64(data + 8));
        assert!(count > 0, "it has counted");
        // When it stopped, one of them may be a step ahead.
        let agree = |count: u64, sum| [sum_to(count), sum_to(count - 1)].contains(&sum);
        assert!(
            agree(regs.rax, regs.rbx),
            "count {:#x}, sum {:#x}",
            regs.rax,
            regs.rbx
        );
        assert!(
            agree(count, sum),
            "in memory: count {count:#x}, sum {sum:#x}"
        );
        assert!(
            regs.rax - count <= 1,
            "count {:#x}, in memory {count:#x}",
            regs.rax
        );
        let expected = kvm_regs {
            rip: regs.rip,
            rflags: regs.rflags,
            rax: regs.rax,
            rbx: regs.rbx,
            ..self.first_regs
        };
        assert_eq!(regs, expected, "registers of vCPU {}", self.id);
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        }
    }
}

/// Calls `KVM_GET_SREGS` on a vCPU's file, from any thread.
pub(crate) fn get_sregs(file: i32) {
    // SAFETY: The file is that of a vCPU, which the caller keeps open.
    let file = unsafe { BorrowedFd::borrow_raw(file) };
    let mut sregs = kvm_sregs::default();
    // SAFETY: The registers are valid for writing.
    let result = unsafe { ioctl_with_mut_ref(&file, KVM_GET_SREGS(), &mut sregs) };
    assert_eq!(result, 0, "the registers can be read");
}

/// Returns 1 + 2 + … + `count`, modulo 2⁶⁴.
fn sum_to(count: u64) -> u64 {
    let count = u128::from(count);
    u64::try_from((count * (count + 1) / 2) & u128::from(u64::MAX)).expect("it was cut to 64 bits")
}

/// The index of the inner guest's program.
const NESTED_GUEST: usize = 12;

fn set_msr(fd: &VcpuFd, index: u32, data: u64) {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[entry]).expect("one fits");
    assert_eq!(fd.set_msrs(&msrs), Ok(1), "MSR {index:#x} can be set");
}

/// Returns the address of the loop that a program ends in.
fn final_loop_address(index: usize) -> u64 {
    program_address(index) + Work::ALL[index]().final_loop
}

fn program_address(index: usize) -> u64 {
    CODE + index as u64 * CODE_STEP
}

/// Returns the first general registers. No two values are the same, in any two vCPUs.
fn first_registers(id: u64, mode: Mode, work: Work) -> kvm_regs {
    let mark = |register: u64| {
        let low = 0x5a00_00a5 | (id << 16) | (register << 8);
        match mode {
            Mode::Long | Mode::LongUser | Mode::LongLa57 => 0x1234_5678_0000_0000 | low,
            _ => low,
        }
    };
    let data = DATA + id * DATA_STEP;
    let mut regs = kvm_regs {
        rip: program_address(work.program(mode)),
        rflags: mode.flags(),
        rax: mark(0),
        rbx: mark(1),
        rcx: mark(2),
        rdx: mark(3),
        rsi: mark(4),
        rdi: mark(5),
        rsp: mark(6),
        rbp: mark(7),
        r8: mark(8),
        r9: mark(9),
        r10: mark(10),
        r11: mark(11),
        r12: mark(12),
        r13: mark(13),
        r14: mark(14),
        r15: mark(15),
    };
    match work {
        Work::Count => {
            (regs.rax, regs.rbx) = (0, 0);
            regs.rdi = data;
        }
        Work::PortIo => {
            regs.rbx = 0;
            regs.rdx = IO_PORT;
        }
        Work::Mmio => regs.rsi = HOLE,
        Work::Nested => {
            regs.rax = nested::VMCB;
            regs.rdi = data;
        }
        Work::RegistersHalt | Work::RegistersSpin => regs.rdi = data + TABLE_OPERANDS,
        Work::Spin | Work::Halt | Work::UserSpace => (),
    }
    regs
}

/// Returns the number that [`Work::PortIo`] reads in a round, counted from 0. Nothing else has it
/// by accident.
pub(crate) fn port_number(round: u64) -> u32 {
    let round = u32::try_from(round).expect("a case is short");
    round.wrapping_mul(0x9e37_79b9)
}

/// Returns whether a guest has its host's registers: those that VMRUN saves hold addresses of a
/// kernel, which no guest's program has.
fn has_registers_of_host(regs: &kvm_regs) -> bool {
    // With five levels of page tables.
    const KERNEL: u64 = 0xff00_0000_0000_0000;
    const KERNEL_TEXT: u64 = 0xffff_ffff_8000_0000;
    regs.rip >= KERNEL_TEXT && regs.rsp >= KERNEL
}

/// Returns the last exit with its details, and the registers.
fn describe_last_exit(fd: &mut VcpuFd) -> String {
    let run = fd.get_kvm_run();
    let reason = run.exit_reason;
    let error = if reason == KVM_EXIT_INTERNAL_ERROR {
        // SAFETY: It is valid with this exit reason.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let data = internal.data.iter().take(to_usize(internal.ndata.into()));
        format!(" ({}; {:#x?})", internal.suberror, data.collect::<Vec<_>>())
    } else {
        String::new()
    };
    let (regs, sregs) = (fd.get_regs(), fd.get_sregs());
    let (regs, sregs) = (regs.unwrap_or_default(), sregs.unwrap_or_default());
    format!(
        "exit {reason}{error}, host's registers: {}, {regs:#x?} cr0={:#x} cr2={:#x} \
         cr3={:#x} cr4={:#x} efer={:#x} \
         cs={:#x?}",
        has_registers_of_host(&regs),
        sregs.cr0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        sregs.efer,
        sregs.cs,
    )
}

/// The state of a vCPU's thread.
struct Runner {
    fd: VcpuFd,
    shared: Arc<Shared>,
    work: Work,
    /// The number that the guest has read from the port last, until it writes one.
    given: Option<u32>,
    conduct: Conduct,
}

impl Runner {
    fn run(&mut self) {
        self.conduct.begin(&mut self.fd);
        while !self.shared.stop.load(SeqCst) {
            if self.step().is_break() {
                // It does not run again until it is told to stop.
                self.shared.stays_outside.store(true, SeqCst);
                while !self.shared.stop.load(SeqCst) {
                    let undisturbed = self.conduct.wait_outside();
                    if !undisturbed && !self.shared.stop.load(SeqCst) {
                        self.shared.interruptions.fetch_add(1, SeqCst);
                    }
                }
                self.shared.stays_outside.store(false, SeqCst);
            }
        }
        self.conduct.end(&mut self.fd);
    }

    fn run_without_guest(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        while !self.shared.stop.load(SeqCst) {
            self.shared.entries.fetch_add(1, SeqCst);
            let result = self.fd.run();
            assert!(
                matches!(&result, Err(error) if error.errno() == libc::EINTR),
                "without the guest: {result:?}"
            );
            let run = self.fd.get_kvm_run();
            assert_eq!(run.immediate_exit, 1, "immediate_exit was changed");
            assert_eq!(run.kvm_valid_regs, 0, "kvm_valid_regs was changed");
        }
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Ends the process, with the state that the guest is in.
    fn fail(&mut self, why: &str) -> ! {
        let regs = self.fd.get_regs().expect("the registers can be read");
        let why = if has_registers_of_host(&regs) {
            HOST_IN_GUEST
        } else {
            why
        };
        panic!("{why}: {}", describe_last_exit(&mut self.fd));
    }

    /// Runs the guest until its next exit.
    fn step(&mut self) -> ControlFlow<()> {
        self.shared.entries.fetch_add(1, SeqCst);
        self.conduct.before(&mut self.fd);
        let shared = &self.shared;
        let mut interrupted = false;
        let mut flow = ControlFlow::Continue(());
        match self.fd.run() {
            Ok(VcpuExit::IoOut(READY_PORT, _)) => {
                shared.ready.store(true, SeqCst);
                if self.work == Work::UserSpace {
                    flow = ControlFlow::Break(());
                }
            }
            Ok(VcpuExit::MmioRead(HOLE..HOLE_END, data)) if self.work == Work::Mmio => {
                data.fill(MMIO_BYTE);
                flow = ControlFlow::Break(());
            }
            Ok(VcpuExit::IoIn(port, data)) if u64::from(port) == IO_PORT => {
                assert_eq!(self.given, None, "the guest reads, though it should write");
                let number = port_number(shared.rounds.load(SeqCst));
                data.copy_from_slice(&number.to_le_bytes());
                self.given = Some(number);
            }
            Ok(VcpuExit::IoOut(port, data)) if u64::from(port) == IO_PORT => {
                let number = u32::from_le_bytes(data.try_into().expect("4 bytes"));
                let given = self
                    .given
                    .take()
                    .expect("the guest writes, though it should read");
                assert_eq!(
                    number,
                    given.wrapping_add(1),
                    "what the guest makes of {given:#x}"
                );
                shared.rounds.fetch_add(1, SeqCst);
            }
            Ok(VcpuExit::Shutdown | VcpuExit::InternalError | VcpuExit::FailEntry(..))
                if shared.may_be_lost.load(SeqCst) =>
            {
                shared.is_lost.store(true, SeqCst);
                flow = ControlFlow::Break(());
            }
            Ok(VcpuExit::Shutdown) => panic!("{GUEST_LOST}"),
            Ok(VcpuExit::InternalError) => self.fail("KVM has failed"),
            Ok(exit) => panic!("unexpected exit of the guest: {exit:?}"),
            Err(error) if error.errno() == libc::EINTR => interrupted = true,
            Err(error) => panic!("KVM_RUN: {error}"),
        }
        if shared.is_stuck.load(SeqCst) {
            self.fail("the guest does not go on");
        }
        let is_expected = self.conduct.after(&mut self.fd, interrupted);
        if is_expected {
            self.shared.expected_interruptions.fetch_add(1, SeqCst);
        } else if interrupted && !self.shared.stop.load(SeqCst) {
            // The stop signal did not cause this.
            self.shared.interruptions.fetch_add(1, SeqCst);
        }
        flow
    }
}

/// Registers a handler for the signal that stops vCPUs. Without one it would end the process.
fn register_stop_signal() {
    extern "C" fn nothing(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        register_signal_handler(SIGRTMIN(), nothing).expect("the signal is valid");
    });
}
