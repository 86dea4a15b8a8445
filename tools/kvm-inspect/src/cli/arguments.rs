// SPDX-License-Identifier: GPL-2.0

//! Arguments that several commands take.

use clap::ValueEnum;
use kvm_inspect_pure::{range::Range, uapi};

use super::units::milliseconds;
use crate::device;

/// How long to wait for vCPUs.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct FreezeArgs {
    /// How long to wait for all vCPUs to stop, such as 500ms or 2s [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    freeze_timeout: Option<u32>,
    /// What to do if a vCPU does not stop in time
    #[arg(long, value_enum, default_value = "refuse")]
    late: Late,
}

/// What to do if a vCPU does not stop in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Late {
    /// Let all go on, and fail
    Refuse,
    /// Go on, and say which one may have run
    Report,
}

/// What scans memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Engine {
    /// The fastest of this CPU
    Best,
    /// AVX-512
    Avx512,
    /// AVX2
    Avx2,
    /// Plain code
    Portable,
}

/// How pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Access {
    /// In the kernel's map of all memory
    Linear,
    /// In mappings made for it
    Vmap,
    /// In a copy of each page: slower, and survives memory errors
    Copy,
}

impl FreezeArgs {
    /// Returns the time in milliseconds; 0 is the device's default.
    pub(super) fn timeout_ms(&self) -> u32 {
        self.freeze_timeout.unwrap_or(0)
    }

    /// Returns what to do if a vCPU does not stop in time.
    pub(super) const fn late(&self) -> device::Late {
        match self.late {
            Late::Refuse => device::Late::Refuse,
            Late::Report => device::Late::Report,
        }
    }
}

impl Engine {
    /// Returns its number for the device.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Best => uapi::ENGINE_BEST,
            Self::Portable => uapi::ENGINE_PORTABLE,
            Self::Avx2 => uapi::ENGINE_AVX2,
            Self::Avx512 => uapi::ENGINE_AVX512,
        }
    }

    /// Returns the name for a number of the device.
    pub(super) const fn name(number: u32) -> &'static str {
        match number {
            uapi::ENGINE_PORTABLE => "portable",
            uapi::ENGINE_AVX2 => "avx2",
            uapi::ENGINE_AVX512 => "avx512",
            _ => "unknown",
        }
    }
}

impl Access {
    /// Returns its number for the device.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Linear => uapi::ACCESS_LINEAR,
            Self::Vmap => uapi::ACCESS_VMAP,
            Self::Copy => uapi::ACCESS_COPY,
        }
    }

    /// Returns the name for a number of the device.
    pub(super) const fn name(number: u32) -> &'static str {
        match number {
            uapi::ACCESS_LINEAR => "linear",
            uapi::ACCESS_VMAP => "vmap",
            uapi::ACCESS_COPY => "copy",
            _ => "unknown",
        }
    }
}

/// Reads a size: a number of bytes, perhaps with K, M, G or T.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let range = Range::parse(format!("0+{text}").as_bytes());
    let range = range.map_err(|_| format!("{text} is no size; write such as 512M or 2G"))?;
    Ok(range.last.saturating_add(1))
}

/// Reads a range of guest-physical addresses, as the module does.
pub(super) fn range(text: &str) -> Result<Range, String> {
    Range::parse(text.as_bytes()).map_err(|error| error.to_string())
}
