//! Where the installed program knarr begins, before the C library has set anything up.
//!
//! Belongs here: executing the program once more from a read-only clone of itself
//! (`knarr_runtime::protect`), where that is all that would be done before it is done. The C
//! library's relocations, the command line and everything else come once then and not twice.
//! Whatever fails here, `protect::reexec` does again, knows other ways, and says why none works.
//!
//! Nothing here may panic, use thread-local storage or memory that holds addresses: nobody has
//! relocated it yet.
#![allow(unsafe_code)]

use std::arch::naked_asm;

/// The commands that make processes in containers. Another word of a command line may read the
/// same: then the program is executed once more for nothing.
const COMMANDS: [[u8; 8]; 4] = [
    *b"create\0\0",
    *b"run\0\0\0\0\0",
    *b"exec\0\0\0\0",
    *b"restore\0",
];

/// The entry point: the stack is as the kernel made it, and `_start` of the C library finds it so.
///
/// # Safety
/// To be called by the kernel only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn knarr_entry() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("mov rdi, rsp", "call {early}", "jmp _start", early = sym early);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x0, sp", "bl {early}", "b _start", early = sym early);
    #[cfg(target_arch = "riscv64")]
    naked_asm!("mv a0, sp", "call {early}", "tail _start", early = sym early);
}

/// Executes the program once more where the command is one that needs it; returns otherwise.
///
/// # Safety
/// `stack` is what the kernel hands to a program: argc, argv, NULL, envp, NULL, auxv.
unsafe extern "C" fn early(stack: *const usize) {
    const AT_NULL: usize = 0;
    const AT_EXECFN: usize = 31;
    // SAFETY: by the caller's word, for all that is read here.
    let (argv, envp, execfn) = unsafe {
        let argc = *stack;
        let argv = stack.add(1).cast::<*const u8>();
        let envp = argv.add(argc + 1);
        if !(1..argc).any(|index| is_command(*argv.add(index))) {
            return;
        }
        let mut end = envp;
        while !(*end).is_null() {
            end = end.add(1);
        }
        let mut entry = end.add(1).cast::<[usize; 2]>();
        while !matches!((*entry)[0], AT_NULL | AT_EXECFN) {
            entry = entry.add(1);
        }
        (
            argv,
            envp,
            std::ptr::with_exposed_provenance::<u8>((*entry)[1]),
        )
    };
    // SAFETY: AT_EXECFN is a string that ends with NUL; AT_NULL has no value.
    if execfn.is_null() || unsafe { begins_with(execfn, b"/dev/fd/") } {
        // By a descriptor: from a clone already, or nobody knows from what.
        return;
    }
    reexec(argv, envp);
}

fn reexec(argv: *const *const u8, envp: *const *const u8) {
    const AT_EMPTY_PATH: usize = 0x1000;
    const CWD: usize = (-100_isize).cast_unsigned();
    const OPEN_TREE_CLONE: usize = 1;
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let itself = c"/proc/self/exe".as_ptr().expose_provenance();
    let empty = c"".as_ptr().expose_provenance();
    // SAFETY: the names end with NUL, the attributes are as long as is said and outlive the call,
    // argv and envp are the kernel's own; the descriptor is closed by nobody else.
    unsafe {
        let tree = call(SYS_OPEN_TREE, [CWD, itself, OPEN_TREE_CLONE, 0, 0]);
        if tree < 0 {
            return;
        }
        let fd = tree.cast_unsigned();
        // struct mount_attr: what is set, what is cleared, propagation, user namespace.
        let attributes = [MOUNT_ATTR_RDONLY, 0, 0, 0];
        let size = size_of_val(&attributes);
        let place = (&raw const attributes).expose_provenance();
        // One of the first three would become a standard stream that the caller has closed.
        if tree > 2 && call(SYS_MOUNT_SETATTR, [fd, empty, AT_EMPTY_PATH, place, size]) == 0 {
            let (argv, envp) = (argv.expose_provenance(), envp.expose_provenance());
            call(SYS_EXECVEAT, [fd, empty, argv, envp, AT_EMPTY_PATH]);
        }
        call(SYS_CLOSE, [fd, 0, 0, 0, 0]);
    }
}

/// Whether an argument is one of [`COMMANDS`].
///
/// # Safety
/// `word` ends with NUL.
unsafe fn is_command(word: *const u8) -> bool {
    COMMANDS.iter().any(|command| {
        let length = command.iter().take_while(|byte| **byte != 0).count();
        // SAFETY: by the caller's word; what begins with the letters has a byte more.
        unsafe {
            begins_with(word, command.get(..length).unwrap_or_default()) && *word.add(length) == 0
        }
    })
}

/// Whether a text begins with `start`, which has no NUL.
///
/// # Safety
/// `text` ends with NUL.
unsafe fn begins_with(text: *const u8, start: &[u8]) -> bool {
    // SAFETY: by the caller's word: what differs, as NUL does, ends the search.
    start
        .iter()
        .enumerate()
        .all(|(at, byte)| unsafe { *text.add(at) } == *byte)
}

const SYS_OPEN_TREE: usize = 428;
const SYS_MOUNT_SETATTR: usize = 442;
#[cfg(target_arch = "x86_64")]
const SYS_EXECVEAT: usize = 322;
#[cfg(target_arch = "x86_64")]
const SYS_CLOSE: usize = 3;
// asm-generic/unistd.h
#[cfg(not(target_arch = "x86_64"))]
const SYS_EXECVEAT: usize = 281;
#[cfg(not(target_arch = "x86_64"))]
const SYS_CLOSE: usize = 57;

/// A system call; the C library's would store an error where there is no memory for it yet. syscall(2).
///
/// # Safety
/// That of the call.
unsafe fn call(number: usize, args: [usize; 5]) -> isize {
    let [a, b, c, d, e] = args;
    let result: isize;
    // SAFETY: the registers are those of the kernel's convention, and those that it changes are named.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b,
            in("x2") c, in("x3") d, in("x4") e, options(nostack));
        #[cfg(target_arch = "riscv64")]
        std::arch::asm!("ecall", in("a7") number, inlateout("a0") a => result, in("a1") b,
            in("a2") c, in("a3") d, in("a4") e, options(nostack));
    }
    result
}
