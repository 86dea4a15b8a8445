// SPDX-License-Identifier: GPL-2.0

//! Where a file of a guest's memory is written to: a file, or standard output.
//!
//! A file has its name only when it is whole ([`Output::commit`]). Until then it has none at all,
//! so that nothing is left behind however the program ends, by a signal, too. On file systems that
//! cannot do that it has a temporary name beside the final one, which is removed on any error, and
//! if the `Output` is dropped.
//!
//! Only root, or whoever runs the program, may read it: it holds all secrets of a guest.
//!
//! A pipe takes bytes in their order, and once. What is not known in that order goes to a file
//! without a name first ([`Output::spooled`]).

mod digest;
mod error;
mod staged;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{fallocate, FallocateFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

pub use self::error::OutputError;
use self::staged::Staged;

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing: it is an error.
    Refuse,
    /// It is replaced when the new one is whole.
    Replace,
}

/// The SHA-256 digest of a file.
pub type Sha256Digest = [u8; 32];

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A file that is being written.
pub struct Output(Target);

enum Target {
    File(Staged),
    Spool(Spool),
    Stream(Stream),
}

/// A file without a name, whose content goes to a pipe at the end.
struct Spool {
    file: File,
    writer: Box<dyn Write + Send>,
}

/// A pipe, or whatever else is written from the begin to the end.
struct Stream {
    writer: Box<dyn Write + Send>,
    /// How many bytes were written.
    position: u64,
    /// Of these bytes; [`None`]: nobody asks for it.
    digest: Option<Sha256>,
}

impl Output {
    /// Opens a file, or standard output if `path` is `-`.
    ///
    /// # Errors
    ///
    /// As [`Output::create_alone`] and [`Output::stdout`].
    pub fn open(path: &Path, existing: Existing) -> Result<Self, OutputError> {
        if path == Path::new("-") {
            Self::stdout()
        } else {
            Self::create_alone(path, existing)
        }
    }

    /// Creates a file that will have a manifest beside it. It has no content and no name yet.
    ///
    /// # Errors
    ///
    /// The file or its manifest is there and shall not be replaced, or is no regular file; no file
    /// can be created in that folder.
    pub fn create(path: &Path, existing: Existing) -> Result<Self, OutputError> {
        staged::check(&manifest_path(path), existing)?;
        Self::create_alone(path, existing)
    }

    /// As [`Output::create`], without a manifest.
    ///
    /// # Errors
    ///
    /// As [`Output::create`], but for the manifest.
    pub fn create_alone(path: &Path, existing: Existing) -> Result<Self, OutputError> {
        Staged::create(path, existing).map(|staged| Self(Target::File(staged)))
    }

