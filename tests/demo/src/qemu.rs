// SPDX-License-Identifier: GPL-2.0

//! The guest's QEMU, and its monitor (QMP).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};

const SOCKET: &str = "/tmp/qmp";

/// The time limit for an answer: a backstop. QEMU may have to write the guest's memory to a file,
/// in an emulator on a busy machine.
const LIMIT: Duration = Duration::from_secs(1800);

/// A running QEMU with a guest. Dropping it ends it.
pub struct Qemu {
    child: Child,
    monitor: BufReader<UnixStream>,
    /// The guest's memory in MiB.
    mib: u32,
}

/// A pause that QEMU made ([`Qemu::stop_and_resume`]).
#[derive(Clone, Copy)]
pub struct Pause {
    /// From the request until QEMU reports that all vCPUs have stopped: its STOP event.
    pub freeze: Duration,
    /// From then until QEMU reports that it is about to let them go on: its RESUME event. The vCPUs
    /// are stopped a bit longer, before the one and after the other event.
    pub stopped: Duration,
}

/// The usual memory of a guest in MiB.
pub const MIB: u32 = 256;

/// The registers of a vCPU, by the names of the module's report.
pub type Registers = BTreeMap<String, u64>;

impl Qemu {
    /// Starts the guest with `cpus` vCPUs, and more `parameters` for its kernel. Returns its serial
    /// console, too.
    ///
    /// # Errors
    ///
    /// QEMU cannot be started, or does not answer.
    pub fn start(cpus: u32, parameters: &str) -> io::Result<(Self, ChildStdout)> {
        Self::start_with_memory(MIB, cpus, parameters)
    }

