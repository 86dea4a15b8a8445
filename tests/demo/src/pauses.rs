// SPDX-License-Identifier: GPL-2.0

//! The results of the scenario `freezes`, as the host sends them to the harness.

use std::fmt;

use crate::values::{number, text};

/// The kernel parameter of the host with the number of the guest's vCPUs.
pub const VCPUS: &str = "vcpus=";

/// The kernel parameter of the host with the number of inspections.
pub const COUNT: &str = "count=";

/// A summary of some times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Times {
    /// Summarizes a list. Returns [`None`] if it is empty.
    #[must_use]
    pub fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let percentile = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            times.get(rank.checked_sub(1)?).copied()
        };
        Some(Self {
            p50: percentile(50)?,
            p99: percentile(99)?,
            max: percentile(100)?,
        })
    }

    /// Reads the output of `Display`.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(',').map(|number| number.parse().ok());
        Some(Self {
            p50: numbers.next()??,
            p99: numbers.next()??,
            max: numbers.next()??,
        })
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.p50, self.p99, self.max)
    }
}

/// A summary of many pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseTimes {
    /// From the request until all vCPUs have stopped.
    pub freeze: Times,
    /// From then until they may go on.
    pub stopped: Times,
    /// Both together.
    pub whole: Times,
}

impl PauseTimes {
    /// Summarizes pairs: freeze and stopped time in microseconds. Returns [`None`] if there are
    /// none.
    #[must_use]
    pub fn of(times: &[(u64, u64)]) -> Option<Self> {
        let all = |of: fn(&(u64, u64)) -> u64| Times::of(times.iter().map(of).collect());
        Some(Self {
            freeze: all(|time| time.0)?,
            stopped: all(|time| time.1)?,
            whole: all(|time| time.0 + time.1)?,
        })
    }

    /// Reads the output of `Display`.
    fn parse(text: &str) -> Option<Self> {
        let mut times = text.split('/').map(Times::parse);
        Some(Self {
            freeze: times.next()??,
            stopped: times.next()??,
            whole: times.next()??,
        })
    }
}

impl fmt::Display for PauseTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.freeze, self.stopped, self.whole)
    }
}

/// The pauses of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// How often the module has inspected it.
    pub inspections: u64,
    /// How often QEMU has stopped it.
    pub stops: u64,
    /// By the module, where the first kick is the request.
    pub module: PauseTimes,
    /// By QEMU, where the command `stop` is the request.
    pub qemu: PauseTimes,
}

impl Comparison {
    /// Reads the output of `Display`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let pauses = |key| text(line, key).and_then(PauseTimes::parse);
        Some(Self {
            inspections: number(line, "inspections")?,
            stops: number(line, "stops")?,
            module: pauses("module_us")?,
            qemu: pauses("qemu_us")?,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pauses inspections={} stops={} module_us={} qemu_us={}",
            self.inspections, self.stops, self.module, self.qemu
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_list() {
        let times = Times::of((1..=1000).rev().collect()).expect("it is not empty");
        assert_eq!((times.p50, times.p99, times.max), (500, 990, 1000));
        let times = Times::of(vec![7]).expect("it is not empty");
        assert_eq!((times.p50, times.p99, times.max), (7, 7, 7));
        assert_eq!(Times::of(Vec::new()), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let comparison = Comparison {
            inspections: 1000,
            stops: 50,
            module: PauseTimes::of(&[(1, 2), (3, 4)]).expect("it is not empty"),
            qemu: PauseTimes::of(&[(10, 20)]).expect("it is not empty"),
        };
        assert_eq!(Comparison::parse(&comparison.to_string()), Some(comparison));
        assert_eq!(Comparison::parse("pauses inspections=1"), None);
    }
}
