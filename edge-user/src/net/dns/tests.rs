//! Against a name server of our own on loopback.

use std::{
    net::Ipv4Addr,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use super::*;
use crate::{
    config::{Host, NextHop},
    domain::Domain,
    net::testing::{PATIENCE, tests_support},
};

/// Answers with what a function says; `None`: the name does not exist.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

/// In place of a time to live: 300, and what does not exist comes without an SOA.
const NO_SOA: u32 = 299;

type Zone = fn(&str, RecordType) -> Option<Vec<RData>>;

fn reply(question: &[u8], zone: Zone, ttl: u32, limit: usize) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name().to_ascii();
    if query.query_type() == RecordType::AAAA && name.starts_with("mute.") {
        return None;
    }
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    match zone(&query.name().to_ascii().to_ascii_lowercase(), query.query_type()) {
        Some(data) => {
            for data in data {
                answer.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
            }
        }
        None => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    if answer.answers.is_empty() && ttl != NO_SOA {
        let root = Name::root();
        let soa = rdata::SOA::new(root.clone(), root, 1, 3600, 600, 86_400, ttl);
        answer.add_authority(Record::from_rdata(query.name().base_name(), ttl, RData::SOA(soa)));
    }
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    answer.answers.clear();
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}

async fn server(zone: Zone, ttl: u32) -> Server {
    // A port that is free for both: another test may have the one of TCP.
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            if let Some(bytes) = reply(&buffer[..length], zone, ttl, 1200) {
                let _ = udp.send_to(&bytes, from).await;
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; usize::from(length)];
                    if stream.read_exact(&mut question).await.is_err() {
                        return;
                    }
                    let Some(bytes) = reply(&question, zone, ttl, 65_535) else { return };
                    let _ = stream.write_u16(u16::try_from(bytes.len()).unwrap()).await;
                    let _ = stream.write_all(&bytes).await;
                }
            });
        }
    });
    Server { address, asked }
}

fn resolver(server: SocketAddr) -> Arc<Resolver> {
    let mut config = tests_support::config();
    config.dns.servers = vec![server];
    config.dns.timeout = PATIENCE;
    config.access.advertise = vec!["8.8.4.4".parse().unwrap()];
    config.federation.allow_addresses = vec!["198.18.0.0/24".parse().unwrap()];
    Resolver::new(&config).unwrap()
}

pub(super) fn srv(priority: u16, target: &str) -> RData {
    RData::SRV(rdata::SRV::new(priority, 0, 5061, Name::from_str(target).unwrap()))
}

