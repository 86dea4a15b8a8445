// SPDX-License-Identifier: GPL-2.0

//! The module comes and goes at any moment, and so do VMMs.

use std::{
    fs,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use kvm_inspect_tool::{
    report::{Conclusion, State},
    KernelLog,
};
use rustix::{
    io::Errno,
    mount::{mount, MountFlags},
};

use super::{
    search::{lengthen, long_us},
    secret, times, Case,
};
use crate::{
    inspect::{
        assert_nothing_left, end, hex, is_live, is_loaded, module_thread, unload_module,
        Inspection, Loaded, Refusal,
    },
    process::{own_pid, wait_until, waits_killably, PAGE},
    role::{hear, say, Other, Role},
    stuck_disk::StuckDisk,
    vmm::{Backing, Manner, Mapping, Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    load_unload,
    unload_busy,
    unload_while_scanning,
    insmod_killed,
    bring_in_stuck.with_stock(),
    vmm_killed.within(600),
    vmm_ends,
    cgroup_frozen.with_stock(),
    other_tracers,
];

pub(super) const ROLES: &[Role] = roles![large, slow, insmod, brings_in];

const MIB: u64 = 1 << 20;

/// The size of memory that takes a while to search. How long depends on the machine.
const LARGE: u64 = 16 * MIB;

/// How often to try for the right moment, which may be missed.
const TRIES: u32 = 100;

/// The module is loaded and unloaded again and again under guests that count, halt and do port I/O.
/// Their VMM checks each of their steps.
fn load_unload() {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::PortIo, Work::Halt] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    let secret = secret(100, 16);
    vm.write(0x400, &secret);
    let begin = Instant::now();
    let count = times(20);
    for _ in 0..count {
        let inspection = Inspection::of_self().patterns(&[hex(&secret)]);
        let report = inspection.report_by_insmod();
        assert_eq!(report.states(), [State::Parked; 3]);
        assert_eq!(report.hits, vm.hits(0, &[0x400]));
        vm.wait_until_it_goes_on();
    }
    println!("counted: freezes={count} unloads={count}");
    println!("loaded and unloaded {count} times in {:?}", begin.elapsed());
    vm.finish();
}

/// The module is unloaded while all vCPUs are in its hook: in the guest, halted, on their way in
/// and out.
fn unload_busy() {
    for work in [Work::Spin, Work::Halt, Work::PortIo, Work::Count] {
        let mut vm = Vm::bootable();
        for _ in 0..3 {
            vm.add_vcpu(Mode::Long, work);
        }
        for round in 0..times(5) {
            let mut loaded = Inspection::of_self().set("interval_ms", 5).load();
            // All their KVM_RUN calls come after the module. None may return early because of it.
            vm.start();
            loaded.reports();
            wait_until("reports with all of them", || {
                let reports = loaded.reports();
                reports
                    .iter()
                    .any(|report| report.states() == [State::Parked; 3])
            });
            sleep(Duration::from_millis(3) * round);
            loaded.unload();
            vm.wait_until_it_goes_on();
            vm.stop();
        }
        vm.finish();
    }
}

/// Adds memory to a VM. Returns an inspection of that, which takes long.
fn long_inspection(vm: &mut Vm) -> Inspection {
    let memory = Mapping::new(LARGE, Backing::Anonymous);
    memory.fill_all(&[0x5a, 0xa5]);
    let inspection = Inspection::of_self().patterns(&["text:not there"]);
    lengthen(vm, MIB, &memory, &inspection, long_us);
    inspection
}

/// The module is unloaded at any moment of a long inspection.
fn unload_while_scanning() {
    let mut vm = Vm::running(Work::Count);
    let inspection = long_inspection(&mut vm).set("interval_ms", 1);
    let (mut rounds, mut cut_short) = (0, 0);
    let mut pause = Duration::ZERO;
    while rounds < times(8) || (cut_short == 0 && rounds < TRIES) {
        let mut loaded = inspection.load();
        let report = loaded.reports().pop().expect("the first report");
        pause = Duration::from_micros(report.done.pause_us);
        sleep(Duration::from_millis(1) + pause * (rounds % 8) / 8);
        // One more has begun. Its report would come at its end.
        cut_short += u32::from(loaded.unload().is_empty());
        rounds += 1;
        vm.vcpu(0).wait_until_it_goes_on();
    }
    println!("{cut_short} of {rounds} inspections of {pause:?} were cut short");
    assert!(cut_short > 0, "no inspection was cut short");
    vm.finish();
}

/// `insmod` is killed while the module searches the guest.
fn insmod_killed() {
    let mut vm = Vm::running(Work::Count);
    let inspection = long_inspection(&mut vm);
    let pause = Duration::from_micros(inspection.report_by_insmod().done.pause_us);
    let (mut rounds, mut cut_short) = (0, 0);
    while rounds < times(8) || (cut_short == 0 && rounds < TRIES) {
        let mut log = KernelLog::from_now().expect("the kernel log can be read");
        let mut insmod = Other::start("insmod", &[&own_pid().to_string()]);
        assert_eq!(insmod.hear(), "begins");
        let has_begun = inspection_begins();
        sleep(pause * (rounds % 8) / 8);
        insmod.kill();
        wait_until("the module is gone or stays", || !is_loaded() || is_live());
        if is_live() {
            unload_module("kvm_inspect");
        }
        assert_nothing_left();
        let done = log
            .module_lines()
            .expect("the kernel log can be read")
            .iter()
            .any(|line| line.starts_with("done "));
        cut_short += u32::from(has_begun && !done);
        rounds += 1;
        vm.vcpu(0).wait_until_it_goes_on();
    }
    println!("{cut_short} of {rounds} inspections of {pause:?} were cut short");
    assert!(cut_short > 0, "no inspection was cut short");
    assert_eq!(inspection.report_by_insmod().states(), [State::Parked]);
    vm.finish();
}

/// `insmod` is killed while the module brings in memory from a disk that does not answer.
fn bring_in_stuck() {
    let len = 16 * PAGE;
    let disk = StuckDisk::new(len);
    let mut vm = Vm::running(Work::Count);
    vm.add_mapping(16 * MIB, &Mapping::private(disk.file(), len));
    let insmod = Other::start("brings_in", &[&own_pid().to_string()]);
    wait_until("the module reads from the disk", || disk.is_asked());
    insmod.kill();
    wait_until("the module is gone", || !is_loaded());
    assert_nothing_left();
    vm.vcpu(0).wait_until_it_goes_on();
    disk.answer();
    vm.finish();
    disk.remove();
}

/// A process that loads the module for the VMM with this number, and has it bring in memory.
fn brings_in(arguments: &[&str]) {
    let pid = arguments[0].parse().expect("a number");
    let inspection = Inspection::of(pid).patterns(&["text:not there"]);
    let _ = inspection.set("bring_in", 1).try_load();
}

/// Waits until an inspection begins. Returns false if it is over already.
fn inspection_begins() -> bool {
    let mut begins = false;
    wait_until("an inspection begins", || {
        begins = module_thread().is_some();
        begins || is_live()
    });
    begins
}

/// A process that loads the module for the VMM with this number.
fn insmod(arguments: &[&str]) {
    let pid = arguments[0].parse().expect("a number");
    let inspection = Inspection::of(pid).patterns(&["text:not there"]);
    say("begins");
    // The result does not matter: this process may be killed before.
    let _ = inspection.try_load().map(std::mem::forget);
}

/// A VMM is killed before, while and after its guest is searched. It is gone at once; the module
/// says so, and can be unloaded.
fn vmm_killed() {
    let mut durations = Durations::measure();
    let (mut killed, mut rounds) = (0, 0);
    // The right moment may be missed, all the more in few rounds.
    while rounds < times(12) || (killed == 0 && rounds < TRIES) {
        rounds += 1;
        let vmm = durations.start_vmm();
        let inspection = search_for_secret(&vmm);
        let load = thread::spawn(move || inspection.try_load());
        if rounds % 2 == 0 {
            // At any moment from loading to unloading. Loading takes most of it.
            sleep(durations.whole * (rounds % 12) / 12);
        } else {
            let pid = vmm.pid();
            wait_until("a vCPU is parked", || {
                waits_killably(pid) || load.is_finished()
            });
            sleep(durations.pause * (rounds % 12) / 12);
        }
        durations.kill_vmm(vmm);
        let loaded = load.join().expect("a panic would have ended the process");
        killed += u32::from(was_killed(loaded));
        assert_nothing_left();
    }
    println!("counted: kills={rounds}");
    println!(
        "of {rounds} killed, {killed} in the middle of an inspection of {:?}",
        durations.whole
    );
    assert!(
        killed > 0,
        "no VMM was killed in the middle of its inspection"
    );
}

/// How long things take with the VMM of [`vmm_killed`].
struct Durations {
    /// To start it, at most: the machine may be busy now and then.
    start: Duration,
    /// To load the module, search the guest and unload it.
    whole: Duration,
    /// The pause.
    pause: Duration,
}

impl Durations {
    fn measure() -> Self {
        let mut this = Self {
            start: Duration::ZERO,
            whole: Duration::ZERO,
            pause: Duration::ZERO,
        };
        let vmm = this.start_vmm();
        // The first inspection takes longer than the next ones.
        for _ in 0..2 {
            let begin = Instant::now();
            let report = search_for_secret(&vmm).report_by_insmod();
            this.whole = begin.elapsed();
            this.pause = Duration::from_micros(report.done.pause_us);
            assert_eq!(report.done.hits, 1);
        }
        vmm.kill();
        this
    }

    fn start_vmm(&mut self) -> Other {
        let begin = Instant::now();
        let mut vmm = Other::start("large", &[]);
        assert_eq!(vmm.hear(), "runs");
        self.start = self.start.max(begin.elapsed());
        vmm
    }

    /// Kills a VMM, which must be gone at once.
    fn kill_vmm(&self, vmm: Other) {
        let begin = Instant::now();
        vmm.kill();
        let end = begin.elapsed();
        // Starting it takes longer than ending it. A machine that is busy now may have been idle
        // then.
        assert!(
            end < 20 * self.start,
            "it took {end:?} to kill a VMM that was started in {:?}",
            self.start
        );
    }
}

/// Creates an inspection of the VMM `large` that finds its secret.
fn search_for_secret(vmm: &Other) -> Inspection {
    Inspection::of(vmm.pid()).patterns(&[hex(&secret(101, 16))])
}

/// Returns whether a VMM was killed in the middle of its inspection. If it was killed at another
/// moment, the module must say so.
fn was_killed(loaded: Result<Loaded, Refusal>) -> bool {
    match loaded {
        Ok(loaded) => {
            let reports = loaded.unload();
            let [report] = reports.as_slice() else {
                panic!("one report: {reports:#?}");
            };
            match report.done.result {
                Conclusion::Ok => assert_eq!(report.done.hits, 1),
                Conclusion::VmmKilled => return true,
                other => panic!("unexpected result {other:?}"),
            }
        }
        Err(Refusal { errno, lines }) => {
            let gone = [Errno::SRCH, Errno::NOENT, Errno::TIMEDOUT].contains(&errno);
            assert!(gone, "{errno}: {lines:#?}");
            let errors = lines.iter().filter(|line| line.starts_with("error: "));
            assert_eq!(errors.count(), 1, "{lines:#?}");
        }
    }
    false
}

/// A VMM with much memory, a secret at its end, and vCPUs of three kinds.
fn large(_: &[&str]) {
    let mut vm = Vm::bootable();
    vm.add_memory(MIB, LARGE, Backing::Anonymous).touch_all();
    vm.write(MIB + LARGE - PAGE, &secret(101, 16));
    for work in [Work::Count, Work::Halt, Work::PortIo] {
        vm.add_vcpu(Mode::Long, work);
    }
    vm.start();
    say("runs");
    hear();
}

/// A VMM ends between two inspections. The module waits for the next one, and keeps nothing of the
/// VMM.
fn vmm_ends() {
    let mut vmm = Other::start("large", &[]);
    assert_eq!(vmm.hear(), "runs");
    let pid = vmm.pid();
    let mut log = KernelLog::from_now().expect("the kernel log can be read");
    let has_vm = || {
        let known = fs::read_dir("/sys/kernel/debug/kvm").expect("KVM has its folder");
        let prefix = format!("{pid}-");
        known
            .flatten()
            .any(|vm| vm.file_name().to_string_lossy().starts_with(&prefix))
    };
    assert!(has_vm(), "the VM is known to KVM");
    let loaded = Inspection::of(pid).set("interval_ms", 2000).load();
    vmm.kill();
    wait_until("the VM is destroyed", || !has_vm());
    let mut lines = Vec::new();
    wait_until("the module has noticed", || {
        lines.extend(log.module_lines().expect("the kernel log can be read"));
        lines.iter().any(|line| line.starts_with("error: "))
    });
    assert!(is_live(), "the module stays");
    let lines = loaded.unload_for_lines();
    let errors: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert!(
        errors.len() == 1 && errors[0].contains("no process"),
        "{errors:?}"
    );
}

/// A VMM that prepares a search that takes long, tells how long, and runs until it is told to end.
fn slow(_: &[&str]) {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::Halt] {
        // The freezer ends KVM_RUN, with and without the module.
        vm.add_vcpu(Mode::Long, work).set_manner(Manner::Handled);
    }
    vm.start();
    let memory = Mapping::new(LARGE, Backing::Anonymous);
    memory.fill_all(&[0x5a, 0xa5]);
    let inspection = Inspection::of_self()
        .set("max_pause_ms", 0)
        .patterns(&["text:not there"]);
    lengthen(&mut vm, MIB, &memory, &inspection, |report| {
        long_us(report).max(1_000_000)
    });
    // Another process loads it next.
    end();
    say("runs");
    hear();
    vm.wait_until_it_goes_on();
    vm.finish();
}

