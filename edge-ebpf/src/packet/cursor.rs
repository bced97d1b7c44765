//! Bounds-checked reading of packet memory; the only place of the parser that holds `unsafe`.
//!
//! Every read is preceded by a comparison of a pointer with the end of the packet, in the one
//! form that the kernel's verifier understands: `position + length > end`.

use core::marker::PhantomData;

/// The memory of one frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    start: *const u8,
    end: *const u8,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Frame<'a> {
    /// A frame in a slice.
    pub const fn new(bytes: &'a [u8]) -> Self {
        let range = bytes.as_ptr_range();
        Self { start: range.start, end: range.end, bytes: PhantomData }
    }

    /// A frame between two pointers.
    ///
    /// # Safety
    /// `start..end` is one readable piece of memory that lives for `'a`.
    #[inline(always)]
    pub const unsafe fn from_raw(start: *const u8, end: *const u8) -> Self {
        Self { start, end, bytes: PhantomData }
    }

    /// The first byte, and the place after the last.
    #[inline(always)]
    pub const fn bounds(&self) -> (*const u8, *const u8) {
        (self.start, self.end)
    }

    /// Bytes in this piece of memory.
    #[inline(always)]
    pub fn len(&self) -> usize {
        (self.end as usize).wrapping_sub(self.start as usize)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A cursor at the first byte.
    #[inline(always)]
    pub const fn cursor(&self) -> Cursor<'a> {
        Cursor { at: self.start, end: self.end, bytes: PhantomData }
    }
}

/// A position in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    at: *const u8,
    end: *const u8,
    bytes: PhantomData<&'a [u8]>,
}

/// Bytes that were checked to be there. `N` is their number.
#[derive(Clone, Copy)]
pub struct Bytes<'a, const N: usize> {
    at: *const u8,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    /// The next `N` bytes, if there are so many.
    #[inline(always)]
    pub fn take<const N: usize>(&mut self) -> Option<Bytes<'a, N>> {
        let at = self.at;
        let next = at.wrapping_add(N);
        if next > self.end {
            return None;
        }
        self.at = next;
        Some(Bytes { at, bytes: PhantomData })
    }

    /// The next `N` bytes, if there are so many, without moving on.
    #[inline(always)]
    pub fn peek<const N: usize>(&self) -> Option<Bytes<'a, N>> {
        let mut copy = *self;
        copy.take()
    }

    /// Moves on by `count` bytes, which may lead past the end: the next read finds out.
    #[inline(always)]
    pub fn skip(&mut self, count: usize) {
        self.at = self.at.wrapping_add(count);
    }

    /// Bytes from here to the end of the memory (a wrapped number when past it).
    #[inline(always)]
    pub fn remaining(&self) -> usize {
        (self.end as usize).wrapping_sub(self.at as usize)
    }
}

impl<const N: usize> Bytes<'_, N> {
    /// Reads a `T` at `OFFSET`.
    #[inline(always)]
    fn read<T: Copy, const OFFSET: usize>(&self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= N, "read past the checked bytes") };
        let at = self.at.wrapping_add(OFFSET).cast::<T>();
        // SAFETY: `take` checked that `N` bytes are there and the assertion above that this read
        // stays within them; `T` is an integer, for which every bit pattern is a value.
        #[cfg(not(target_arch = "bpf"))]
        let value = unsafe { at.read_unaligned() };
        // SAFETY: as above. The kernel's machines read unaligned integers; where one does not,
        // its verifier refuses the program. An unaligned read would be split into single bytes.
        #[cfg(target_arch = "bpf")]
        let value = unsafe { at.read() };
        value
    }

    /// The byte at `OFFSET`.
    #[inline(always)]
    pub fn byte<const OFFSET: usize>(&self) -> u8 {
        self.read::<u8, OFFSET>()
    }

    /// The big-endian 16-bit number at `OFFSET`.
    #[inline(always)]
    pub fn number<const OFFSET: usize>(&self) -> u16 {
        u16::from_be(self.read::<u16, OFFSET>())
    }

    /// The two bytes at `OFFSET`.
    #[inline(always)]
    pub fn two<const OFFSET: usize>(&self) -> [u8; 2] {
        self.read::<u16, OFFSET>().to_ne_bytes()
    }

    /// The four bytes at `OFFSET`.
    #[inline(always)]
    pub fn four<const OFFSET: usize>(&self) -> [u8; 4] {
        self.read::<u32, OFFSET>().to_ne_bytes()
    }

    /// The eight bytes at `OFFSET`, as a native number.
    #[inline(always)]
    pub fn eight<const OFFSET: usize>(&self) -> u64 {
        self.read::<u64, OFFSET>()
    }

    /// The sixteen bytes at `FIRST`; `SECOND` is eight more.
    #[inline(always)]
    pub fn sixteen<const FIRST: usize, const SECOND: usize>(&self) -> [u8; 16] {
        const { assert!(FIRST + 8 == SECOND, "two halves of one address") };
        let halves = [self.read::<u64, FIRST>(), self.read::<u64, SECOND>()];
        // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
        unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(halves) }
    }
}
