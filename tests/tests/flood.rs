//! A SYN flood from made-up sources over a real wire: clients connect and talk meanwhile, whoever
//! was connected stays so, what is forged does not pass, and it ends by itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    mem::size_of,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use edge_ebpf::verdict::Reason;
use edge_tests::{
    bench::{
        median,
        raw::{self, Tiny},
    },
    lab::counters::Counters,
    packets::{self, ACK, SYN},
    patience::{BUSY, eventually},
    wire::{EDGE4, EDGE6, FrameSender, PEER4, PEER6, Wire, ifindex},
};
use edge_user::{
    config::{FirewallRule, Protocol, Zone},
    firewall::{Owner, OwnerOptions},
};

const PORT: u16 = 7000;
/// New connections a second beyond which cookies are sent: fewer than a row, so that the first one
/// begins the flood.
const ABOVE: u32 = 200;
/// Sources of each family that are made up.
const SOURCES: u16 = 8192;
/// SYNs in a row.
const ROW: usize = 256;
/// How long the flood lasts, and longer on a machine that is busy, until the clients have seen it.
const FLOOD: Duration = Duration::from_secs(4);
/// Connections of each family that the driver's cookies are to open.
const ENOUGH: usize = 5;
/// Forged frames of each family after each row.
const FORGED: usize = 4;
/// How long a client waits for its connection: a SYN that got no room in the wire's queue is sent
/// again after one, three, seven and fifteen seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// `TCPI_OPT_TIMESTAMPS` and `TCPI_OPT_WSCALE` (linux/tcp.h), which no cookie of ours offers.
const LARGE_OPTIONS: u8 = 1 | 4;

const BOTH: [(IpAddr, IpAddr); 2] =
    [(IpAddr::V4(PEER4), IpAddr::V4(EDGE4)), (IpAddr::V6(PEER6), IpAddr::V6(EDGE6))];

/// Answers every connection with what it says.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn talk(stream: &mut TcpStream, words: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(words)?;
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard)?;
    assert_eq!(heard, words);
    Ok(())
}

fn connect(to: IpAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), PATIENCE)?;
    talk(&mut stream, b"OPTIONS sip:edge")?;
    Ok(stream)
}

/// Whether the connection was opened with one of the driver's cookies: those offer a segment size
/// and nothing else, the stack's SYN-ACK offers all.
fn by_our_cookie(stream: &TcpStream) -> bool {
    // SAFETY: plain numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer is as long as is said.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    info.tcpi_options & LARGE_OPTIONS == 0
}

/// One of the numbers of our stack (`/proc/net/snmp` and `netstat`).
fn stack(wire: &Wire, group: &str, name: &str) -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let text = wire
        .edge
        .run(|| read("/proc/thread-self/net/snmp") + &read("/proc/thread-self/net/netstat"))
        .unwrap();
    let mut lines = text.lines().filter(|line| line.split(':').next() == Some(group));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|n| n == name).unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

fn segment(from: IpAddr, to: IpAddr, port: u16, flags: u8) -> Vec<u8> {
    packets::summed(packets::frame(from, to, 6, &packets::tcp(port, PORT, flags)))
}

/// One of the sources that are made up.
fn made_up(number: u16, four: bool) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if four { [198, 18, high, low].into() } else { [0x2001, 0xdb9, number, 0, 0, 0, 0, 1].into() }
}

/// What the sender sent.
#[derive(Default, Debug)]
struct Sent {
    syns: AtomicU64,
    forged: AtomicU64,
    /// The clients have seen [`ENOUGH`].
    seen: AtomicBool,
}

/// SYNs from made-up sources, and between them ACKs that nobody has asked for: from made-up
/// sources, and from one that is really there.
fn flood(stop: &AtomicBool, sent: &Sent) {
    let frames = |flags| {
        let frame = |number: u16, (_, to): (IpAddr, IpAddr)| {
            segment(made_up(number, to.is_ipv4()), to, 1024 + number, flags)
        };
        (0..SOURCES).flat_map(|number| BOTH.map(|ends| frame(number, ends))).collect()
    };
    let (syns, mut acks): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (frames(SYN), frames(ACK));
    acks.truncate(2 * FORGED);
    acks.extend(BOTH.map(|(from, to)| segment(from, to, 4001, ACK)));
    let mut wire = FrameSender::open("peer0").unwrap();
    let mut send = |frames: &[Vec<u8>], count: &AtomicU64| {
        let sent = frames.iter().filter(|frame| wire.send(frame).unwrap()).count();
        count.fetch_add(sent as u64, Ordering::Relaxed);
    };
    let began = Instant::now();
    let mut rows = syns.chunks(ROW).cycle();
    let is_over = || {
        let limit = if sent.seen.load(Ordering::Relaxed) { FLOOD } else { BUSY };
        stop.load(Ordering::Relaxed) || began.elapsed() > limit
    };
    while !is_over() {
        send(rows.next().unwrap(), &sent.syns);
        send(&acks, &sent.forged);
        thread::sleep(Duration::from_micros(500));
    }
}

/// What the good clients saw.
#[derive(Default, Debug)]
struct Seen {
    connected: usize,
    by_our_cookie: [usize; 2],
    failed: Vec<String>,
    milliseconds: Vec<f64>,
}

