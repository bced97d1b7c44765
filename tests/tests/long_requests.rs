//! Long requests towards a server inside that is configured with UDP (RFC 3261 section 18.1.1): by
//! TCP where it takes that, by UDP where not, and refused at once where no datagram holds them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use edge_tests::{
    demo::world::{contoso_access, contoso_config, user},
    lab::{
        Lab,
        daemon::Edge,
        layout::Site,
        recorder::Recorder,
        sipp::SERVER_PORT,
        tls_client::{Caller, SipClient, request},
    },
    patience::BUSY,
};

/// How long a request may take to arrive.
const ARRIVES: Duration = BUSY;
/// How long is looked for one that must not.
const NOTHING: Duration = Duration::from_millis(200);
/// More than one IP packet, less than one datagram.
const LONG: usize = 5000;
/// More than any datagram.
const TOO_LONG: usize = 70_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Udp,
    Tcp,
}

/// A partner's MESSAGE with so much in its body.
fn message(length: usize) -> String {
    let text =
        request("MESSAGE", &user(Site::Fabrikam), &user(Site::Contoso), &Site::Fabrikam.host());
    let (head, _) = text.split_once("Content-Length").unwrap();
    format!("{head}Content-Length: {length}\r\n\r\n{}", "x".repeat(length))
}

/// It is answered, and came whole, this way and no other. What was sent again before, since the machine was
/// busy, is no part of it.
#[track_caller]
fn arrives(partner: &mut SipClient, length: usize, by: By, udp: &Recorder, tcp: Option<&Recorder>) {
    let sent = message(length);
    let call = sent.lines().find(|line| line.starts_with("Call-ID: ")).unwrap();
    let answer = partner.ask(&sent).unwrap();
    assert_eq!(answer.status, 200, "{length} by {by:?}: {}", answer.text);
    let (here, there) = match by {
        By::Udp => (Some(udp), tcp),
        By::Tcp => (tcp, Some(udp)),
    };
    let next = |recorder: &Recorder, limit| {
        let of_this = |came: &String| came.lines().any(|line| line == call);
        std::iter::from_fn(|| recorder.next(limit).ok())
            .map(|came| String::from_utf8_lossy(&came).into_owned())
            .find(of_this)
    };
    let shown = next(here.unwrap(), ARRIVES).unwrap_or_else(|| panic!("{length} by {by:?}"));
    let name = if by == By::Udp { "UDP" } else { "TCP" };
    let via = shown.lines().find(|line| line.starts_with("Via: ")).unwrap();
    assert!(via.starts_with(&format!("Via: SIP/2.0/{name} ")), "{via}");
    assert!(shown.ends_with(&format!("\r\n\r\n{}", "x".repeat(length))), "{length} by {by:?}");
    assert!(there.is_none_or(|there| next(there, NOTHING).is_none()), "{length} by {by:?}");
}

fn play(tag: &str, server: IpAddr) {
    let at = SocketAddr::new(server, SERVER_PORT);
    let lab = Lab::raise(tag).unwrap();
    let mut config = contoso_config(&lab);
    config.next_hops = vec![format!("sip:{at};transport=udp")];
    let _edge = Edge::start(&lab, config).unwrap();
    let inside = lab.inside(Site::Contoso);
    let caller = Caller {
        namespace: lab.site(Site::Fabrikam),
        from: None,
        identity: Some(&lab.identities.fabrikam),
        trust: &lab.identities.trust,
    };
    let access = contoso_access().into_iter().find(|to| to.is_ipv6() == at.is_ipv6()).unwrap();
    let mut partner = caller.tls(access, &Site::Contoso.host()).unwrap();

    let udp = Recorder::start_udp(inside, at).unwrap();
    let tcp = Recorder::start(inside, at).unwrap();
    arrives(&mut partner, 20, By::Udp, &udp, Some(&tcp));
    arrives(&mut partner, LONG, By::Tcp, &udp, Some(&tcp));
    arrives(&mut partner, TOO_LONG, By::Tcp, &udp, Some(&tcp));
    arrives(&mut partner, 20, By::Udp, &udp, Some(&tcp));

    // TCP is refused from now on.
    drop(tcp);
    arrives(&mut partner, LONG, By::Udp, &udp, None);
    let begun = Instant::now();
    let answer = partner.ask(&message(TOO_LONG)).unwrap();
    assert_eq!(answer.status, 513, "{}", answer.text);
    // At once, and not when nobody has answered (RFC 3261 section 17.1.2.2: 32 s).
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let of_it = |came: Vec<u8>| came.len() > LONG * 2;
    assert!(!udp.next(NOTHING).is_ok_and(of_it), "nothing of it is sent");

    // That is remembered: it is not tried again with each request.
    let tcp = Recorder::start(inside, at).unwrap();
    arrives(&mut partner, LONG, By::Udp, &udp, Some(&tcp));
    assert_eq!(partner.ask(&message(TOO_LONG)).unwrap().status, 513);
}

#[test]
fn what_is_long_goes_by_tcp_or_by_udp_where_that_is_refused_over_ipv4() {
    play("long4", Site::Contoso.server4().into());
}

#[test]
fn what_is_long_goes_by_tcp_or_by_udp_where_that_is_refused_over_ipv6() {
    play("long6", Site::Contoso.server6().into());
}
