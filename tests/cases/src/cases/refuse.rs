// SPDX-License-Identifier: GPL-2.0

//! The module refuses what it cannot do, with the right error and one line that says what to do.
//! The guest goes on, and nothing is left.

use std::{
    fs, iter,
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

use super::{secret, some, Case};
use crate::{
    init::load_kvm,
    inspect::{
        assert_nothing_left, hex, load_module, refused_as_written, unload_module, Inspection,
    },
    process::{has_feature, own_pid, wait_until},
    vmm::{Mode, Userfault, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![
    patterns.with_stock(),
    ranges.with_stock(),
    numbers.with_stock(),
    arguments.with_stock(),
    processes.with_stock(),
    without_kvm.without_kvm().with_stock(),
    probe_taken,
    probes_off.with_stock(),
    ftrace_off,
    protected.with_stock(),
    other_kvm,
    late_vcpu,
    lockdown.alone().with_stock(),
];

/// `KVM_SET_REGS`, as the module prints it.
const IOCTL: &str = "0x4090ae82";

/// Checks refusals while a guest counts. The same guest can be inspected afterwards.
fn all_refused(refused: impl FnOnce(&mut Vm)) {
    let mut vm = Vm::running(Work::Count);
    vm.add_vcpu(Mode::Long, Work::Halt);
    vm.vcpu(1).start();
    vm.vcpu(1).wait_until_at_work();
    refused(&mut vm);
    vm.vcpu(0).wait_until_it_goes_on();
    let secret = secret(90, 16);
    vm.write(0x700, &secret);
    let report = Inspection::of_self()
        .patterns(&[hex(&secret)])
        .report_by_insmod();
    assert_eq!(report.hits, vm.hits(0, &[0x700]));
    vm.vcpu(0).wait_until_it_goes_on();
    vm.finish();
}

/// Malformed patterns are refused.
fn patterns() {
    let long: String = iter::repeat_n("a5", 257).collect();
    let bad = [
        ("foo:abc", "kind of pattern"),
        ("abc", "kind of pattern"),
        ("TEXT:abc", "kind of pattern"),
        ("text:", "empty"),
        ("utf16:", "empty"),
        ("hex:", "empty"),
        ("hex: ", "empty"),
        ("hex:488", "one hex digit"),
        ("hex:48 8 b", "one hex digit"),
        ("hex:4g", "no hex digit"),
        ("hex:??", "everywhere"),
        ("hex:?? ??", "everywhere"),
        ("text:a\\", "escape"),
        ("text:a\\n", "escape"),
        ("utf16:a\\x1", "escape"),
        ("utf16:a\u{fffd}", ""),
        (&format!("hex:{long}"), "more than 256"),
        (&format!("text:{}", &long[..257]), "more than 256"),
        (&format!("utf16:{}", &long[..129]), "more than 256"),
    ];
    all_refused(|_| {
        for (pattern, why) in some(bad) {
            if why.is_empty() {
                continue;
            }
            let why = [why, "pattern 0: "];
            Inspection::of_self()
                .patterns(&[pattern])
                .refused(Errno::INVAL, &why);
        }
        // The line has the number of the wrong one.
        Inspection::of_self()
            .patterns(&["text:good", "hex:00", "hex:0"])
            .refused(Errno::INVAL, &["pattern 2: "]);
        // With one byte less it is the longest valid one.
        let report = Inspection::of_self()
            .patterns(&[format!("hex:{}", &long[..512])])
            .report_by_insmod();
        assert_eq!(report.done.hits, 0);
    });
}

/// Malformed ranges are refused.
fn ranges() {
    let bad = [
        ("0x2000-0x1fff", "before it starts"),
        ("5-3", "before it starts"),
        ("0x1000", "no separator"),
        ("", "no separator"),
        ("-0x1000", "start is no number"),
        ("0x-0x1000", "start is no number"),
        ("0x1000-", "end is no number"),
        ("0x1000-0x10g0", "end is no number"),
        ("1000-0x2000 ", "end is no number"),
        ("0-0x10000000000000000", "larger than 64 bits"),
        ("0x1000+0", "size is 0"),
        ("0x1000+1P", "size is no number"),
        ("1T+16777216T", "size is larger than 64 bits"),
        ("0xffffffffffffffff+2", "beyond"),
    ];
    all_refused(|_| {
        for (range, why) in some(bad) {
            let why = [why, "range 0: "];
            Inspection::of_self()
                .patterns(&["text:a"])
                .ranges(&[range])
                .refused(Errno::INVAL, &why);
        }
        Inspection::of_self()
            .ranges(&["0-1", "2-3", "9-8"])
            .refused(Errno::INVAL, &["range 2: "]);
    });
}

/// Numbers out of range, and text that is no number, are refused.
fn numbers() {
    let out_of_range = [
        ("vm_fd", "-2"),
        ("vm_fd", "2147483648"),
        ("interval_ms", "-1"),
        ("interval_ms", "86400001"),
        ("freeze_timeout_ms", "0"),
        ("freeze_timeout_ms", "-5"),
        ("freeze_timeout_ms", "86400001"),
        ("max_hits", "-1"),
        ("max_hits", "16385"),
        ("context", "-1"),
        ("context", "65"),
    ];
    all_refused(|_| {
        for (name, value) in some(out_of_range) {
            let why = [&format!("{name}={value} is out of range"), "give"];
            Inspection::of_self()
                .set(name, value)
                .refused(Errno::INVAL, &why.map(|why| why));
        }
        for pid in ["-1", "2147483648"] {
            let inspection = Inspection::without_pid().set("pid", pid);
            inspection.refused(Errno::INVAL, &["pid=", "out of range"]);
        }
        Inspection::without_pid().refused(Errno::INVAL, &["pid= is missing"]);
        Inspection::of(0).refused(Errno::INVAL, &["pid= is missing"]);
        // The kernel itself reports these.
        for (name, value) in [
            ("pid", "abc"),
            ("max_hits", "99999999999999999999"),
            ("context", ""),
        ] {
            let refusal = Inspection::of_self().set(name, value).try_load().err();
            let refusal = refusal.unwrap_or_else(|| panic!("{name}={value} was not refused"));
            assert!(
                matches!(refusal.errno, Errno::INVAL | Errno::RANGE),
                "{refusal:?}"
            );
            assert!(
                refusal.lines.iter().any(|line| line.contains(name)),
                "{refusal:?}"
            );
            assert_nothing_left();
        }
    });
}

/// What the kernel's own parser would cut, join, strip or ignore is refused.
fn arguments() {
    let bad: [(&str, &[&str]); 11] = [
        ("patterns=text:a", &["'patterns' is no parameter"]),
        ("max_pause=1", &["'max_pause' is no parameter"]),
        (
            "pattern=text:my secret",
            &["'secret' is no parameter", "\\s"],
        ),
        ("pattern=hex:48 8b", &["'8b' is no parameter"]),
        (
            "pattern=text:\"access_token\":\" max_hits=9",
            &["quote in pattern=", "\\x22"],
        ),
        ("pattern=text:a\"b", &["quote in pattern="]),
        ("\"pattern=text:a b\"", &["quotes around a whole"]),
        // Its last byte is a space for the kernel.
        ("pattern=text:voil\u{e0}", &["0xa0", "\\xa0"]),
        ("pattern=text:a  max_hits=1", &["several spaces"]),
        ("engine=avx2 engine=portable", &["engine= is given twice"]),
        ("max_hits=010", &["max_hits= begins with 0", "octal"]),
    ];
    let pid = own_pid();
    all_refused(|_| {
        for (arguments, why) in some(bad) {
            refused_as_written(&format!("pid={pid} {arguments}"), why);
        }
        // The kernel crate itself refuses the second value of a number.
        for twice in ["max_hits=1 max_hits=2", "max_hits=1 max-hits=1"] {
            let parameters = format!("pid={pid} {twice}");
            load_module("/modules/kvm_inspect.ko", &parameters).expect_err("it is given twice");
            assert_nothing_left();
        }
        refused_as_written(&format!("pid={pid} -- pattern=text:a"), &["'--'"]);
        let many = vec!["text:a"; 257].join(",");
        refused_as_written(&format!("pid={pid} pattern={many}"), &["256 patterns"]);
    });
}

/// Processes that do not exist, or have no VM, are refused.
fn processes() {
    all_refused(|vm| {
        // More than the highest number of a process.
        let max: i32 = fs::read_to_string("/proc/sys/kernel/pid_max")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .expect("a number");
        let no_process = ["no process", "give the process number of the VMM"];
        Inspection::of(max).refused(Errno::SRCH, &no_process);
        // The number of a thread is as good as that of its process.
        let thread = fs::read_dir("/proc/self/task")
            .expect("there are threads")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .find(|&thread: &i32| thread != own_pid());
        let report = Inspection::of(thread.expect("a vCPU's thread")).report_by_insmod();
        assert_eq!(report.pid, own_pid());
        // The first process has no VM, and the second one is a kernel thread.
        for pid in [1, 2] {
            Inspection::of(pid).refused(Errno::NOENT, &["has no VM"]);
        }
        // A descriptor without a file, one of another file, one of a vCPU.
        vm.vcpu(0).stop();
        let vcpu = vm.vcpu(0).file_number();
        vm.vcpu(0).start();
        vm.vcpu(0).wait_until_at_work();
        for fd in [1000, 0, vcpu] {
            Inspection::of_self().set("vm_fd", fd).refused(
                Errno::NOENT,
                &[&format!("file descriptor {fd}"), "is not a VM"],
            );
        }
    });
}

/// Without KVM there is nothing to inspect. When KVM is loaded there is.
fn without_kvm() {
    let inspection = Inspection::of_self();
    inspection.refused(
        Errno::NOENT,
        &["KVM is not loaded", "load kvm_amd or kvm_intel"],
    );

    load_kvm().expect("KVM can be loaded");
    inspection.refused(Errno::NOENT, &["has no VM"]);
    let mut vm = Vm::running(Work::Count);
    assert_eq!(inspection.report_by_insmod().states(), [State::Parked]);
    vm.finish();
}

/// If somebody else redirects the function the module is refused.
fn probe_taken() {
    all_refused(|_| {
        load_module("/modules/redirect.ko", "").expect("the test's own module can be loaded");
        Inspection::of_self().refused(Errno::BUSY, &["kvm_vcpu_ioctl", "live patch"]);
        unload_module("redirect");

        // The other way round the other one is refused: the module's probe does redirect.
        let loaded = Inspection::of_self().set("interval_ms", 900).load();
        let other = load_module("/modules/redirect.ko", "");
        assert_eq!(other.expect_err("it is taken"), Errno::BUSY);
        assert!(!loaded.unload().is_empty());
    });
}

/// If all probes are turned off the module is refused.
fn probes_off() {
    let turn = |on: &str| fs::write("/sys/kernel/debug/kprobes/enabled", on).expect("a switch");
    all_refused(|_| {
        turn("0");
        Inspection::of_self().refused(Errno::NODEV, &["kprobes", "enabled"]);
        turn("1");
    });
}

/// If ftrace is turned off, as 7.2 allows, the module is refused; and not while it has its probes.
fn ftrace_off() {
    let turn = |on: &str| fs::write("/proc/sys/kernel/ftrace_enabled", on);
    all_refused(|_| {
        if turn("0").is_ok() {
            Inspection::of_self().refused(Errno::BUSY, &["kvm_vcpu_ioctl", "ftrace_enabled"]);
            turn("1").expect("it can be turned on again");
        }
        let loaded = Inspection::of_self().set("interval_ms", 900).load();
        turn("0").expect_err("the probes need it");
        assert!(!loaded.unload().is_empty());
    });
}

/// Guests whose registers and memory the host cannot read are refused.
fn protected() {
    // KVM_X86_*_VM of arch/x86/include/uapi/asm/kvm.h.
    let kinds = [(2, "SEV"), (3, "SEV-ES"), (4, "SEV-SNP"), (5, "TDX")];
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Count);
    let secret = secret(91, 16);
    vm.write(0x600, &secret);
    let inspection = Inspection::of_self().patterns(&[hex(&secret)]);
    let protect = |parameters: &str, why: &[&str]| {
        // This module marks the VM as KVM does, as long as it is loaded. The VM does not run.
        let parameters = format!("fd={} {parameters}", vm.fd());
        load_module("/modules/protect.ko", &parameters).expect("the test's own module");
        inspection.refused(Errno::OPNOTSUPP, why);
        unload_module("protect");
    };
    protect("state=1", &["protected", "hardware"]);
    if has_feature("svm") {
        // Without AVIC, and whatever the VM's type is.
        protect("sev=1", &["protected", "\"SEV\""]);
        protect("sev_es=1", &["protected", "\"SEV-ES\""]);
        protect("moved=1", &["protected", "\"SEV\""]);
    }
    for (kind, name) in kinds {
        protect(&format!("vm_type={kind}"), &["protected", name]);
    }
    let report = inspection.report_by_insmod();
    assert_eq!(report.hits, vm.hits(0, &[0x600]));
    vm.start();
    vm.vcpu(0).wait_until_it_goes_on();
    vm.finish();
}

/// A KVM whose structures do not look as in the one that the module was built for. A module changes
/// what is the same in every VM.
fn other_kvm() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Count);
    let inspection = Inspection::of_self();
    let parameters = format!("fd={} skew=1", vm.fd());
    load_module("/modules/protect.ko", &parameters).expect("the test's own module");
    inspection.refused(Errno::NOEXEC, &["the loaded KVM", "built for"]);
    unload_module("protect");
    inspection.report_by_insmod();
    vm.finish();
}

