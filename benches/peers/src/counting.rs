//! An allocator that can count: off unless this process is one that counts, and then cheap to pass.

#![allow(unsafe_code, reason = "there is no other way to see what is allocated; it forwards and adds up")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

static COUNTS: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicI64 = AtomicI64::new(0);
static TAKEN: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, with a count beside it.
#[derive(Debug)]
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From now on, bytes are counted as they are asked for.
pub fn begin() {
    COUNTS.store(true, Ordering::SeqCst);
}

/// Bytes since counting began, less those that were given back.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// As they were asked for.
    pub asked: i64,
    /// As the allocator gave them: it rounds up.
    pub taken: i64,
}

/// What is held now.
pub fn live() -> Live {
    Live { asked: ASKED.load(Ordering::SeqCst), taken: TAKEN.load(Ordering::SeqCst) }
}

/// Counts a block: in, or out.
#[inline]
fn count(at: *mut u8, size: usize, sign: i64) {
    if COUNTS.load(Ordering::Relaxed) {
        // SAFETY: the block was handed out by the system's allocator and not given back yet.
        let taken = unsafe { libc::malloc_usable_size(at.cast()) };
        ASKED.fetch_add(sign * i64::try_from(size).unwrap_or(0), Ordering::Relaxed);
        TAKEN.fetch_add(sign * i64::try_from(taken).unwrap_or(0), Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = unsafe { System.alloc(layout) };
        count(at, layout.size(), 1);
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(at, layout.size(), -1);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let at = unsafe { System.alloc_zeroed(layout) };
        count(at, layout.size(), 1);
        at
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(at, layout.size(), -1);
        let at = unsafe { System.realloc(at, layout, size) };
        count(at, size, 1);
        at
    }
}
