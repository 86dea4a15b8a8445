// SPDX-License-Identifier: GPL-2.0

//! Tests with a Linux guest in QEMU. Each has a host of its own.

use std::{process::ExitCode, time::Duration};

use harness::nested::{Guest, Scenario};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They measure times, so each needs the machine for itself.
    arguments.test_threads = Some(1);
    let trials = vec![Trial::test("linux_long_pause", || run("long_pause"))];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs a scenario of the crate `demo`. Fails with what it printed.
fn run(name: &str) -> Result<(), Failed> {
    let scenario = Scenario {
        name,
        parameters: "",
        guest: Guest::Demo,
        log: &format!("linux/{name}"),
        memory: 1024,
        limit: Duration::from_secs(180),
    };
    let mut said = String::new();
    let outcome = scenario.run(|line| {
        said.push_str(line);
        said.push('\n');
    });
    outcome
        .map(drop)
        .map_err(|why| format!("{why}\n{said}").into())
}
