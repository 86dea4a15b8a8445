// SPDX-License-Identifier: GPL-2.0

//! A clock for time limits, which slows down when the VM gets little CPU time.

use std::{
    fs,
    time::{Duration, Instant},
};

/// The unit of times in `/proc/PID/stat` (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A clock for the process that emulates a VM.
///
/// It goes as fast as time if the process has half a processor. It goes up to four times slower if
/// others keep the process from running, or if that is idle. So limits hold on a busy machine, and
/// still end what hangs.
pub(crate) struct VmClock {
    process: u32,
    last: Instant,
    last_used: Duration,
    elapsed: Duration,
}

impl VmClock {
    /// Starts a clock at 0.
    pub(crate) fn start(process: u32) -> Self {
        Self {
            process,
            last: Instant::now(),
            last_used: used(process),
            elapsed: Duration::ZERO,
        }
    }

    /// Returns the time. Must be called every now and then.
    pub(crate) fn now(&mut self) -> Duration {
        let (now, used) = (Instant::now(), used(self.process));
        self.elapsed += step(
            now.duration_since(self.last),
            used.saturating_sub(self.last_used),
        );
        (self.last, self.last_used) = (now, used);
        self.elapsed
    }
}

/// Returns how far the clock goes in a time in which the process used a processor for `used`.
fn step(time: Duration, used: Duration) -> Duration {
    time.min(time / 4 + used * 3 / 2)
}

/// Returns how long a process has used processors, or 0 if it is gone.
fn used(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // After the name, in parentheses, comes field 3. `utime` and `stime` are fields 14 and 15
    // (proc_pid_stat(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    TICK * ticks.filter_map(|field| field.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_goes_with_time_for_one_that_runs() {
        assert_eq!(step(SECOND, SECOND), SECOND);
        assert_eq!(step(SECOND, SECOND / 2), SECOND);
        assert_eq!(step(SECOND, SECOND * 2), SECOND);
    }

    #[test]
    fn it_goes_slower_for_one_that_does_not() {
        assert_eq!(step(SECOND, Duration::ZERO), SECOND / 4);
        assert!(step(SECOND, SECOND / 10) < SECOND / 2);
    }

    #[test]
    fn this_process_uses_processors() {
        let begin = Instant::now();
        let before = used(std::process::id());
        while used(std::process::id()) == before {
            assert!(begin.elapsed() < SECOND * 600, "nothing is used");
        }
    }
}
