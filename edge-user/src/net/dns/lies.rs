//! Name servers that lie, are broken, or are slow: nothing hangs, nothing is learned of another
//! name, and one of two that works is enough.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::net::UdpSocket;

use super::{
    tests::{a, brief, domain, federation, srv},
    *,
};
use crate::net::testing::{PATIENCE, tests_support};

/// A datagram that is sent back, after a while, from the server's own port or another.
struct Sent {
    after: Duration,
    by_other: bool,
    bytes: Vec<u8>,
}

impl Sent {
    fn now(bytes: Vec<u8>) -> Self {
        Self { after: Duration::ZERO, by_other: false, bytes }
    }
}

/// A server by UDP alone.
async fn server(
    answers: impl Fn(&Message, &Query) -> Vec<Sent> + Send + Sync + 'static,
) -> SocketAddr {
    let bind = async || Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let (own, other) = (bind().await, bind().await);
    let address = own.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = own.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            for one in answers(&question, &question.queries[0]) {
                let by = Arc::clone(if one.by_other { &other } else { &own });
                tokio::spawn(async move {
                    tokio::time::sleep(one.after).await;
                    let _ = by.send_to(&one.bytes, from).await;
                });
            }
        }
    });
    address
}

fn answer(question: &Message) -> Message {
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    answer
}

fn with(question: &Message, records: Vec<Record>) -> Vec<u8> {
    let mut answer = answer(question);
    answer.add_answers(records);
    answer.to_vec().unwrap()
}

fn failed(question: &Message, code: ResponseCode) -> Vec<u8> {
    let mut answer = answer(question);
    answer.metadata.response_code = code;
    answer.to_vec().unwrap()
}

fn record(name: &str, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), 300, data)
}

fn alias(name: &Name, of: &str) -> Record {
    let of = RData::CNAME(rdata::CNAME(Name::from_ascii(of).unwrap()));
    Record::from_rdata(name.clone(), 300, of)
}

/// What an honest server says of any domain: one edge, at this address.
fn honest(question: &Message, query: &Query, address: &str) -> Vec<u8> {
    let name = query.name().to_ascii();
    let data = match query.query_type() {
        RecordType::SRV => {
            let domain = name.split_once("._tcp.").unwrap().1;
            vec![record(&name, srv(0, &format!("sip.{domain}")))]
        }
        RecordType::A => vec![record(&name, a(address))],
        _ => Vec::new(),
    };
    with(question, data)
}

fn resolver(servers: &[SocketAddr], timeout: Duration) -> Arc<Resolver> {
    let mut config = tests_support::config();
    config.dns.servers = servers.to_vec();
    config.dns.timeout = timeout;
    Resolver::new(&config).unwrap()
}

async fn ask(servers: &[SocketAddr], name: &str) -> Result<Vec<String>, ResolveError> {
    let began = Instant::now();
    let resolver = resolver(servers, Duration::from_millis(500));
    let found = brief(federation(&resolver, &domain(name), false).await);
    assert!(began.elapsed() < PATIENCE, "{name}: {:?}", began.elapsed());
    found
}

fn at(domain: &str, address: &str) -> Result<Vec<String>, ResolveError> {
    Ok(vec![format!("sip.{domain}:5061 {address}")])
}

#[tokio::test]
async fn forged_answers_are_passed_over_and_the_right_one_is_waited_for() {
    let server = server(|question, query| {
        let forged = honest(question, query, "9.9.9.9");
        let mut wrong_id = forged.clone();
        wrong_id[0] ^= 1;
        let asked = |name: &str, kind| {
            let mut other = question.clone();
            other.queries[0] = Query::query(Name::from_ascii(name).unwrap(), kind);
            with(&other, vec![record(name, a("9.9.9.9"))])
        };
        let name = query.name().to_ascii();
        let mut unasked = answer(question);
        unasked.queries.clear();
        unasked.add_answer(record(&name, a("9.9.9.9")));
        let right = honest(question, query, "8.8.8.8");
        vec![
            Sent::now(wrong_id),
            Sent { by_other: true, ..Sent::now(forged) },
            Sent::now(asked("other.example.", query.query_type())),
            Sent::now(asked(&name, RecordType::TXT)),
            Sent::now(unasked.to_vec().unwrap()),
            Sent::now(vec![1]),
            Sent::now(vec![]),
            Sent { after: Duration::from_millis(60), ..Sent::now(right) },
        ]
    });
    assert_eq!(ask(&[server.await], "good.example").await, at("good.example", "8.8.8.8"));
}

type Lie = fn(&Message, &Query) -> Vec<u8>;

/// An answer whose name is a pointer to itself.
fn endless_name(question: &Message, _: &Query) -> Vec<u8> {
    let mut bytes = answer(question).to_vec().unwrap();
    (bytes[7], bytes[11]) = (1, 0);
    let here = u16::try_from(bytes.len()).unwrap() | 0xc000;
    bytes.extend(here.to_be_bytes());
    bytes.extend([0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 1, 1, 1]);
    bytes
}

