// SPDX-License-Identifier: GPL-2.0

//! When a file was written, and how long it took.

use std::time::{Duration, Instant, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The last second that has four digits for its year.
const LAST_SECOND: u64 = 253_402_300_799;

/// When a file was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Times {
    /// When its making began.
    #[schemars(extend("format" = "date-time"))]
    pub started: String,
    /// The instant that it is of: the begin of the last pause, if there was one.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    pub instant: Option<String>,
    /// When it was whole, but for its name.
    #[schemars(extend("format" = "date-time"))]
    pub ended: String,
    /// How long that took in microseconds, by a clock that nobody sets.
    pub duration_us: u64,
}

/// Measures how long something takes, and knows when it began.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: SystemTime,
    running: Instant,
}

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: SystemTime::now(),
            running: Instant::now(),
        }
    }

    /// Ends now. `instant` is what the file is of.
    #[must_use]
    pub fn stop(&self, instant: Option<SystemTime>) -> Times {
        let duration = self.running.elapsed();
        let ended = self.started.checked_add(duration);
        Times {
            started: rfc3339(self.started),
            instant: instant.map(rfc3339),
            // Not the time of the day, which may have been set meanwhile.
            ended: rfc3339(ended.unwrap_or(self.started)),
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// Returns a time in UTC, to the microsecond. Times before 1970 or after 9999, of clocks that are
/// wrong, become the nearest that can be told.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since
        .unwrap_or(Duration::ZERO)
        .min(Duration::from_secs(LAST_SECOND));
    let time = SystemTime::UNIX_EPOCH + since;
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_wrong_clocks_can_be_told() {
        let epoch = SystemTime::UNIX_EPOCH;
        let at = |seconds| rfc3339(epoch + Duration::from_secs(seconds));
        assert_eq!(at(1_795_816_801), "2026-11-27T22:00:01.000000Z");
        assert_eq!(rfc3339(epoch - Duration::from_secs(1)), at(0));
        assert_eq!(at(LAST_SECOND), "9999-12-31T23:59:59.000000Z");
        assert_eq!(at(LAST_SECOND + 1), at(LAST_SECOND));
    }
}
