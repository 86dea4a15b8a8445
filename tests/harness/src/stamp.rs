// SPDX-License-Identifier: GPL-2.0

//! Stamps: work is done again only when its inputs have changed.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// The inputs of a file now, and when it was last made.
pub struct Stamp {
    text: String,
    file: PathBuf,
    output: PathBuf,
}

impl Stamp {
    /// Creates a stamp for `output`, which is made of `inputs`.
    ///
    /// # Errors
    ///
    /// An input is not there.
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

    /// Returns whether the output is there, and was made of the same inputs.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.output.exists() && fs::read_to_string(&self.file).is_ok_and(|old| old == self.text)
    }

    /// Marks the output as made. Before that it does not count as current.
    ///
    /// # Errors
    ///
    /// The stamp cannot be written.
    pub fn set(&self) -> io::Result<()> {
        fs::write(&self.file, &self.text)
    }

    /// Removes the mark, before the output is made.
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
