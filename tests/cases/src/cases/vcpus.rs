// SPDX-License-Identifier: GPL-2.0

//! Whatever vCPUs do, they park or are locked out, and then go on as if nothing had happened.

use std::{
    thread,
    time::{Duration, Instant},
};

use kvm_inspect_tool::report::{Conclusion, Report, Source, State};
use rustix::process::Signal;

use super::{
    search::{lengthen, long_us, MATCH},
    secret, times, Case,
};
use crate::{
    inspect::{hex, Inspection},
    process::wait_until,
    role::{hear, say, Other, Role},
    vmm::{
        Backing, Intruder, Manner, Mapping, Mode, Vcpu, Vm, Work, CLOCK_FLAGS, CLOCK_GUEST_STOPPED,
    },
};

pub(super) const CASES: &[Case] = cases![
    one_two_eight.with_stock(),
    spin.with_stock(),
    halt.with_stock(),
    port_io.with_stock(),
    user_space.with_stock(),
    never_ran.with_stock(),
    mixed,
    stopped_vmm,
    locked_out.with_stock(),
    vm_not_locked,
    many_outside,
    second_thread,
    kvmclock_ctrl.with_stock(),
];

pub(super) const ROLES: &[Role] = roles![counts];

/// Creates an inspection that finds a secret in the first page of the guest's memory.
fn inspection(vm: &Vm) -> Inspection {
    let secret = secret(70, 32);
    vm.write(0x800, &secret);
    Inspection::of_self().patterns(&[hex(&secret)])
}

/// Checks that the secret was found, and each vCPU's state.
fn check(report: &Report, vm: &Vm, states: &[State]) {
    assert_eq!(report.done.result, Conclusion::Ok);
    assert_eq!(report.states(), states);
    let ids: Vec<u64> = report.vcpus.iter().map(|vcpu| vcpu.id).collect();
    assert_eq!(ids, (0..states.len() as u64).collect::<Vec<_>>());
    assert_eq!(report.hits, vm.hits(0, &[0x800]));
}

/// Inspects once.
fn inspect(vm: &Vm, states: &[State]) {
    check(&inspection(vm).report(), vm, states);
}

/// Inspects `count` times without rest, and checks that the guest goes on in between.
fn inspect_often(vm: &Vm, states: &[State], count: u32) {
    let inspection = inspection(vm);
    for _ in 0..count {
        check(&inspection.report(), vm, states);
        vm.wait_until_it_goes_on();
    }
}

/// One, two and eight vCPUs that count.
fn one_two_eight() {
    for count in [1, 2, 8] {
        let mut vm = Vm::bootable();
        for _ in 0..count {
            vm.add_vcpu(Mode::Long, Work::Count);
        }
        vm.start();
        inspect_often(&vm, &vec![State::Parked; count], times(5));
        vm.finish();
    }
}

/// Two vCPUs that spin in the guest.
fn spin() {
    two_that(Work::Spin, State::Parked);
}

/// Two vCPUs that halt.
fn halt() {
    two_that(Work::Halt, State::Parked);
}

/// Two vCPUs that do port I/O.
fn port_io() {
    two_that(Work::PortIo, State::Parked);
}

/// Two vCPUs whose threads are in user space.
fn user_space() {
    two_that(Work::UserSpace, State::Outside);
}

