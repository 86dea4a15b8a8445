// SPDX-License-Identifier: GPL-2.0

//! One run of a VM: QEMU, and what comes out of its serial ports.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use guest::protocol::Message;

/// How long a VM may take until its first process begins the case.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// How long a VM may take, after the case has ended, until it is off.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A VM to be run.
pub struct Machine {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What is added to the kernel's command line.
    pub parameters: String,
    /// Its memory in MiB.
    pub memory: u32,
    /// Its processors.
    pub processors: u32,
}

/// What came of it.
pub struct Run {
    /// The kernel log.
    pub console: String,
    /// Whether the case began.
    pub started: bool,
    /// Whether the case passed; [`None`] if it did not say.
    pub passed: Option<bool>,
    /// What the case said.
    pub text: Vec<String>,
    /// How it ended.
    pub end: End,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The VM has said all, and is off.
    Complete,
    /// QEMU ended before that.
    Lost,
    /// It was stopped when time was up.
    TimedOut,
}

impl Machine {
    /// Runs the VM until it is off or time is up: once the case has begun, that is `limit`.
    ///
    /// The kernel log, the case's messages, QEMU's own and its command line go into files in the
    /// folder `log`.
    ///
    /// # Errors
    ///
    /// QEMU cannot be started, or a log not be written.
    pub fn run(&self, log: &Path, limit: Duration) -> io::Result<Run> {
        self.run_and_tell(log, limit, |_| ())
    }

    /// The same; also tells each message of the VM at once.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_and_tell(
        &self,
        log: &Path,
        limit: Duration,
        mut tell: impl FnMut(&Message),
    ) -> io::Result<Run> {
        fs::create_dir_all(log)?;
        let console = log.join("console.log");
        let arguments = self.arguments(&console);
        fs::write(log.join("command"), quoted(&arguments))?;
        let child = Command::new("qemu-system-x86_64")
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(log.join("qemu.log"))?)
            .spawn()
            .map_err(|error| io::Error::other(format!("qemu-system-x86_64: {error}")))?;
        let mut run = Run {
            console: String::new(),
            started: false,
            passed: None,
            text: Vec::new(),
            end: End::Lost,
        };
        let messages = &mut File::create(log.join("messages.log"))?;
        run.listen(child, messages, limit, &mut tell)?;
        run.console = read_lossy(&console)?;
        Ok(run)
    }

    fn arguments(&self, console: &Path) -> Vec<OsString> {
        // Above all, what the kernel has to say is to be complete: on the first port, with every
        // level, and to the end. After an Oops nothing else is of interest.
        let parameters = format!(
            "console=ttyS0,115200 ignore_loglevel log_buf_len=4M oops=panic panic=-1 \
             rdinit=/init {}",
            self.parameters
        );
        let mut port = OsString::from("file:");
        port.push(console);
        let mut arguments: Vec<OsString> = "-machine pc -accel tcg,thread=multi -cpu max \
            -no-user-config -nodefaults -display none -no-reboot \
            -chardev stdio,id=messages,signal=off"
            .split_whitespace()
            .map(OsString::from)
            .collect();
        for (option, value) in [
            ("-smp", self.processors.to_string().into()),
            ("-m", self.memory.to_string().into()),
            ("-kernel", self.kernel.clone().into()),
            ("-initrd", self.initramfs.clone().into()),
            ("-append", parameters.into()),
            ("-serial", port),
            ("-serial", "chardev:messages".into()),
        ] {
            arguments.extend([option.into(), value]);
        }
        arguments
    }
}

impl Run {
    /// Listens to the VM until it is off or time is up.
    fn listen(
        &mut self,
        mut child: Child,
        log: &mut File,
        limit: Duration,
        tell: &mut dyn FnMut(&Message),
    ) -> io::Result<()> {
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("QEMU has no output"))?;
        let mut child = KilledOnDrop(child);
        let lines = lines(stdout);
        let mut deadline = Instant::now() + BOOT_LIMIT;
        let mut complete = false;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    let message = Message::parse(&line);
                    message.iter().for_each(&mut *tell);
                    match message {
                        Some(Message::Start(_)) => {
                            self.started = true;
                            deadline = Instant::now() + limit;
                        }
                        Some(Message::Pass) => self.passed = Some(true),
                        Some(Message::Fail) => self.passed = Some(false),
                        Some(Message::Text(text)) => self.text.push(text),
                        Some(Message::End) => {
                            complete = true;
                            deadline = Instant::now() + END_LIMIT;
                        }
                        // The firmware may use the port, too.
                        None => (),
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    child.0.wait()?;
                    self.end = if complete { End::Complete } else { End::Lost };
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.end = End::TimedOut;
                    return Ok(());
                }
            }
        }
    }
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Neither fails on a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines that come out of a pipe, until it is closed.
fn lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn read_lossy(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        // The port sends a carriage return before each line feed.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).replace('\r', "")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The command line as a shell takes it.
fn quoted(arguments: &[OsString]) -> String {
    let quote = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        if argument.contains(' ') {
            format!("'{argument}'")
        } else {
            argument.into_owned()
        }
    };
    let words: Vec<String> = arguments.iter().map(quote).collect();
    format!("qemu-system-x86_64 {}\n", words.join(" "))
}
