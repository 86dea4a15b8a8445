// SPDX-License-Identifier: GPL-2.0

//! The arguments of calls, in the memory of who makes them.
//!
//! A structure may be shorter or longer than this module knows it: what is not given is 0, and what
//! is not known must be 0, as `copy_struct_from_user` has it (`include/linux/uaccess.h`).

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use zerocopy::{
    FromBytes as Bytes,
    Immutable,
    IntoBytes as Plain,
    KnownLayout, //
};

use crate::{
    error::refuse,
    linux::task,
    uapi::{
        SIZE_MASK,
        SIZE_SHIFT, //
    }, //
};

/// The most elements that are written, or read, at once.
const AT_ONCE: usize = 64;

/// The structure that a call is made with.
pub(super) struct Argument {
    address: usize,
    size: usize,
}

impl Argument {
    /// Returns the argument of the call with this number, which has its size.
    pub(super) fn new(address: usize, number: u32) -> Self {
        let size = (number & SIZE_MASK) >> SIZE_SHIFT;
        Self {
            address,
            size: usize::try_from(size).unwrap_or(0),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// `EFAULT`. `EINVAL`: it is shorter than it ever was. `E2BIG`: it has what is not known.
    pub(super) fn read<T: Bytes + Plain + KnownLayout>(&self) -> Result<T> {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        // All structures still are as they were at first.
        if self.size < bytes.len() {
            return Err(refuse!(
                EINVAL,
                "the structure has {} bytes, and needs {}; build with the header of this module",
                self.size,
                bytes.len()
            ));
        }
        let mut reader = UserSlice::new(UserPtr::from_addr(self.address), self.size).reader();
        reader.read_slice(bytes)?;
        while !reader.is_empty() {
            let mut more = [0_u8; 64];
            let len = reader.len().min(more.len());
            let more = more.get_mut(..len).unwrap_or_default();
            reader.read_slice(more)?;
            if more.iter().any(|byte| *byte != 0) {
                return Err(refuse!(
                    E2BIG,
                    "the structure has members that this module does not know; set them to 0, or \
                     load a newer module"
                ));
            }
        }
        Ok(value)
    }

    /// Writes it back.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(super) fn write<T: Plain + Immutable>(&self, value: &T) -> Result {
        let mut writer = UserSlice::new(UserPtr::from_addr(self.address), self.size).writer();
        writer.write_slice(value.as_bytes())
    }
}

/// Writes elements to an array of the caller, whose elements have `size` bytes: what the caller
/// does not know is cut off, what this module does not know is 0.
///
/// # Errors
///
/// `EFAULT`. `EINVAL`: the size is out of range.
pub(super) fn write_elements<T: Plain + Immutable>(
    address: u64,
    size: u32,
    elements: impl Iterator<Item = T>,
) -> Result {
    const MAX_SIZE: usize = 64 << 10;

    let size = usize::try_from(size)?;
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(refuse!(
            EINVAL,
            "the size of an element is {size}; give that of its structure"
        ));
    }
    let mut address = usize::try_from(address)?;
    for (number, element) in elements.enumerate() {
        if number % AT_ONCE == 0 {
            task::cond_resched();
        }
        let mut writer = UserSlice::new(UserPtr::from_addr(address), size).writer();
        let bytes = element.as_bytes();
        writer.write_slice(bytes.get(..size.min(bytes.len())).unwrap_or_default())?;
        while !writer.is_empty() {
            let zeros = [0_u8; 64];
            let len = writer.len().min(zeros.len());
            writer.write_slice(zeros.get(..len).unwrap_or_default())?;
        }
        address = address.checked_add(size).ok_or(EFAULT)?;
    }
    Ok(())
}

/// Reads an array of the caller.
///
/// # Errors
///
/// `EFAULT`, `ENOMEM`.
pub(super) fn read_elements<T: Bytes + Plain + KnownLayout + Copy>(
    address: u64,
    count: usize,
) -> Result<KVVec<T>> {
    let size = size_of::<T>().checked_mul(count).ok_or(E2BIG)?;
    let address = UserPtr::from_addr(usize::try_from(address)?);
    let mut reader = UserSlice::new(address, size).reader();
    let mut elements = KVVec::with_capacity(count, GFP_KERNEL)?;
    for number in 0..count {
        if number % AT_ONCE == 0 {
            task::cond_resched();
        }
        let mut element = T::new_zeroed();
        reader.read_slice(element.as_mut_bytes())?;
        elements.push(element, GFP_KERNEL)?;
    }
    Ok(elements)
}

/// Reads bytes of the caller.
///
/// # Errors
///
/// `EFAULT`, `ENOMEM`.
pub(super) fn read_bytes(address: u64, len: usize) -> Result<KVVec<u8>> {
    let mut bytes = KVVec::from_elem(0, len, GFP_KERNEL)?;
    let address = UserPtr::from_addr(usize::try_from(address)?);
    UserSlice::new(address, len)
        .reader()
        .read_slice(&mut bytes)?;
    Ok(bytes)
}

/// Writes bytes to the memory of the caller.
///
/// # Errors
///
/// `EFAULT`.
pub(super) fn write_bytes(address: u64, bytes: &[u8]) -> Result {
    let address = UserPtr::from_addr(usize::try_from(address)?);
    UserSlice::new(address, bytes.len())
        .writer()
        .write_slice(bytes)
}