/// Connects again and again, and talks; and talks on the connections from before.
fn good_client(stop: &AtomicBool, sent: &Sent, old: &mut [TcpStream]) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        for (number, (_, to)) in BOTH.into_iter().enumerate() {
            let began = Instant::now();
            match connect(to) {
                Ok(stream) => {
                    seen.connected += 1;
                    seen.by_our_cookie[number] += usize::from(by_our_cookie(&stream));
                    seen.milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
                }
                Err(fault) => seen.failed.push(format!("{to}: {fault}")),
            }
            if let Err(fault) = talk(&mut old[number], b"as before") {
                seen.failed.push(format!("the connection from before to {to}: {fault}"));
            }
        }
        let enough = seen.by_our_cookie.iter().all(|count| *count >= ENOUGH);
        sent.seen.fetch_or(enough, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
    }
    seen
}

#[test]
fn in_a_flood_good_clients_connect_and_forged_segments_do_not_pass() {
    // Each processor counts what it takes in, as with a device of several queues. Here there is
    // one queue, taken in by whoever sent last: everybody stays on one processor, servers too.
    raw::stay_on_one_cpu();
    let wire = Wire::new("fl").unwrap();
    wire.know_neighbours().unwrap();
    // The far end's receive queue, into which the answers go, is there only with a program.
    let pass = raw::load(Tiny::Pass).unwrap();
    let _far = wire.peer.run(|| raw::attach(&pass, ifindex("peer0").unwrap())).unwrap().unwrap();
    let config = wire.config_with(|config| {
        config.firewall.flood.syn_cookies_above = ABOVE;
        config.firewall.rules.push(FirewallRule {
            ports: vec![(PORT, PORT)],
            ..FirewallRule::new("service", Zone::External, Protocol::Tcp)
        });
    });
    let start = move || Owner::start(OwnerOptions::new(&config), config).unwrap();
    let (_handle, report) = wire.edge.run(start).unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    for (_, to) in BOTH {
        serve(wire.edge.run(|| TcpListener::bind((to, PORT)).unwrap()).unwrap());
    }
    let counters = Counters::open(&wire.pins).unwrap();
    let packets = |reason| counters.packets(reason).unwrap();

    // Before: the stack answers, with all it has to offer.
    let before = || BOTH.map(|(_, to)| connect(to).unwrap());
    let mut old = wire.peer.run(before).unwrap();
    assert!(!old.iter().any(by_our_cookie));
    assert_eq!(packets(Reason::SynCookie), 0);

    let (resets, failed) =
        (stack(&wire, "Tcp", "OutRsts"), stack(&wire, "TcpExt", "SyncookiesFailed"));
    let (stop, sent) = (AtomicBool::new(false), Sent::default());
    let seen = wire.peer.run(|| {
        thread::scope(|scope| {
            let (stop, sent, old) = (&stop, &sent, &mut old);
            let sender = scope.spawn(move || flood(stop, sent));
            while sent.syns.load(Ordering::Relaxed) < ROW as u64 {
                thread::sleep(Duration::from_millis(5));
            }
            let client = scope.spawn(move || good_client(stop, sent, old));
            let sender = sender.join();
            stop.store(true, Ordering::Relaxed);
            let seen = client.join().unwrap();
            sender.unwrap();
            seen
        })
    });
    let seen = seen.unwrap();
    let (syns, forged) = (sent.syns.into_inner(), sent.forged.into_inner());
    let [answered, bad, dropped] =
        [Reason::SynCookie, Reason::SynCookieBad, Reason::Flood].map(packets);
    eprintln!(
        "{syns} SYNs, {answered} answered, {dropped} not; {forged} forged, {bad} dropped; \
         {} connections, {:?} of them by our cookies; median {:.1} ms; {:?}",
        seen.connected,
        seen.by_our_cookie,
        median(seen.milliseconds.clone()),
        seen.failed,
    );
    assert!(seen.failed.is_empty(), "{:?}", seen.failed);
    assert!(seen.by_our_cookie.iter().all(|count| *count >= ENOUGH), "{seen:?}");
    assert!(answered > syns / 10 * 9, "{answered} of {syns} were answered");
    // None passed: the stack had nothing to refuse.
    assert!(bad > forged / 10 * 9, "{bad} of {forged} forged segments were dropped");
    assert_eq!(stack(&wire, "Tcp", "OutRsts"), resets, "a forged segment passed");
    assert_eq!(stack(&wire, "TcpExt", "SyncookiesFailed"), failed, "a forged segment passed");

    // After: the stack answers again, and segments are not asked any more.
    thread::sleep(Duration::from_secs(3));
    let cookies = packets(Reason::SynCookie);
    let after = wire.peer.run(before).unwrap();
    assert!(!after.iter().any(by_our_cookie));
    assert_eq!(packets(Reason::SynCookie), cookies);
    let bad = packets(Reason::SynCookieBad);
    wire.peer
        .run(|| {
            let mut frames = FrameSender::open("peer0").unwrap();
            for (from, to) in BOTH {
                assert!(frames.send(&segment(from, to, 4001, ACK)).unwrap());
            }
        })
        .unwrap();
    eventually("what passes is refused by the stack", || stack(&wire, "Tcp", "OutRsts") > resets);
    assert_eq!(packets(Reason::SynCookieBad), bad);
    for stream in &mut old {
        talk(stream, b"still here").unwrap();
    }
}
