// SPDX-License-Identifier: GPL-2.0

//! The demo: boots a host in an emulator, and in it a guest, and shows what the module finds.

use std::{process::ExitCode, time::Duration};

use harness::nested::{Guest, Scenario};

fn main() -> ExitCode {
    println!("Booting a host in an emulator; all in all this takes about a minute ...");
    let demo = Scenario {
        name: "find",
        parameters: "",
        guest: Guest::Demo,
        log: "demo",
        memory: 1024,
        limit: Duration::from_secs(150),
    };
    match demo.run(|line| println!("{line}")) {
        Ok(results) => {
            println!("demo: PASS {results}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("demo: FAIL {why}");
            ExitCode::FAILURE
        }
    }
}
