// SPDX-License-Identifier: GPL-2.0

//! Inspections, and the module that makes them.

use std::{
    fmt::{self, Display, Write},
    fs::File,
    io, mem,
};

use rustix::io::Errno;

use crate::{kernel_log::Follower, module, report::Output};

/// The parameters of an inspection.
///
/// Formatted, it is what `insmod` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    parameters: Vec<(String, String)>,
}

impl Inspection {
    /// Creates an inspection without any parameter. The module refuses it without `pid`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an inspection of all VMs of a process.
    #[must_use]
    pub fn of(pid: impl Display) -> Self {
        Self::new().set("pid", pid)
    }

    /// Sets a parameter, in place of an earlier value.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Display) -> Self {
        self = self.unset(name);
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// Leaves a parameter to the module's default.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.parameters.retain(|(other, _)| other != name);
        self
    }

    /// Returns whether a parameter is set.
    #[must_use]
    pub fn sets(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Returns the value that a parameter is set to.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut all = self.parameters.iter();
        let found = all.find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the names and values of all parameters that are set.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.parameters.iter();
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Searches for these patterns, in the module's notation.
    #[must_use]
    pub fn patterns<S: AsRef<str>>(self, patterns: &[S]) -> Self {
        self.list("pattern", patterns)
    }

    /// Searches in these ranges only, in the module's notation.
    #[must_use]
    pub fn ranges<S: AsRef<str>>(self, ranges: &[S]) -> Self {
        self.list("range", ranges)
    }

    fn list<S: AsRef<str>>(self, name: &str, values: &[S]) -> Self {
        let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
        self.set(name, values.join(","))
    }

    /// Loads the module from its file, which makes the inspection, and keeps it loaded.
    ///
    /// # Errors
    ///
    /// The module refuses, or the kernel log cannot be read.
    pub fn load(&self, file: &File) -> Result<Loaded, LoadError> {
        load_as_written(file, &self.to_string())
    }
}

/// Loads the module with parameters as `insmod` takes them, and keeps it loaded.
///
/// # Errors
///
/// As [`Inspection::load`].
pub fn load_as_written(file: &File, parameters: &str) -> Result<Loaded, LoadError> {
    let follower = Follower::from_now().map_err(LoadError::Log)?;
    let result = module::load(file, parameters);
    let mut loaded = Loaded {
        follower,
        lines: Vec::new(),
    };
    match result {
        Ok(()) => Ok(loaded),
        Err(errno) => {
            let lines = loaded.lines().map_err(LoadError::Log)?;
            Err(LoadError::Refused(Refusal { errno, lines }))
        }
    }
}

impl Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            if index > 0 {
                f.write_char(' ')?;
            }
            // The kernel takes quotes around the whole value away, and lets it have spaces then.
            if value.is_empty() || value.contains([' ', '\t', '\n', '"']) {
                write!(f, "{name}=\"{value}\"")?;
            } else {
                write!(f, "{name}={value}")?;
            }
        }
        Ok(())
    }
}

/// Why the module was not loaded.
#[derive(Debug)]
pub enum LoadError {
    /// It refused, or the kernel did not take it.
    Refused(Refusal),
    /// The kernel log cannot be read. The module may be loaded.
    Log(io::Error),
}

/// The answer of a module that did not stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error of `insmod`.
    pub errno: Errno,
    /// What the module logged.
    pub lines: Vec<String>,
}

impl Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Log(error) => write!(f, "the kernel log: {error}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "insmod: {}: {}", self.errno, self.lines.join(" / "))
    }
}

impl std::error::Error for Refusal {}

impl From<LoadError> for io::Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Log(error) => error,
            refused @ LoadError::Refused(_) => io::Error::other(refused),
        }
    }
}

/// The loaded module, which stays loaded until [`Loaded::unload`].
#[must_use]
pub struct Loaded {
    follower: Follower,
    /// The lines that were read, but not returned yet.
    lines: Vec<String>,
}

impl Loaded {
    /// Returns the complete reports since the last call, and the lines between them.
    ///
    /// # Errors
    ///
    /// The kernel log has lost lines, or a report has an error. The lines that were read with it
    /// are not returned again.
    pub fn output(&mut self) -> io::Result<Output> {
        let mut output = Output::parse(&self.lines()?).map_err(io::Error::other)?;
        self.lines = mem::take(&mut output.cut_off);
        Ok(output)
    }

    /// Returns all lines since the last call.
    ///
    /// # Errors
    ///
    /// The kernel log has lost lines.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        self.lines.extend(self.follower.module_lines()?);
        Ok(mem::take(&mut self.lines))
    }

    /// Unloads the module. Returns its lines since the last call; the last report may be cut off.
    ///
    /// # Errors
    ///
    /// As [`module::unload`], and [`Self::lines`].
    pub fn unload(mut self) -> io::Result<Vec<String>> {
        module::unload()?;
        self.lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_formatted_for_insmod() {
        let inspection = Inspection::of(812)
            .patterns(&["hex:00ff", "text:abc"])
            .ranges(&["0-0xfff"])
            .set("max_hits", 1)
            .set("max_hits", 2);
        let expected = "pid=812 pattern=hex:00ff,text:abc range=0-0xfff max_hits=2";
        assert_eq!(inspection.to_string(), expected);
        assert!(inspection.sets("range") && !inspection.sets("context"));
        assert_eq!(inspection.parameters().last(), Some(("max_hits", "2")));
    }

    #[test]
    fn values_with_spaces_are_quoted() {
        let inspection = Inspection::new().patterns(&["hex:00 ff"]).set("engine", "");
        assert_eq!(inspection.to_string(), r#"pattern="hex:00 ff" engine="""#);
    }

    #[test]
    fn a_refusal_says_all_that_the_module_said() {
        let refusal = LoadError::Refused(Refusal {
            errno: Errno::SRCH,
            lines: vec!["error: no process 1; give another pid=".to_owned()],
        });
        let text = refusal.to_string();
        assert!(text.starts_with("insmod: "), "{text}");
        assert!(text.ends_with(": error: no process 1; give another pid="));
    }
}
