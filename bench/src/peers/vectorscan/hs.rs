// SPDX-License-Identifier: GPL-2.0

//! What is used of vectorscan.
//!
//! C header: `/usr/include/hs/hs.h` of Debian's libvectorscan-dev.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

pub(super) const HS_SUCCESS: c_int = 0;
pub(super) const HS_FLAG_CASELESS: c_uint = 1;
pub(super) const HS_FLAG_DOTALL: c_uint = 2;
pub(super) const HS_MODE_BLOCK: c_uint = 1;
pub(super) const HS_TUNE_FAMILY_GENERIC: c_uint = 0;
pub(super) const HS_TUNE_FAMILY_HSW: c_uint = 3;
pub(super) const HS_TUNE_FAMILY_ICX: c_uint = 10;
pub(super) const HS_CPU_FEATURES_AVX2: c_ulonglong = 1 << 2;
pub(super) const HS_CPU_FEATURES_AVX512: c_ulonglong = 1 << 3;

/// `hs_platform_info_t`.
#[repr(C)]
pub(super) struct PlatformInfo {
    pub(super) tune: c_uint,
    pub(super) cpu_features: c_ulonglong,
    pub(super) reserved: [c_ulonglong; 2],
}

/// `hs_compile_error_t`.
#[repr(C)]
pub(super) struct CompileError {
    pub(super) message: *mut c_char,
    pub(super) expression: c_int,
}

/// `match_event_handler`.
pub(super) type OnMatch =
    extern "C" fn(c_uint, c_ulonglong, c_ulonglong, c_uint, *mut c_void) -> c_int;

/// `hs_scan`.
pub(super) type Scan = unsafe extern "C" fn(
    *const c_void,
    *const c_char,
    c_uint,
    c_uint,
    *mut c_void,
    OnMatch,
    *mut c_void,
) -> c_int;

extern "C" {
    pub(super) fn hs_compile_multi(
        expressions: *const *const c_char,
        flags: *const c_uint,
        ids: *const c_uint,
        elements: c_uint,
        mode: c_uint,
        platform: *const PlatformInfo,
        db: *mut *mut c_void,
        error: *mut *mut CompileError,
    ) -> c_int;
    pub(super) fn hs_compile_lit_multi(
        expressions: *const *const c_char,
        flags: *const c_uint,
        ids: *const c_uint,
        lens: *const usize,
        elements: c_uint,
        mode: c_uint,
        platform: *const PlatformInfo,
        db: *mut *mut c_void,
        error: *mut *mut CompileError,
    ) -> c_int;
    pub(super) fn hs_free_compile_error(error: *mut CompileError) -> c_int;
    pub(super) fn hs_free_database(db: *mut c_void) -> c_int;
    pub(super) fn hs_alloc_scratch(db: *const c_void, scratch: *mut *mut c_void) -> c_int;
    pub(super) fn hs_free_scratch(scratch: *mut c_void) -> c_int;
}

/// Declares the scans that Debian's library chooses from.
macro_rules! scans {
    ($($name:ident),+) => {
        extern "C" {
            $(pub(super) fn $name(
                db: *const c_void,
                data: *const c_char,
                length: c_uint,
                flags: c_uint,
                scratch: *mut c_void,
                on_match: OnMatch,
                context: *mut c_void,
            ) -> c_int;)+
        }
    };
}

scans!(avx512_hs_scan, avx2_hs_scan, corei7_hs_scan);
