// SPDX-License-Identifier: GPL-2.0

//! How a command ends.

use std::{
    fmt::{self, Display},
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use clap::error::ErrorKind as ArgumentError;

use crate::{
    device, escape::Escaped, host::SelectionError, output::OutputError, report::Conclusion,
};

/// How a command ends that has done what it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// All is done.
    Done,
    /// Something is missing, and the output says what.
    Incomplete,
}

/// Why a command could not be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The arguments make no sense.
    Usage(String),
    /// Anything else: "what is wrong; what to do".
    Failed(String),
    /// Who read standard output has ended, which is no error.
    BrokenPipe,
}

impl Status {
    /// Returns that of a search.
    pub(super) const fn of(conclusion: Option<Conclusion>) -> Self {
        match conclusion {
            Some(Conclusion::Ok | Conclusion::NoPattern) => Self::Done,
            _ => Self::Incomplete,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Done => Self::SUCCESS,
            Status::Incomplete => Self::from(3),
        }
    }
}

impl Failure {
    /// Prints help or the version, if they were asked for, or returns why the arguments make no
    /// sense.
    pub(super) fn of_arguments(error: &clap::Error) -> Result<Status, Self> {
        match error.kind() {
            ArgumentError::DisplayHelp | ArgumentError::DisplayVersion => {
                error.print()?;
                Ok(Status::Done)
            }
            ArgumentError::DisplayHelpOnMissingArgumentOrSubcommand => {
                error.print()?;
                Err(Self::Usage(String::new()))
            }
            _ => Err(Self::Usage(one_line(&error.to_string()))),
        }
    }

    /// Prints the error, if it is one, and returns the exit status.
    pub(super) fn report(self) -> ExitCode {
        let (line, code) = match self {
            Self::BrokenPipe => return ExitCode::SUCCESS,
            Self::Usage(line) => (line, 2),
            Self::Failed(line) => (line, 1),
        };
        if !line.is_empty() {
            // There is nobody else to tell.
            let _ = writeln!(io::stderr(), "kvm-inspect: error: {}", Escaped::new(&line));
        }
        ExitCode::from(code)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(line) | Self::Failed(line) => f.write_str(line),
            Self::BrokenPipe => f.write_str("who read the output has ended"),
        }
    }
}

impl From<device::Error> for Failure {
    fn from(error: device::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<SelectionError> for Failure {
    fn from(error: SelectionError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::BrokenPipe => Self::BrokenPipe,
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        // What was to be printed could not be had (`json::Stream`).
        if error.kind() == ErrorKind::InvalidData {
            return Self::Failed(error.to_string());
        }
        Self::Failed(format!(
            "standard output cannot be written: {error}; see where it goes"
        ))
    }
}

/// Makes one line of what clap says in several: what is wrong, and a tip or where to look.
fn one_line(text: &str) -> String {
    let (what, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    if what.contains("; ") {
        return what;
    }
    let mut lines = rest.lines().map(str::trim);
    let usage = lines.clone().find_map(|line| line.strip_prefix("Usage: "));
    let command = usage.unwrap_or("kvm-inspect").split_whitespace();
    let command: Vec<&str> = command
        .take_while(|word| word.starts_with(|first: char| first.is_ascii_alphabetic()))
        .take(2)
        .collect();
    let to_do = match lines.find_map(|line| line.strip_prefix("tip: ")) {
        Some(tip) => tip.to_owned(),
        None => format!("see {} --help", command.join(" ")),
    };
    format!("{what}; {to_do}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::Cli, *};

    fn failure(arguments: &[&str]) -> Failure {
        let arguments = std::iter::once(&"kvm-inspect").chain(arguments);
        let error = Cli::try_parse_from(arguments).expect_err("no arguments");
        Failure::of_arguments(&error).expect_err("an error")
    }

    #[test]
    fn what_clap_says_becomes_one_line() {
        let usage = |line: &str| Failure::Usage(line.to_owned());
        assert_eq!(
            failure(&["searchh"]),
            usage("unrecognized subcommand 'searchh'; a similar subcommand exists: 'search'")
        );
        assert_eq!(
            failure(&["read"]),
            usage(
                "the following required arguments were not provided: <ADDRESS>...; \
                 see kvm-inspect read --help"
            )
        );
        assert_eq!(
            failure(&["search", "text:a", "--max-pause", "1x"]),
            usage(
                "invalid value '1x' for '--max-pause <TIME>': 1x is no time; write such as 500ms, \
                 2s or 1m"
            )
        );
    }

    #[test]
    fn a_result_decides_the_status() {
        assert_eq!(Status::of(Some(Conclusion::Ok)), Status::Done);
        assert_eq!(Status::of(Some(Conclusion::NoPattern)), Status::Done);
        assert_eq!(Status::of(Some(Conclusion::Changed)), Status::Incomplete);
        assert_eq!(Status::of(None), Status::Incomplete);
    }
}
