// SPDX-License-Identifier: GPL-2.0

//! Other processes of a case. Each is this program in a role, and talks to the case by lines on its
//! standard input and output.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::process::{kill_process, Pid, Signal};

use crate::cases;

/// A role. Its arguments come from [`Other::start`].
pub(crate) struct Role {
    /// Its name.
    pub(crate) name: &'static str,
    /// The function, which ends with the process.
    pub(crate) run: fn(&[&str]),
}

/// Plays a role, on the other side of [`Other`].
pub(crate) fn play(name: &str, arguments: &[&str]) {
    let role = cases::roles().find(|role| role.name == name);
    let role = role.unwrap_or_else(|| panic!("there is no role {name}"));
    (role.run)(arguments);
}

/// Sends a line to the case, from a role.
pub(crate) fn say(line: &str) {
    println!("{line}");
    io::stdout().flush().expect("the case reads");
}

/// Returns the next line from the case, in a role. Ends the process if there is none.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    let length = io::stdin().read_line(&mut line).expect("a line of text");
    if length == 0 {
        std::process::exit(0);
    }
    line.trim_end().to_owned()
}

/// A process in a role, killed when this is dropped.
pub(crate) struct Other {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Other {
    /// Starts a process in a role.
    pub(crate) fn start(role: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["--role", role])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts once more");
        let to = child.stdin.take().expect("it is a pipe");
        let from = BufReader::new(child.stdout.take().expect("it is a pipe"));
        Self { child, to, from }
    }

    /// Returns its process number.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process numbers are positive")
    }

    /// Sends it a line.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("the process reads");
    }

    /// Waits for its next line.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        let length = self.from.read_line(&mut line).expect("a line of text");
        assert_ne!(length, 0, "the other process ended");
        line.trim_end().to_owned()
    }

    /// Sends it a line, and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("process numbers are positive");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits until it ends by itself, which must be without an error.
    pub(crate) fn finish(mut self) {
        let status = self.child.wait().expect("it is a child");
        assert!(status.success(), "the other process ended with {status}");
    }

    fn end(&mut self) {
        // Both succeed with a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.end();
    }
}
