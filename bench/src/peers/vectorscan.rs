// SPDX-License-Identifier: GPL-2.0

//! Vectorscan, held to the instructions of one of the project's engines: the database is compiled
//! for no more than them, and the scan is the one for them, by its own name in the library.

mod hs;

use std::{
    ffi::{c_int, c_uint, c_ulonglong, c_void, CStr, CString},
    fmt::Write as _,
    ptr,
    time::{Duration, Instant},
};

use kvm_inspect_pure::scan::EngineKind;

use hs::{
    avx2_hs_scan, avx512_hs_scan, corei7_hs_scan, hs_alloc_scratch, hs_compile_lit_multi,
    hs_compile_multi, hs_free_compile_error, hs_free_database, hs_free_scratch, PlatformInfo, Scan,
    HS_CPU_FEATURES_AVX2, HS_CPU_FEATURES_AVX512, HS_FLAG_CASELESS, HS_FLAG_DOTALL, HS_MODE_BLOCK,
    HS_SUCCESS, HS_TUNE_FAMILY_GENERIC, HS_TUNE_FAMILY_HSW, HS_TUNE_FAMILY_ICX,
};

use super::{Peer, Side};
use crate::patterns::{Needle, EITHER_CASE};

/// The longest time to compile a set. It cannot be interrupted.
const LONG: Duration = Duration::from_secs(60);

/// A compiled set.
///
/// # Invariants
///
/// `0` is a database, which only this owns.
struct Database(*mut c_void);

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { hs_free_database(self.0) };
    }
}

/// What a scan needs besides.
///
/// # Invariants
///
/// `0` is scratch space for a database, and only this owns it.
struct Scratch(*mut c_void);

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { hs_free_scratch(self.0) };
    }
}

impl Database {
    /// Compiles a set for a level.
    fn compile(patterns: &[Needle], level: EngineKind) -> Result<Self, String> {
        let (tune, cpu_features) = match level {
            EngineKind::Avx512 => (
                HS_TUNE_FAMILY_ICX,
                HS_CPU_FEATURES_AVX2 | HS_CPU_FEATURES_AVX512,
            ),
            EngineKind::Avx2 => (HS_TUNE_FAMILY_HSW, HS_CPU_FEATURES_AVX2),
            EngineKind::Portable => (HS_TUNE_FAMILY_GENERIC, 0),
        };
        let platform = PlatformInfo {
            tune,
            cpu_features,
            reserved: [0; 2],
        };
        let elements = c_uint::try_from(patterns.len()).expect("not that many");
        let ids: Vec<_> = (0..elements).collect();
        let (mut db, mut error) = (ptr::null_mut(), ptr::null_mut());

        let status = if patterns.iter().all(is_text) {
            let flags: Vec<_> = patterns.iter().map(flags_of_text).collect();
            let texts: Vec<_> = patterns
                .iter()
                .map(|needle| needle.value.as_ptr().cast())
                .collect();
            let lens: Vec<_> = patterns.iter().map(|needle| needle.value.len()).collect();
            // SAFETY: There are `elements` texts, flags and ids, and each text has its length.
            unsafe {
                hs_compile_lit_multi(
                    texts.as_ptr(),
                    flags.as_ptr(),
                    ids.as_ptr(),
                    lens.as_ptr(),
                    elements,
                    HS_MODE_BLOCK,
                    &platform,
                    &mut db,
                    &mut error,
                )
            }
        } else {
            let flags = vec![HS_FLAG_DOTALL; patterns.len()];
            let expressions: Vec<_> = patterns.iter().map(expression).collect();
            let texts: Vec<_> = expressions.iter().map(|text| text.as_ptr()).collect();
            // SAFETY: There are `elements` expressions, flags and ids. The expressions live longer.
            unsafe {
                hs_compile_multi(
                    texts.as_ptr(),
                    flags.as_ptr(),
                    ids.as_ptr(),
                    elements,
                    HS_MODE_BLOCK,
                    &platform,
                    &mut db,
                    &mut error,
                )
            }
        };
        if status == HS_SUCCESS {
            // INVARIANT: It was just made, for the caller.
            return Ok(Self(db));
        }
        // SAFETY: It is null, or the library's text for this failure, which is freed once.
        let message = unsafe {
            let message = error
                .as_ref()
                .map(|error| CStr::from_ptr(error.message).to_string_lossy().into_owned());
            hs_free_compile_error(error);
            message
        };
        Err(message.unwrap_or_default())
    }