/// Inspects two vCPUs that do the same.
fn two_that(work: Work, state: State) {
    let mut vm = Vm::bootable();
    for _ in 0..2 {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    inspect_often(&vm, &[state; 2], times(5));
    vm.finish();
}

/// The module calls `KVM_KVMCLOCK_CTRL` after pauses longer than this, in microseconds.
const REPORTED_PAUSE_US: u64 = 100_000;

/// A guest with KVM's clock is told of a long pause, and not of short ones.
fn kvmclock_ctrl() {
    let mut vm = Vm::bootable();
    // A vCPU that halts would be told when it next runs.
    for work in [Work::Count, Work::Spin, Work::PortIo] {
        vm.add_vcpu(Mode::Long, work);
    }
    for (id, vcpu) in (0..).zip(vm.vcpus()) {
        vcpu.set_clock(clock(id));
    }
    vm.start();
    check_short_pauses(&mut vm);

    // Many matches make the search slow.
    let memory = Mapping::new(256 << 10, Backing::Anonymous);
    memory.fill_all(&MATCH[..1]);
    let inspection = Inspection::of_self().patterns(&[hex(&MATCH)]);
    clear_clocks(&vm);
    let long_enough = |_: &Report| REPORTED_PAUSE_US * 3 / 2;
    lengthen(&mut vm, 1 << 20, &memory, &inspection, long_enough);
    wait_until("all vCPUs are told", || was_told(&vm) == [true; 3]);
    vm.finish();
}

/// Checks that the guest is not told of most short pauses.
///
/// On a slow or busy machine any pause may become a long one, and a thread may be parked for longer
/// than the pause.
fn check_short_pauses(vm: &mut Vm) {
    let inspection = Inspection::of_self();
    let (mut short, mut untold) = (0, 0);
    for _ in 0..100 {
        clear_clocks(vm);
        let reports = [(); 3].map(|()| inspection.report());
        vm.wait_until_it_goes_on();
        let told = was_told(vm);
        let is_short = |report: &Report| report.done.pause_us < REPORTED_PAUSE_US;
        let all_short = reports.iter().all(is_short);
        short += u32::from(all_short);
        untold += u32::from(all_short && told == [false; 3]);
        if short == 5 {
            break;
        }
    }
    assert!(
        untold > short / 2 || short == 0,
        "told of short pauses, all but {untold} of {short} times"
    );
    if short == 0 {
        println!("too slow to see that nothing is told of short pauses");
    }
}

/// Returns the guest-physical address of a vCPU's clock, in a page that nobody else uses.
fn clock(id: u64) -> u64 {
    0x200 + 0x40 * id
}

/// Clears the flags that tell the guest of a pause.
fn clear_clocks(vm: &Vm) {
    (0..3).for_each(|id| vm.write(clock(id) + CLOCK_FLAGS, &[0]));
}

/// Returns which vCPUs were told of a pause.
fn was_told(vm: &Vm) -> [bool; 3] {
    [0, 1, 2].map(|id| vm.read(clock(id) + CLOCK_FLAGS, 1)[0] & CLOCK_GUEST_STOPPED != 0)
}

/// vCPUs that never ran are locked out, and can run afterwards.
fn never_ran() {
    let mut vm = Vm::bootable();
    for _ in 0..2 {
        vm.add_vcpu(Mode::Long, Work::Count);
    }
    inspect(&vm, &[State::Outside; 2]);
    vm.vcpu(1).start();
    vm.vcpu(1).wait_until_at_work();
    inspect(&vm, &[State::Outside, State::Parked]);
    vm.vcpu(0).start();
    vm.vcpu(0).wait_until_at_work();
    inspect(&vm, &[State::Parked; 2]);
    // Its VMM has stopped it, and no kick finds it.
    vm.vcpu(1).stop();
    inspect(&vm, &[State::Parked, State::Outside]);
    vm.finish();
}

/// During a pause nobody can read or write the registers of a vCPU that is locked out.
fn locked_out() {
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Count);
    // Many matches make the search slow.
    let memory = Mapping::new(256 << 10, Backing::Anonymous);
    memory.fill_all(&MATCH[..1]);
    let inspection = Inspection::of_self().patterns(&[hex(&MATCH)]);
    lengthen(&mut vm, 1 << 20, &memory, &inspection, long_us);
    // On a busy machine the reading thread may be late.
    let mut tries = (0..20).map(|_| {
        let inspection = inspection.clone();
        let load = thread::spawn(move || inspection.report());
        let mut longest = Duration::ZERO;
        while !load.is_finished() {
            let begin = Instant::now();
            vm.vcpu(1).regs();
            longest = longest.max(begin.elapsed());
            // So that it can be locked out.
            thread::sleep(Duration::from_millis(1));
        }
        let report = load.join().expect("a panic would have ended the process");
        assert_eq!(report.states(), [State::Parked, State::Outside]);
        let stopped = report.done.pause_us - report.done.freeze_us;
        println!(
            "read the registers after {longest:?}; the pause after the freeze was {stopped} us"
        );
        longest > Duration::from_micros(stopped / 2)
    });
    assert!(
        tries.any(|locked_out| locked_out),
        "the registers could be read during the pause"
    );
    vm.vcpu(0).wait_until_it_goes_on();
    vm.finish();
}

