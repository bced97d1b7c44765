//! XML that XMPP bans. The guard's tests read it, and `cargo xtask fuzz xmpp-guard` begins with it.

/// What comes after a stream header: the condition of RFC 6120 section 4.9.3 that names it, and
/// whether a bound is what it passes.
pub fn stanzas() -> Vec<(Vec<u8>, &'static str, bool)> {
    let deep = "<a>".repeat(40);
    let attributes: String = (0..70).map(|n| format!(" a{n}=''")).collect();
    let attributes = format!("<a{attributes}/>");
    let namespaces: String = (0..40).map(|n| format!(" xmlns:p{n}='urn:{n}'")).collect();
    let namespaces = format!("<a{namespaces}/>");
    let spread = "<a xmlns='urn:x' xmlns:p='urn:y'>".repeat(20);
    let long_name = format!("<{}/>", "n".repeat(200));
    let longer_name = format!("<{}/>", "n".repeat(9000));
    let long_uri = format!("<a xmlns='urn:{}'/>", "n".repeat(300));
    let laughs = "<!DOCTYPE a [<!ENTITY lol 'lol'><!ENTITY lol2 '&lol;&lol;'>]><a>&lol2;</a>";
    let cases: &[(&[u8], &'static str, bool)] = &[
        (b"<a><!-- hidden --></a>", "restricted-xml", false),
        (b"<!-- hidden --><a/>", "restricted-xml", false),
        (b"<a><?php exit ?></a>", "restricted-xml", false),
        (b"<?xml version='1.0'?><a/>", "restricted-xml", false),
        (b"<!DOCTYPE a><a/>", "restricted-xml", false),
        (laughs.as_bytes(), "restricted-xml", false),
        (b"<a>&lol;</a>", "restricted-xml", false),
        (b"<a b='&lol;'/>", "restricted-xml", false),
        (b"<a>&#0;</a>", "not-well-formed", false),
        (b"<a>&#xD800;</a>", "not-well-formed", false),
        (b"<a>&#xFFFE;</a>", "not-well-formed", false),
        (b"<a>&#x110000;</a>", "not-well-formed", false),
        (b"<a>\0</a>", "not-well-formed", false),
        (b"<a>\x01</a>", "not-well-formed", false),
        (b"<a b='\x0c'/>", "not-well-formed", false),
        (b"<a>\xff</a>", "unsupported-encoding", false),
        (b"<a>\xc0\xbc</a>", "unsupported-encoding", false),
        (b"<a>\xe0\x80\xbc</a>", "unsupported-encoding", false),
        (b"<a>\xed\xa0\x80</a>", "unsupported-encoding", false),
        (b"<a>\xf4\x90\x80\x80</a>", "unsupported-encoding", false),
        (b"<a>\xef\xbf\xbe</a>", "not-well-formed", false),
        (b"<p:a/>", "bad-namespace-prefix", false),
        (b"<a p:b=''/>", "bad-namespace-prefix", false),
        (b"<xmlns:a/>", "bad-namespace-prefix", false),
        (b"<xml:a/>", "bad-namespace-prefix", false),
        (b"<a xmlns:xml='urn:x'/>", "bad-namespace-prefix", false),
        (b"<a xmlns:xmlns='urn:x'/>", "bad-namespace-prefix", false),
        (b"<a xmlns:p=''/>", "invalid-namespace", false),
        (b"<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>", "invalid-namespace", false),
        (b"<a xmlns='http://www.w3.org/2000/xmlns/'/>", "bad-namespace-prefix", false),
        // Smuggled past parsers that put a separator between namespace and name.
        (b"<a xmlns='jabber:server&#xA;x'/>", "invalid-namespace", false),
        (b"<a xmlns='jabber:server x'/>", "invalid-namespace", false),
        (b"<a xmlns='jabber:server|x'/>", "invalid-namespace", false),
        (b"<a xmlns:p='jabber:server}x'/>", "invalid-namespace", false),
        ("<a xmlns='jabber:server\u{85}x'/>".as_bytes(), "invalid-namespace", false),
        (b"<a b='' b=''/>", "not-well-formed", false),
        (b"<a xmlns:p='urn:x' xmlns:q='urn:x' p:b='' q:b=''/>", "not-well-formed", false),
        (b"<a xmlns:p='urn:x' xmlns:p='urn:y'/>", "not-well-formed", false),
        (b"<a xmlns:p='urn:x' p:xmlns='urn:y'/>", "not-well-formed", false),
        (b"<a></b>", "not-well-formed", false),
        (b"<a b=c/>", "not-well-formed", false),
        (b"<a b='<'/>", "not-well-formed", false),
        (b"<a>]]></a>", "not-well-formed", false),
        (b"<a:b:c/>", "not-well-formed", false),
        (b"<:a/>", "not-well-formed", false),
        (b"< a/>", "not-well-formed", false),
        (b"text", "bad-format", false),
        (b"\xef\xbb\xbf<a/>", "bad-format", false),
        (b"<![CDATA[text]]><a/>", "bad-format", false),
        (deep.as_bytes(), "policy-violation", true),
        (attributes.as_bytes(), "policy-violation", true),
        (namespaces.as_bytes(), "policy-violation", true),
        (spread.as_bytes(), "policy-violation", true),
        (long_name.as_bytes(), "policy-violation", true),
        (longer_name.as_bytes(), "policy-violation", true),
        (long_uri.as_bytes(), "policy-violation", true),
    ];
    cases.iter().map(|(text, condition, limit)| (text.to_vec(), *condition, *limit)).collect()
}

/// What comes in place of a stream header, and the condition.
pub fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let stream = "xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'";
    let padded = format!("<stream:stream {stream}{}>", " ".repeat(5000));
    let many: String = (0..70).map(|n| format!(" a{n}=''")).collect();
    let many = format!("<stream:stream {stream}{many}>");
    let cases: &[(&[u8], &'static str)] = &[
        (b"<a/>", "invalid-namespace"),
        (b"<stream:stream xmlns:stream='urn:x'>", "invalid-namespace"),
        (b"<stream:stream>", "bad-namespace-prefix"),
        (b"<s:other xmlns:s='http://etherx.jabber.org/streams'>", "bad-format"),
        (b"<?xml version='1.1'?>", "restricted-xml"),
        (b"<?xml version='1.0' encoding='ISO-8859-1'?>", "unsupported-encoding"),
        (b"<?xml version='1.0' encoding='UTF-16'?>", "unsupported-encoding"),
        (b"<?xml version='1.0' standalone='no'?>", "not-well-formed"),
        (b"<?xml version='1.0'?><?xml version='1.0'?>", "restricted-xml"),
        (b"<!DOCTYPE a><a/>", "restricted-xml"),
        (b"<!-- a --><a/>", "restricted-xml"),
        (b"\xff\xfe<\0?\0", "unsupported-encoding"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "unsupported-encoding"),
        (b" <?xml version='1.0'?>", "not-well-formed"),
        (b"GET / HTTP/1.1\r\n\r\n", "not-well-formed"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "not-well-formed"),
        (padded.as_bytes(), "policy-violation"),
        (many.as_bytes(), "policy-violation"),
    ];
    cases.iter().map(|(text, condition)| (text.to_vec(), *condition)).collect()
}
