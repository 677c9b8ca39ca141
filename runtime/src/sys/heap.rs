//! The heap of the program knarr: memory for a process that lives a millisecond.
//!
//! Belongs here: an allocator that makes no system call for what a usual command needs. The C
//! library's asks the kernel for every few pages and gives them back, dozens of times a command.
//!
//! Small blocks are cut from an arena that is part of the program's own zeroed data, later from
//! chunks of mmap(2). Freed ones wait in a list of their size to be used again, so that a command
//! that runs for days needs no more than it did at its peak; large blocks have mappings of their
//! own and go back to the kernel.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the program has from the start: more than creating a container takes. Untouched pages cost nothing.
const ARENA: usize = 512 << 10;
/// What the kernel is asked for when that is used up.
const CHUNK: usize = 1 << 20;
/// All blocks are multiples of this, and aligned to it.
const UNIT: usize = 16;
/// Up to here sizes are multiples of the unit, beyond they are powers of two.
const FINE: usize = 512;
/// Larger blocks have mappings of their own.
const LARGEST: usize = 64 << 10;
/// The alignment of mappings on every architecture.
const PAGE: usize = 4096;
const CLASSES: usize = class(LARGEST) + 1;

/// The list in which free blocks of a size wait.
const fn class(size: usize) -> usize {
    if size <= FINE {
        size.saturating_sub(1) / UNIT
    } else {
        let power = (size - 1).ilog2() as usize + 1;
        FINE / UNIT + power - FINE.ilog2() as usize - 1
    }
}

/// The size of the blocks in a list.
const fn class_size(class: usize) -> usize {
    if class < FINE / UNIT {
        (class + 1) * UNIT
    } else {
        FINE << (class - FINE / UNIT + 1)
    }
}

/// An allocator, to be used as the `#[global_allocator]` of a program.
#[repr(C, align(16))]
pub struct Heap {
    arena: UnsafeCell<[u8; ARENA]>,
    state: UnsafeCell<State>,
    locked: AtomicBool,
}

struct State {
    /// What is left of the current chunk; null before the first allocation.
    next: *mut u8,
    end: *mut u8,
    /// Free blocks; the first word of each points to the next.
    free: [*mut u8; CLASSES],
}

// SAFETY: state and arena are touched between `lock` and `unlock` only, the arena's blocks by
// those alone who got them.
unsafe impl Sync for Heap {}

impl std::fmt::Debug for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Heap")
    }
}