    /// Writes to standard output.
    ///
    /// # Errors
    ///
    /// It is a terminal.
    pub fn stdout() -> Result<Self, OutputError> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(OutputError::Terminal);
        }
        // Not `Stdout`, which looks for the ends of lines in all that it writes.
        let stdout = rustix::io::dup(stdout).map_err(|error| OutputError::stream(error.into()))?;
        Ok(Self::stream(File::from(stdout)))
    }

    /// Writes to standard output when all is known. Until then it is in a file without a name, in
    /// the folder `TMPDIR`, or else `/var/tmp`: `/tmp` may be in memory.
    ///
    /// # Errors
    ///
    /// As [`Output::stdout`]; no file can be created in that folder.
    pub fn spooled() -> Result<Self, OutputError> {
        match Self::stdout()?.0 {
            Target::Stream(Stream { writer, .. }) => Self::spooled_to(writer),
            other => Ok(Self(other)),
        }
    }

    /// As [`Output::spooled`], to another place.
    ///
    /// # Errors
    ///
    /// No file can be created in the folder for temporary files.
    pub fn spooled_to(writer: impl Write + Send + 'static) -> Result<Self, OutputError> {
        let file = tempfile::tempfile_in(spool_folder()).map_err(OutputError::spool)?;
        Ok(Self(Target::Spool(Spool {
            file,
            writer: Box::new(writer),
        })))
    }

    /// Writes to a pipe or the like, from the begin to the end.
    #[must_use]
    pub fn stream(writer: impl Write + Send + 'static) -> Self {
        Self(Target::Stream(Stream {
            writer: Box::new(writer),
            position: 0,
            digest: Some(Sha256::new()),
        }))
    }

    /// Spares a stream its digest, which nobody will ask for.
    pub fn leave_undigested(&mut self) {
        if let Target::Stream(stream) = &mut self.0 {
            stream.digest = None;
        }
    }

    /// Returns the name that a file will have. A stream has none.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Target::File(staged) => Some(staged.path()),
            Target::Spool(_) | Target::Stream(_) => None,
        }
    }

    /// Returns whether what was written can be written again.
    #[must_use]
    pub fn is_patchable(&self) -> bool {
        !matches!(self.0, Target::Stream(_))
    }

    /// Gives a file its size. What is not written reads as zeros. A stream gets its zeros now.
    ///
    /// # Errors
    ///
    /// The file system has no files of that size, or more was written already.
    pub fn set_size(&mut self, size: u64) -> Result<(), OutputError> {
        match &mut self.0 {
            Target::File(staged) => {
                let result = staged.file().set_len(size);
                result.map_err(|error| staged.error("write", error))
            }
            Target::Spool(spool) => spool.file.set_len(size).map_err(OutputError::spool),
            Target::Stream(stream) => stream.skip_to(size),
        }
    }

    /// Writes bytes at an offset. What a stream has before them and was not written becomes zeros.
    ///
    /// # Errors
    ///
    /// The disk is full, or the reader of a pipe has gone; a stream is beyond that offset.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OutputError> {
        match &mut self.0 {
            Target::File(staged) => {
                let result = staged.file().write_all_at(bytes, offset);
                result.map_err(|error| staged.error("write", error))
            }
            Target::Spool(spool) => {
                let result = spool.file.write_all_at(bytes, offset);
                result.map_err(OutputError::spool)
            }
            Target::Stream(stream) => {
                stream.skip_to(offset)?;
                stream.write(bytes)
            }
        }
    }

    /// Makes bytes of a file zeros again, without any space on the disk if possible.
    ///
    /// # Errors
    ///
    /// As [`Output::write_at`].
    pub fn clear_at(&mut self, offset: u64, size: u64) -> Result<(), OutputError> {
        match &mut self.0 {
            Target::File(staged) => {
                let result = clear(staged.file(), offset, size);
                result.map_err(|error| staged.error("write", error))
            }
            Target::Spool(spool) => clear(&spool.file, offset, size).map_err(OutputError::spool),
            Target::Stream(stream) => {
                stream.skip_to(offset)?;
                stream.skip_to(offset.saturating_add(size))
            }
        }
    }

    /// Returns the digest of all bytes, with holes as zeros. `progress` is called with the number
    /// of bytes that were read, again and again.
    ///
    /// A stream is digested while it is written. A file is read once more: its pages may have come
    /// in any order, and its first page is written last. Most of it is in memory still, and holes
    /// are not read.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or [`Output::leave_undigested`] was called.
    pub fn sha256(&self, progress: &mut dyn FnMut(u64)) -> Result<Sha256Digest, OutputError> {
        match &self.0 {
            Target::File(staged) => {
                let result = digest::of_file(staged.file(), progress);
                result.map_err(|error| staged.error("read back", error))
            }
            Target::Spool(spool) => {
                digest::of_file(&spool.file, progress).map_err(OutputError::spool)
            }
            Target::Stream(stream) => {
                let digest = stream.digest.clone().ok_or(OutputError::OutOfOrder)?;
                Ok(digest.finalize().into())
            }
        }
    }

    /// Ends the output. A file gets its name, and `manifest` becomes the content of the file beside
    /// it, whose name has `.json` at its end.
    ///
    /// The manifest gets its name first: who finds the file finds what tells how far to trust it. A
    /// crash between the two leaves a manifest alone, or beside the file that was to be replaced,
    /// whose digest is another. Without a new manifest, an old one stays.
    ///
    /// # Errors
    ///
    /// Not all could be written to the disk. Neither of the files has its name then. But if files
    /// were to be replaced, the old manifest may be gone.
    pub fn commit(self, manifest: Option<&[u8]>) -> Result<(), OutputError> {
        match self.0 {
            Target::File(staged) => commit_file(staged, manifest),
            Target::Spool(_) | Target::Stream(_) if manifest.is_some() => Err(OutputError::NoPlace),
            Target::Spool(spool) => spool.empty(),
            Target::Stream(mut stream) => stream.writer.flush().map_err(OutputError::stream),
        }
    }
}

