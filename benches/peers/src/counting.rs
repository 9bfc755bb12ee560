//! An allocator that can count: off unless this process is one that counts, and then cheap to pass.

#![allow(unsafe_code, reason = "there is no other way to see what is allocated; it forwards and adds up")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

static COUNTS: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, with a count beside it.
#[derive(Debug)]
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From now on, bytes are counted as they are asked for.
pub fn begin() {
    COUNTS.store(true, Ordering::SeqCst);
}

/// Bytes that were asked for since counting began, less those that were given back.
pub fn live() -> i64 {
    LIVE.load(Ordering::SeqCst)
}

#[inline]
fn add(bytes: usize, sign: i64) {
    if COUNTS.load(Ordering::Relaxed) {
        LIVE.fetch_add(sign * i64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(layout.size(), -1);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size(), 1);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(layout.size(), -1);
        add(size, 1);
        unsafe { System.realloc(at, layout, size) }
    }
}
