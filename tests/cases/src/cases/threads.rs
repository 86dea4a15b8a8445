// SPDX-License-Identifier: GPL-2.0

//! The threads of vCPUs are disturbed in many ways while their VM is inspected again and again.

use std::{
    process,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use kvm_inspect_tool::report::{Conclusion, Report, State};
use rustix::process::Signal;
use vmm_sys_util::signal::{register_signal_handler, SIGRTMIN};

use super::{life::set_tracing, meanwhile::inspect_while, times, Case, Random};
use crate::{
    inspect::Inspection,
    process::{thread_state, wait_until},
    ptrace::Tracer,
    role::{hear, say, Other, Role},
    vmm::{get_sregs, Manner, Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    signals,
    stopped,
    traced,
    system_calls_traced,
    change,
    vcpus_added,
    other_ioctl,
    io_uring.with_stock(),
    io_uring_before_call.with_stock(),
];

pub(super) const MEASUREMENTS: &[Case] = cases![alone.within(1800), probed_alone.within(1800)];

pub(super) const ROLES: &[Role] = roles![takes_signals, waits_for_event];

const WORKS: [Work; 4] = [Work::Count, Work::PortIo, Work::Halt, Work::Spin];

fn vm(manner: Manner) -> Vm {
    let mut vm = Vm::bootable();
    for work in WORKS {
        vm.add_vcpu(Mode::Long, work).set_manner(manner);
    }
    vm.start();
    vm
}

fn assert_ok(report: &Report) {
    assert_eq!(report.done.result, Conclusion::NoPattern);
}

/// They get signals by the thousand, and take each one once.
fn signals() {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    extern "C" fn count(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        TAKEN.fetch_add(1, SeqCst);
    }
    let signal = SIGRTMIN() + 2;
    register_signal_handler(signal, count).expect("the signal is valid");
    let mut vm = vm(Manner::Handled);
    let mut sent = 0;
    inspect_while(
        Inspection::of_self(),
        40,
        || {
            for vcpu in &*vm.vcpus() {
                // These signals are queued, and the queue may be full.
                sent += (0..20).filter(|_| vcpu.send_signal(signal)).count() as u64;
            }
        },
        assert_ok,
    );
    wait_until("all signals are taken", || TAKEN.load(SeqCst) == sent);
    println!("counted: signals={sent}");
    assert!(sent > u64::from(times(1000)), "{sent}");
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// They are stopped, and go on, with their VMM.
fn stopped() {
    let mut vmm = Other::start("takes_signals", &[]);
    vmm.hear();
    // Each state lasts long enough for an inspection.
    let mut loaded = Inspection::of(vmm.pid()).set("interval_ms", 1).load();
    for (signal, state) in [
        (Signal::STOP, State::Outside),
        (Signal::CONT, State::Parked),
    ] {
        vmm.signal(signal);
        wait_until("an inspection of all in this state", || {
            let reports = loaded.reports();
            reports.iter().for_each(assert_ok);
            reports
                .iter()
                .any(|report| report.states() == [state; WORKS.len()])
        });
    }
    loaded.unload();
    // Change it at any moment.
    let mut random = Random::new();
    let (mut stops, mut parked, mut outside) = (0, 0, 0);
    inspect_while(
        Inspection::of(vmm.pid()),
        60,
        || {
            vmm.signal(Signal::STOP);
            random.pause(Duration::from_millis(20));
            stops += 1;
            vmm.signal(Signal::CONT);
            random.pause(Duration::from_millis(20));
        },
        |report| {
            assert_ok(report);
            for state in report.states() {
                match state {
                    State::Parked => parked += 1,
                    State::Outside => outside += 1,
                    State::Running => panic!("that was not asked for"),
                }
            }
        },
    );
    println!("counted: stops_by_a_signal={stops}");
    println!("vCPUs parked {parked} times, outside {outside} times");
    vmm.tell("end");
    vmm.finish();
}

/// A debugger stops them one by one, and reads their registers.
fn traced() {
    let (mut vmm, tracers) = start_traced();
    let mut random = Random::new();
    let mut stops = 0;
    inspect_while(
        Inspection::of(vmm.pid()),
        60,
        || {
            let index = random.below(WORKS.len() as u64);
            let tracer = &tracers[usize::try_from(index).expect("small")];
            tracer.interrupt();
            tracer.registers();
            random.pause(Duration::from_millis(10));
            tracer.go_on();
            stops += 1;
        },
        assert_ok,
    );
    println!("counted: stops_by_a_debugger={stops}");
    drop(tracers);
    vmm.tell("end");
    vmm.finish();
}

/// A debugger stops a thread where its system calls end, as strace does, and holds it there until
/// the inspection is over. Its VMM does not see that the module has ended `KVM_RUN`.
fn system_calls_traced() {
    const LONGEST: Duration = Duration::from_millis(400);

    let mut vmm = Other::start("takes_signals", &[]);
    let line = vmm.hear();
    let thread = line.split(' ').next().expect("a number");
    let thread = thread.parse().expect("a number");
    let pid = vmm.pid();
    let inspect = || Inspection::of(pid).report_by_insmod();
    let begun = Instant::now();
    assert_ok(&inspect());
    let hold = (2 * begun.elapsed()).min(LONGEST);
    let tracer = Tracer::seize(thread);
    // That ends KVM_RUN, without the module, too.
    tracer.interrupt();
    tracer.go_on_to_system_call();
    wait_until("the next KVM_RUN begins", || tracer.has_stopped());
    tracer.go_on_to_system_call();
    let before = vmm.ask("ended");
    let mut stops = 0;
    for _ in 0..times(10) {
        thread::scope(|scope| {
            let inspection = scope.spawn(inspect);
            while !inspection.is_finished() {
                if tracer.has_stopped() {
                    thread::sleep(hold);
                    tracer.go_on_to_system_call();
                    stops += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            assert_ok(&inspection.join().expect("it ends"));
        });
    }
    assert!(stops >= 2 * times(10), "{stops} stops");
    assert_eq!(vmm.ask("ended"), before, "KVM_RUN ended");
    drop(tracer);
    vmm.tell("end");
    vmm.finish();
}

/// A debugger stops them all, without the module, which cannot be the cause if a guest is lost.
fn alone() {
    const STOPS: u32 = 50_000;
    let (mut vmm, tracers) = start_traced();
    let mut random = Random::new();
    for _ in 0..times(STOPS) {
        tracers.iter().for_each(Tracer::interrupt);
        for tracer in &tracers {
            tracer.registers();
        }
        tracers.iter().for_each(Tracer::go_on);
        random.pause(Duration::from_millis(2));
    }
    drop(tracers);
    vmm.tell("end");
    vmm.finish();
    println!(
        "no guest was lost in {STOPS} stops of {} vCPUs",
        WORKS.len()
    );
    println!("threads-alone: PASS");
}

/// A probe of the kernel's own tracer on `kvm_vcpu_ioctl` is switched on and off while threads call
/// it, without the module, which cannot be the cause if the host's kernel breaks.
fn probed_alone() {
    const CHANGES: u32 = 100_000;
    const CALLERS: usize = 2;
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Count);
    let file = vm.vcpu(0).file_number();
    let stop = AtomicBool::new(false);
    set_tracing(&[("kprobe_events", "p:kvm_enter kvm_vcpu_ioctl\n")]);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    get_sregs(file);
                }
            });
        }
        for _ in 0..times(CHANGES) {
            set_tracing(&[
                ("events/kprobes/enable", "1"),
                ("events/kprobes/enable", "0"),
            ]);
        }
        stop.store(true, SeqCst);
    });
    set_tracing(&[("kprobe_events", "\n")]);
    println!("the kernel was whole after {CHANGES} changes of a probe");
    println!("threads-probed-alone: PASS");
}

