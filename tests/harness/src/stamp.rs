// SPDX-License-Identifier: GPL-2.0

//! Doing things again only when what they are made of has changed.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// What a file is made of, and whether that is what it was made of the last time.
pub struct Stamp {
    text: String,
    file: PathBuf,
    output: PathBuf,
}

impl Stamp {
    /// About `output`, made of `inputs`.
    ///
    /// # Errors
    ///
    /// One of the inputs is not there.
    pub fn new(output: &Path, inputs: &[PathBuf]) -> io::Result<Self> {
        let mut text = String::new();
        for path in inputs {
            let about = |error| io::Error::other(format!("{}: {error}", path.display()));
            let metadata = fs::metadata(path).map_err(about)?;
            let modified = metadata.modified()?.duration_since(UNIX_EPOCH);
            let nanoseconds = modified.map_err(io::Error::other)?.as_nanos();
            writeln!(text, "{} {} {nanoseconds}", path.display(), metadata.len())
                .map_err(io::Error::other)?;
        }
        Ok(Self {
            text,
            file: output.with_extension("stamp"),
            output: output.to_owned(),
        })
    }

    /// Whether the output is there, made of the same.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.output.exists() && fs::read_to_string(&self.file).is_ok_and(|old| old == self.text)
    }

    /// Remembers that the output has been made. Until then it counts as not current.
    ///
    /// # Errors
    ///
    /// The stamp cannot be written.
    pub fn set(&self) -> io::Result<()> {
        fs::write(&self.file, &self.text)
    }

    /// Forgets it, because the output is about to be made.
    ///
    /// # Errors
    ///
    /// The stamp cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
