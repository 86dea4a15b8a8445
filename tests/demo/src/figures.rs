// SPDX-License-Identifier: GPL-2.0

//! What the scenario `freezes` has measured, as it is told to the harness.

use std::fmt;

use crate::values::{number, text};

/// The kernel parameter of the host that says how many vCPUs the guest has.
pub const VCPUS: &str = "vcpus=";

/// The kernel parameter of the host that says how many inspections there are to be.
pub const COUNT: &str = "count=";

/// Some times in microseconds, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Half of them are no longer than this.
    pub p50: u64,
    /// All but one in a hundred are no longer than this.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Times {
    /// Those in a list; [`None`] if it is empty.
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

    /// Reads what `Display` wrote.
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

/// What was measured of many standstills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// From the request until all vCPUs stood.
    pub stopping: Times,
    /// From then until they could go on.
    pub standing: Times,
    /// Both together.
    pub whole: Times,
}

impl Standstill {
    /// Of pairs: stopping and standing, in microseconds. [`None`] if there are none.
    #[must_use]
    pub fn of(times: &[(u64, u64)]) -> Option<Self> {
        let all = |of: fn(&(u64, u64)) -> u64| Times::of(times.iter().map(of).collect());
        Some(Self {
            stopping: all(|time| time.0)?,
            standing: all(|time| time.1)?,
            whole: all(|time| time.0 + time.1)?,
        })
    }

    /// Reads what `Display` wrote.
    fn parse(text: &str) -> Option<Self> {
        let mut times = text.split('/').map(Times::parse);
        Some(Self {
            stopping: times.next()??,
            standing: times.next()??,
            whole: times.next()??,
        })
    }
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.stopping, self.standing, self.whole)
    }
}

/// All of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// How often the module has inspected it.
    pub inspections: u64,
    /// How often QEMU has stopped it.
    pub stops: u64,
    /// By the module: the request is the first kick.
    pub module: Standstill,
    /// By QEMU: the request is the command `stop`.
    pub qemu: Standstill,
}

impl Figures {
    /// Reads what `Display` wrote.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let standstill = |key| text(line, key).and_then(Standstill::parse);
        Some(Self {
            inspections: number(line, "inspections")?,
            stops: number(line, "stops")?,
            module: standstill("module_us")?,
            qemu: standstill("qemu_us")?,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "figures inspections={} stops={} module_us={} qemu_us={}",
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
        let figures = Figures {
            inspections: 1000,
            stops: 50,
            module: Standstill::of(&[(1, 2), (3, 4)]).expect("it is not empty"),
            qemu: Standstill::of(&[(10, 20)]).expect("it is not empty"),
        };
        assert_eq!(Figures::parse(&figures.to_string()), Some(figures));
        assert_eq!(Figures::parse("figures inspections=1"), None);
    }
}