fn cut_short(question: &Message, query: &Query) -> Vec<u8> {
    let mut bytes = honest(question, query, "8.8.8.8");
    bytes.truncate(bytes.len() - 5);
    bytes
}

/// To be asked for by TCP, where nobody listens.
fn truncated(question: &Message, _: &Query) -> Vec<u8> {
    let mut answer = answer(question);
    answer.metadata.truncation = true;
    answer.to_vec().unwrap()
}

#[tokio::test]
async fn what_no_answer_can_be_found_in_has_an_end() {
    use ResolveError as E;
    let lies: [(&str, Lie, E); 8] = [
        ("failed", |q, _| failed(q, ResponseCode::ServFail), E::Unavailable),
        ("refused", |q, _| failed(q, ResponseCode::Refused), E::Unavailable),
        ("truncated", truncated, E::Unavailable),
        ("endless", endless_name, E::Unavailable),
        ("cut", cut_short, E::Unavailable),
        (
            "itself",
            |q, query| with(q, vec![alias(query.name(), &query.name().to_ascii())]),
            E::NotFound,
        ),
        (
            "two",
            |q, query| {
                let name = query.name().to_ascii();
                let other = match name.strip_prefix("x.") {
                    Some(rest) => rest.to_owned(),
                    None => format!("x.{name}"),
                };
                with(q, vec![alias(query.name(), &other)])
            },
            E::NotFound,
        ),
        (
            "chain",
            |q, query| {
                let name = query.name().to_ascii();
                let number: u32 = name.split('.').next().unwrap().parse().unwrap_or(0);
                with(q, vec![alias(query.name(), &format!("{}.chain.example.", number + 1))])
            },
            E::NotFound,
        ),
    ];
    for (what, lie, fault) in lies {
        let server = server(move |q, query| vec![Sent::now(lie(q, query))]).await;
        assert_eq!(ask(&[server], &format!("{what}.example")).await, Err(fault), "{what}");
    }
}

/// The one that fails is the quicker of the two.
#[tokio::test]
async fn one_of_two_name_servers_that_works_is_enough() {
    let late = Duration::from_millis(20);
    let good = server(move |q, query| {
        vec![Sent { after: late, ..Sent::now(honest(q, query, "8.8.8.8")) }]
    });
    let good = good.await;
    let lies: [(&str, Lie); 4] = [
        ("failed", |q, _| failed(q, ResponseCode::ServFail)),
        ("refused", |q, _| failed(q, ResponseCode::Refused)),
        ("no-dns", |q, _| failed(q, ResponseCode::FormErr)),
        ("cut", cut_short),
    ];
    for (what, lie) in lies {
        let bad = server(move |q, query| vec![Sent::now(lie(q, query))]).await;
        for servers in [[bad, good], [good, bad]] {
            let name = format!("{what}.example");
            assert_eq!(ask(&servers, &name).await, at(&name, "8.8.8.8"), "{what}");
        }
    }
}

#[tokio::test]
async fn what_an_answer_says_of_other_names_is_not_kept() {
    let server = server(|question, query| {
        let honest = honest(question, query, "8.8.8.8");
        if !query.name().to_ascii().contains("evil.example") {
            return vec![Sent::now(honest)];
        }
        let mut lie = Message::from_vec(&honest).unwrap();
        let service = record("_sipfederationtls._tcp.good.example.", srv(0, "sip.evil.example."));
        for other in [record("sip.good.example.", a("6.6.6.6")), service] {
            lie.add_answer(other.clone());
            lie.add_authority(other.clone());
            lie.add_additional(other);
        }
        vec![Sent::now(lie.to_vec().unwrap())]
    });
    let resolver = resolver(&[server.await], PATIENCE);
    federation(&resolver, &domain("evil.example"), false).await.unwrap();
    let good = brief(federation(&resolver, &domain("good.example"), false).await);
    assert_eq!(good, at("good.example", "8.8.8.8"));
}

/// A stranger may have as many names as its certificate holds, and name servers that never answer.
#[tokio::test]
async fn names_whose_servers_are_silent_hold_up_no_other() {
    let server = server(|question, query| match query.name().to_ascii().contains("silent") {
        true => Vec::new(),
        false => vec![Sent::now(honest(question, query, "8.8.8.8"))],
    });
    // Each is waited for this long at the least.
    let long = Duration::from_secs(10);
    let resolver = resolver(&[server.await], long);
    let mut silent = tokio::task::JoinSet::new();
    for n in 0..2 * MAX_QUICK {
        let resolver = Arc::clone(&resolver);
        silent.spawn(async move {
            federation(&resolver, &domain(&format!("silent{n}.example")), false).await
        });
    }
    tokio::task::yield_now().await;
    let began = Instant::now();
    let good = brief(federation(&resolver, &domain("good.example"), false).await);
    assert_eq!(good, at("good.example", "8.8.8.8"));
    assert!(began.elapsed() < long, "{:?}", began.elapsed());
    assert!(silent.try_join_next().is_none(), "they are waited for still");
}
