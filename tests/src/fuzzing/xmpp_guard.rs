//! Any bytes as a stream between servers. What must hold: how the bytes are cut changes nothing;
//! nothing is read after a fault; no stanza passes a bound; what is written of a stanza is read
//! again as the same stanza, so that every reader behind us sees what we judged.

use edge_user::xmpp::{
    ns,
    settings::XmppLimits,
    xml::{Element, XmlEvent, XmlFault, XmlLimits, XmlReader},
};

const STANZA_BYTES: usize = 2048;
const DEPTH: usize = 8;
const ATTRIBUTES: usize = 8;
const NAMESPACES: usize = 6;
const HEADER: &[u8] = b"<stream:stream xmlns='jabber:server' \
    xmlns:stream='http://etherx.jabber.org/streams'>";

fn limits(times: usize) -> XmlLimits {
    XmlLimits::new(&XmppLimits {
        stanza_bytes: STANZA_BYTES * times,
        depth: DEPTH,
        attributes: ATTRIBUTES,
        // A stanza that is written declares what it needs where it needs it.
        namespaces: NAMESPACES * times,
        ..XmppLimits::default()
    })
}

/// Reads these bytes in pieces of this size.
fn read(bytes: &[u8], piece: usize, allowance: usize) -> (Vec<XmlEvent>, Option<XmlFault>) {
    let mut reader = XmlReader::new(limits(1), allowance);
    let mut events = Vec::new();
    for mut piece in bytes.chunks(piece) {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(fault) => {
                    assert_eq!(reader.next(&mut &b"<presence/>"[..]), Err(fault.clone()));
                    return (events, Some(fault));
                }
            }
        }
    }
    (events, None)
}

fn within(element: &Element, depth: usize) {
    assert!(depth <= DEPTH, "too deep");
    assert!(element.attributes().len() <= ATTRIBUTES, "too many attributes");
    for child in element.children() {
        within(child, depth + 1);
    }
}

fn again(element: &Element) {
    let mut bytes = HEADER.to_vec();
    element.write_in(ns::SERVER, &mut bytes);
    // Escaping makes text longer, namespaces are declared again.
    let mut reader = XmlReader::new(limits(64), usize::MAX);
    let mut rest = &bytes[..];
    assert!(matches!(reader.next(&mut rest), Ok(Some(XmlEvent::StreamOpen(_)))));
    let text = String::from_utf8_lossy(&bytes);
    match reader.next(&mut rest) {
        Ok(Some(XmlEvent::Stanza(same))) => assert_eq!(same, *element, "{text}"),
        other => panic!("{other:?}: {text}"),
    }
    assert!(rest.is_empty(), "more than one: {text}");
}

/// Whatever comes, what must hold does: else it panics.
pub fn run(data: &[u8]) {
    let [cut, allowance, bytes @ ..] = data else { return };
    let allowance = if *allowance < 16 { usize::from(*allowance) * 64 } else { usize::MAX };
    let begun = [HEADER, bytes].concat();
    for stream in [bytes, &begun] {
        let whole = read(stream, stream.len().max(1), allowance);
        assert_eq!(whole, read(stream, usize::from(*cut) + 1, allowance), "cut {cut}");
        for event in whole.0 {
            if let XmlEvent::Stanza(stanza) = event {
                within(&stanza, 1);
                again(&stanza);
            }
        }
    }
}