/// Starts a VMM, and attaches a debugger to the thread of each vCPU.
fn start_traced() -> (Other, Vec<Tracer>) {
    let mut vmm = Other::start("takes_signals", &[]);
    let line = vmm.hear();
    let threads = line.split(' ').map(|tid| tid.parse().expect("a number"));
    let tracers: Vec<Tracer> = threads.map(Tracer::seize).collect();
    assert_eq!(tracers.len(), WORKS.len());
    (vmm, tracers)
}

/// A VMM that takes signals at any time. It first prints the numbers of its vCPUs' threads, and
/// then, as often as it is asked, how often `KVM_RUN` has ended with `EINTR` in the first.
fn takes_signals(_: &[&str]) {
    let mut vm = vm(Manner::Handled);
    let threads: Vec<String> = vm.vcpus().iter().map(|v| v.tid().to_string()).collect();
    say(&threads.join(" "));
    while hear() == "ended" {
        say(&vm.vcpu(0).signals_taken().to_string());
    }
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// `KVM_RUN` is called from another thread than before, again and again.
fn change() {
    let mut vm = vm(Manner::Plain);
    let mut random = Random::new();
    let mut changes = 0;
    inspect_while(
        Inspection::of_self(),
        60,
        || {
            let index = random.below(WORKS.len() as u64);
            let vcpu = vm.vcpu(usize::try_from(index).expect("small"));
            vcpu.stop();
            random.pause(Duration::from_millis(5));
            vcpu.start();
            random.pause(Duration::from_millis(5));
            changes += 1;
        },
        assert_ok,
    );
    println!("counted: thread_changes={changes}");
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// A thread that has run the vCPU last waits in `epoll_wait`, while others make other ioctls on the
/// vCPU. It is not disturbed.
fn other_ioctl() {
    const LOOPS: usize = 3;
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::UserSpace)
        .set_manner(Manner::Polls);
    let file = vm.vcpu(0).file_number();
    vm.start();
    let stop = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..LOOPS {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    get_sregs(file);
                    calls.fetch_add(1, SeqCst);
                }
            });
        }
        inspect_while(
            Inspection::of_self(),
            100,
            || {
                let from = calls.load(SeqCst);
                wait_until("others work on the vCPU", || calls.load(SeqCst) > from);
            },
            |report| {
                assert_ok(report);
                assert_eq!(report.states(), [State::Outside]);
            },
        );
        stop.store(true, SeqCst);
    });
    println!("counted: other_ioctls={}", calls.load(SeqCst));
    vm.finish();
}

