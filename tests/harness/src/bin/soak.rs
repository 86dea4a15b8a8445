// SPDX-License-Identifier: GPL-2.0

//! `soak MINUTES`: runs the long form of the cases about what may go wrong at any moment, on the
//! stock and the debug kernel, until time is up.

use std::{
    collections::BTreeMap,
    env, io,
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        Mutex, PoisonError,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use cases::protocol::CaseInfo;
use harness::{
    judge::Verdict,
    suite::{all_cases, Suite, Vm},
    testbed::Testbed,
};

/// The beginnings of the cases' names.
const CASES: &[&str] = &[
    "faults_",
    "invisible_",
    "life_",
    "meanwhile_",
    "nested_",
    "threads_",
    "vmms_",
];

/// How many cases a VM runs, and how many times as much as in the short form each does.
const IN_ONE_VM: usize = 2;
const SCALE: u32 = 2;

/// How many VMs in a row the emulator may lose on one kernel.
const MOST_LOST: u32 = 5;

fn main() -> ExitCode {
    let minutes = env::args().nth(1).map(|text| text.parse::<u64>());
    let Some(Ok(minutes)) = minutes else {
        eprintln!("usage: soak MINUTES");
        return ExitCode::from(2);
    };
    let soak = Soak {
        begin: Instant::now(),
        length: Duration::from_secs(60 * minutes),
        failed: AtomicBool::new(false),
        sums: Mutex::default(),
    };
    let result = thread::scope(|scope| {
        let soak = &soak;
        let testbeds = [(Testbed::stock(), false), (Testbed::debug(), true)];
        let threads =
            testbeds.map(|(testbed, is_debug)| scope.spawn(move || soak.run(testbed, is_debug)));
        let results = threads.map(|thread| thread.join().unwrap_or_else(|_| fail("a panic")));
        results.into_iter().collect::<io::Result<()>>()
    });
    let sums = soak.format_sums();
    match result {
        Ok(()) => {
            println!("soak: PASS minutes={minutes}{sums}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let done = soak.minute();
            println!("soak: FAIL {error}; until then minutes={done}{sums}");
            ExitCode::FAILURE
        }
    }
}

fn fail<T>(why: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(why.into()))
}

struct Soak {
    begin: Instant,
    length: Duration,
    /// Whether a case failed on one kernel: the other one ends, too.
    failed: AtomicBool,
    /// What the cases have counted.
    sums: Mutex<BTreeMap<String, u64>>,
}

impl Soak {
    /// Runs cases on one kernel until time is up or one fails.
    fn run(&self, testbed: Testbed, is_debug: bool) -> io::Result<()> {
        let result = self.run_all(testbed, is_debug);
        if result.is_err() {
            self.failed.store(true, Relaxed);
        }
        result
    }

    fn run_all(&self, testbed: Testbed, is_debug: bool) -> io::Result<()> {
        let name = testbed.name.clone();
        let is_in_soak = |case: &CaseInfo| {
            CASES.iter().any(|prefix| case.name.starts_with(prefix)) && case.needs.fit(is_debug)
        };
        let cases: Vec<CaseInfo> = all_cases()?.into_iter().filter(is_in_soak).collect();
        let vm = if is_debug { Vm::debug } else { Vm::stock };
        let mut vm = Vm {
            in_parallel: true,
            ..vm(name.clone(), cases.clone())
        };
        let suite = Suite::open("soak", testbed, std::slice::from_ref(&vm))?;
        let log = suite.log(&name).display().to_string();
        let mut lost = 0;
        let mut random = seed();
        while self.begin.elapsed() < self.length && !self.failed.load(Relaxed) {
            // Any of them, in any order.
            let chosen = (0..IN_ONE_VM).map(|_| {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let index = (random >> 33) % cases.len() as u64;
                cases[usize::try_from(index).unwrap_or(0)].clone()
            });
            vm.cases = chosen.collect();
            let names: Vec<&str> = vm.cases.iter().map(|case| case.name.as_str()).collect();
            let minute = self.minute();
            println!("minute {minute:3}, {name:5}: {}", names.join(", "));
            for (verdict, case) in suite.run_once(&vm, SCALE)?.into_iter().zip(&names) {
                match verdict {
                    Verdict::Passed(text) => {
                        lost = 0;
                        self.count(&text);
                    }
                    Verdict::Infrastructure(why) => {
                        lost += 1;
                        println!("minute {minute:3}, {name:5}: {case}: {why}");
                        if lost == MOST_LOST {
                            return fail(format!("{lost} VMs in a row were lost ({log})"));
                        }
                        break;
                    }
                    Verdict::Failed(reason) => {
                        println!("{reason}");
                        let first = reason.lines().next().unwrap_or_default();
                        return fail(format!("{case} on the {name} kernel: {first} ({log})"));
                    }
                }
            }
        }
        Ok(())
    }

    fn minute(&self) -> u64 {
        self.begin.elapsed().as_secs() / 60
    }

    /// Adds up what a case has counted, in lines `counted: NAME=NUMBER …`.
    fn count(&self, text: &str) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        *sums.entry("cases".to_owned()).or_default() += 1;
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("counted: "));
        let words = lines.flat_map(str::split_whitespace);
        for (name, number) in words.filter_map(|word| word.split_once('=')) {
            *sums.entry(name.to_owned()).or_default() += number.parse().unwrap_or(0);
        }
    }

    /// Returns the sums as text.
    fn format_sums(&self) -> String {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let words = sums
            .iter()
            .map(|(name, number)| format!(" {name}={number}"));
        words.collect()
    }
}

/// Returns another number each time.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |time| u64::from(time.subsec_nanos()))
}