/// During a pause in which vCPUs are locked out, calls on their VM do not wait.
fn vm_not_locked() {
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Count);
    let memory = Mapping::new(256 << 10, Backing::Anonymous);
    memory.fill_all(&MATCH[..1]);
    let inspection = Inspection::of_self().patterns(&[hex(&MATCH)]);
    lengthen(&mut vm, 1 << 20, &memory, &inspection, long_us);
    // On a busy machine each call may take long.
    let mut tries = (0..20).map(|_| {
        let inspection = inspection.clone();
        let load = thread::spawn(move || inspection.report());
        let mut longest = Duration::ZERO;
        while !load.is_finished() {
            let begin = Instant::now();
            vm.lock();
            longest = longest.max(begin.elapsed());
            thread::sleep(Duration::from_millis(1));
        }
        let report = load.join().expect("a panic would have ended the process");
        assert_eq!(report.states(), [State::Parked, State::Outside]);
        let stopped = report.done.pause_us - report.done.freeze_us;
        println!("locked the VM after {longest:?}; the pause after the freeze was {stopped} us");
        longest < Duration::from_micros(stopped / 2)
    });
    assert!(tries.any(|quick| quick), "the VM was locked in the pause");
    vm.vcpu(0).wait_until_it_goes_on();
    vm.finish();
}

/// How long a vCPU stood, and how long a second thread's call meanwhile did not reach KVM.
#[derive(Debug, Default)]
struct Stand {
    stood: Duration,
    waited: Duration,
}

/// Watches a vCPU that counts. Returns its longest stand; the times are too long, if anything.
fn longest_stand(vcpu: &Vcpu, second: &Intruder, goes_on: impl Fn() -> bool) -> Stand {
    let calls = second.calls();
    let (mut count, mut since) = (vcpu.count(), Instant::now());
    let (mut before, mut longest) = (since, Stand::default());
    let mut called = None;
    while goes_on() {
        let begin = Instant::now();
        let waits = second.calls() > calls && !second.has_reached_kvm();
        let now = vcpu.count();
        if waits {
            let (when, was) = *called.get_or_insert((begin, now));
            // Where the guest has gone on, the two only take turns.
            if was == now {
                longest.waited = longest.waited.max(when.elapsed());
            }
        }
        longest.stood = longest.stood.max(since.elapsed());
        if now != count {
            (count, since) = (now, before);
        }
        before = begin;
        thread::sleep(Duration::from_micros(100));
    }
    longest
}