/// The VMM waits in `KVM_RUN` for its `io_uring`, whose completions end the call. Each one does so,
/// at any moment, and nothing else.
fn io_uring() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Halt).set_manner(Manner::Ring);
    let event = vm.vcpu(0).event();
    vm.start();
    let (vcpu, stop) = (vm.vcpu(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new();
            while !stop.load(SeqCst) {
                let from = event.taken();
                // Before that, a VMM misses an event without the module, too.
                wait_until("the VMM waits in KVM_RUN", || {
                    event.is_awaited() && matches!(thread_state(vcpu.tid()), 'S' | 'D')
                });
                random.pause(Duration::from_millis(3));
                // The second part often comes while the first one ends the call.
                event.happen(|| random.spin(Duration::from_micros(30)));
                wait_until("the event has ended KVM_RUN", || event.taken() > from);
            }
        });
        inspect_while(Inspection::of_self(), 60, || (), assert_ok);
        for _ in 0..times(10) {
            assert_ok(&Inspection::of_self().report_by_insmod());
        }
        stop.store(true, SeqCst);
    });
    let events = event.taken();
    assert!(events > u64::from(times(10)), "{events} events");
    println!("counted: events={events}");
    vm.finish();
}

/// The event comes just before a call of `KVM_RUN`, which is not one that the module has start over
/// again. So it does not end that, as it would not without the module: the VMM would take the exit
/// before, which it has dealt with, for a new one.
fn io_uring_before_call() {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    const KVM_RUN: u64 = 0xae80;

    let mut vmm = Other::start("waits_for_event", &[]);
    let thread = vmm.hear().parse().expect("a number");
    let mut loaded = Inspection::of(vmm.pid()).set("interval_ms", 1).load();
    loaded.next_reports();
    let tracer = Tracer::seize(thread);
    let is_at_syscall = |rip| tracer.peek(rip)[..2] == SYSCALL;
    for _ in 0..times(30) {
        tracer.interrupt();
        // A call that starts over comes to it directly from the end of the same call.
        let mut was_at_syscall = true;
        wait_until("it is about to call KVM_RUN for the first time", || {
            let registers = tracer.registers();
            let is_there = is_at_syscall(registers.rip);
            let is_call = registers.rax == libc::SYS_ioctl as u64 && registers.rsi == KVM_RUN;
            if is_there && is_call && !was_at_syscall {
                return true;
            }
            was_at_syscall = is_there;
            tracer.step();
            false
        });
        vmm.ask("happen");
        tracer.go_on();
        // The next stop ends the call in which the VMM has missed it.
        loaded.next_reports();
    }
    drop(tracer);
    loaded.unload();
    vmm.tell("end");
    vmm.finish();
}

/// A VMM that waits for one event in `KVM_RUN`. It says the number of its vCPU's thread.
fn waits_for_event(_: &[&str]) {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::PortIo)
        .set_manner(Manner::Ring);
    let event = vm.vcpu(0).event();
    vm.start();
    say(&vm.vcpu(0).tid().to_string());
    while hear() == "happen" {
        event.happen(|| ());
        say("it has happened");
    }
    vm.wait_until_it_goes_on();
    // A debugger ends calls, too: the usual checks would find that.
    process::exit(0);
}

/// vCPUs are added, and run at once. Each report has all vCPUs of some moment.
fn vcpus_added() {
    const MOST: usize = 8;
    let mut added = 0;
    for _ in 0..times(3) {
        let mut vm = Vm::running(Work::Count);
        let mut random = Random::new();
        let mut seen = Vec::new();
        let mut inspected = 0;
        inspect_while(
            Inspection::of_self(),
            20,
            || {
                random.pause(Duration::from_millis(30));
                if vm.vcpus().len() < MOST {
                    let work = WORKS[vm.vcpus().len() % WORKS.len()];
                    vm.add_vcpu(Mode::Long, work).start();
                    added += 1;
                }
            },
            |report| {
                assert_ok(report);
                seen.push(report.vcpus.len());
                inspected += 1;
            },
        );
        assert!(seen.is_sorted(), "{seen:?}");
        // The last ones may not have said yet that they run.
        vm.vcpus()
            .iter_mut()
            .for_each(crate::vmm::Vcpu::wait_until_at_work);
        let report = Inspection::of_self().report();
        assert_eq!(report.states(), vec![State::Parked; vm.vcpus().len()]);
        vm.wait_until_it_goes_on();
        vm.finish();
    }
    println!("counted: vcpus_added={added}");
}
