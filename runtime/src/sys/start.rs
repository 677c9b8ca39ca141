//! Where the program knarr begins: `main` as the C library calls it.
//!
//! Belongs here: what the standard library does before a program's `main`, as far as this one
//! needs it. The rest is a dozen system calls at each start and end, most of them for telling
//! that a stack has overflowed, which a fault tells as well.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};

use knarr_runtime::protect;
use knarr_runtime::sys::process;

// SAFETY: this is the `main` of the C standard, of which a program has one.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    process::hold_standard_streams();
    process::ignore_broken_pipes();
    process::keep_statuses();
    // The entry point may have executed us from a clone for a command that needs none, such as
    // `delete run`, whose hooks would inherit it.
    protect::hold();
    // SAFETY: the C library calls this function once, with as many arguments as it says, which
    // stay where they are until the process ends.
    let args = unsafe { process::adopt_arguments(argc, argv) };
    crate::cli::main(&args).into()
}
