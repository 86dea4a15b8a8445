// SPDX-License-Identifier: GPL-2.0

//! Digests of chunks, which tell whether memory still is what was searched.

use kernel::prelude::*;

use super::host::CurrentThread;
use crate::{
    linux::{
        pages::View,
        random, //
    },
    memory::Window,
    request::Query,
    scan::{
        digest::{
            self,
            Key, //
        },
        Memory,
        Piece, //
    }, //
};

/// The digest of a chunk, made of those of its windows and their places.
#[derive(Clone, Copy, Default)]
pub(super) struct ChunkDigest(u64);

impl ChunkDigest {
    /// Adds the body of a window.
    ///
    /// The products keep the places of windows apart. That no other content gives the same is the
    /// task of the windows' digests, which nobody can foresee.
    pub(super) fn add(&mut self, query: &Query, key: &Key, view: &View<'_>, window: &Window) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let body = WindowBody { view, window };
        let digest = digest::digest(query.engine, key, &body, &CurrentThread);
        let placed = digest ^ window.page.wrapping_add(1).wrapping_mul(ODD);
        self.0 = self
            .0
            .rotate_left(23)
            .wrapping_mul(ODD)
            .wrapping_add(placed);
    }

    /// Returns the digest as a number; 0 if there was no window.
    pub(super) fn value(self) -> u64 {
        self.0
    }
}

/// Returns a key that no guest can know. A guest that did could change its memory and keep the
/// digest.
pub(super) fn random_key() -> Result<KBox<Key>> {
    let mut key = KBox::init(pin_init::init_zeroed::<Key>(), GFP_KERNEL)?;
    key.fill(random::fill);
    Ok(key)
}

/// The body of a window, without its neighbours.
struct WindowBody<'a> {
    view: &'a View<'a>,
    window: &'a Window,
}

impl Memory for WindowBody<'_> {
    fn len(&self) -> usize {
        self.window.body.len()
    }

    fn piece(&self, at: usize) -> Piece<'_> {
        let piece = self.view.piece(self.window.body.start.saturating_add(at));
        piece.up_to(self.len().saturating_sub(at))
    }
}
