//! RFC 5118 through the proxy, written anew from what the document describes: IPv6 in every place
//! where an address may stand.

use super::torture::{Is::*, Row, cut_at_every_byte, play, row};

const SDP: &str = "v=0\no=assistant 971731711378798081 0 IN IP6 2001:db8::20\ns=Live video feed\n\
                   c=IN IP6 2001:db8::1\nt=3338481189 3370017201\nm=audio 6000 RTP/AVP 2\n\
                   m=video 6024 RTP/AVP 107\nc=IN IP4 192.0.2.1\n";
const REGISTER: &str = "REGISTER sip:{to} SIP/2.0";

fn rows() -> Vec<Row> {
    let via = |value: &str| format!("Via: SIP/2.0/UDP {value};branch=z9hG4bKas3-111");
    let mut rows = vec![];
    // An address is no domain of ours and no partner's: read well, it is refused for that (403),
    // and is no bad request (400).
    for (name, uri, status) in [
        ("4.1 ipv6-good", "sip:[2001:db8::10]", 403),
        ("4.1 ipv6-good", "sip:user@[2001:DB8::10]", 403),
        ("4.2 ipv6-bad", "sip:2001:db8::10", 400),
        ("4.2 ipv6-bad", "sip:user@2001:db8::10", 400),
        ("4.2 ipv6-bad", "sip:[2001:db8::10", 400),
        ("4.2 ipv6-bad", "sip:2001:db8::10]", 400),
        ("4.2 ipv6-bad", "sip:[2001:db8::g]", 400),
        ("4.2 ipv6-bad", "sip:[192.0.2.1]", 400),
        ("4.3 port-ambiguous", "sip:[2001:db8::10:5070]", 403),
        ("4.4 port-unambiguous", "sip:[2001:db8::10]:5070", 403),
        ("4.4 port-unambiguous", "sip:[2001:db8::10]:99999", 400),
        ("4.10 three colons", "sip:user@[2001:db8:::192.0.2.1]", 403),
        ("4.10 two colons", "sip:user@[2001:db8::192.0.2.1]", 403),
        ("4.10 three colons elsewhere", "sip:user@[2001:db8:::1]", 400),
    ] {
        let mut one = row(name, "", &[], "", Answered(status));
        one.start = Box::leak(format!("OPTIONS {uri} SIP/2.0").into_boxed_str());
        rows.push(one);
    }
    for (name, header, is) in [
        ("4.1 ipv6-good", via("[2001:db8::9:1]"), Forwarded),
        ("4.1 ipv6-good", "Contact: \"Caller\" <sip:caller@[2001:db8::1]>".into(), Forwarded),
        ("4.1 in To", "To: <sip:user@[2001:db8::10]:5070>".into(), Forwarded),
        ("4.2 in To", "To: <sip:user@2001:db8::10>".into(), Answered(400)),
        ("4.2 in Via", via("2001:db8::9:1"), Answered(400)),
        ("4.5 with brackets", via("[2001:db8::9:1];received=[2001:db8::9:255]"), Forwarded),
        ("4.5 without brackets", via("[2001:db8::9:1];received=2001:db8::9:255"), Forwarded),
        ("4.5 a bad one", via("[2001:db8::9:1];received=[2001:db8::9:255"), Answered(400)),
        (
            "4.7 mult-ip-in-header",
            "Via: SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111,SIP/2.0/UDP \
             192.0.2.1;branch=z9hG4bKjhja8781hjuaij65144,SIP/2.0/TCP \
             [2001:db8::9:255];branch=z9hG4bK451jj;received=192.0.2.200"
                .into(),
            Forwarded,
        ),
        (
            "4.9 ipv4-mapped-ipv6",
            via("[::ffff:192.0.2.10]:19823;received=::ffff:192.0.2.10"),
            Forwarded,
        ),
        ("4.9 ipv4-mapped-ipv6", "Contact: <sip:caller@[::ffff:192.0.2.10]>".into(), Forwarded),
        ("4.10 three colons in To", "To: sip:user@[2001:db8:::192.0.2.1]".into(), Forwarded),
        ("4.10 three colons in Via", via("[2001:db8:::192.0.2.1]"), Forwarded),
    ] {
        rows.push(row(name, REGISTER, &[&header], "", is));
    }
    for name in ["4.6 ipv6-in-sdp", "4.8 mult-ip-in-sdp"] {
        let contact = ["Contact: <sip:user@[2001:db8::10]>", "Content-Type: application/sdp"];
        rows.push(row(name, "INVITE sip:user@{to} SIP/2.0", &contact, SDP, Forwarded));
    }
    rows
}

#[test]
fn addresses_of_both_families_are_read_wherever_they_stand() {
    play(&rows());
}

#[test]
fn cut_at_any_byte_no_message_goes_on() {
    cut_at_every_byte(&rows());
}