/// The VMM's cgroup is frozen while its vCPUs are parked. That does not wait for the thaw.
fn cgroup_frozen() {
    const CGROUPS: &str = "/tmp/cgroup";
    fs::create_dir(CGROUPS).expect("there can be a folder");
    mount("cgroup2", CGROUPS, "cgroup2", MountFlags::empty(), None).expect("the kernel has it");
    let group = format!("{CGROUPS}/vmm");
    fs::create_dir(&group).expect("there can be a group");
    let write = |name, value: &str| {
        let path = format!("{group}/{name}");
        fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    };
    let is_frozen = || {
        let events = fs::read_to_string(format!("{group}/cgroup.events"));
        events.is_ok_and(|events| events.contains("frozen 1"))
    };
    let mut vmm = Other::start("slow", &[]);
    while vmm.hear() != "runs" {}
    let pid = vmm.pid();
    write("cgroup.procs", &pid.to_string());
    let mut tries = (0..20).map(|_| {
        let load = thread::spawn(move || {
            let inspection = Inspection::of(pid).set("max_pause_ms", 0);
            inspection.patterns(&["text:not there"]).report()
        });
        wait_until("a vCPU is parked", || {
            waits_killably(pid) || load.is_finished()
        });
        let begin = Instant::now();
        write("cgroup.freeze", "1");
        wait_until("the VMM is frozen", is_frozen);
        let took = begin.elapsed();
        let report = load.join().expect("a panic would have ended the process");
        write("cgroup.freeze", "0");
        wait_until("the VMM goes on", || !is_frozen());
        let pause = Duration::from_micros(report.done.pause_us);
        println!("it took {took:?} to freeze the VMM, in a pause of {pause:?}");
        // The freezer may come before the second one is parked.
        report.states() == [State::Parked; 2] && took < pause / 2
    });
    assert!(
        tries.any(|quick| quick),
        "each time it waited for the thaw, or came before a vCPU was parked"
    );
    vmm.tell("end");
    vmm.finish();
    fs::remove_dir(&group).expect("it is empty");
}