impl Heap {
    /// An empty heap.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Heap {
        Heap {
            arena: UnsafeCell::new([0; ARENA]),
            state: UnsafeCell::new(State {
                next: null_mut(),
                end: null_mut(),
                free: [null_mut(); CLASSES],
            }),
            locked: AtomicBool::new(false),
        }
    }

    /// Runs `work` on the state, which nobody else has meanwhile. The program has one thread: it
    /// never waits here, and a child of clone(2) never finds the lock taken.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: the lock is ours, so this is the only reference.
        let result = work(unsafe { &mut *self.state.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    fn small(&self, class: usize) -> *mut u8 {
        self.with(|state| {
            let block = state.free[class];
            if !block.is_null() {
                // SAFETY: a free block is ours, aligned, and begins with the pointer to the next.
                state.free[class] = unsafe { block.cast::<*mut u8>().read() };
                return block;
            }
            let size = class_size(class);
            if state.next.is_null() {
                state.next = self.arena.get().cast();
                state.end = state.next.wrapping_add(ARENA);
            }
            if state.end.addr() - state.next.addr() < size {
                let chunk = map(CHUNK);
                if chunk.is_null() {
                    return chunk;
                }
                // What is left of the old one is less than a block of this size, and forgotten.
                state.next = chunk;
                state.end = chunk.wrapping_add(CHUNK);
            }
            let block = state.next;
            state.next = block.wrapping_add(size);
            block
        })
    }
}

/// Fresh memory of the kernel's; null where there is none. mmap(2).
fn map(size: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping touches no memory that exists.
    let mapping = unsafe { libc::mmap(null_mut(), size, protection, flags, -1, 0) };
    if mapping == libc::MAP_FAILED {
        null_mut()
    } else {
        mapping.cast()
    }
}

/// Whether a block of that layout has a mapping of its own.
fn is_large(layout: &Layout) -> bool {
    layout.size() > LARGEST || layout.align() > UNIT
}

// SAFETY: blocks of the arena and the chunks are cut one behind the other in multiples of the unit
// and belong to one list each, so that no two in use overlap and all are aligned to the unit;
// mappings are aligned to pages; and what needs more than that is refused.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_large(&layout) {
            self.small(class(layout.size()))
        } else if layout.align() <= PAGE {
            map(layout.size())
        } else {
            null_mut()
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout is the caller's.
        let block = unsafe { self.alloc(layout) };
        // Mappings are zeroed; blocks may have been in use.
        if !block.is_null() && !is_large(&layout) {
            // SAFETY: the block has at least this size, and nobody else has it.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(&layout) {
            // SAFETY: by the caller's word the block came from `alloc` with this layout: it is a
            // mapping of that size which nobody uses any more.
            unsafe { libc::munmap(block.cast(), layout.size()) };
            return;
        }
        let class = class(layout.size());
        self.with(|state| {
            // The block that was cut last: a text or list that has grown meanwhile.
            if block.wrapping_add(class_size(class)) == state.next {
                state.next = block;
                return;
            }
            // SAFETY: the block has at least a unit, which holds a pointer, and is the caller's to give.
            unsafe { block.cast::<*mut u8>().write(state.free[class]) };
            state.free[class] = block;
        });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller sees to it that the new size makes a layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(&layout), is_large(&new)) {
            (true, true) => {
                // SAFETY: as in dealloc, a mapping of the old size; it may move.
                let moved = unsafe {
                    libc::mremap(block.cast(), layout.size(), size, libc::MREMAP_MAYMOVE)
                };
                return if moved == libc::MAP_FAILED {
                    null_mut()
                } else {
                    moved.cast()
                };
            }
            (false, false) if class(layout.size()) == class(size) => return block,
            _ => {}
        }
        // SAFETY: the layout was made above.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks have at least the smaller size; they are two, because the old
            // one is still in use.
            unsafe { block.copy_to_nonoverlapping(moved, layout.size().min(size)) };
            // SAFETY: by the caller's word the old block came from here, and ends here.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn every_size_has_a_class_that_holds_it() {
        for size in 1..=LARGEST {
            let class = class(size);
            assert!(class_size(class) >= size, "{size}");
            assert!(class == 0 || class_size(class - 1) < size, "{size}");
        }
        assert_eq!(class_size(CLASSES - 1), LARGEST);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Alloc(usize, usize),
        Grow(usize, usize),
        Free(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = prop_oneof![1usize..600, 1usize..200_000];
        let align = prop_oneof![8 => Just(8usize), 1 => Just(16), 1 => Just(64), 1 => Just(4096)];
        prop_oneof![
            3 => (size.clone(), align).prop_map(|(size, align)| Step::Alloc(size, align)),
            2 => (any::<usize>(), size).prop_map(|(which, size)| Step::Grow(which, size)),
            2 => any::<usize>().prop_map(Step::Free),
        ]
    }

    /// A block that is filled with one value.
    struct Block(*mut u8, Layout, u8);

    impl Block {
        fn fill(&self) {
            // SAFETY: the block has this size and is in use.
            unsafe { self.0.write_bytes(self.2, self.1.size()) };
        }

        fn check(&self, size: usize) {
            // SAFETY: as above, and it was filled.
            let bytes = unsafe { std::slice::from_raw_parts(self.0, size) };
            assert!(bytes.iter().all(|byte| *byte == self.2));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn blocks_are_aligned_and_keep_what_is_in_them(steps in prop::collection::vec(step(), 1..200)) {
            let heap = Box::new(Heap::new());
            let mut blocks: Vec<Block> = Vec::new();
            let mut value = 0u8;
            for step in steps {
                value = value.wrapping_add(1);
                match step {
                    Step::Alloc(size, align) => {
                        let layout = layout(size, align);
                        // SAFETY: the size is not zero.
                        let block = Block(unsafe { heap.alloc_zeroed(layout) }, layout, value);
                        prop_assert_eq!(block.0.addr() % align, 0);
                        Block(block.0, layout, 0).check(size);
                        block.fill();
                        blocks.push(block);
                    }
                    Step::Grow(which, size) if !blocks.is_empty() => {
                        let index = which % blocks.len();
                        let block = &mut blocks[index];
                        // SAFETY: the block is in use and has this layout.
                        block.0 = unsafe { heap.realloc(block.0, block.1, size) };
                        prop_assert_eq!(block.0.addr() % block.1.align(), 0);
                        let both = block.1.size().min(size);
                        block.1 = layout(size, block.1.align());
                        block.check(both);
                        block.fill();
                    }
                    Step::Free(which) if !blocks.is_empty() => {
                        let block = blocks.swap_remove(which % blocks.len());
                        block.check(block.1.size());
                        // SAFETY: the block is in use, has this layout, and is not used after.
                        unsafe { heap.dealloc(block.0, block.1) };
                    }
                    _ => {}
                }
            }
            for block in blocks {
                block.check(block.1.size());
                // SAFETY: as above.
                unsafe { heap.dealloc(block.0, block.1) };
            }
        }
    }

    #[test]
    fn memory_is_used_again() {
        let heap = Box::new(Heap::new());
        let mut highest = 0;
        for round in 0..1000 {
            let blocks: Vec<_> = (0..100)
                .map(|index| {
                    let layout = layout(1 + index * 37 % 3000, 8);
                    // SAFETY: the size is not zero.
                    (unsafe { heap.alloc(layout) }, layout)
                })
                .collect();
            let end = heap.with(|state| state.next.addr());
            if round == 0 {
                highest = end;
            }
            assert_eq!(end, highest, "round {round}");
            for (block, layout) in blocks {
                // SAFETY: each is freed once.
                unsafe { heap.dealloc(block, layout) };
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let heap = Box::new(Heap::new());
        for layout in [layout(1, 2 * PAGE), layout(1 << 62, 8)] {
            // SAFETY: the size is not zero.
            assert!(unsafe { heap.alloc(layout) }.is_null());
        }
    }
}
