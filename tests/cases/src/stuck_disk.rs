// SPDX-License-Identifier: GPL-2.0

//! A network disk whose server answers only when it is told to.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        Arc,
    },
    thread::{self, JoinHandle},
};

use crate::{inspect::load_module, process::wait_until};

// The kernel's `include/uapi/linux/nbd.h`.
const SET_SOCK: libc::Ioctl = 0xab00;
const SET_SIZE: libc::Ioctl = 0xab02;
const DO_IT: libc::Ioctl = 0xab03;
const DISCONNECT: libc::Ioctl = 0xab08;
const READ: u32 = 0;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// What the server has been asked and told.
#[derive(Default)]
struct Server {
    is_asked: AtomicBool,
    may_answer: AtomicBool,
}

/// The disk, full of zeros.
pub(crate) struct StuckDisk {
    file: File,
    server: Arc<Server>,
    threads: Vec<JoinHandle<()>>,
}

impl StuckDisk {
    /// Makes the disk of so many bytes.
    pub(crate) fn new(len: u64) -> Self {
        let open = || OpenOptions::new().read(true).open("/dev/nbd0");
        if open().is_err() {
            load_module("/modules/nbd.ko", "nbds_max=1 max_part=0").expect("a network disk");
        }
        let file = open();
        let file = file.expect("the disk is there");
        let (ours, kernels) = UnixStream::pair().expect("there are sockets");
        let fd = file.as_raw_fd();
        control(fd, SET_SIZE, len);
        let socket = u64::try_from(kernels.as_raw_fd()).expect("a valid file");
        control(fd, SET_SOCK, socket);
        let server = Arc::new(Server::default());
        let other = server.clone();
        let threads = vec![
            thread::spawn(move || {
                // This ends when the disk is disconnected.
                control(fd, DO_IT, 0);
                drop(kernels);
            }),
            thread::spawn(move || other.serve(ours)),
        ];
        Self {
            file,
            server,
            threads,
        }
    }

    /// Returns the disk's file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns whether somebody reads from it.
    pub(crate) fn is_asked(&self) -> bool {
        self.server.is_asked.load(SeqCst)
    }

    /// Lets the server answer from now on.
    pub(crate) fn answer(&self) {
        self.server.may_answer.store(true, SeqCst);
    }

    /// Takes it away. Nobody uses it any more.
    pub(crate) fn remove(self) {
        control(self.file.as_raw_fd(), DISCONNECT, 0);
        for thread in self.threads {
            thread.join().expect("it ends");
        }
    }
}

impl Server {
    fn serve(&self, mut socket: UnixStream) {
        let mut request = [0; 28];
        while socket.read_exact(&mut request).is_ok() {
            let word = |at: usize| {
                let bytes = request[at..at + 4].try_into().expect("four bytes");
                u32::from_be_bytes(bytes)
            };
            if word(4) != READ {
                return;
            }
            self.is_asked.store(true, SeqCst);
            wait_until("the disk may answer", || self.may_answer.load(SeqCst));
            let mut reply = [0; 16];
            reply[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
            reply[8..].copy_from_slice(&request[8..16]);
            let len = usize::try_from(word(24)).expect("it fits into memory");
            let sent = socket.write_all(&[&reply[..], &vec![0; len]].concat());
            sent.expect("the kernel takes it");
        }
    }
}

fn control(file: RawFd, request: libc::Ioctl, argument: u64) {
    // SAFETY: None of these requests takes a pointer.
    let result = unsafe { libc::ioctl(file, request, argument) };
    let error = io::Error::last_os_error();
    assert_eq!(result, 0, "ioctl {request:#x}: {error}");
}