    /// Starts the guest as [`Self::start`] does, with `mib` MiB of memory.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_with_memory(
        mib: u32,
        cpus: u32,
        parameters: &str,
    ) -> io::Result<(Self, ChildStdout)> {
        let parameters = format!("console=ttyS0 rdinit=/init panic=-1 quiet {parameters}");
        let mut child = Command::new("/usr/bin/qemu-system-x86_64-microvm")
            .args(["-enable-kvm", "-cpu", "host", "-machine", "microvm"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-m", &mib.to_string(), "-smp", &cpus.to_string()])
            .args(["-kernel", "/guest/vmlinuz", "-initrd", "/guest/initramfs"])
            .args(["-append", &parameters])
            .args(["-serial", "stdio", "-no-reboot"])
            .args(["-qmp", &format!("unix:{SOCKET},server=on,wait=off")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let console = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("QEMU has no console"))?;
        let monitor = connect()?;
        let mut this = Self {
            child,
            monitor,
            mib,
        };
        this.read()?; // the greeting
        this.ask("qmp_capabilities", &json!({}))?;
        Ok((this, console))
    }

    /// Returns QEMU's process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the threads of the vCPUs, in the vCPUs' order.
    ///
    /// # Errors
    ///
    /// QEMU does not answer.
    pub fn vcpu_threads(&mut self) -> io::Result<Vec<u64>> {
        let cpus = self.ask("query-cpus-fast", &json!({}))?;
        let cpus = cpus.as_array().into_iter().flatten();
        Ok(cpus.filter_map(|cpu| cpu["thread-id"].as_u64()).collect())
    }

    /// Asks QEMU to stop the vCPUs, without waiting for that.
    ///
    /// # Errors
    ///
    /// QEMU is gone.
    pub fn ask_to_stop(&mut self) -> io::Result<()> {
        self.send("stop", &json!({}))
    }

    /// Waits for the answer to [`Self::ask_to_stop`].
    ///
    /// # Errors
    ///
    /// QEMU does not answer.
    pub fn wait_until_stopped(&mut self) -> io::Result<()> {
        self.answer().map(drop)
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    ///
    /// QEMU does not answer.
    pub fn resume(&mut self) -> io::Result<()> {
        self.ask("cont", &json!({})).map(drop)
    }

    /// Lets QEMU write the guest's memory to a file, with `dump-guest-memory` or `pmemsave`.
    ///
    /// # Errors
    ///
    /// QEMU does not, or takes too long.
    pub fn save_memory(&mut self, command: &str, file: &str) -> io::Result<()> {
        let arguments = if command == "pmemsave" {
            json!({ "val": 0, "size": u64::from(self.mib) << 20, "filename": file })
        } else {
            json!({ "paging": false, "protocol": format!("file:{file}") })
        };
        self.ask(command, &arguments).map(drop)
    }

    /// Stops the vCPUs and lets them go on at once. Returns how long that took.
    ///
    /// # Errors
    ///
    /// QEMU does not answer.
    pub fn stop_and_resume(&mut self) -> io::Result<Pause> {
        let asked = SystemTime::now();
        self.send("stop", &json!({}))?;
        let stopped = self.event_and_answer("STOP")?;
        self.send("cont", &json!({}))?;
        let resumed = self.event_and_answer("RESUME")?;
        let between = |from: SystemTime, to: SystemTime| {
            to.duration_since(from)
                .map_err(|_| io::Error::other("the host's clock has gone back"))
        };
        Ok(Pause {
            freeze: between(asked, stopped)?,
            stopped: between(stopped, resumed)?,
        })
    }

    /// Waits for the answer to a command, and for its event. Returns the time of the event.
    fn event_and_answer(&mut self, name: &str) -> io::Result<SystemTime> {
        let (mut at, mut answered) = (None, false);
        loop {
            let message = self.read()?;
            if message.get("error").is_some() {
                return Err(io::Error::other(format!("QEMU says {message}")));
            }
            answered |= message.get("return").is_some();
            if message["event"] == name {
                let time = &message["timestamp"];
                let (seconds, micros) = (time["seconds"].as_u64(), time["microseconds"].as_u64());
                at = seconds.zip(micros).map(|(seconds, micros)| {
                    UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
                });
            }
            if let (Some(at), true) = (at, answered) {
                return Ok(at);
            }
        }
    }

    /// Stops the whole process, as a busy host may. Neither QEMU nor its guest notices.
    ///
    /// # Errors
    ///
    /// QEMU is gone.
    pub fn hold(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Lets the process go on.
    ///
    /// # Errors
    ///
    /// QEMU is gone.
    pub fn let_go(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// Returns the registers of each vCPU as QEMU sees them (`info registers -a`).
    ///
    /// # Errors
    ///
    /// QEMU does not answer.
    pub fn registers(&mut self) -> io::Result<Vec<Registers>> {
        let text = self.monitor_command("info registers -a")?;
        let cpus = text.split("CPU#").skip(1);
        Ok(cpus.map(parse_registers).collect())
    }

    /// Returns `length` bytes at the guest-physical address `gpa` as QEMU sees them (`xp`).
    ///
    /// # Errors
    ///
    /// QEMU does not answer.
    pub fn memory(&mut self, gpa: u64, length: usize) -> io::Result<Vec<u8>> {
        let text = self.monitor_command(&format!("xp /{length}xb {gpa:#x}"))?;
        let values = text.lines().filter_map(|line| line.split_once(':'));
        let bytes = values.flat_map(|(_, values)| values.split_whitespace());
        Ok(bytes
            .filter_map(hex)
            .filter_map(|byte| u8::try_from(byte).ok())
            .collect())
    }

    fn monitor_command(&mut self, line: &str) -> io::Result<String> {
        let answer = self.ask("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        self.send(command, arguments)?;
        self.answer()
    }

    fn send(&mut self, command: &str, arguments: &Value) -> io::Result<()> {
        let command = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{command}")
    }

    /// Waits for the next answer, and skips events.
    fn answer(&mut self) -> io::Result<Value> {
        loop {
            let mut message = self.read()?;
            if message.get("error").is_some() {
                return Err(io::Error::other(format!("QEMU says {message}")));
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.monitor.read_line(&mut line)? == 0 {
            return Err(io::Error::other("QEMU has ended"));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect() -> io::Result<BufReader<UnixStream>> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(SOCKET) {
            Ok(stream) => {
                stream.set_read_timeout(Some(LIMIT))?;
                return Ok(BufReader::new(stream));
            }
            Err(error) if begin.elapsed() > LIMIT => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Returns where a thread waits in the kernel, and whether a signal is pending.
///
/// # Errors
///
/// The thread is gone.
pub fn thread_state(pid: u32, tid: u64) -> io::Result<(String, bool)> {
    let task = format!("/proc/{pid}/task/{tid}");
    let wchan = fs::read_to_string(format!("{task}/wchan"))?;
    let status = fs::read_to_string(format!("{task}/status"))?;
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|mask| hex(mask.trim())).unwrap_or(0) != 0;
    Ok((wchan, pending))
}

/// Reads one vCPU's part of `info registers`.
///
/// Most are `NAME=value`. Segments are `CS =selector base limit flags`, tables
/// `GDT=     base limit`.
fn parse_registers(text: &str) -> Registers {
    const PLAIN: [(&str, &str); 24] = [
        ("RIP", "rip"),
        ("RFL", "rflags"),
        ("RAX", "rax"),
        ("RBX", "rbx"),
        ("RCX", "rcx"),
        ("RDX", "rdx"),
        ("RSI", "rsi"),
        ("RDI", "rdi"),
        ("RSP", "rsp"),
        ("RBP", "rbp"),
        ("R8", "r8"),
        ("R9", "r9"),
        ("R10", "r10"),
        ("R11", "r11"),
        ("R12", "r12"),
        ("R13", "r13"),
        ("R14", "r14"),
        ("R15", "r15"),
        ("CR0", "cr0"),
        ("CR2", "cr2"),
        ("CR3", "cr3"),
        ("CR4", "cr4"),
        ("EFER", "efer"),
        ("CPL", "cpl"),
    ];
    let mut registers = Registers::new();
    for line in text.lines() {
        if let Some((name, rest)) = line.split_once('=') {
            let name = name.trim().to_lowercase();
            let values: Vec<u64> = rest.split_whitespace().map_while(hex).collect();
            match (name.as_str(), values.as_slice()) {
                ("cs" | "ds" | "es" | "fs" | "gs" | "ss" | "tr" | "ldt", [selector, base, ..]) => {
                    registers.insert(format!("{name}.selector"), *selector);
                    registers.insert(format!("{name}.base"), *base);
                }
                ("gdt" | "idt", [base, limit, ..]) => {
                    registers.insert(format!("{name}.base"), *base);
                    registers.insert(format!("{name}.limit"), *limit);
                }
                _ => (),
            }
        }
        // "R8 =" has a space before the sign.
        let line = line.replace(" =", "=");
        for (name, value) in line
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
        {
            let known = PLAIN.iter().find(|known| known.0 == name);
            if let (Some((_, name)), Some(value)) = (known, hex(value)) {
                registers.insert((*name).to_owned(), value);
            }
        }
    }
    registers
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::parse_registers;

    #[test]
    fn registers_of_long_mode() {
        let registers = parse_registers(
            "0\nRAX=0000000000000001 RBX=00000000000000ff\n\
             R8 =0000000000000008 R9 =0000000000000009\n\
             RIP=ffffffff81000000 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\n\
             CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\n\
             LDT=0000 0000000000000000 00000000 00008200 DPL=0 LDT\n\
             GDT=     fffffe0000001000 0000007f\n\
             CR0=80050033 CR2=0000000000000000 CR3=0000000002a0a000 CR4=00750ef0\n\
             EFER=0000000000000d01\n",
        );
        for (name, value) in [
            ("rax", 1),
            ("rbx", 0xff),
            ("r8", 8),
            ("r9", 9),
            ("rip", 0xffff_ffff_8100_0000),
            ("rflags", 0x246),
            ("cpl", 0),
            ("cs.selector", 0x10),
            ("cs.base", 0),
            ("ldt.selector", 0),
            ("gdt.base", 0xffff_fe00_0000_1000),
            ("gdt.limit", 0x7f),
            ("cr0", 0x8005_0033),
            ("cr4", 0x0075_0ef0),
            ("efer", 0xd01),
        ] {
            assert_eq!(registers.get(name), Some(&value), "{name}");
        }
    }
}
