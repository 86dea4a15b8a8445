// SPDX-License-Identifier: GPL-2.0

//! The manifest of a file of a guest's memory: `FILE.json` beside `FILE`.
//!
//! Sizes, offsets, counts and guest-physical addresses are numbers, all below 2^53, which every
//! program reads exactly. Guest-virtual addresses are text like `0xffff888000000000`, because they
//! are above. Durations are in microseconds of a clock that nobody sets, times are RFC 3339 in UTC.
//! A later version may add fields and values, and has the same `manifest_version` then.

mod memory;
mod note;
mod time;

use std::{
    borrow::Cow,
    error::Error,
    fmt::{self, Display},
};

use schemars::{json_schema, JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

pub use self::{
    memory::{FileRange, Memory, MAX_RUNS},
    time::{rfc3339, Clock, Times},
};
use crate::{hex, output::Sha256Digest, report};

/// The version of the manifest's form. It changes if a field gets another meaning.
pub const VERSION: u32 = 1;

/// All that is to be known of a file of a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The version of this form.
    #[schemars(extend("const" = VERSION))]
    pub manifest_version: u32,
    /// What wrote the file.
    pub tool: Tool,
    /// Where it was written.
    pub host: Host,
    /// Of what it is.
    pub vm: Vm,
    /// The file itself.
    pub file: FileEntry,
    /// When it was written.
    pub times: Times,
    /// How far it is of one instant.
    pub consistency: Consistency,
    /// What is in it.
    pub memory: Memory,
    /// The vCPUs, in the order in which the VMM created them.
    pub vcpus: Vec<Vcpu>,
    /// Where the guest's kernel has all RAM mapped, if that is known.
    #[serde(default)]
    pub direct_map_base: Option<Address>,
    /// The guest's VMCOREINFO, if it was found.
    #[serde(default)]
    pub vmcoreinfo: Option<Vmcoreinfo>,
    /// What else the user should know, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Default for Tool {
    fn default() -> Self {
        Self {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// A host of VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The release of its kernel.
    pub kernel: String,
}

impl Host {
    /// Returns the host that this program runs on.
    #[must_use]
    pub fn this() -> Self {
        let uname = rustix::system::uname();
        Self {
            name: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
        }
    }
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ManifestVm")]
pub struct Vm {
    /// The process number of its VMM.
    pub pid: i32,
    /// Its file descriptor in the VMM, if that has one.
    #[serde(default)]
    pub fd: Option<i32>,
    /// The name that the VMM was given for it.
    #[serde(default)]
    pub name: Option<String>,
    /// The name of the VMM's program.
    #[serde(default)]
    pub vmm: Option<String>,
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// An ELF core file.
    Elf,
    /// An ELF core file with what the kernel has mapped, for gdb.
    ElfGdb,
    /// `LiME`, version 1.
    Lime,
    /// Each byte at the offset that is its guest-physical address.
    Raw,
}

/// The file that a manifest describes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// Its name, without the folder.
    pub name: String,
    /// Its form.
    pub format: Format,
    /// Its size in bytes, with holes.
    pub size: u64,
    /// The SHA-256 digest of all its bytes, holes as zeros, in hex digits. `null` if nobody
    /// asked.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    #[serde(default)]
    pub sha256: Option<String>,
}

impl FileEntry {
    /// Sets the digest.
    pub fn set_digest(&mut self, digest: &Sha256Digest) {
        self.sha256 = Some(hex::digits(digest));
    }
}

/// How far a file is of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Consistency {
    /// What was asked for.
    pub mode: Mode,
    /// How many times the guest was paused.
    pub pauses: u32,
    /// How long it was paused in all, in microseconds.
    pub paused_us: u64,
    /// The longest of these pauses, in microseconds.
    pub longest_pause_us: u64,
}

/// What instant a file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// Of one instant, but for pages that are `late`.
    Instant,
    /// Of none: the guest ran meanwhile.
    Live,
}

