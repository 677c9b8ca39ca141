//! System call numbers by name, and the ABIs that one kernel offers.
//!
//! Belongs here: the tables, the search in them, the facts about each ABI.
//! Does not: what a profile says about a system call.
//!
//! The tables are written as lists of rows and turned at compile time into
//! what the search wants: all names in one piece of text (no pointers, hence
//! nothing to relocate when a static-pie program starts), and an open
//! addressing hash table.

#[cfg(any(test, target_arch = "aarch64"))]
mod arm;
#[cfg(any(test, target_arch = "riscv64"))]
mod riscv64;
#[cfg(any(test, target_arch = "x86_64"))]
mod x86;

/// A name and its number in each ABI of the family.
pub(super) type Row = (&'static str, [u16; COLUMNS]);

/// The most ABIs that a family has.
pub(super) const COLUMNS: usize = 3;

/// "Does not exist in this ABI."
pub(super) const NONE: u16 = u16::MAX;

/// The bit that stands for 0xf0000, where ARM has its private system calls.
pub(super) const PRIVATE: u16 = 0x8000;

/// Slots of the hash table: a power of two, at least twice the rows.
const SLOTS: usize = 1024;

/// `AUDIT_ARCH_X86_64` of linux/audit.h; x32 has the same.
pub(super) const AUDIT_X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`.
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) const AUDIT_I386: u32 = 0x4000_0003;
/// `AUDIT_ARCH_AARCH64`.
#[cfg(any(test, target_arch = "aarch64"))]
pub(super) const AUDIT_AARCH64: u32 = 0xc000_00b7;
/// `AUDIT_ARCH_ARM`.
#[cfg(any(test, target_arch = "aarch64"))]
pub(super) const AUDIT_ARM: u32 = 0x4000_0028;
/// `AUDIT_ARCH_RISCV64`.
#[cfg(any(test, target_arch = "riscv64"))]
pub(super) const AUDIT_RISCV64: u32 = 0xc000_00f3;
/// `__X32_SYSCALL_BIT` of asm/unistd.h: set in every system call number of x32.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// One ABI of a family.
#[derive(Debug)]
pub(super) struct Abi {
    /// Its name in a profile.
    pub name: &'static str,
    /// `seccomp_data.arch` of its calls.
    pub audit: u32,
    /// Added to every number of the table.
    pub base: u32,
    /// Whether arguments are 64 bits wide. Where they are not, the kernel uses the
    /// low half of the register, and the high half must not decide anything: 64-bit
    /// code can put what it likes there and then call `int 0x80`.
    pub wide: bool,
    /// Calls that can also be made through `socketcall` or `ipc`: name, the
    /// multiplexer, and the first argument that selects the call.
    pub multiplexed: &'static [(&'static str, &'static str, u16)],
}

/// The ABIs and the table of one kernel architecture.
#[derive(Debug)]
pub(super) struct Family {
    /// The native ABI first; column i of the table belongs to the i-th.
    pub abis: &'static [Abi],
    text: &'static [u8],
    ends: &'static [u16],
    numbers: &'static [[u16; COLUMNS]],
    slots: &'static [u16; SLOTS],
}

impl Family {
    /// The row of a system call.
    pub fn row(&self, name: &str) -> Option<usize> {
        let name = name.as_bytes();
        let mut slot = hash(name) % SLOTS;
        loop {
            let row = match self.slots.get(slot) {
                Some(&row) if row != NONE => usize::from(row),
                _ => return None,
            };
            if self.name_bytes(row) == name {
                return Some(row);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The numbers of a row, one for each ABI, [`NONE`] and [`PRIVATE`] included.
    pub fn numbers(&self, row: usize) -> [u16; COLUMNS] {
        self.numbers.get(row).copied().unwrap_or([NONE; COLUMNS])
    }

    /// As [`Family::numbers`], of all rows.
    pub fn rows(&self) -> &'static [[u16; COLUMNS]] {
        self.numbers
    }

    // Asked for each of several hundred names, in a program that is built for size.
    #[inline(always)]
    fn name_bytes(&self, row: usize) -> &'static [u8] {
        let end_of = |row: usize| match self.ends.get(row) {
            Some(&end) => usize::from(end),
            None => 0,
        };
        let start = match row {
            0 => 0,
            _ => end_of(row - 1),
        };
        match self.text.get(start..end_of(row)) {
            Some(name) => name,
            None => &[],
        }
    }
}

/// Four bytes at a time; a multiplication each.
const fn hash(name: &[u8]) -> usize {
    let mut hash: u32 = 0x9e37_79b9;
    let mut at = 0;
    while at < name.len() {
        let mut word = 0u32;
        let mut byte = 0;
        while byte < 4 && at + byte < name.len() {
            word = (word << 8) | name[at + byte] as u32;
            byte += 1;
        }
        hash = (hash ^ word).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 15;
        at += 4;
    }
    hash as usize
}

const fn text_len(rows: &[Row]) -> usize {
    let (mut row, mut len) = (0, 0);
    while row < rows.len() {
        len += rows[row].0.len();
        row += 1;
    }
    len
}

const fn text<const N: usize>(rows: &[Row]) -> [u8; N] {
    let mut text = [0; N];
    let (mut row, mut at) = (0, 0);
    while row < rows.len() {
        let name = rows[row].0.as_bytes();
        let mut byte = 0;
        while byte < name.len() {
            text[at] = name[byte];
            at += 1;
            byte += 1;
        }
        row += 1;
    }
    text
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "evaluated at compile time; the text of a table is shorter than 64 KiB"
)]
const fn ends<const N: usize>(rows: &[Row]) -> [u16; N] {
    let mut ends = [0; N];
    let (mut row, mut at) = (0, 0);
    while row < N {
        at += rows[row].0.len();
        ends[row] = at as u16;
        row += 1;
    }
    ends
}

const fn numbers<const N: usize>(rows: &[Row]) -> [[u16; COLUMNS]; N] {
    let mut numbers = [[NONE; COLUMNS]; N];
    let mut row = 0;
    while row < N {
        numbers[row] = rows[row].1;
        row += 1;
    }
    numbers
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "evaluated at compile time; there are fewer rows than slots"
)]
const fn slots(rows: &[Row]) -> [u16; SLOTS] {
    assert!(rows.len() * 2 <= SLOTS, "the hash table is too full");
    let mut slots = [NONE; SLOTS];
    let mut row = 0;
    while row < rows.len() {
        let mut slot = hash(rows[row].0.as_bytes()) % SLOTS;
        while slots[slot] != NONE {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = row as u16;
        row += 1;
    }
    slots
}

/// A [`Family`] from its rows.
macro_rules! family {
    ($rows:expr, $abis:expr) => {{
        const LEN: usize = $rows.len();
        const TEXT_LEN: usize = text_len($rows);
        static TEXT: [u8; TEXT_LEN] = text($rows);
        static ENDS: [u16; LEN] = ends($rows);
        static NUMBERS: [[u16; COLUMNS]; LEN] = numbers($rows);
        static SLOTS_OF: [u16; SLOTS] = slots($rows);
        Family {
            abis: $abis,
            text: &TEXT,
            ends: &ENDS,
            numbers: &NUMBERS,
            slots: &SLOTS_OF,
        }
    }};
}

const fn abi(name: &'static str, audit: u32, base: u32, wide: bool) -> Abi {
    Abi {
        name,
        audit,
        base,
        wide,
        multiplexed: &[],
    }
}

/// x86_64, with x86 and x32.
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) static X86: Family = family!(
    x86::ROWS,
    &[
        abi("SCMP_ARCH_X86_64", AUDIT_X86_64, 0, true),
        Abi {
            multiplexed: MULTIPLEXED,
            ..abi("SCMP_ARCH_X86", AUDIT_I386, 0, false)
        },
        // x32 pointers are 32 bits wide, but its calls run the 64-bit code with whole registers.
        abi("SCMP_ARCH_X32", AUDIT_X86_64, X32_BIT, true),
    ]
);

/// aarch64, with 32-bit ARM.
#[cfg(any(test, target_arch = "aarch64"))]
pub(super) static ARM: Family = family!(
    arm::ROWS,
    &[
        abi("SCMP_ARCH_AARCH64", AUDIT_AARCH64, 0, true),
        abi("SCMP_ARCH_ARM", AUDIT_ARM, 0, false),
    ]
);

/// riscv64.
#[cfg(any(test, target_arch = "riscv64"))]
pub(super) static RISCV: Family = family!(
    riscv64::ROWS,
    &[abi("SCMP_ARCH_RISCV64", AUDIT_RISCV64, 0, true)]
);

/// The family that this program is compiled for.
#[cfg(target_arch = "x86_64")]
pub(super) static NATIVE: &Family = &X86;
/// The family that this program is compiled for.
#[cfg(target_arch = "aarch64")]
pub(super) static NATIVE: &Family = &ARM;
/// The family that this program is compiled for.
#[cfg(target_arch = "riscv64")]
pub(super) static NATIVE: &Family = &RISCV;

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
compile_error!("there are system call tables for x86_64, aarch64 and riscv64 only");

/// linux/net.h (`SYS_*`) and linux/ipc.h.
#[cfg(any(test, target_arch = "x86_64"))]
const MULTIPLEXED: &[(&str, &str, u16)] = &[
    ("socket", "socketcall", 1),
    ("bind", "socketcall", 2),
    ("connect", "socketcall", 3),
    ("listen", "socketcall", 4),
    ("accept", "socketcall", 5),
    ("getsockname", "socketcall", 6),
    ("getpeername", "socketcall", 7),
    ("socketpair", "socketcall", 8),
    ("send", "socketcall", 9),
    ("recv", "socketcall", 10),
    ("sendto", "socketcall", 11),
    ("recvfrom", "socketcall", 12),
    ("shutdown", "socketcall", 13),
    ("setsockopt", "socketcall", 14),
    ("getsockopt", "socketcall", 15),
    ("sendmsg", "socketcall", 16),
    ("recvmsg", "socketcall", 17),
    ("accept4", "socketcall", 18),
    ("recvmmsg", "socketcall", 19),
    ("sendmmsg", "socketcall", 20),
    ("semop", "ipc", 1),
    ("semget", "ipc", 2),
    ("semctl", "ipc", 3),
    ("semtimedop", "ipc", 4),
    ("msgsnd", "ipc", 11),
    ("msgrcv", "ipc", 12),
    ("msgget", "ipc", 13),
    ("msgctl", "ipc", 14),
    ("shmat", "ipc", 21),
    ("shmdt", "ipc", 22),
    ("shmget", "ipc", 23),
    ("shmctl", "ipc", 24),
];
