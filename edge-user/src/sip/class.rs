//! Which bytes may stand where (RFC 3261 section 25.1): one bit of a table for each place.

/// `token`.
pub(super) const TOKEN: u16 = 1;
/// The name of a parameter: a token, or the other characters that names in URIs hold (`%`
/// escapes, brackets).
pub(super) const NAME: u16 = 1 << 1;
/// The value of a parameter, outside of quotes.
pub(super) const VALUE: u16 = 1 << 2;
/// Letters and digits.
pub(super) const ALPHANUMERIC: u16 = 1 << 3;
/// The user part of a URI.
pub(super) const USER: u16 = 1 << 4;
/// A URI's password.
pub(super) const PASSWORD: u16 = 1 << 5;
/// A URI's parameters.
pub(super) const PARAM: u16 = 1 << 6;
/// A URI's headers.
pub(super) const HEADER: u16 = 1 << 7;
/// Any place of a URI.
pub(super) const ANYWHERE: u16 = 1 << 8;
/// What is printed, and no space.
pub(super) const GRAPHIC: u16 = 1 << 9;
/// A host's label.
pub(super) const LABEL: u16 = 1 << 10;

static CLASSES: [u16; 256] = {
    let mut table = [0; 256];
    let mut b = 0x21;
    while b < 0x7f {
        let c = b as u8;
        table[b] = GRAPHIC;
        if !matches!(c, b'<' | b'>' | b'"' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') {
            table[b] |= ANYWHERE;
        }
        if !matches!(c, b';' | b',' | b'"' | b'<' | b'>') {
            table[b] |= VALUE;
        }
        if c.is_ascii_alphanumeric() {
            table[b] |= TOKEN | NAME | ALPHANUMERIC | LABEL | USER | PASSWORD | PARAM | HEADER;
        }
        b += 1;
    }
    table = allow(table, b"-", LABEL);
    table = allow(table, b"-.!%*_+`'~", TOKEN | NAME);
    table = allow(table, b"[]/:&$()#", NAME);
    table = allow(table, b"-_.!~*'()", USER | PASSWORD | PARAM | HEADER);
    // `#` is not in the grammar, but phones send it and it delimits nothing here.
    table = allow(table, b"&=+$,;?/#", USER);
    table = allow(table, b"&=+$,", PASSWORD);
    table = allow(table, b"[]/:&+$;=,#", PARAM);
    allow(table, b"[]/?:+$=&;,", HEADER)
};

const fn allow(mut table: [u16; 256], bytes: &[u8], places: u16) -> [u16; 256] {
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] |= places;
        i += 1;
    }
    table
}

/// Whether a byte may stand in one of these places.
#[inline]
pub(super) fn is(b: u8, places: u16) -> bool {
    CLASSES[usize::from(b)] & places != 0
}

/// Whether every byte may stand in one place.
#[inline]
pub(super) fn all(text: &[u8], place: u16) -> bool {
    text.iter().fold(place, |places, b| places & CLASSES[usize::from(*b)]) != 0
}

/// One past the last of the bytes from `from` on that may stand in a place.
#[inline]
pub(super) fn run(text: &[u8], from: usize, place: u16) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().position(|b| !is(*b, place)).unwrap_or(rest.len())
}

/// RFC 3261 section 25.1 `token`, one byte of it.
pub(super) fn is_token(b: u8) -> bool {
    is(b, TOKEN)
}