/// Others trace the same function, before the module comes and while it is there.
fn other_tracers() {
    let mut vm = Vm::bootable();
    for work in [Work::Count, Work::PortIo, Work::Halt] {
        vm.add_vcpu(Mode::Long, work);
    }
    let inspection = Inspection::of_self().set("interval_ms", 5);
    for before in [true, false] {
        if before {
            trace();
        }
        let mut loaded = inspection.load();
        vm.start();
        if !before {
            trace();
        }
        loaded.reports();
        for _ in 0..times(20) {
            wait_until("a report with all of them", || {
                let reports = loaded.reports();
                reports
                    .iter()
                    .any(|report| report.states() == [State::Parked; 3])
            });
        }
        vm.wait_until_it_goes_on();
        if before {
            let lines = loaded.unload_beside_others();
            let is_error = |line: &String| line.starts_with("error: ");
            assert!(!lines.iter().any(is_error), "{lines:#?}");
            untrace();
        } else {
            untrace();
            loaded.unload();
        }
        vm.wait_until_it_goes_on();
        vm.stop();
    }
    vm.finish();
}

/// The folder of ftrace.
pub(super) const TRACING: &str = "/sys/kernel/tracing";

/// Sets control files of ftrace, in this order.
pub(super) fn set_tracing(values: &[(&str, &str)]) {
    for (file, text) in values {
        let path = format!("{TRACING}/{file}");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// Traces the function that the module redirects, with probes and with ftrace.
fn trace() {
    set_tracing(&[
        // Small, so that it can be read quickly.
        ("buffer_size_kb", "16"),
        ("tracing_on", "1"),
        (
            "kprobe_events",
            "p:kvm_enter kvm_vcpu_ioctl\nr:kvm_leave kvm_vcpu_ioctl\n",
        ),
        ("events/kprobes/enable", "1"),
        ("set_ftrace_filter", "kvm_vcpu_ioctl"),
        ("current_tracer", "function"),
    ]);
}

/// Ends what [`trace`] began. Each tracer must have seen calls.
fn untrace() {
    set_tracing(&[("tracing_on", "0")]);
    let text = fs::read_to_string(format!("{TRACING}/trace")).expect("the trace can be read");
    for name in ["kvm_enter:", "kvm_leave:", "kvm_vcpu_ioctl <-"] {
        assert!(text.contains(name), "no {name} in the trace");
    }
    set_tracing(&[
        ("current_tracer", "nop"),
        ("set_ftrace_filter", "\n"),
        ("events/kprobes/enable", "0"),
        ("kprobe_events", "\n"),
    ]);
}
