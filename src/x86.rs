// SPDX-License-Identifier: GPL-2.0

//! What the manuals of x86-64 processors say.

pub mod mode;
