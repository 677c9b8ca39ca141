//! No unwinder: the installed program aborts on panic, and has no tables to unwind or trace by.
//!
//! Belongs here: the functions of the C++ ABI for exception handling, level 1, that the compiled
//! standard library refers to. `knarr.ld` leaves out the tables that the real ones read, so they
//! would find no frame either; but they, and all that would turn frames into names and lines of
//! source, are a fifth of the program. The linker takes nothing from libunwind where the program
//! itself has the names. Compiled into that program only.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK`.
const END_OF_STACK: c_int = 5;

/// Walks no frame for the message of a panic: `callback` is never called.
// SAFETY: name and signature are those of the ABI; the name is defined once.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_callback: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Functions that only an unwinder calls, or what it calls: here, nobody.
macro_rules! never_called {
    ($($name:ident)*) => {$(
        #[doc = concat!("See ", stringify!($name), " in the ABI.")]
        // SAFETY: the name is that of the ABI and defined once. Nobody calls it, and for one who
        // did, the process ends here, whatever the arguments and the result are.
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> ! {
            std::process::abort()
        }
    )*};
}

never_called! {
    _Unwind_GetDataRelBase
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_Resume
    _Unwind_SetGR
    _Unwind_SetIP
}
