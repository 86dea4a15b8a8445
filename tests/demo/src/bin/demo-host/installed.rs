// SPDX-License-Identifier: GPL-2.0

//! A host on which the packages are installed: Debian, in the folder that the machine outside
//! shares. What is written goes to memory.
//!
//! The module is loaded and the guest searched as an administrator does it. Then somebody may log
//! in and do the same from afar, until the file [`DONE`] is there.

use std::{
    fs,
    io::{self, Read},
    net::TcpStream,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use cases::command_line;
use demo::{
    command::{self, show, MAX_PAUSE},
    console::Console,
    dump::OUT,
    host::{fail, mount_out, say},
    installed::{DONE, KEY, READY, VERSION},
    qemu::Qemu,
    values,
};
use rustix::{
    mount::{mount, mount_bind_recursive, MountFlags},
    process::{chdir, chroot},
};
use serde_json::Value;

/// Where memory is for what is written, and where both together are.
const WRITTEN: &str = "/tmp";
const ROOT: &str = "/host";

/// How long to wait for who logs in: a backstop.
const LIMIT: Duration = Duration::from_secs(1800);

/// Runs it. Returns the results.
pub(crate) fn run() -> io::Result<String> {
    let (qemu, console) = Qemu::start(1, "")?;
    let mut console = Console::follow(console);
    let greeting = console.wait_for("secret=")?;
    let secret = values::text(&greeting, "secret").unwrap_or_default();
    let pid = qemu.pid();
    mount_out()?;
    enter()?;
    let version = command_line::parameter(VERSION).unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    say(&format!("A host is up, with the packages and {release}."))?;

    run_shown("modprobe", &["kvm_inspect"])?;
    let loaded = fs::read_to_string("/sys/module/kvm_inspect/version")?;
    if loaded.trim() != version {
        return fail(format!("the module is of version {loaded}, not {version}"));
    }
    let list = command::run(&["list", "--json"])?;
    let list: Value = serde_json::from_str(&list.join("\n"))?;
    if list["vm"][0]["pid"] != pid {
        return fail(format!("the guest is not in the list: {list}"));
    }
    let pattern = format!("hex:{secret}");
    let search = command::run(&[
        "search",
        &pid.to_string(),
        &pattern,
        "--max-pause",
        MAX_PAUSE,
    ])?;
    show(&search)?;
    if !search.iter().any(|line| line.starts_with("result=ok")) {
        return fail("the search did not succeed");
    }
    if !search.iter().any(|line| line.starts_with("1 hit ")) {
        return fail("the secret was not found");
    }
    run_shown("rmmod", &["kvm_inspect"])?;
    console.goes_on()?;

    if let Some(key) = command_line::parameter(KEY) {
        serve(&key, secret)?;
        console.goes_on()?;
    }
    Ok(format!("release={release} version={version}"))
}

/// Makes the shared folder the root of this process and its children.
fn enter() -> io::Result<()> {
    mount("tmpfs", WRITTEN, "tmpfs", MountFlags::empty(), None)?;
    for name in ["upper", "work"] {
        fs::create_dir(format!("{WRITTEN}/{name}"))?;
    }
    let options = format!("lowerdir={OUT},upperdir={WRITTEN}/upper,workdir={WRITTEN}/work");
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::empty();
    mount("overlay", ROOT, "overlay", flags, Some(options.as_c_str()))?;
    for name in ["dev", "proc", "sys"] {
        mount_bind_recursive(format!("/{name}"), format!("{ROOT}/{name}"))?;
    }
    for name in ["run", "tmp"] {
        mount("tmpfs", format!("{ROOT}/{name}"), "tmpfs", flags, None)?;
    }
    chroot(ROOT)?;
    Ok(chdir("/")?)
}

/// Lets whoever has the key log in by the network, until they say that all is done.
fn serve(key: &str, secret: &str) -> io::Result<()> {
    // The playbook is to install it.
    run_shown("dpkg", &["--purge", "kvm-inspect"])?;
    run_shown("modprobe", &["virtio_net"])?;
    for device in ["lo", "eth0"] {
        run_shown("ip", &["link", "set", device, "up"])?;
    }
    run_shown("ip", &["address", "add", "10.0.2.15/24", "dev", "eth0"])?;
    fs::create_dir_all("/root/.ssh")?;
    fs::write("/root/.ssh/authorized_keys", format!("ssh-ed25519 {key}\n"))?;
    fs::create_dir_all("/run/sshd")?;
    let mut server = Server(Command::new("/usr/sbin/sshd").arg("-D").spawn()?);
    server.wait_until("the server listens", greets)?;
    say(&format!("{READY}{secret}"))?;
    server.wait_until("somebody says that all is done", || {
        Path::new(DONE).exists()
    })?;
    if Path::new("/sys/module/kvm_inspect").exists() {
        return fail("the module is still loaded");
    }
    Ok(())
}

/// The program that lets others log in. Dropping it ends it.
struct Server(Child);

impl Server {
    /// Waits for something while the server runs.
    fn wait_until(&mut self, what: &str, is_so: impl Fn() -> bool) -> io::Result<()> {
        let begin = Instant::now();
        while !is_so() {
            if begin.elapsed() > LIMIT || self.0.try_wait()?.is_some() {
                return fail(format!("waited in vain until {what}"));
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// Returns whether the server answers.
fn greets() -> bool {
    let mut greeting = [0; 4];
    let server = TcpStream::connect("127.0.0.1:22");
    let read = server.and_then(|mut server| server.read_exact(&mut greeting));
    read.is_ok() && greeting == *b"SSH-"
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program, and shows how.
fn run_shown(program: &str, arguments: &[&str]) -> io::Result<()> {
    say(&format!("# {program} {}", arguments.join(" ")))?;
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    fail(format!("{program}: {}: {said}", output.status))
}
