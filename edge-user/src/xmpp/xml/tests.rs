//! What the guard lets through, and what it stops.

use proptest::prelude::*;

use super::{Element, XmlEvent, XmlFault, XmlLimits, XmlReader, hostile};
use crate::xmpp::{io::XmppRefusal, ns, settings::XmppLimits};

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
     xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
     from='a.example' to='b.example' version='1.0'>";

fn limits() -> XmlLimits {
    XmlLimits { stanza_bytes: 10_000, elements: 156, ..XmlLimits::new(&XmppLimits::default()) }
}

fn reader() -> XmlReader {
    XmlReader::new(limits(), 64 << 10)
}

/// What comes of these bytes, cut into pieces of `cut` bytes.
fn read(reader: &mut XmlReader, bytes: &[u8], cut: usize) -> (Vec<XmlEvent>, Option<XmlFault>) {
    let mut events = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        let mut piece = piece;
        loop {
            match reader.next(&mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(fault) => return (events, Some(fault)),
            }
        }
        assert!(piece.is_empty());
    }
    (events, None)
}

/// The stanza of these bytes, inside a stream.
fn stanza(text: &str) -> Result<Element, XmlFault> {
    match read(&mut reader(), format!("{HEADER}{text}").as_bytes(), usize::MAX) {
        (_, Some(fault)) => Err(fault),
        (mut events, None) => match events.pop() {
            Some(XmlEvent::Stanza(element)) => Ok(element),
            other => panic!("{text}: {other:?}"),
        },
    }
}