/// One vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ManifestVcpu")]
pub struct Vcpu {
    /// The number that the VMM gave it.
    pub id: u64,
    /// The guest's number of the CPU, by which notes are ordered.
    pub cpu: u32,
    /// That number was not found in the guest, but taken to be that of the vCPU.
    pub cpu_assumed: bool,
    /// How it was stopped.
    pub state: VcpuState,
    /// Its registers are in the file, if its form has a place for them.
    pub registers: bool,
}

/// How a vCPU was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VcpuState {
    /// Its thread waited at the entry of `KVM_RUN`.
    Parked,
    /// Its thread was elsewhere, or there was none.
    Outside,
    /// It did not stop in time, and may have run.
    Running,
}

impl From<report::State> for VcpuState {
    fn from(state: report::State) -> Self {
        match state {
            report::State::Parked => Self::Parked,
            report::State::Outside => Self::Outside,
            report::State::Running => Self::Running,
        }
    }
}

/// Where a guest's VMCOREINFO is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vmcoreinfo {
    /// The guest-physical address of its note.
    pub gpa: u64,
    /// The size of its text in bytes.
    pub size: u64,
    /// What proved that it is the running kernel's. Empty: nothing did.
    pub proofs: Vec<Proof>,
}

/// What proves a VMCOREINFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Proof {
    /// A vCPU's page tables map `swapper_pg_dir` to where it says.
    VcpuRoot,
    /// `swapper_pg_dir` as the root maps its own address to itself.
    RootMapsItself,
    /// The kernel's `init_uts_ns` has the release that it says.
    Release,
    /// The kernel's symbol `vmcoreinfo_note` points to it.
    Kallsyms,
}

/// A guest-virtual address. In JSON it is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(pub u64);

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A guest-virtual address as 16 hex digits",
            "type": "string",
            "pattern": "^0x[0-9a-f]{16}$",
        })
    }
}

impl From<Address> for String {
    fn from(Address(address): Address) -> Self {
        format!("{address:#018x}")
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text
            .strip_prefix("0x")
            .filter(|digits| !digits.starts_with('+'));
        let address = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let address = address.ok_or_else(|| format!("{text} is no address, such as 0xffff0000"))?;
        Ok(Self(address))
    }
}

impl Manifest {
    /// Returns the JSON text.
    ///
    /// # Errors
    ///
    /// None is known. The crate has one, though.
    pub fn to_json(&self) -> Result<String, ManifestError> {
        let mut text = serde_json::to_string_pretty(self).map_err(ManifestError::Json)?;
        text.push('\n');
        Ok(text)
    }

    /// Reads JSON text. Fields that are not known are left out.
    ///
    /// # Errors
    ///
    /// It is no manifest, or one of a version that is not known.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            manifest_version: u32,
        }
        let version: Version = serde_json::from_str(text).map_err(ManifestError::Json)?;
        if version.manifest_version != VERSION {
            return Err(ManifestError::Version(version.manifest_version));
        }
        serde_json::from_str(text).map_err(ManifestError::Json)
    }
}

/// Why a text is no manifest.
#[derive(Debug)]
pub enum ManifestError {
    /// It has another form.
    Json(serde_json::Error),
    /// It is of this version.
    Version(u32),
}

impl Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "it is no manifest: {error}; see who wrote it"),
            Self::Version(version) => write!(
                f,
                "the manifest is of version {version}, and only {VERSION} is known; \
                 take the program that wrote it"
            ),
        }
    }
}

impl Error for ManifestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::Version(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_text() {
        let json = |address| serde_json::to_string(&Address(address)).expect("JSON");
        assert_eq!(json(0xffff_8880_0000_0000), r#""0xffff888000000000""#);
        let back = |text: &str| serde_json::from_str::<Address>(text);
        assert_eq!(
            back(&json(u64::MAX)).expect("an address"),
            Address(u64::MAX)
        );
        for text in [
            "1",
            r#""1""#,
            r#""0x""#,
            r#""0x+1""#,
            r#""0x10000000000000000""#,
        ] {
            assert!(back(text).is_err(), "{text}");
        }
    }
}
