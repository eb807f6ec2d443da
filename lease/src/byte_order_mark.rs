//! Byte order marks, which some editors put before a text. JSON allows none (RFC 8259 §8.1), and serde_json's error
//! does not mention them.

/// Of two marks with the same beginning, the longer one comes first.
const MARKS: [(&[u8], &str); 5] = [
    (&[0xef, 0xbb, 0xbf], "UTF-8"),
    (&[0xff, 0xfe, 0, 0], "UTF-32"),
    (&[0, 0, 0xfe, 0xff], "UTF-32"),
    (&[0xff, 0xfe], "UTF-16"),
    (&[0xfe, 0xff], "UTF-16"),
];

/// The encoding, if the text begins with a byte order mark.
#[must_use]
pub fn byte_order_mark(text: &[u8]) -> Option<&'static str> {
    MARKS.iter().find(|(mark, _)| text.starts_with(mark)).map(|(_, encoding)| *encoding)
}