pub(super) fn a(address: &str) -> RData {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

pub(super) fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

const SRV: &str = "_sipfederationtls._tcp.";

/// The Internet, as far as these tests need it.
fn zone(name: &str, kind: RecordType) -> Option<Vec<RData>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let only = |wanted, data: Vec<RData>| Some(if kind == wanted { data } else { Vec::new() });
    if let Some(domain) = name.strip_prefix(SRV) {
        let records = match domain {
            "good.example" => vec![srv(20, "second.good.example."), srv(10, "sip.good.example.")],
            "foreign.example" => vec![srv(0, "edge.hoster.example.")],
            "no.example" => vec![srv(0, ".")],
            "half.example" => vec![srv(0, "missing.half.example."), srv(1, "sip.half.example.")],
            "mute.example" => vec![srv(0, "mute.mute.example.")],
            "gone.example" => vec![srv(0, "missing.gone.example.")],
            "liar.example" => vec![srv(0, "liar.liar.example.")],
            "ours.example" => vec![srv(0, "ours.ours.example.")],
            "many.example" => (0..200).map(|n| srv(n, &format!("h{n}.many.example."))).collect(),
            "thousand.example" => vec![srv(0, "thousand.thousand.example.")],
            "empty.example" | "bare.example" => Vec::new(),
            _ => return None,
        };
        return only(RecordType::SRV, records);
    }
    if let Some(domain) = name.strip_prefix("_sips._tcp.") {
        let records = match domain {
            "sips.example" | "bare.example" | "good.example" => vec![srv(0, "sip.half.example.")],
            "no.example" => vec![srv(0, "sip.no.example.")],
            "pool.inside.example" => {
                vec![srv(1, "two.inside.example."), srv(0, "one.inside.example.")]
            }
            _ => return None,
        };
        return only(RecordType::SRV, records);
    }
    if let Some(domain) = name.strip_prefix("_xmpp-server._tcp.") {
        let records = match domain {
            "good.example" => vec![srv(0, "sip.good.example.")],
            "liar.example" => vec![srv(0, "liar.liar.example.")],
            "ours.example" => vec![srv(0, "ours.ours.example.")],
            "half.example" => vec![srv(0, "liar.liar.example."), srv(1, "sip.half.example.")],
            "no.example" => vec![srv(0, ".")],
            _ => return None,
        };
        return only(RecordType::SRV, records);
    }
    match (name, kind) {
        ("sip.good.example", RecordType::A) => Some(vec![a("198.18.0.1")]),
        ("sip.good.example", RecordType::AAAA) => Some(vec![a("2a00:1450::1")]),
        ("mute.mute.example", RecordType::A) => Some(vec![a("198.18.0.3")]),
        ("second.good.example", RecordType::A) => Some(vec![a("198.18.0.2")]),
        ("edge.hoster.example", RecordType::A) => Some(vec![a("8.8.8.8")]),
        ("one.inside.example", RecordType::A) => Some(vec![a("10.0.0.21"), a("0.0.0.0")]),
        ("two.inside.example", RecordType::A) => Some(vec![a("10.0.0.22")]),
        ("sip.half.example", RecordType::A) => Some(vec![a("8.8.8.8")]),
        ("liar.liar.example", RecordType::A) => Some(vec![
            a("127.0.0.1"),
            a("10.0.0.1"),
            a("169.254.169.254"),
            a("0.0.0.0"),
            a("255.255.255.255"),
        ]),
        ("liar.liar.example", RecordType::AAAA) => {
            Some(vec![a("::1"), a("fe80::1"), a("fc00::1"), a("::ffff:127.0.0.1"), a("ff02::1")])
        }
        // Without records of its own: its own addresses.
        ("bare-liar.example", RecordType::A) => Some(vec![a("127.0.0.1"), a("192.168.1.1")]),
        ("bare-liar.example", RecordType::AAAA) => Some(vec![a("::1"), a("fd00::1")]),
        ("bare-ours.example", RecordType::A) => Some(vec![a("8.8.4.4")]),
        ("ours.ours.example", RecordType::A) => Some(vec![a("8.8.4.4")]),
        ("thousand.thousand.example", RecordType::A) => {
            Some((0..1000_u32).map(|n| RData::A(Ipv4Addr::from(0x0808_0000 + n).into())).collect())
        }
        (host, RecordType::A) if host.ends_with(".many.example") => Some(vec![a("8.8.8.8")]),
        (host, _) if host.starts_with("missing.") => None,
        _ => Some(Vec::new()),
    }
}

pub(super) async fn federation(resolver: &Arc<Resolver>, domain: &Domain, relax: bool) -> Answer {
    let lookup = Lookup { relax, ..Lookup::default() };
    resolver.resolve(&Question::Federation(domain.clone()), lookup).await
}

pub(super) fn brief(answer: Answer) -> Result<Vec<String>, ResolveError> {
    answer.map(|resolved| {
        resolved
            .hosts
            .iter()
            .map(|h| {
                let mut ips: Vec<_> = h.addresses.iter().map(ToString::to_string).collect();
                ips.sort();
                format!("{}:{} {}", h.host, h.port, ips.join(" "))
            })
            .collect()
    })
}

#[tokio::test]
async fn a_domains_edges_are_found_and_lies_are_left_out() {
    use ResolveError as E;
    let server = server(zone, 300).await;
    let resolver = resolver(server.address);
    type Row<'a> = (&'a str, bool, Result<&'a [&'a str], E>);
    let rows: [Row<'_>; 11] = [
        (
            "good.example",
            false,
            Ok(&[
                "sip.good.example:5061 198.18.0.1 2a00:1450::1",
                "second.good.example:5061 198.18.0.2",
            ]),
        ),
        ("foreign.example", false, Err(E::ForeignTarget)),
        ("foreign.example", true, Ok(&["edge.hoster.example:5061 8.8.8.8"])),
        ("no.example", false, Err(E::NoService)),
        ("half.example", false, Ok(&["sip.half.example:5061 8.8.8.8"])),
        ("gone.example", false, Err(E::NotFound)),
        ("liar.example", false, Err(E::ForbiddenAddress)),
        ("ours.example", false, Err(E::ForbiddenAddress)),
        ("empty.example", false, Err(E::NotFound)),
        ("unknown.example", false, Err(E::NotFound)),
        ("liar.example", true, Err(E::ForbiddenAddress)),
    ];
    for (name, relax, expected) in rows {
        let got = brief(federation(&resolver, &domain(name), relax).await);
        let expected = expected.map(|hosts| hosts.iter().map(ToString::to_string).collect());
        assert_eq!(got, expected, "{name}");
    }
}

