// SPDX-License-Identifier: GPL-2.0

//! `/dev/kvm_inspect`.

mod layout;
