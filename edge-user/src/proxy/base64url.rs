//! base64url without padding (RFC 4648 section 5): every character may stand in a URI's user part.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Appends the text of `bytes`.
pub(super) fn encode(bytes: &[u8], out: &mut String) {
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..=chunk.len() {
            let index = (group >> (18 - 6 * place)) & 63;
            out.push(char::from(ALPHABET[index as usize]));
        }
    }
}

/// The bytes of a text; `None` unless it is the one text that [`encode`] makes of them.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0u32;
        for (place, letter) in chunk.iter().enumerate() {
            group |= value(*letter)? << (18 - 6 * place);
        }
        let bytes = group.to_be_bytes();
        let count = chunk.len().checked_sub(1).filter(|count| *count > 0)?;
        out.extend_from_slice(bytes.get(1..=count)?);
        if bytes.get(count + 1..).is_some_and(|rest| rest.iter().any(|b| *b != 0)) {
            return None;
        }
    }
    Some(out)
}

fn value(letter: u8) -> Option<u32> {
    Some(u32::from(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_string_has_one_text() {
        for length in 0..40u8 {
            let bytes: Vec<u8> =
                (0..length).map(|b| b.wrapping_mul(77).wrapping_add(200)).collect();
            let mut text = String::new();
            encode(&bytes, &mut text);
            assert_eq!(decode(&text).as_deref(), Some(&bytes[..]), "{text}");
        }
        for bad in ["A", "AAAAA", "AB", "A+", "AA=="] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
