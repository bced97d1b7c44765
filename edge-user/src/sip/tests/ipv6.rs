//! RFC 5118: IPv6 in URIs and Via.

use bytes::Bytes;

use super::super::*;

fn register(uri: &str, via: &str, contact: &str) -> Result<Message, String> {
    let text = format!(
        "REGISTER {uri} SIP/2.0\r\nTo: sip:user@example.com\r\nFrom: {contact};tag=81x2\r\n\
         Via: {via}\r\nCall-ID: SSG9559905523997077@hlau_4100\r\nMax-Forwards: 70\r\n\
         CSeq: 98176 REGISTER\r\nContent-Length: 0\r\n\r\n"
    );
    let message = Message::parse_datagram(Bytes::from(text), &Limits::default())
        .map_err(|error| error.to_string())?;
    message.validate().map_err(|error| error.to_string())?;
    Ok(message)
}

const VIA: &str = "SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111";
const CONTACT: &str = "sip:caller@[2001:db8::1]";

#[test]
fn an_ipv6_reference_stands_in_brackets_4_1_to_4_4() {
    let cases = [
        ("sip:[2001:db8::10]", Some(("2001:db8::10", None))),
        ("sip:2001:db8::10", None),
        // The port is part of the address when it stands inside the brackets.
        ("sip:[2001:db8::10:5070]", Some(("2001:db8::10:5070", None))),
        ("sip:[2001:db8::10]:5070", Some(("2001:db8::10", Some(5070)))),
        ("sip:[::ffff:192.0.2.2]:5070", Some(("::ffff:192.0.2.2", Some(5070)))),
        // 4.10: three colons, which the grammar of RFC 3261 lets stand before an IPv4 address.
        ("sip:[2001:db8:::192.0.2.1]", Some(("2001:db8::192.0.2.1", None))),
        ("sip:[2001:db8:::192.0.2.1]:5070", Some(("2001:db8::192.0.2.1", Some(5070)))),
        ("sip:[2001:db8:::1]", None),
        ("sip:[2001:db8::::192.0.2.1]", None),
        ("sip:[2001::db8:::192.0.2.1]", None),
        ("sip:[:::192.0.2.1:::192.0.2.1]", None),
        ("sip:[2001:db8::10", None),
        ("sip:2001:db8::10]", None),
        ("sip:[]", None),
        ("sip:[192.0.2.1]", None),
        ("sip:[fe80::1%25eth0]", None),
        ("sip:[2001:db8::10]x", None),
        ("sip:[2001:db8::10]:", None),
    ];
    for (uri, expected) in cases {
        let got = register(uri, VIA, CONTACT);
        match expected {
            None => assert!(got.is_err(), "{uri}"),
            Some((address, port)) => {
                let message = got.unwrap();
                let uri = message.request_uri().unwrap().unwrap();
                let host = uri.host().unwrap().ip();
                assert_eq!((host, uri.port()), (Some(address.parse().unwrap()), port));
            }
        }
    }
}

#[test]
fn received_holds_ipv6_with_and_without_brackets_4_5() {
    for received in ["[2001:db8::9:255]", "2001:db8::9:255"] {
        let via = format!("SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3");
        let message = register("sip:[2001:db8::10]", &via, CONTACT).unwrap();
        let via = message.via().unwrap();
        assert_eq!(via.received, Some("2001:db8::9:255".parse().unwrap()));
        assert_eq!(via.branch, Some("z9hG4bKas3"));
    }
}

#[test]
fn both_families_stand_in_one_list_4_7_and_mapped_addresses_pass_4_9() {
    let via = "SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111, SIP/2.0/UDP \
               192.0.2.1;branch=z9hG4bKjhja8781hjuaij65144, SIP/2.0/TCP \
               [2001:db8::9:255];branch=z9hG4bK451jj;received=192.0.2.200, SIP/2.0/UDP \
               [::ffff:192.0.2.10]:19823;branch=z9hG4bKbh19;received=::ffff:192.0.2.10";
    let message = register("sip:[2001:db8::10]", via, "sip:caller@[::ffff:192.0.2.10]").unwrap();
    let hosts: Vec<String> = message
        .list(HeaderName::Via)
        .map(|element| Via::parse(element.value).unwrap().host.ip().unwrap().to_string())
        .collect();
    assert_eq!(hosts, ["2001:db8::9:1", "192.0.2.1", "2001:db8::9:255", "::ffff:192.0.2.10"]);
}