/// If a vCPU does not stop, because its thread is in another ioctl, all go on at the timeout. It is
/// the only one that is blamed. On request there is a report all the same.
fn late_vcpu() {
    /// More than that are not listed.
    const NEVER_RAN: usize = 20;

    let mut vm = Vm::bootable();
    for _ in 0..2 {
        vm.add_vcpu(Mode::Long, Work::Count);
    }
    vm.start();
    vm.vcpu(1).stop();
    for _ in 0..NEVER_RAN {
        vm.add_vcpu(Mode::Long, Work::Count);
    }
    let others = |first, second| {
        let mut states = vec![State::Outside; NEVER_RAN + 2];
        (states[0], states[1]) = (first, second);
        states
    };

    let inspection = Inspection::of_self();
    let fault = Userfault::new();
    let secret = secret(91, 16);
    vm.write(0x700, &secret);
    let hits = vm.hits(0, &[0x700]);
    let (first, second) = vm.vcpus().split_at_mut(1);
    std::thread::scope(|scope| {
        // KVM_SET_REGS holds the vCPU while it waits for the registers.
        let call = scope.spawn(|| second[0].set_regs_from(&fault));
        fault.wait();
        // On a busy machine the other one may be late, too, with a short timeout.
        let mut timeouts = (0..8).map(|power| Duration::from_millis(300) * (1 << power));
        let only_one = timeouts.any(|timeout| {
            let inspection = inspection.clone();
            let inspection = inspection.set("freeze_timeout_ms", timeout.as_millis());
            let begin = Instant::now();
            let refusal = inspection.try_load().err().expect("it is refused");
            assert!(begin.elapsed() >= timeout);
            assert_eq!(refusal.errno, Errno::TIMEDOUT);
            assert_nothing_left();
            let Some((error, vcpus)) = refusal.lines.split_last() else {
                panic!("lines: {refusal:?}");
            };
            assert!(
                error.starts_with("error: ") && error.contains("freeze_timeout_ms="),
                "{error}"
            );
            assert!(
                vcpus
                    .iter()
                    .any(|line| line.contains("vcpu 1 did not stop") && line.contains(IOCTL)),
                "{refusal:?}"
            );
            vcpus.len() == 1
        });
        assert!(only_one, "the other one never stopped");
        let report = inspection
            .clone()
            .set("late", "report")
            .set("freeze_timeout_ms", 2000)
            .patterns(&[hex(&secret)])
            .partial_report_by_insmod();
        assert_eq!(report.done.result, Conclusion::NotOneInstant);
        assert_eq!(report.states(), others(State::Parked, State::Running));
        assert_eq!(report.hits, hits);
        // The vCPU that had stopped goes on, while the other one still waits.
        first[0].wait_until_it_goes_on();
        fault.resolve();
        call.join().expect("a panic would have ended the process");
    });
    let states = |inspection: &Inspection| inspection.report_by_insmod().states();
    assert_eq!(states(&inspection), others(State::Parked, State::Outside));
    vm.vcpu(1).start();
    vm.vcpu(1).wait_until_at_work();
    assert_eq!(states(&inspection), others(State::Parked, State::Parked));
    vm.finish();
}

/// If the kernel is locked down between two inspections, so that not even root may read memory, the
/// next one is refused. (The unsigned module could not be loaded after that.)
fn lockdown() {
    const SECURITY: &str = "/sys/kernel/security";
    let mut vm = Vm::running(Work::Count);
    let mut log = KernelLog::from_now().expect("the kernel log can be read");
    let inspection = Inspection::of_self().set("interval_ms", 200);
    let loaded = inspection.load();
    mount(
        "securityfs",
        SECURITY,
        "securityfs",
        MountFlags::empty(),
        None,
    )
    .expect("securityfs can be mounted");
    fs::write(format!("{SECURITY}/lockdown"), "confidentiality")
        .expect("the kernel is locked down");
    let mut lines = Vec::new();
    wait_until("the module refuses to go on", || {
        lines.extend(log.module_lines().expect("the kernel log can be read"));
        lines
            .iter()
            .any(|line| line.contains("no more inspections"))
    });
    let errors: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{lines:#?}");
    assert!(
        errors[0].contains("locked down") && errors[0].contains("; "),
        "{errors:?}"
    );
    vm.wait_until_it_goes_on();
    loaded.unload_beside_others();
    vm.finish();
}