fn written(element: &Element) -> String {
    let mut out = Vec::new();
    element.write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_stream_is_read_header_stanzas_end() {
    let text = format!(
        "{HEADER} \n<message to='x@b.example'><body>a&amp;b<![CDATA[<c>]]></body>\
         <active xmlns='{}'/></message>\r\n\t<db:result>k</db:result></stream:stream> ",
        ns::CHAT_STATES
    );
    let (events, fault) = read(&mut reader(), text.as_bytes(), usize::MAX);
    assert_eq!(fault, None);
    let [XmlEvent::StreamOpen(header), XmlEvent::Stanza(message), XmlEvent::Stanza(result), end] =
        &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(header.attribute("from"), Some("a.example"));
    assert_eq!(header.default_ns.as_str(), ns::SERVER);
    assert_eq!(message.child(ns::SERVER, "body").unwrap().text(), "a&b<c>");
    assert!(message.child(ns::CHAT_STATES, "active").is_some());
    assert!(result.is(ns::DIALBACK, "result"));
    assert_eq!(*end, XmlEvent::StreamClose);
}

/// Short elements cost more memory than bytes.
#[test]
fn elements_are_counted() {
    let of = |count: usize| format!("<m>{}</m>", "<a>x</a>".repeat(count - 1));
    let run = |count, proved: bool, cut| {
        let mut reader = reader();
        read(&mut reader, HEADER.as_bytes(), usize::MAX);
        if proved {
            reader.lift();
        }
        let (mut events, fault) = read(&mut reader, of(count).as_bytes(), cut);
        (events.pop(), fault)
    };
    for cut in [1, 7, usize::MAX] {
        let (event, fault) = run(64, false, cut);
        assert!(matches!(event, Some(XmlEvent::Stanza(_))) && fault.is_none());
        let fault = run(65, false, cut).1.unwrap();
        assert_eq!((fault.condition, fault.reason), ("policy-violation", XmppRefusal::XmlLimit));
        let most = limits().elements;
        assert!(matches!(run(most, true, cut).0, Some(XmlEvent::Stanza(_))));
        assert!(matches!(run(most + 1, true, cut).0, Some(XmlEvent::PassedOver(..))));
    }
}

/// Everything that XMPP bans, the condition of RFC 6120 section 4.9.3 that names it, and what is
/// counted.
#[test]
fn hostile_xml_ends_the_stream_with_the_right_condition() {
    for (text, condition, is_limit) in hostile::stanzas() {
        let reason = if is_limit { XmppRefusal::XmlLimit } else { XmppRefusal::Xml };
        let shown = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
        for cut in [usize::MAX, 7, 1] {
            let bytes = [HEADER.as_bytes(), &text].concat();
            let mut reader = reader();
            let (events, fault) = read(&mut reader, &bytes, cut);
            let fault = fault.unwrap_or_else(|| panic!("{shown} passed: {events:?}"));
            assert_eq!((fault.condition, fault.reason), (condition, reason), "{shown} {fault}");
            let stanzas = events.iter().filter(|e| matches!(e, XmlEvent::Stanza(_))).count();
            assert_eq!(stanzas, 0, "{shown}");
            assert_eq!(reader.next(&mut &b"<b/>"[..]), Err(fault), "{shown}: nothing after it");
        }
    }
}

#[test]
fn a_header_that_is_none_is_refused() {
    for (text, condition) in hostile::headers() {
        for cut in [usize::MAX, 1] {
            let (events, fault) = read(&mut reader(), &text, cut);
            let shown = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
            let fault = fault.unwrap_or_else(|| panic!("{shown} passed: {events:?}"));
            assert_eq!(fault.condition, condition, "{shown}: {fault}");
            assert!(events.is_empty(), "{shown}");
        }
    }
}

#[test]
fn what_is_allowed_passes() {
    assert_eq!(stanza("<a>&#x9;&amp;&lt;&gt;&apos;&quot;&#xA;</a>").unwrap().text(), "\t&<>'\"\n");
    assert_eq!(stanza("<a>x<![CDATA[&lt;]]>y</a>").unwrap().text(), "x&lt;y");
    assert_eq!(stanza("<a>\r\n</a>").unwrap().text(), "\n");
    assert_eq!(stanza("<a xmlns=''/>").unwrap().ns(), "");
    assert_eq!(stanza("<p:a xmlns:p='urn:x'/>").unwrap().ns(), "urn:x");
    assert_eq!(stanza("<a xml:lang='de'/>").unwrap().lang(), Some("de"));
    assert_eq!(stanza("<a>\u{1f600}</a>").unwrap().text(), "\u{1f600}");
    // Each of many elements may have its own namespace.
    let many = stanza(&format!("<m>{}</m>", "<a xmlns='urn:x' xmlns:p='urn:y'/>".repeat(60)));
    assert_eq!(many.unwrap().children().count(), 60);
    // An inner declaration ends with its element.
    let scoped = stanza("<a><b xmlns='urn:x'><c/></b><d/></a>").unwrap();
    assert_eq!(scoped.child(ns::SERVER, "d").unwrap().ns(), ns::SERVER);
    // A header without declaration, by another prefix.
    let header = "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:client'/>";
    let (events, fault) = read(&mut reader(), header.as_bytes(), usize::MAX);
    assert_eq!(fault, None);
    assert!(matches!(&events[..], [XmlEvent::StreamOpen(h), XmlEvent::StreamClose]
            if h.default_ns.as_str() == "jabber:client"));
}

/// RFC 6120 section 13.12: at least 10,000 bytes. Exactly the limit passes.
#[test]
fn a_stanza_has_at_most_the_bytes_of_the_limit() {
    for (length, passes) in [(9_999, true), (10_000, true), (10_001, false)] {
        let frame = "<message><body></body></message>".len();
        let text = format!("<message><body>{}</body></message>", "x".repeat(length - frame));
        assert_eq!(text.len(), length);
        for cut in [usize::MAX, 4096, 1] {
            let bytes = format!("{HEADER} {text} <a/>");
            let (events, fault) = read(&mut reader(), bytes.as_bytes(), cut);
            assert_eq!(fault.is_none(), passes, "{length} in pieces of {cut}: {fault:?}");
            assert_eq!(events.len(), if passes { 3 } else { 1 });
        }
    }
}

/// Once something is proved, a stanza that passes a bound is not kept, and the stream goes on.
#[test]
fn a_stanza_past_a_bound_is_passed_over_on_a_proved_stream() {
    let text = |n: usize| "x".repeat(n);
    let attributes: String = (0..70).map(|n| format!(" a{n}=''")).collect();
    let namespaces: String = (0..40).map(|n| format!(" xmlns:p{n}='urn:{n}' p{n}:a=''")).collect();
    let deep = format!("{}{}", "<a>".repeat(8 * 32 - 1), "</a>".repeat(8 * 32 - 1));
    let inside = [
        (format!("<a{attributes}><b/></a>c"), "attributes"),
        (format!("<a{namespaces}/>"), "namespaces"),
        (
            format!("{}{}", "<a xmlns='urn:x' xmlns:p='urn:y'>".repeat(20), "</a>".repeat(20)),
            "namesp",
        ),
        (deep, "deep"),
        (format!("<{0}></{0}>", text(200)), "name"),
        (format!("<a {}='1'/>", text(200)), "name"),
        (format!("<a xmlns:{}='urn:x'/>", text(200)), "prefix"),
        (format!("<a xmlns='urn:{}'/>", text(300)), "namespace"),
        ("<a xmlns='no uri'><b xmlns:p='{no}' p:c=''/></a>".to_owned(), "no URI"),
        (format!("<a b='{0}' c='{0}'/>", text(9000)), "bytes"),
        (format!("<body>{}</body>", text(70_000)), "bytes"),
        ("<a/>".repeat(10_000), "elements"),
    ];
    for (inner, words) in inside {
        for cut in [usize::MAX, 1000, 1] {
            let bytes = format!("<m from='a' to='b' id='i'>d{inner}<e/></m> <next/>");
            let mut reader = reader();
            read(&mut reader, HEADER.as_bytes(), cut);
            reader.lift();
            let (events, fault) = read(&mut reader, bytes.as_bytes(), cut);
            assert_eq!(fault, None, "{words}");
            let [XmlEvent::PassedOver(head, why), XmlEvent::Stanza(next)] = &events[..] else {
                panic!("{words}: {events:?}");
            };
            assert_eq!(written(head), "<m from='a' to='b' id='i'/>");
            assert!(why.text.contains(words), "{words}: {why}");
            assert!(next.is(ns::SERVER, "next"));
        }
    }
    // In the first tag.
    for tag in [format!("{attributes} from='a' to='b'"), format!("from='a'{namespaces} to='b'")] {
        let mut reader = reader();
        read(&mut reader, HEADER.as_bytes(), usize::MAX);
        reader.lift();
        let bytes = format!("<m {tag}><a/></m><next/>");
        let (events, _) = read(&mut reader, bytes.as_bytes(), 100);
        let [XmlEvent::PassedOver(head, _), XmlEvent::Stanza(_)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((head.attribute("from"), head.attribute("to")), (Some("a"), Some("b")));
    }
    // What no server writes for its users still ends the stream, and so does a stanza without end.
    for bytes in [
        format!("<m><a{attributes}/><!-- x --></m>"),
        format!("<m><a{attributes}/><b></c></m>"),
        "<m><a b='' b=''/></m>".to_owned(),
        format!("<m><a b='{}'/></m>", text(20_000)),
        format!("<m>{}", text(80_001)),
        // Each level costs memory: that ends it long before the bytes do.
        format!("<m>{}", "<a>".repeat(8 * 32)),
        format!("<{}", text(10_000)),
    ] {
        let mut reader = reader();
        read(&mut reader, HEADER.as_bytes(), usize::MAX);
        reader.lift();
        assert!(read(&mut reader, bytes.as_bytes(), 1000).1.is_some(), "{}", &bytes[..20]);
    }
}

#[test]
fn depth_counts_elements_within_elements() {
    for (deep, passes) in [(31, true), (32, true), (33, false)] {
        let text = format!("{}{}", "<a>".repeat(deep), "</a>".repeat(deep));
        assert_eq!(stanza(&text).is_ok(), passes, "{deep}");
    }
}

/// A flood of anything costs bounded memory and is stopped when the bound is reached, whether or
/// not it is XML.
#[test]
fn bytes_before_proof_are_bounded() {
    let floods = [" ", "<a/>", "<a>", "<a b='", "x"];
    for flood in floods {
        let mut reader = XmlReader::new(limits(), 2000);
        let bytes = format!("{HEADER}{}", flood.repeat(2000));
        let (_, fault) = read(&mut reader, bytes.as_bytes(), 100);
        assert!(fault.is_some(), "{flood}");
    }
    // The bound is for all streams of the connection.
    let mut reader = XmlReader::new(limits(), 300);
    assert_eq!(read(&mut reader, HEADER.as_bytes(), usize::MAX).1, None);
    reader.restart();
    let fault = read(&mut reader, HEADER.as_bytes(), usize::MAX).1.unwrap();
    assert_eq!(fault.reason, XmppRefusal::XmlLimit);
    // Once lifted, only each stanza is bounded.
    let mut reader = XmlReader::new(limits(), 300);
    assert_eq!(read(&mut reader, HEADER.as_bytes(), usize::MAX).1, None);
    reader.lift();
    assert_eq!(read(&mut reader, "<a>x</a>".repeat(5000).as_bytes(), 999).1, None);
}

#[test]
fn a_stream_cut_off_anywhere_gives_what_was_whole_and_no_fault() {
    let text = format!("{HEADER}<a b='c'>d<e xmlns='urn:x'/></a><f/></stream:stream>");
    let (whole, _) = read(&mut reader(), text.as_bytes(), usize::MAX);
    for end in 0..text.len() {
        let (events, fault) = read(&mut reader(), &text.as_bytes()[..end], usize::MAX);
        assert_eq!(fault, None, "{end}");
        assert_eq!(events[..], whole[..events.len()], "{end}");
    }
}

#[test]
fn names_in_use_are_known() {
    let message = stanza("<message to='a' from='b' type='chat' id='1'><body>x</body></message>");
    let message = message.unwrap();
    assert_eq!(
        written(&message),
        "<message to='a' from='b' type='chat' id='1'><body>x</body></message>"
    );
    let known = |name: &super::Name| matches!(name, super::Name::Static(_));
    assert!(message.attributes().iter().all(|a| known(&a.name) && known(&a.ns)));
}

/// Elements as they may come: known and unknown names, attributes of namespaces, text of any kind.
fn any_element() -> impl Strategy<Value = Element> {
    let space = prop_oneof![
        Just(ns::SERVER),
        Just(ns::CHAT_STATES),
        Just(ns::STREAMS),
        Just(ns::DIALBACK),
        Just("urn:other"),
        Just(""),
    ];
    let name = prop_oneof![Just("message"), Just("body"), Just("other-name"), Just("x1")];
    let text = "[ -~\u{e4}\u{1f600}\t\n\r]{0,12}";
    let attribute = (prop_oneof![Just(""), Just("urn:y"), Just(ns::XML)], name.clone(), text);
    let leaf = (space, name, prop::collection::vec(attribute, 0..4)).prop_map(
        |(space, name, attributes)| {
            let mut element = Element::new(space, name);
            attributes.into_iter().for_each(|(ns, name, value)| element.set_ns(ns, name, value));
            element
        },
    );
    (leaf.clone(), prop::collection::vec((leaf, text, text), 0..5)).prop_map(|(mut root, parts)| {
        for (mut child, within, after) in parts {
            if !within.is_empty() {
                child.push_text(within);
            }
            root.push(child);
            if !after.is_empty() {
                root.push_text(after);
            }
        }
        root
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_written_is_read_again(element in any_element()) {
        let text = written(&element);
        prop_assert_eq!(stanza(&text).map_err(|fault| format!("{fault}: {text}")).unwrap(), element);
    }

    /// However the bytes are cut, and whatever they are, the same comes of them.
    #[test]
    fn pieces_do_not_matter(
        elements in prop::collection::vec(any_element(), 0..4),
        harm in prop::option::of((0..2000_usize, any::<u8>())),
        cuts in prop::collection::vec(1..40_usize, 1..20),
        lifted in any::<bool>(),
    ) {
        let mut bytes = HEADER.as_bytes().to_vec();
        for element in &elements {
            element.write(&mut bytes);
            bytes.extend_from_slice(b" \n");
        }
        bytes.extend_from_slice(b"</stream:stream>");
        if let Some((at, byte)) = harm {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let reader = || {
            let mut reader = reader();
            if lifted {
                reader.lift();
            }
            reader
        };
        let at_once = read(&mut reader(), &bytes, usize::MAX);
        prop_assert_eq!(&read(&mut reader(), &bytes, 1), &at_once);
        let mut cut_reader = reader();
        let (mut events, mut fault, mut rest, mut cut) = (Vec::new(), None, &bytes[..], 0);
        while !rest.is_empty() && fault.is_none() {
            let (piece, after) = rest.split_at(cuts[cut % cuts.len()].min(rest.len()));
            let (more, then) = read(&mut cut_reader, piece, usize::MAX);
            events.extend(more);
            (fault, rest, cut) = (then, after, cut + 1);
        }
        prop_assert_eq!((events, fault), at_once);
    }

    /// Any bytes at all: no panic.
    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..400), inside in any::<bool>()) {
        let mut reader = reader();
        if inside {
            read(&mut reader, HEADER.as_bytes(), usize::MAX);
        }
        read(&mut reader, &noise, 13);
    }
}
