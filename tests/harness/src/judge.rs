// SPDX-License-Identifier: GPL-2.0

//! The verdict on a run, and on its kernel log.

use std::collections::BTreeSet;

use cases::protocol::{GUEST_LOST, GUEST_LOST_ALONE, HOST_IN_GUEST};

use crate::run::{End, Run};

/// Words of the kernel for its faults.
const FAULTS: &[&str] = &[
    "------------[ cut here ]",
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Kernel panic",
    "kernel panic",
    "Call Trace",
    "panicked at",
    "general protection fault",
    "stack segment",
    "divide error",
    "invalid opcode",
    "double fault",
    "unchecked MSR access",
    "bad page state",
    "Bad page state",
    "corruption",
    // Locking.
    "possible circular locking dependency",
    "possible recursive locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "suspicious RCU usage",
    "bad unlock balance",
    "held lock freed",
    "still has locks held",
    "lock held when returning to user space",
    "non-static key",
    "DEBUG_LOCKS_WARN_ON",
    "scheduling while atomic",
    "sleeping function called from invalid context",
    // Hangs.
    "hung task",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "detected stall",
    "self-detected stall",
    "detected expedited stalls",
    "starved for",
    // Memory that is lacking, leaked, or used wrongly.
    "page allocation failure",
    "vmalloc error",
    "kmemleak",
    "refcount_t",
    "UBSAN",
    "KASAN",
    "KCSAN",
    "ODEBUG",
    "Bad rss-counter",
    "non-zero pgtables_bytes",
    "nobody cared",
    "leaked",
    // In user space: a case has crashed, or had too little memory.
    "segfault",
    "Out of memory",
];

/// Words that look like a fault and are none.
const HARMLESS: &[&str] = &[
    "kmemleak: Kernel memory leak detector initialized",
    // A case says that its own memory is bad.
    "Sending SIGBUS to exe:",
];

/// The kernel's words when the first module comes that is not its own: ours, or one of a case.
const FIRST_MODULE: &str = "loading out-of-tree module";

/// Returns the lines of a kernel log that report a fault.
#[must_use]
pub fn faults(log: &str) -> Vec<&str> {
    let is_fault = |line: &&str| {
        FAULTS.iter().any(|fault| line.contains(fault))
            && !HARMLESS.iter().any(|harmless| line.contains(harmless))
    };
    log.lines().filter(is_fault).collect()
}

/// Returns whether the first fault in a log is a trap at a breakpoint that is not there.
///
/// While code is patched (`kernel/trace/ftrace.c`, `arch/x86/kernel/alternative.c`) it begins with
/// an `int3`. With two processors the emulator sometimes keeps its translation of that. Then a
/// processor traps, though the kernel's message shows another instruction there.
fn is_stale_breakpoint(log: &str) -> bool {
    let mut lines = log.lines().skip_while(|line| !line.contains("Oops"));
    let Some(first) = lines.next().filter(|line| line.contains("Oops: int3:")) else {
        return false;
    };
    // The bytes around the trap. Its own byte is in angle brackets.
    let code = lines.find_map(|line| line.split_once("Code: "));
    let before = code.and_then(|(_, bytes)| bytes.split_once(" <"));
    let is_first = faults(log).first() == Some(&first);
    is_first && before.is_some_and(|(bytes, _)| !bytes.ends_with("cc"))
}

/// Functions that call those which the module probes, always with interrupts on. The last two are
/// the module's, whose names have a path before.
const CALLERS_OF_PROBED: &[&str] = &[
    "__x64_sys_ioctl",
    "exit_to_user_mode_loop",
    "get_signal",
    "xfer_to_guest_mode_handle_work",
    "complete_last_exit",
    "hooked_vcpu_ioctl",
];

/// The flag in EFLAGS that is set while interrupts are on.
const INTERRUPTS_ON: u64 = 1 << 9;