/// A VMM that does all it can to run a vCPU in the pause, by a second thread and without
/// `immediate_exit`, cannot: what that thread calls does not reach KVM before the thaw.
fn second_thread() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Count)
        .set_manner(Manner::Shared);
    vm.start();
    let memory = Mapping::new(256 << 10, Backing::Anonymous);
    memory.fill_all(&MATCH[..1]);
    let inspection = Inspection::of_self().patterns(&[hex(&MATCH)]);
    lengthen(&mut vm, 1 << 20, &memory, &inspection, long_us);
    vm.stop();
    let (forger, second) = (vm.vcpu(0).forge(), vm.vcpu(0).second_thread());
    vm.start();
    let vcpu = &*vm.vcpu(0);
    // On a busy machine the second thread may come late.
    let mut tries = (0..20).map(|_| {
        let inspection = inspection.clone();
        let load = thread::spawn(move || inspection.report());
        let stand = second.intrude(vcpu, || {
            longest_stand(vcpu, &second, || !load.is_finished())
        });
        let report = load.join().expect("a panic would have ended the process");
        assert_eq!(report.states(), [State::Parked]);
        assert_eq!(report.vcpus[0].source, Source::Kvm);
        let stopped = Duration::from_micros(report.done.pause_us - report.done.freeze_us);
        println!("{stand:?} of {stopped:?}");
        assert!(stand.stood >= stopped / 2, "it ran in the pause");
        vcpu.wait_until_it_goes_on();
        stand.waited > stopped / 2
    });
    assert!(
        tries.any(|waited| waited),
        "KVM was called during the pause"
    );
    drop(tries);
    drop((forger, second));
    vm.finish();
}

/// Many vCPUs are locked out at once: more than a task may hold locks of, in lockdep's eyes.
fn many_outside() {
    const MANY: u64 = 100;
    let mut vm = Vm::running(Work::Count);
    let idle: Vec<_> = (1..=MANY).map(|id| vm.idle_vcpu(id)).collect();
    let mut states = vec![State::Outside; 1 + idle.len()];
    states[0] = State::Parked;
    for _ in 0..3 {
        inspect(&vm, &states);
    }
    println!("counted: vcpus_outside={MANY}");
    vm.finish();
}

/// One or two vCPUs of each kind, in one VM.
fn mixed() {
    let mut vm = Vm::bootable();
    let works = [
        (Work::Count, State::Parked),
        (Work::PortIo, State::Parked),
        (Work::Halt, State::Parked),
        (Work::UserSpace, State::Outside),
        (Work::Spin, State::Parked),
        (Work::Halt, State::Parked),
        (Work::PortIo, State::Parked),
        (Work::Count, State::Outside),
    ];
    for (work, _) in works {
        vm.add_vcpu(Mode::Long, work);
    }
    let (never_ran, others) = vm.vcpus().split_last_mut().expect("there are eight");
    assert_eq!(never_ran.work(), Work::Count);
    for vcpu in others {
        vcpu.start();
        vcpu.wait_until_at_work();
    }
    inspect_often(&vm, &works.map(|(_, state)| state), times(5));
    vm.finish();
}

/// The vCPUs of a VMM that a signal has stopped are locked out, and it can go on.
fn stopped_vmm() {
    let mut vmm = Other::start("counts", &[]);
    assert_eq!(vmm.hear(), "runs");
    for _ in 0..3 {
        vmm.signal(Signal::STOP);
        wait_until("the VMM is stopped", || state(vmm.pid()) == 'T');
        let report = Inspection::of(vmm.pid()).report();
        assert_eq!(report.states(), [State::Outside; 2]);
        assert_eq!(state(vmm.pid()), 'T', "it is still stopped");
        vmm.signal(Signal::CONT);
        assert_eq!(vmm.ask("check"), "goes on");
    }
    vmm.tell("end");
    vmm.finish();
}

fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, rest) = stat.rsplit_once(") ").expect("the name is in parentheses");
    rest.chars().next().expect("there is a state")
}

/// A VMM with two vCPUs that count.
fn counts(_: &[&str]) {
    let mut vm = Vm::bootable();
    for _ in 0..2 {
        let vcpu = vm.add_vcpu(Mode::Long, Work::Count);
        // Stop and continue signals end KVM_RUN, with and without the module.
        vcpu.set_manner(Manner::Handled);
    }
    vm.start();
    say("runs");
    while hear() == "check" {
        vm.wait_until_it_goes_on();
        say("goes on");
    }
    vm.finish();
}
