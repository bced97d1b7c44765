//! Text that strangers wrote, before people read it: it neither moves a cursor nor makes a line
//! look like another.

/// Whether a character is only itself: no control (Cc), no format that hides or turns what stands
/// around it (Cf), no separator of lines or paragraphs (Zl, Zp).
pub fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with a `?` for every character that is not plain.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_or_hides_text_is_shown_as_a_question() {
        for c in
            ['\u{1b}', '\n', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{2028}', '\u{200b}']
        {
            assert_eq!(plain(&format!("a{c}b")), "a?b", "{c:?}");
        }
        for text in ["CN=edge.example", "Grüße, Ωμέγα, 東京", "a\u{301}"] {
            assert_eq!(plain(text), text);
        }
    }
}
