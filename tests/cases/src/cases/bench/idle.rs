// SPDX-License-Identifier: GPL-2.0

//! The cost of the module while it waits.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    cases::times,
    inspect::Inspection,
    vmm::{Vm, Work},
};

/// Measures what an exit costs while the module waits: exits per second of a guest that does port
/// I/O, each through the VMM.
pub(super) fn idle() {
    const STRETCH: Duration = Duration::from_millis(500);

    let mut vm = Vm::running(Work::PortIo);
    let other = Vm::running(Work::Halt);
    let exits = |vm: &mut Vm| {
        // Let the load settle.
        thread::sleep(Duration::from_millis(100));
        let (begin, from) = (Instant::now(), vm.vcpu(0).rounds());
        thread::sleep(STRETCH);
        // Each round is an IN and an OUT.
        let exits = u32::try_from(2 * (vm.vcpu(0).rounds() - from)).expect("the time is short");
        f64::from(exits) / begin.elapsed().as_secs_f64()
    };
    // Which VM is inspected, at what interval, and the allowed loss in percent. With short
    // intervals the probe stays. Each measurement lies between two inspections.
    let rows = [
        (
            "not inspected, the other one each hour",
            other.fd(),
            3_600_000,
            Some(2.0),
        ),
        ("inspected each hour", vm.fd(), 3_600_000, Some(5.0)),
        (
            "not inspected, the other one each 0.99 s",
            other.fd(),
            990,
            None,
        ),
        ("inspected each 0.99 s", vm.fd(), 990, None),
    ];
    let mut ratios = rows.map(|_| Vec::new());
    for _ in 0..times(25) {
        for ((_, fd, interval, _), ratios) in rows.iter().zip(&mut ratios) {
            let before = exits(&mut vm);
            let inspection = Inspection::of_self().set("vm_fd", fd);
            let loaded = inspection.set("interval_ms", interval).load();
            let with = exits(&mut vm);
            loaded.unload();
            let after = exits(&mut vm);
            // The machine may get slower or faster meanwhile.
            ratios.push(with / f64::midpoint(before, after));
        }
    }
    println!("exits per second of a VM with the module loaded and waiting, against without it:");
    let mut missed = false;
    for ((name, _, _, limit), ratios) in rows.iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        let at = |part: usize| ratios[(ratios.len() - 1) * part / 4];
        let lost = (1.0 - at(2)) * 100.0;
        let goal = limit.map_or(String::new(), |limit| format!(", goal: at most {limit} %"));
        println!(
            "  {name:<40} {:.3} ({:.3} to {:.3} in half of {}): {lost:.1} % fewer{goal}",
            at(2),
            at(1),
            at(3),
            ratios.len()
        );
        missed |= limit.is_some_and(|limit| lost > limit);
    }
    println!("bench-idle: {}", if missed { "FAIL" } else { "PASS" });
    vm.finish();
}