/// Returns whether the first fault in a log is a call of a probed function that went to address 0,
/// with interrupts off.
///
/// That is what a breakpoint that is not in memory any more becomes where a probe of ftrace's is
/// registered: no breakpoint is to be there, so the probe has no copy of the instruction. But the
/// kernel goes to that copy, and turns interrupts off for it (`kprobe_int3_handler` and
/// `setup_singlestep` in `arch/x86/kernel/kprobes/core.c`). No call does, whatever it calls.
fn is_stale_breakpoint_of_probe(log: &str) -> bool {
    const FAULT: &str = "BUG: kernel NULL pointer dereference, address: 0000000000000000";

    let Some(first) = faults(log).first().copied() else {
        return false;
    };
    let message = log.lines().skip_while(|line| *line != first);
    let message: Vec<&str> = message
        .map(|line| line.split_once("] ").map_or(line, |(_, text)| text).trim())
        .take_while(|text| *text != "</TASK>")
        .collect();
    let flags = message.iter().find_map(|text| text.split_once("EFLAGS: "));
    let flags = flags.and_then(|(_, flags)| u64::from_str_radix(flags, 16).ok());
    let trace = message.iter().skip_while(|text| **text != "<TASK>").skip(1);
    // A "?" is before what only lies on the stack.
    let caller = trace.copied().find(|text| !text.starts_with('?'));
    let caller = caller.and_then(|text| text.split_once('+'));
    let is_caller = |name: &str| CALLERS_OF_PROBED.iter().any(|end| name.ends_with(end));
    message.first() == Some(&FAULT)
        && message.contains(&"#PF: supervisor instruction fetch in kernel mode")
        && message.contains(&"RIP: 0010:0x0")
        && flags.is_some_and(|flags| flags & INTERRUPTS_ON == 0)
        && caller.is_some_and(|(name, _)| is_caller(name))
}

/// The kernel's words for a processor that does not come, and for what follows.
const STALLS: &[&str] = &[
    "detected stall",
    "detected expedited stalls",
    "starved for",
    "soft lockup",
    "blocked for more than",
    "Call Trace",
];

/// Returns the processors that have told of an NMI of which nobody knows the reason
/// (`unknown_nmi_error` in `arch/x86/kernel/nmi.c`). A VM that hangs is sent one.
#[must_use]
pub(crate) fn processors_with_nmi(log: &str) -> BTreeSet<&str> {
    log.lines()
        .filter(|line| line.contains("NMI received for unknown reason"))
        .filter_map(|line| line.rsplit_once(" on CPU "))
        .map(|(_, processor)| processor.trim_end_matches('.'))
        .collect()
}

/// Returns whether a VM hangs with one processor that takes no NMI, while the other one tells of
/// its own.
///
/// No module can bring that about: an NMI comes through with interrupts off, too, and ends the run
/// of a guest (AMD's manual, volume 2, 15.13.2).
fn has_deaf_processor(run: &Run, faults: &[&str]) -> bool {
    let is_stall = |fault: &&str| STALLS.iter().any(|stall| fault.contains(stall));
    run.in_parallel
        && run.end == End::TimedOut
        && faults.iter().all(is_stall)
        && processors_with_nmi(&run.console).len() == 1
}

/// The verdict on a run.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The case passed, and printed this.
    Passed(String),
    /// The case failed, or the kernel has a fault. This is the reason.
    Failed(String),
    /// The VM did not begin the case, or was lost. This says nothing about the case.
    Infrastructure(String),
}

/// The kernel's words for a failed allocation, with a call trace below (`warn_alloc` in
/// `mm/page_alloc.c`).
const FAILED_ALLOCATION: &[&str] = &["page allocation failure", "vmalloc error"];

/// kmemleak's words when it lacks memory itself, before it does without.
const FAILED_SCAN_AREA: &str = "kmemleak: Cannot allocate a scan area";

