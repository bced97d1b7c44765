//! Bytes looked at sixteen at once: where a line ends, where a separator stands. On x86-64 with
//! the instructions that every such processor has, elsewhere with plain words.

/// As many bytes as are looked at together.
pub(super) const WIDTH: usize = 16;

/// Which bytes of a chunk are control characters (below 0x20, or 0x7f): one bit each, the first
/// byte lowest.
fn controls(chunk: &[u8; WIDTH]) -> u32 {
    imp::controls(chunk)
}

/// Which bytes of a chunk are this one.
pub(super) fn equal(chunk: &[u8; WIDTH], wanted: u8) -> u32 {
    imp::equal(chunk, wanted)
}

/// Which bytes of a chunk are letters, digits, dots, hyphens or underscores.
#[inline]
pub(super) fn words(chunk: &[u8; WIDTH]) -> u32 {
    imp::words(chunk)
}

/// The first byte that `mask` marks in its chunk or, in a text too short for one, `is` tells.
#[inline(always)]
fn first(
    text: &[u8],
    mask: impl Fn(&[u8; WIDTH]) -> u32,
    is: impl Fn(u8) -> bool,
) -> Option<usize> {
    let mut at = 0;
    while let Some(rest) = text.get(at..)
        && let Some(chunk) = rest.first_chunk()
    {
        let found = mask(chunk);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        at += WIDTH;
    }
    if at == text.len() {
        return None;
    }
    match text.last_chunk() {
        // What of it was looked at before holds none.
        Some(last) => {
            let found = mask(last);
            (found != 0).then(|| text.len() - WIDTH + found.trailing_zeros() as usize)
        }
        None => text.iter().position(|b| is(*b)),
    }
}

/// Where the first control character is, the tab included.
#[inline]
pub(super) fn first_control(text: &[u8]) -> Option<usize> {
    first(text, controls, is_control)
}

/// Where the first such byte is.
#[inline]
pub(super) fn find(text: &[u8], wanted: u8) -> Option<usize> {
    first(text, |chunk| equal(chunk, wanted), |b| b == wanted)
}

/// Whether a text holds no control character but the tab.
pub(super) fn is_clean(text: &[u8]) -> bool {
    let mut rest = text;
    // A tab is rare: only then it goes on behind it.
    while let Some(at) = first_control(rest) {
        match rest.split_at(at) {
            (_, [b'\t', behind @ ..]) => rest = behind,
            _ => return false,
        }
    }
    true
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

fn is_control(b: u8) -> bool {
    b < 0x20 || b == 0x7f
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::WIDTH;

    #[inline]
    pub(super) fn controls(chunk: &[u8; WIDTH]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2, and memory is only read through `chunk`.
        unsafe { controls_of(chunk) }
    }

    #[inline]
    pub(super) fn equal(chunk: &[u8; WIDTH], wanted: u8) -> u32 {
        // SAFETY: every x86-64 processor has SSE2, and memory is only read through `chunk`.
        unsafe { equal_of(chunk, wanted) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn controls_of(chunk: &[u8; WIDTH]) -> u32 {
        let chunk = load(chunk);
        bits(_mm_or_si128(up_to(chunk, 0x1f), _mm_cmpeq_epi8(chunk, each(0x7f))))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal_of(chunk: &[u8; WIDTH], wanted: u8) -> u32 {
        bits(_mm_cmpeq_epi8(load(chunk), each(wanted)))
    }

    #[inline]
    pub(super) fn words(chunk: &[u8; WIDTH]) -> u32 {
        // SAFETY: every x86-64 processor has SSE2, and memory is only read through `chunk`.
        unsafe { words_of(chunk) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn words_of(chunk: &[u8; WIDTH]) -> u32 {
        let chunk = load(chunk);
        let lower = _mm_or_si128(chunk, each(0x20));
        let letters = up_to(_mm_sub_epi8(lower, each(b'a')), b'z' - b'a');
        let digits = up_to(_mm_sub_epi8(chunk, each(b'0')), 9);
        let marks = up_to(_mm_sub_epi8(chunk, each(b'-')), b'.' - b'-');
        let marks = _mm_or_si128(marks, _mm_cmpeq_epi8(chunk, each(b'_')));
        bits(_mm_or_si128(_mm_or_si128(letters, digits), marks))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn each(b: u8) -> __m128i {
        _mm_set1_epi8(b.cast_signed())
    }

    /// Which bytes are no more than this.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn up_to(chunk: __m128i, most: u8) -> __m128i {
        _mm_cmpeq_epi8(_mm_min_epu8(chunk, each(most)), chunk)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(chunk: &[u8; WIDTH]) -> __m128i {
        let both = u128::from_le_bytes(*chunk);
        _mm_set_epi64x((both >> 64) as i64, both as i64)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn bits(mask: __m128i) -> u32 {
        _mm_movemask_epi8(mask).cast_unsigned()
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    use super::WIDTH;

    pub(super) fn controls(chunk: &[u8; WIDTH]) -> u32 {
        mask(chunk, super::is_control)
    }

    pub(super) fn equal(chunk: &[u8; WIDTH], wanted: u8) -> u32 {
        mask(chunk, |b| b == wanted)
    }

    pub(super) fn words(chunk: &[u8; WIDTH]) -> u32 {
        mask(chunk, super::is_word)
    }

    fn mask(chunk: &[u8; WIDTH], is: impl Fn(u8) -> bool) -> u32 {
        chunk.iter().rev().fold(0, |mask, b| mask << 1 | u32::from(is(*b)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_tell_what_bytes_tell(text in prop::collection::vec(
            prop_oneof![8 => 0x20_u8..0x7f, 1 => any::<u8>(), 1 => Just(b'\t')], 0..70,
        ), wanted in any::<u8>()) {
            let at = text.iter().position(|b| is_control(*b));
            prop_assert_eq!(first_control(&text), at);
            let clean = text.iter().all(|b| !is_control(*b) || *b == b'\t');
            prop_assert_eq!(is_clean(&text), clean);
            for wanted in [wanted, b' ', b'\t', *text.first().unwrap_or(&0)] {
                prop_assert_eq!(find(&text, wanted), text.iter().position(|b| *b == wanted));
            }
        }

        #[test]
        fn every_byte_of_a_chunk_is_told(chunk in any::<[u8; WIDTH]>(), wanted in any::<u8>()) {
            for (at, b) in chunk.into_iter().enumerate() {
                prop_assert_eq!(controls(&chunk) >> at & 1 == 1, is_control(b));
                prop_assert_eq!(equal(&chunk, wanted) >> at & 1 == 1, b == wanted);
                prop_assert_eq!(equal(&chunk, b) >> at & 1, 1);
                prop_assert_eq!(words(&chunk) >> at & 1 == 1, is_word(b));
            }
        }
    }
}
