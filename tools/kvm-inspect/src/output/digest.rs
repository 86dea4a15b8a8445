// SPDX-License-Identifier: GPL-2.0

//! Reads a file with holes, and digests it.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fs::{seek, SeekFrom},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{zeros, Sha256Digest};

const BUFFER_SIZE: usize = 1 << 20;

/// Returns the digest of a file. Holes are not read, but count as zeros.
pub(super) fn of_file(file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<Sha256Digest> {
    let mut digest = Sha256::new();
    let mut position = 0;
    for_each_part(
        file,
        |error| error,
        |bytes| {
            digest.update(bytes);
            position += bytes.len() as u64;
            progress(position);
            Ok(())
        },
    )?;
    Ok(digest.finalize().into())
}

/// Calls `take` with all bytes of a file, one part after another. Holes are not read: they are
/// zeros. `of` makes an error of one that the file has.
pub(super) fn for_each_part<E>(
    file: &File,
    of: impl Fn(io::Error) -> E,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let size = file.metadata().map_err(&of)?.len();
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut position = 0;
    while position < size {
        let (data, end) = next_data(file, position, size).map_err(&of)?;
        while position < data {
            let zeros = zeros(data - position);
            take(zeros)?;
            position += zeros.len() as u64;
        }
        while position < end {
            let left = usize::try_from(end - position).unwrap_or(usize::MAX);
            let bytes = &mut buffer[..left.min(BUFFER_SIZE)];
            file.read_exact_at(bytes, position).map_err(&of)?;
            take(bytes)?;
            position += bytes.len() as u64;
        }
    }
    Ok(())
}

/// Returns where the next data begins and ends.
fn next_data(file: &File, position: u64, size: u64) -> io::Result<(u64, u64)> {
    let data = match seek(file, SeekFrom::Data(position)) {
        Ok(data) => data.min(size),
        // There is no more.
        Err(Errno::NXIO) => return Ok((size, size)),
        // The file system does not know its holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((position, size)),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(data))?;
    Ok((data, end.min(size)))
}