#[tokio::test]
async fn only_who_says_nothing_under_lyncs_name_is_asked_for_sips() {
    use ResolveError as E;
    let server = server(zone, 300).await;
    let resolver = resolver(server.address);
    let half: &[&str] = &["sip.half.example:5061 8.8.8.8"];
    for (name, relax, expected) in [
        ("sips.example", true, Ok(half)),
        ("sips.example", false, Err(E::ForeignTarget)),
        ("bare.example", true, Ok(half)),
        ("no.example", true, Err(E::NoService)),
        ("foreign.example", false, Err(E::ForeignTarget)),
        ("unknown.example", false, Err(E::NotFound)),
    ] {
        let got = brief(federation(&resolver, &domain(name), relax).await);
        let expected = expected.map(|hosts| hosts.iter().map(ToString::to_string).collect());
        assert_eq!(got, expected, "{name}");
    }
    let good = federation(&resolver, &domain("good.example"), true).await.unwrap();
    assert_eq!(good.hosts[0].host.as_str(), "sip.good.example");
}

#[tokio::test]
async fn that_a_name_does_not_exist_holds_as_long_as_its_zone_says() {
    for (ttl, holds) in [(0, 5), (40, 40), (86_400, 300), (NO_SOA, 60)] {
        let server = server(zone, ttl).await;
        let resolver = resolver(server.address);
        let key = (Question::Federation(domain("unknown.example")), Lookup::default());
        let (answer, told) = resolver.ask(&key).await;
        assert_eq!((answer, told.as_secs()), (Err(ResolveError::NotFound), holds), "{ttl}");
    }
}

#[tokio::test]
async fn a_next_hop_may_be_what_an_srv_record_inside_names() {
    let server = server(zone, 300).await;
    let resolver = resolver(server.address);
    let hop = |name: &str| {
        let host = Host::Srv { service: "_sips._tcp".into(), domain: domain(name) };
        Question::NextHop(NextHop { host, port: 5061, transport: Transport::Tls })
    };
    let got = resolver.resolve(&hop("pool.inside.example"), Lookup::default()).await;
    let expected = ["one.inside.example:5061 10.0.0.21", "two.inside.example:5061 10.0.0.22"];
    assert_eq!(brief(got).unwrap(), expected);
    let none = resolver.resolve(&hop("unknown.example"), Lookup::default()).await;
    assert_eq!(brief(none), Err(ResolveError::NotFound));
}

/// Some load balancers know A and never answer for anything else.
#[tokio::test]
async fn a_name_server_that_is_silent_about_one_family_holds_nobody_up() {
    let server = server(zone, 3000).await;
    let resolver = resolver(server.address);
    let began = Instant::now();
    let found = federation(&resolver, &domain("mute.example"), false).await.unwrap();
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    let left = found.valid_until - Instant::now();
    assert!(left <= cache::MAX_NEGATIVE, "half an answer: {left:?}");
    assert_eq!(brief(Ok(found)).unwrap(), ["mute.mute.example:5061 198.18.0.3"]);
}

#[tokio::test]
async fn floods_are_cut() {
    let server = server(zone, 300).await;
    let resolver = resolver(server.address);
    let many = federation(&resolver, &domain("many.example"), false).await.unwrap();
    assert_eq!(many.hosts.len(), discovery::MAX_TARGETS);
    let thousand = federation(&resolver, &domain("thousand.example"), false).await.unwrap();
    assert_eq!(thousand.hosts[0].addresses.len(), discovery::MAX_ADDRESSES);
}

#[tokio::test]
async fn answers_are_cached_and_asked_for_once() {
    let server = server(zone, 300).await;
    let resolver = resolver(server.address);
    let asked = domain("good.example");
    let all = (0..50).map(|_| {
        let (resolver, asked) = (Arc::clone(&resolver), asked.clone());
        tokio::spawn(async move { federation(&resolver, &asked, false).await.unwrap() })
    });
    for task in all.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // SRV, and A and AAAA of two hosts.
    assert_eq!(server.asked.load(Ordering::Relaxed), 5);
    federation(&resolver, &domain("unknown.example"), false).await.unwrap_err();
    federation(&resolver, &domain("unknown.example"), false).await.unwrap_err();
    // Under both names.
    assert_eq!(server.asked.load(Ordering::Relaxed), 7, "a missing name is remembered");
    resolver.flush();
    federation(&resolver, &asked, false).await.unwrap();
    assert_eq!(server.asked.load(Ordering::Relaxed), 12);
}

