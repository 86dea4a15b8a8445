// SPDX-License-Identifier: GPL-2.0

//! The name of a VM, in the arguments of its VMM.
//!
//! Arguments are whatever the process says that they are.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

/// Returns the name that the arguments of a VMM give its VM.
pub(super) fn of(program: &OsStr, arguments: &[Vec<u8>]) -> Option<OsString> {
    let program = program.as_bytes();
    let is = |name: &[u8]| program.starts_with(name);
    let name = if is(b"qemu") || is(b"kvm") || is(b"stratovirt") {
        qemu(value_of(arguments, &[b"-name", b"--name"])?)
    } else if is(b"firecracker") {
        // Firecracker gives this name itself, else.
        Some(
            value_of(arguments, &[b"--id"])
                .unwrap_or(b"anonymous-instance")
                .to_vec(),
        )
    } else if is(b"cloud-hypervisor") {
        stem(value_of(arguments, &[b"--api-socket"])?)
    } else if is(b"crosvm") {
        value_of(arguments, &[b"--name"])
            .map(<[u8]>::to_vec)
            .or_else(|| stem(value_of(arguments, &[b"--socket", b"-s"])?))
    } else if is(b"lkvm") || is(b"kvmtool") {
        value_of(arguments, &[b"--name", b"-n"]).map(<[u8]>::to_vec)
    } else {
        None
    };
    name.filter(|name| !name.is_empty()).map(OsString::from_vec)
}

/// Returns the value of an option: what follows it, or comes after its `=`.
fn value_of<'a>(arguments: &'a [Vec<u8>], options: &[&[u8]]) -> Option<&'a [u8]> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        for option in options {
            match argument.strip_prefix(*option) {
                Some([]) => return rest.next().map(Vec::as_slice),
                Some([b'=', value @ ..]) => return Some(value),
                _ => {}
            }
        }
    }
    None
}

/// Returns the name in QEMU's `-name [guest=]NAME[,process=…][,debug-threads=…]`, where two commas
/// are one of the name (`get_opt_value` in `util/qemu-option.c`). libvirt's domains have theirs
/// there, too.
fn qemu(value: &[u8]) -> Option<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    // The key of the first part may be left out.
    let mut parts = parts.into_iter();
    let first = parts.next()?;
    if !first.contains(&b'=') {
        return Some(first);
    }
    let mut all = std::iter::once(first).chain(parts);
    all.find_map(|part| part.strip_prefix(b"guest=").map(<[u8]>::to_vec))
}

/// Returns a socket's name without folder and extension, also after `path=`.
fn stem(socket: &[u8]) -> Option<Vec<u8>> {
    let mut parts = socket.split(|byte| *byte == b',');
    let first = parts.clone().next()?;
    let path = parts.find_map(|part| part.strip_prefix(b"path="));
    let path = Path::new(OsStr::from_bytes(path.unwrap_or(first)));
    Some(path.file_stem()?.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(program: &str, arguments: &[&str]) -> Option<String> {
        let arguments: Vec<Vec<u8>> = std::iter::once(&program)
            .chain(arguments)
            .map(|argument| argument.as_bytes().to_vec())
            .collect();
        let name = of(OsStr::new(program), &arguments)?;
        Some(name.into_string().expect("UTF-8"))
    }

    #[test]
    fn qemu_has_it_in_its_option() {
        let qemu = |value| name("qemu-system-x86_64", &["-m", "1G", "-name", value, "-S"]);
        assert_eq!(qemu("web").as_deref(), Some("web"));
        assert_eq!(qemu("web,process=x").as_deref(), Some("web"));
        assert_eq!(qemu("guest=web,debug-threads=on").as_deref(), Some("web"));
        assert_eq!(qemu("debug-threads=on,guest=web").as_deref(), Some("web"));
        assert_eq!(qemu("a,,b,process=x").as_deref(), Some("a,b"));
        assert_eq!(qemu("process=x"), None);
        assert_eq!(qemu(""), None);
        assert_eq!(name("qemu-kvm", &["--name", "db"]).as_deref(), Some("db"));
        assert_eq!(
            name("kvm", &["-id", "101", "-name", "db"]).as_deref(),
            Some("db")
        );
        assert_eq!(name("qemu-system-x86_64", &["-name"]), None);
        assert_eq!(name("qemu-system-x86_64", &[]), None);
    }

    #[test]
    fn other_vmms_have_theirs() {
        assert_eq!(name("firecracker", &["--id", "u1"]).as_deref(), Some("u1"));
        assert_eq!(name("firecracker", &["--id=u2"]).as_deref(), Some("u2"));
        assert_eq!(
            name("firecracker", &[]).as_deref(),
            Some("anonymous-instance")
        );
        let cloud = |value| name("cloud-hypervisor", &["--api-socket", value]);
        assert_eq!(cloud("/run/ch/a.b.sock").as_deref(), Some("a.b"));
        assert_eq!(cloud("path=/run/x.sock,tty=on").as_deref(), Some("x"));
        assert_eq!(cloud("/"), None);
        assert_eq!(
            name("crosvm", &["run", "-s", "/run/vm1.sock"]).as_deref(),
            Some("vm1")
        );
        assert_eq!(name("lkvm", &["run", "-n", "k"]).as_deref(), Some("k"));
        assert_eq!(name("unknown", &["--name", "x"]), None);
    }
}
