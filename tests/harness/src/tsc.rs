// SPDX-License-Identifier: GPL-2.0

//! The rate of this machine's time stamp counter, which an emulated processor has, too.

/// Returns the rate in kHz, measured once, in a tenth of a second.
#[cfg(target_arch = "x86_64")]
pub(crate) fn khz() -> Option<u64> {
    use std::{
        arch::x86_64::_rdtsc,
        sync::LazyLock,
        thread,
        time::{Duration, Instant},
    };

    static KHZ: LazyLock<Option<u64>> = LazyLock::new(|| {
        let (ticks, time) = sample()?;
        thread::sleep(Duration::from_millis(100));
        let (later_ticks, later) = sample()?;
        let micros = later.duration_since(time).as_micros();
        let ticks = u128::from(later_ticks.checked_sub(ticks)?);
        u64::try_from(ticks.checked_mul(1000)?.checked_div(micros)?).ok()
    });

    /// Returns the counter and the time at which it was read. Of some tries it takes the one that
    /// was interrupted least.
    fn sample() -> Option<(u64, Instant)> {
        let tries = (0..100).map(|_| {
            let before = Instant::now();
            // SAFETY: This only reads the counter, which Linux allows to user space.
            let ticks = unsafe { _rdtsc() };
            (before.elapsed(), ticks, before)
        });
        let (_, ticks, before) = tries.min_by_key(|(took, ..)| *took)?;
        Some((ticks, before))
    }

    *KHZ
}

/// Returns nothing: another architecture's counter has another rate than the emulated one.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn khz() -> Option<u64> {
    None
}
