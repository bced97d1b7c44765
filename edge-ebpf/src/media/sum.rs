//! The Internet checksum (RFC 1071), over numbers whose bytes are those of the packet: the sum of
//! big-endian words and that of swapped ones are the same, swapped (section 2 (B)). What is added
//! may be wider than 16 bits, since 2^16 is 1 there.

/// Adds a number's bytes.
#[inline(always)]
pub const fn add(sum: u64, bytes: u64) -> u64 {
    sum + (bytes >> 32) + (bytes & 0xffff_ffff)
}

/// Adds two words.
#[inline(always)]
pub const fn words(sum: u64, words: [u64; 2]) -> u64 {
    add(add(sum, words[0]), words[1])
}

/// The sum in 16 bits; 0 only of nothing but zeroes.
#[inline(always)]
pub const fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