    /// Returns the number of matches in `memory`. `scratch` is this database's.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions of `scan`, one of the library's.
    unsafe fn scan(&self, scan: Scan, scratch: &Scratch, memory: &[u8]) -> u64 {
        let len = c_uint::try_from(memory.len()).expect("less than 4 GiB");
        let mut matches = 0_u64;
        // SAFETY: The caller promises the instructions. By the type invariants the others live, and
        // `memory` has that length. Nobody else uses the scratch space: it is not shared between
        // threads, and `count` does not scan.
        let status = unsafe {
            scan(
                self.0,
                memory.as_ptr().cast(),
                len,
                0,
                scratch.0,
                count,
                (&raw mut matches).cast(),
            )
        };
        assert_eq!(status, HS_SUCCESS, "vectorscan scans");
        matches
    }

    fn scratch(&self) -> Option<Scratch> {
        let mut scratch = ptr::null_mut();
        // SAFETY: By the type invariants.
        let status = unsafe { hs_alloc_scratch(self.0, &mut scratch) };
        // INVARIANT: It was just made, for this database.
        (status == HS_SUCCESS).then_some(Scratch(scratch))
    }
}

/// Returns whether no bit of the pattern is open.
fn is_literal(needle: &Needle) -> bool {
    needle.mask.iter().all(|&mask| mask == 0xff)
}

/// Returns whether the pattern is text: without open bits, or with all letters of either case.
fn is_text(needle: &Needle) -> bool {
    let is_caseless = |(value, mask): (u8, u8)| match mask {
        0xff => !value.is_ascii_alphabetic(),
        EITHER_CASE => value.is_ascii_alphabetic(),
        _ => false,
    };
    is_literal(needle) || needle.bytes().all(is_caseless)
}

fn flags_of_text(needle: &Needle) -> c_uint {
    if is_literal(needle) {
        0
    } else {
        HS_FLAG_CASELESS
    }
}

/// Returns the pattern as an expression.
fn expression(needle: &Needle) -> CString {
    let mut text = String::new();
    for (value, mask) in needle.bytes() {
        let fitting = (0..=0xff_u8).filter(|byte| byte & mask == value);
        match mask {
            0 => text.push('.'),
            0xff => {
                let _ = write!(text, "\\x{value:02x}");
            }
            _ => {
                text.push('[');
                for byte in fitting {
                    let _ = write!(text, "\\x{byte:02x}");
                }
                text.push(']');
            }
        }
    }
    CString::new(text).expect("all is escaped")
}

extern "C" fn count(
    _: c_uint,
    _: c_ulonglong,
    _: c_ulonglong,
    _: c_uint,
    context: *mut c_void,
) -> c_int {
    // SAFETY: It is the counter of the scan that calls, and nobody else uses it meanwhile.
    unsafe { *context.cast::<u64>() += 1 };
    0
}

/// Makes peers for sets of more and more patterns, as long as it compiles them in time.
pub(super) struct Maker {
    /// The last set's patterns, and the time that each level has taken.
    last: Vec<(EngineKind, usize, Duration)>,
}

impl Maker {
    pub(super) fn new() -> Self {
        Self { last: Vec::new() }
    }

    pub(super) fn make(&mut self, patterns: &[Needle], level: EngineKind) -> Peer {
        let (name, scan): (_, Scan) = match level {
            EngineKind::Avx512 => ("vs avx512", avx512_hs_scan),
            EngineKind::Avx2 => ("vs avx2", avx2_hs_scan),
            EngineKind::Portable => ("vs base", corei7_hs_scan),
        };
        let none = Peer {
            name,
            side: Side::Vectorscan(level),
            finds_all: true,
            search: None,
        };
        if self.is_too_slow(patterns.len(), level) {
            return none;
        }
        let begun = Instant::now();
        let database = Database::compile(patterns, level);
        let time = begun.elapsed();
        self.last.retain(|(of, ..)| *of != level);
        self.last.push((level, patterns.len(), time));
        let database = match database {
            Ok(database) => database,
            Err(message) => {
                eprintln!("{name}, {} patterns: {message}", patterns.len());
                return none;
            }
        };
        let Some(scratch) = database.scratch() else {
            return none;
        };
        Peer::new(name, Side::Vectorscan(level), true, move |memory| {
            // SAFETY: The CPU has the instructions: the machine was asked for its levels.
            unsafe { database.scan(scan, &scratch, memory) }
        })
    }

    /// Returns whether to compile that many patterns would take too long. It takes time by the
    /// square of their number at worst.
    fn is_too_slow(&self, patterns: usize, level: EngineKind) -> bool {
        let last = self.last.iter().find(|(of, ..)| *of == level);
        last.is_some_and(|(_, before, time)| {
            let times = patterns.div_ceil(*before).pow(2);
            let times = u32::try_from(times).unwrap_or(u32::MAX);
            *before >= 64 && time.saturating_mul(times) > 2 * LONG
        })
    }
}