fn commit_file(staged: Staged, manifest: Option<&[u8]>) -> Result<(), OutputError> {
    staged.sync()?;
    let Some(bytes) = manifest else {
        return staged.publish();
    };
    let path = manifest_path(staged.path());
    let beside = Staged::create(&path, staged.existing())?;
    let result = beside.file().write_all_at(bytes, 0);
    result.map_err(|error| beside.error("write", error))?;
    beside.sync()?;
    beside.publish()?;
    staged.publish().inspect_err(|_| {
        // It describes a file that is not there. The first error is the one to be told.
        let _ = std::fs::remove_file(&path);
    })
}

/// Returns the folder for what is to go to a pipe at the end: `TMPDIR`, or `/var/tmp` if there is
/// one, or `/tmp`.
fn spool_folder() -> PathBuf {
    let usual = Path::new("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && usual.is_dir() {
        usual.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// Returns the name of the manifest of a file.
#[must_use]
pub fn manifest_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".json");
    name.into()
}

/// Makes a hole, or writes zeros where there are no holes.
fn clear(file: &File, offset: u64, size: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, offset, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, offset, size),
        result => Ok(result?),
    }
}

fn write_zeros(file: &File, mut offset: u64, mut size: u64) -> io::Result<()> {
    while size > 0 {
        let zeros = zeros(size);
        file.write_all_at(zeros, offset)?;
        offset += zeros.len() as u64;
        size -= zeros.len() as u64;
    }
    Ok(())
}

/// Returns some zeros, at most as many as asked for.
fn zeros(most: u64) -> &'static [u8] {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    &ZEROS[..most.min(ZEROS.len())]
}

impl Spool {
    /// Writes all to the pipe.
    fn empty(mut self) -> Result<(), OutputError> {
        digest::for_each_part(&self.file, OutputError::spool, |bytes| {
            self.writer.write_all(bytes).map_err(OutputError::stream)
        })?;
        self.writer.flush().map_err(OutputError::stream)
    }
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.writer.write_all(bytes).map_err(OutputError::stream)?;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        self.position = self.position.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Writes zeros up to an offset.
    fn skip_to(&mut self, offset: u64) -> Result<(), OutputError> {
        let left = offset.checked_sub(self.position);
        let mut left = left.ok_or(OutputError::OutOfOrder)?;
        while left > 0 {
            let zeros = zeros(left);
            self.write(zeros)?;
            left -= zeros.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_written_where_there_are_no_holes() {
        let file = tempfile::tempfile().expect("a file");
        let size = 3 * ZEROS.len();
        file.write_all_at(&vec![1; size], 0).expect("written");
        write_zeros(&file, 1, size as u64 - 2).expect("written");
        let mut bytes = vec![2; size];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert!(bytes[1..size - 1].iter().all(|byte| *byte == 0));
        assert_eq!((bytes[0], bytes[size - 1]), (1, 1));
        assert_eq!(file.metadata().expect("it is there").len(), size as u64);
    }
}
