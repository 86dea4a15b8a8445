// SPDX-License-Identifier: GPL-2.0

//! What the threads of a VM that stands still wait for, and what they may do meanwhile.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    }, //
};

use crate::{
    gate::Gate,
    memory::Search, //
};

/// One standstill of a VM.
#[pin_data]
pub(crate) struct Stand {
    /// Opened when there is something to do, or nothing more to wait for.
    #[pin]
    called: Gate,
    /// Opened when the standstill is over.
    #[pin]
    over: Gate,
    search: SetOnce<Arc<Search>>,
}

impl Stand {
    /// One that begins.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            called <- Gate::new(),
            over <- Gate::new(),
            search: SetOnce::new(),
        })
    }

    /// Has the threads that stand, and those that still come, help with a search.
    pub(crate) fn call(&self, search: &Arc<Search>) {
        self.search.populate(search.clone());
        self.called.open();
    }

    /// Ends it: all go on.
    pub(crate) fn end(&self) {
        self.called.open();
        self.over.open();
    }

    /// Stands until it is over.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the thread is being killed.
    pub(crate) fn wait(&self) -> Result {
        self.called.wait_killable()?;
        if let Some(search) = self.search.as_ref() {
            search.help();
        }
        self.over.wait_killable()
    }
}
