// SPDX-License-Identifier: GPL-2.0

//! Times and sizes, as people write and read them.

use std::fmt::{self, Display};

/// The longest time that may be given, in milliseconds: a day.
const MAX_MS: u32 = 86_400_000;

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

/// A number of nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub(super) u64);

/// A number with the noun that it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) u64, pub(super) &'static str);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.into_iter().find(|(shift, _)| self.0 >> shift > 0);
        match unit {
            None => f.pad(&format!("{} B", self.0)),
            Some((shift, name)) => f.pad(&tenths(self.0, 1 << shift, name)),
        }
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000_000 => f.pad(&format!("{} µs", self.0 / 1000)),
            1_000_000..1_000_000_000 => f.pad(&tenths(self.0, 1_000_000, "ms")),
            1_000_000_000.. => f.pad(&tenths(self.0, 1_000_000_000, "s")),
        }
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        let plural = if *count == 1 { "" } else { "s" };
        write!(f, "{count} {noun}{plural}")
    }
}

/// Returns a number in a unit with one digit after the point, rounded down.
fn tenths(number: u64, unit: u64, name: &str) -> String {
    let tenth = (number % unit).saturating_mul(10) / unit;
    format!("{}.{tenth} {name}", number / unit)
}

/// Reads a time: a number of milliseconds, or with a unit `ms`, `s`, `m` or `h`.
pub(super) fn milliseconds(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("" | "ms") => Some(1),
        Some("s") => Some(1000),
        Some("m") => Some(60_000),
        Some("h") => Some(3_600_000),
        _ => None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (Some(unit), true) = (unit, is_number) else {
        return Err(format!("{text} is no time; write such as 500ms, 2s or 1m"));
    };
    let time = digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    match time {
        Some(time @ 1..=MAX_MS) => Ok(time),
        _ => Err(format!(
            "{text} is out of range; write a time from 1ms to 24h"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_the_unit_that_fits() {
        let sizes = [0, 1023, 1024, 1536, 1 << 20, (1 << 40) - 1, u64::MAX];
        let sizes = sizes.map(|size| Size(size).to_string());
        let expected = [
            "0 B",
            "1023 B",
            "1.0 KiB",
            "1.5 KiB",
            "1.0 MiB",
            "1023.9 GiB",
        ];
        assert_eq!(sizes[..6], expected);
        assert_eq!(sizes[6], "16777215.9 TiB");
        let times = [999, 42_000, 1_500_000, 2_000_000_000, u64::MAX];
        let times = times.map(|time| Time(time).to_string());
        assert_eq!(
            times,
            ["0 µs", "42 µs", "1.5 ms", "2.0 s", "18446744073.7 s"]
        );
        assert_eq!(format!("{:>8}|", Size(1024)), " 1.0 KiB|");
        assert_eq!(Count(1, "hit").to_string(), "1 hit");
        assert_eq!(Count(0, "hit").to_string(), "0 hits");
    }

    #[test]
    fn a_time_may_have_a_unit() {
        let times = ["1", "500ms", "2s", "3m", "24h", "86400000"].map(milliseconds);
        let expected = [1, 500, 2000, 180_000, 86_400_000, 86_400_000];
        assert_eq!(times, expected.map(Ok));
        for text in ["", "ms", "1x", "-1", "1.5s", "+1", "0x1", " 1", "é"] {
            assert!(
                milliseconds(text).is_err_and(|error| error.contains("no time")),
                "{text}"
            );
        }
        for text in ["0", "0s", "25h", "86400001", "99999999999", "4294967295m"] {
            assert!(
                milliseconds(text).is_err_and(|error| error.contains("range")),
                "{text}"
            );
        }
    }
}