#[tokio::test]
async fn time_to_live_has_a_floor_and_a_ceiling() {
    for (ttl, least, most) in [(1, 25, 30), (600, 590, 600), (1_000_000, 3590, 3600)] {
        let server = server(zone, ttl).await;
        let answer = federation(&resolver(server.address), &domain("good.example"), false).await;
        let left = answer.unwrap().valid_until - Instant::now();
        let range = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(range.contains(&left), "{ttl}: {left:?}");
    }
}

#[tokio::test]
async fn a_silent_server_and_a_missing_one_are_unavailable() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let missing = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for server in [silent.local_addr().unwrap(), missing] {
        let mut config = tests_support::config();
        config.dns.servers = vec![server];
        config.dns.timeout = Duration::from_millis(300);
        let resolver = Resolver::new(&config).unwrap();
        let started = Instant::now();
        let answer = federation(&resolver, &domain("good.example"), false).await;
        assert_eq!(answer, Err(ResolveError::Unavailable));
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_next_hop_may_be_private_and_the_hosts_file_counts_for_it_alone() {
    fn inside(name: &str, kind: RecordType) -> Option<Vec<RData>> {
        match (name, kind) {
            ("director.contoso.example.", RecordType::A) => Some(vec![a("10.0.0.1")]),
            _ => Some(Vec::new()),
        }
    }
    let server = server(inside, 300).await;
    let folder = tests_support::Folder::new();
    folder.write("hosts", "10.0.0.2 listed.contoso.example\n", 0o644);
    let mut config = tests_support::config();
    config.dns.servers = vec![server.address];
    let files = Files { hosts: folder.0.join("hosts"), ..Files::default() };
    let resolver = Resolver::with_files(&config, files).unwrap();
    let hop = |name: &str| {
        Question::NextHop(NextHop {
            host: Host::Name(domain(name)),
            port: 5060,
            transport: Transport::Tcp,
        })
    };
    for (question, expected) in [
        (hop("director.contoso.example"), Ok("director.contoso.example:5060 10.0.0.1")),
        (hop("listed.contoso.example"), Ok("listed.contoso.example:5060 10.0.0.2")),
        (hop("nowhere.contoso.example"), Err(ResolveError::NotFound)),
        (Question::Host(domain("listed.contoso.example"), 5061), Err(ResolveError::NotFound)),
        (
            Question::Host(domain("director.contoso.example"), 5061),
            Err(ResolveError::ForbiddenAddress),
        ),
    ] {
        let got = brief(resolver.resolve(&question, Lookup::default()).await);
        assert_eq!(got, expected.map(|text| vec![text.to_owned()]), "{question:?}");
    }
}

#[tokio::test]
async fn without_a_server_there_is_no_resolver() {
    let mut config = tests_support::config();
    config.dns.servers = Vec::new();
    let files = Files { resolv_conf: "/nonexistent".into(), ..Files::default() };
    assert_eq!(Resolver::with_files(&config, files).unwrap_err(), ResolverError::NoServers);
}

/// What DNS says of XMPP servers is a stranger's word, too.
#[tokio::test]
async fn xmpp_servers_are_never_loopback_private_or_ours() {
    use ResolveError as E;

    use crate::xmpp::io::XmppQuestion;

    let server = server(zone, 300).await;
    let resolver = resolver(server.address);
    type Row<'a> = (&'a str, Result<&'a [&'a str], E>);
    let domains: [Row<'_>; 7] = [
        ("good.example", Ok(&["198.18.0.1:5061", "[2a00:1450::1]:5061"])),
        ("liar.example", Err(E::ForbiddenAddress)),
        ("ours.example", Err(E::ForbiddenAddress)),
        ("half.example", Ok(&["8.8.8.8:5061"])),
        ("no.example", Err(E::NoService)),
        ("bare-liar.example", Err(E::ForbiddenAddress)),
        ("bare-ours.example", Err(E::ForbiddenAddress)),
    ];
    let hosts: [Row<'_>; 3] = [
        ("sip.half.example", Ok(&["8.8.8.8:5269"])),
        ("liar.liar.example", Err(E::ForbiddenAddress)),
        ("ours.ours.example", Err(E::ForbiddenAddress)),
    ];
    let domains = domains.map(|(name, found)| (XmppQuestion::Domain(domain(name)), found));
    let hosts = hosts.map(|(name, found)| (XmppQuestion::Host(domain(name), 5269), found));
    for (question, expected) in domains.into_iter().chain(hosts) {
        let got = resolver.xmpp(&question, false).await.map(|(hosts, _)| {
            let mut all: Vec<_> = hosts.iter().map(|host| host.address.to_string()).collect();
            all.sort();
            all
        });
        let expected = expected.map(|all| all.iter().map(ToString::to_string).collect());
        assert_eq!(got, expected, "{question:?}");
    }
}