/// Returns a log without the kernel's messages about failed allocations.
fn without_failed_allocations(log: &str) -> String {
    const TRACE: &str = "Call Trace";
    let mut is_announced = false;
    let mut kept = String::new();
    for line in log.lines() {
        if FAILED_ALLOCATION.iter().any(|text| line.contains(text)) {
            is_announced = true;
            continue;
        }
        if is_announced && line.contains(TRACE) {
            is_announced = false;
            continue;
        }
        if line.contains(FAILED_SCAN_AREA) {
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Judges a run.
#[must_use]
pub fn judge(run: &Run) -> Verdict {
    let console = if run.fails_allocations {
        &without_failed_allocations(&run.console)
    } else {
        &run.console
    };
    let first_module = if run.had_modules {
        0
    } else {
        console.find(FIRST_MODULE).unwrap_or(console.len())
    };
    let (before, since) = console.split_at(first_module);
    let faults_before = faults(before);
    if !faults_before.is_empty() {
        // The emulator is to blame: with two processors it is not reliable.
        let faults = faults_before.join("\n");
        return Verdict::Infrastructure(format!("the VM broke before any module came:\n{faults}"));
    }
    if is_stale_breakpoint(since) || run.in_parallel && is_stale_breakpoint_of_probe(since) {
        let why = "the emulator ran a breakpoint that is not in memory any more";
        return Verdict::Infrastructure(why.to_owned());
    }
    let faults = faults(since);
    if has_deaf_processor(run, &faults) {
        let why = "the VM hung with a processor that takes no NMI";
        return Verdict::Infrastructure(why.to_owned());
    }
    let text = run.text.join("\n");
    if !faults.is_empty() {
        let mut reason = format!("the kernel log is not clean:\n{}", faults.join("\n"));
        if !text.is_empty() {
            reason = format!("{reason}\nthe case said:\n{text}");
        }
        return Verdict::Failed(reason);
    }
    match (run.started, run.passed, &run.end) {
        (_, Some(true), End::Complete) => Verdict::Passed(text),
        (_, Some(false), End::Complete) if text.contains(GUEST_LOST) => {
            Verdict::Infrastructure(GUEST_LOST.to_owned())
        }
        (_, Some(false), End::Complete) if text.contains(GUEST_LOST_ALONE) => {
            Verdict::Infrastructure(text)
        }
        // KVM has read them from where only the emulated processor writes.
        (_, Some(false), End::Complete) if run.in_parallel && text.contains(HOST_IN_GUEST) => {
            Verdict::Infrastructure(text)
        }
        (_, Some(false), End::Complete) => Verdict::Failed(text),
        (true, Some(_), End::TimedOut) => {
            Verdict::Failed(format!("the VM did not power off\n{text}"))
        }
        // None of our modules was there that could be the cause.
        (true, _, End::TimedOut) if since.is_empty() && !run.had_modules => {
            Verdict::Infrastructure("the VM hung before any module came".to_owned())
        }
        (true, _, End::TimedOut) => Verdict::Failed("the VM hung".to_owned()),
        (true, _, _) => Verdict::Infrastructure("the VM was lost".to_owned()),
        (false, _, End::TimedOut) => {
            Verdict::Infrastructure("the VM did not boot in time".to_owned())
        }
        (false, _, _) => Verdict::Infrastructure("the VM did not boot".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log of a kernel without a fault.
    const CLEAN: &str = "\
[    0.000000] Linux version 7.3.4+deb13-amd64 (debian-kernel@lists.debian.org)
[    0.012345] x86/fpu: x87 FPU will use FXSAVE
[    0.100000] rcu: \tRCU restricting CPUs from NR_CPUS=8192 to nr_cpu_ids=2.
[    0.100000] debug: unmapping init [mem 0xffff-0xffff]
[    1.000000] kvm_amd: Nested Paging enabled
[    1.100000] kvm_inspect: loading out-of-tree module taints kernel.
[    1.200000] kvm_inspect: error: there is no process 5; give the process number of the VMM as pid=
[    1.300000] kvm_inspect: Unknown symbol kvm_get_kvm (err -2)
[    1.400000] kvm [80]: vcpu0, guest rIP: 0x0 Unhandled WRMSR(0xc0010007) = 0x0
[    2.000000] reboot: Power down";

    /// A line of each kind of fault.
    const BAD: &[&str] = &[
        "[    3.1] WARNING: CPU: 0 PID: 80 at kernel/kprobes.c:1085 arm_kprobe+0x2c/0x80",
        "[    3.1] WARNING: possible circular locking dependency detected",
        "[    3.1] WARNING: suspicious RCU usage",
        "[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "[    3.1] BUG: sleeping function called from invalid context at mm/vmalloc.c:3400",
        "[    3.1] BUG: KASAN: slab-use-after-free in kvm_put_kvm+0x10/0x20",
        "[    3.1] kernel BUG at rust/helpers/bug.c:7!",
        "[    3.1] rust_kernel: panicked at src/memory.rs:10:5:",
        "[    3.1] Oops: 0000 [#1] SMP NOPTI",
        "[    3.1] Oops: general protection fault, probably for non-canonical address",
        "[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
        "[    3.1] Call Trace:",
        "[    3.1] INFO: task insmod:81 blocked for more than 20 seconds.",
        "[    3.1] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [vcpu 0:83]",
        "[    3.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "[    3.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
        "[    3.1] INFO: rcu_tasks detected stalls on tasks:",
        "[    3.1] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "[    3.1] refcount_t: underflow; use-after-free.",
        "[    3.1] UBSAN: array-index-out-of-bounds in mm/gup.c:100:1",
        "[    3.1] list_del corruption, ffff888->next is LIST_POISON1",
        "[    3.1] guest[80]: segfault at 0 ip 0000000000401000 sp 00007ffc error 4",
        "[    3.1] BUG: Bad rss-counter state mm:00000000 type:MM_ANONPAGES val:5",
        "[    3.1] unchecked MSR access error: WRMSR to 0xc0000080",
    ];

    fn run(console: &str, started: bool, passed: Option<bool>, end: End) -> Run {
        Run {
            console: console.to_owned(),
            started,
            passed,
            text: vec!["what the case said".to_owned()],
            end,
            ..Run::new()
        }
    }

    #[test]
    fn a_clean_log_is_clean() {
        assert_eq!(faults(CLEAN), [""; 0]);
    }

    #[test]
    fn no_fault_is_overlooked() {
        for line in BAD {
            assert_eq!(faults(&format!("{CLEAN}\n{line}\n{CLEAN}")), [*line]);
        }
    }

    #[test]
    fn a_case_that_passed_needs_a_clean_log_and_an_end() {
        let passed = |run| matches!(judge(&run), Verdict::Passed(_));
        assert!(passed(run(CLEAN, true, Some(true), End::Complete)));
        for line in BAD {
            let log = format!("{CLEAN}\n{line}");
            let run = run(&log, true, Some(true), End::Complete);
            assert!(matches!(judge(&run), Verdict::Failed(_)), "{line}");
        }
        for end in [End::Lost, End::TimedOut] {
            assert!(!passed(run(CLEAN, true, Some(true), end)));
        }
    }

    #[test]
    fn only_a_breakpoint_that_is_not_there_is_the_emulators() {
        let oops = |code: &str| {
            let log = format!(
                "{CLEAN}
[    5.81] Oops: int3: 0000 [#1] SMP NOPTI
[    5.81] CPU: 1 UID: 0 PID: 101 Comm: vcpu 0 Tainted: G           OE
[    5.81] RIP: 0010:kvm_vcpu_ioctl+0x5/0x9e0 [kvm]
[    5.81] Code: 90 90 f3 0f 1e fa {code} 44 00 00
[    5.81] Call Trace:"
            );
            judge(&run(&log, true, None, End::Lost))
        };
        assert!(matches!(oops("0f <1f>"), Verdict::Infrastructure(_)));
        assert!(matches!(oops("cc <1f>"), Verdict::Failed(_)));
        assert!(!is_stale_breakpoint(CLEAN));
        let other = "[    5.81] Oops: 0000 [#1]\n[    5.81] Code: 90 0f <1f> 44";
        assert!(!is_stale_breakpoint(other));
    }

    #[test]
    fn only_a_call_with_interrupts_off_is_a_breakpoint_of_a_probe() {
        // As `threads-probed-alone` gets it.
        const OOPS: &str = "\
[  239.1] BUG: kernel NULL pointer dereference, address: 0000000000000000
[  239.1] #PF: supervisor instruction fetch in kernel mode
[  239.1] #PF: error_code(0x0010) - not-present page
[  239.1] Oops: Oops: 0010 [#1] SMP NOPTI
[  239.1] RIP: 0010:0x0
[  239.1] RSP: 0018:ff7cf2fd4042be50 EFLAGS: 00010086
[  239.1] Call Trace:
[  239.1]  <TASK>
[  239.1]  ? kprobe_int3_handler+0x10/0x200
[  239.1]  __x64_sys_ioctl+0x96/0xe0
[  239.1]  do_syscall_64+0xc4/0x560
[  239.1]  ? get_signal+0x35/0x560
[  239.1]  </TASK>
[  239.1] RIP: 0010:0x0
[  239.1] BUG: kernel NULL pointer dereference, address: 0000000000000000";
        let broke = |in_parallel, log: &str| {
            let run = Run {
                in_parallel,
                ..run(&format!("{CLEAN}\n{log}"), true, None, End::Lost)
            };
            judge(&run)
        };
        assert!(matches!(broke(true, OOPS), Verdict::Infrastructure(_)));
        assert!(matches!(broke(false, OOPS), Verdict::Failed(_)));
        let own = "_RNvNtCsbr_11kvm_inspect4hook17hooked_vcpu_ioctl+0x96/0xe0 [kvm_inspect]";
        let own = OOPS.replace("__x64_sys_ioctl+0x96/0xe0", own);
        assert!(matches!(broke(true, &own), Verdict::Infrastructure(_)));
        for (text, other) in [
            ("address: 0000000000000000", "address: 0000000000000008"),
            ("instruction fetch", "read access"),
            (
                "RIP: 0010:0x0",
                "RIP: 0010:search_step+0x5/0x9e0 [kvm_inspect]",
            ),
            ("EFLAGS: 00010086", "EFLAGS: 00010286"),
            (" EFLAGS: 00010086", ""),
            (
                "__x64_sys_ioctl+0x96/0xe0",
                "search_step+0x96/0xe0 [kvm_inspect]",
            ),
            ("__x64_sys_ioctl+0x96/0xe0", "irq_work_single+0x96/0xe0"),
            ("[  239.1]  <TASK>", "[  239.1]  <IRQ>"),
        ] {
            let log = OOPS.replace(text, other);
            assert_ne!(log, OOPS);
            assert!(matches!(broke(true, &log), Verdict::Failed(_)), "{log}");
        }
        // What comes first counts.
        for line in BAD {
            let log = format!("{line}\n{OOPS}");
            assert!(matches!(broke(true, &log), Verdict::Failed(_)), "{line}");
        }
    }

    #[test]
    fn a_lost_guest_says_nothing_about_the_case() {
        let mut run = run(CLEAN, true, Some(false), End::Complete);
        for lost in [GUEST_LOST, GUEST_LOST_ALONE] {
            run.text = vec![format!("panicked: {lost}")];
            assert!(matches!(judge(&run), Verdict::Infrastructure(_)));
        }
    }

    #[test]
    fn only_in_parallel_a_guest_gets_the_registers_of_its_host() {
        for (in_parallel, said, is_emulators) in [
            (true, HOST_IN_GUEST, true),
            (false, HOST_IN_GUEST, false),
            (true, "KVM has failed", false),
        ] {
            let run = Run {
                in_parallel,
                text: vec![format!("panicked: {said}: exit 17")],
                ..run(CLEAN, true, Some(false), End::Complete)
            };
            let verdict = judge(&run);
            assert_eq!(
                matches!(verdict, Verdict::Infrastructure(_)),
                is_emulators,
                "{said}"
            );
        }
        // A fault of the kernel counts more.
        for line in BAD {
            let run = Run {
                in_parallel: true,
                text: vec![HOST_IN_GUEST.to_owned()],
                ..run(
                    &format!("{CLEAN}\n{line}"),
                    true,
                    Some(false),
                    End::Complete,
                )
            };
            assert!(matches!(judge(&run), Verdict::Failed(_)), "{line}");
        }
    }

    #[test]
    fn only_a_processor_without_an_nmi_is_the_emulators() {
        const STALL: &str = "\
[   30.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[   30.1] rcu: rcu_preempt kthread starved for 5250 jiffies! g5 f0x0 RCU_GP_WAIT_FQS(5) ->cpu=0
[   30.1] Call Trace:";
        let nmi = |processor| {
            format!("[   99.1] Uhhuh. NMI received for unknown reason 20 on CPU {processor}.")
        };
        let (one, both) = (nmi(1), format!("{}\n{}", nmi(1), nmi(0)));
        let hung = |in_parallel, more: &str, end| {
            let run = Run {
                in_parallel,
                ..run(&format!("{CLEAN}\n{more}"), true, None, end)
            };
            judge(&run)
        };
        let after_stall = format!("{STALL}\n{one}");
        for log in [&one, &after_stall] {
            let verdict = hung(true, log, End::TimedOut);
            assert!(matches!(verdict, Verdict::Infrastructure(_)), "{log}");
            let verdict = hung(false, log, End::TimedOut);
            assert!(matches!(verdict, Verdict::Failed(_)), "{log}");
        }
        // Both take it, none has told of it, or the VM went on.
        for log in ["", STALL, &both, &format!("{STALL}\n{both}")] {
            let verdict = hung(true, log, End::TimedOut);
            assert!(matches!(verdict, Verdict::Failed(_)), "{log}");
        }
        let verdict = hung(true, &after_stall, End::Complete);
        assert!(matches!(verdict, Verdict::Failed(_)));
        // A fault of the kernel counts more.
        let others = BAD
            .iter()
            .filter(|line| !STALLS.iter().any(|stall| line.contains(stall)));
        for line in others {
            let verdict = hung(true, &format!("{line}\n{after_stall}"), End::TimedOut);
            assert!(matches!(verdict, Verdict::Failed(_)), "{line}");
        }
    }

    #[test]
    fn a_fault_after_another_case_is_not_the_emulators() {
        for line in BAD {
            let mut run = run(line, true, Some(true), End::Complete);
            run.had_modules = true;
            assert!(matches!(judge(&run), Verdict::Failed(_)), "{line}");
        }
    }

    #[test]
    fn only_allocations_that_were_to_fail_may_fail() {
        let log = format!(
            "{CLEAN}
[    3.1] insmod: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL)
[    3.1] CPU: 0 UID: 0 PID: 46 Comm: insmod
[    3.1] Call Trace:
[    3.1]  <TASK>
[    3.2] kmemleak: Cannot allocate a scan area, scanning the full object"
        );
        let verdict = |log: &str, fails_allocations| {
            judge(&Run {
                fails_allocations,
                ..run(log, true, Some(true), End::Complete)
            })
        };
        assert!(matches!(verdict(&log, true), Verdict::Passed(_)));
        assert!(matches!(verdict(&log, false), Verdict::Failed(_)));
        for line in BAD {
            let log = format!("{log}\n{line}");
            assert!(matches!(verdict(&log, true), Verdict::Failed(_)), "{line}");
        }
    }

    #[test]
    fn lost_is_not_failed() {
        let lost = |run| matches!(judge(&run), Verdict::Infrastructure(_));
        assert!(lost(run(CLEAN, false, None, End::Lost)));
        assert!(lost(run(CLEAN, false, None, End::TimedOut)));
        assert!(lost(run(CLEAN, true, None, End::Lost)));
        assert!(!lost(run(CLEAN, true, Some(false), End::Complete)));
        assert!(!lost(run(CLEAN, true, None, End::TimedOut)));
        let no_module = "[    1.0] kvm_amd: Nested Paging enabled";
        assert!(lost(run(no_module, true, None, End::TimedOut)));
        let mut later = run(no_module, true, None, End::TimedOut);
        later.had_modules = true;
        assert!(!lost(later));
        for line in BAD {
            // The module cannot have caused a fault before it came.
            assert!(lost(run(
                &format!("{line}\n{CLEAN}"),
                true,
                Some(true),
                End::Complete
            )));
            assert!(!lost(run(
                &format!("{CLEAN}\n{line}"),
                true,
                None,
                End::Lost
            )));
        }
    }
}
