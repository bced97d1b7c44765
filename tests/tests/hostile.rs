//! Bad input from outside and from the administrator: a clear refusal, bounded memory, no panic,
//! and everybody else served as before.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    sync::MutexGuard,
    time::{Duration, Instant},
};

use edge_tests::{
    demo::world::{FEDERATION_PORT, Shared, World, contoso_access, user},
    lab::{
        daemon::binary,
        dns::Record,
        layout::Site,
        process::Process,
        sipp::{Carrier, Play},
        tls_client::{Caller, SipClient, request, unique},
    },
    patience::{BUSY, eventually},
};

/// Bounds of the daemon under test, small enough to be reached.
const CONNECTIONS: usize = 40;
const PER_SOURCE: usize = 16;
/// Time a handshake, and a message, may take here.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(4);
const MESSAGE_LIMIT: Duration = Duration::from_secs(3);
/// What is given up in time is closed within this, also on a machine that is busy.
const IN_TIME: Duration = Duration::from_secs(9);
/// What an attack may make the daemon hold, in KiB, beyond what it held before.
const MEMORY_KIB: u64 = 32 * 1024;

static WORLD: Shared = Shared::new();

fn world() -> MutexGuard<'static, World> {
    WORLD.lock(|| {
        World::raise_with("bad", |config| {
            config
                .limit(&format!("connections = {CONNECTIONS}"))
                .limit(&format!("connections_per_source = {PER_SOURCE}"))
                .limit("handshakes = 32")
                .limit("handshake_timeout = \"4s\"")
                .limit("message_timeout = \"3s\"")
                .allow("elsewhere.example")
                .allow("ours.example")
                .allow("loopback.example")
                .allow("private.example")
        })
    })
}

/// Runs an attack, then demands that the daemon lives, is small, has not panicked, and serves a
/// partner.
fn withstand(world: &World, what: &str, attack: impl FnOnce()) {
    let process = world.contoso.process().unwrap();
    let (id, before) = (process.id(), process.resident_kib().unwrap());
    attack();
    let process = world.contoso.process().unwrap();
    let after = process.resident_kib().unwrap();
    assert_eq!(process.id(), id);
    assert!(after < before + MEMORY_KIB, "{what}: {before} KiB before, {after} KiB after");
    let log = world.contoso.log();
    assert!(!log.contains("panicked"), "{what}: {log}");
    let served = world.play(Play::Message, Site::Fabrikam, Site::Contoso, Carrier::Tcp);
    assert!(served.is_ok(), "{what}: partner no longer served: {served:?}");
}

fn stranger(world: &World) -> Caller<'_> {
    world.caller(Site::Stranger, None)
}

/// Evil's certificate chains to the trust store: it gets a session, and proves nothing of use.
fn session(world: &World) -> SipClient {
    let caller = world.caller(Site::Evil, Some(&world.lab.identities.evil));
    caller.tls(contoso_access()[0], &Site::Contoso.host()).unwrap()
}

/// Runs a command that should end by itself; its exit code and all it said.
fn to_the_end(world: &World, command: std::process::Command) -> (Option<i32>, String) {
    let log = world.lab.dir().join(format!("command-{}.log", unique()));
    let mut process = Process::spawn("command", command, &log).unwrap();
    let status = process.wait(BUSY).unwrap();
    (status.code(), process.log())
}

/// Whether the other side closes within `limit`; what it says before is read and dropped.
fn closes(stream: &mut TcpStream, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let mut buffer = [0_u8; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

/// Bytes without a pattern (a linear congruence), the same in every run.
fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn garbage_instead_of_tls_closes_the_connection() {
    let world = world();
    withstand(&world, "garbage", || {
        for to in contoso_access() {
            for bytes in
                [garbage(64 * 1024), b"INVITE sip:a SIP/2.0\r\n\r\n".to_vec(), vec![0; 512]]
            {
                let mut stream = stranger(&world).tcp(to).unwrap();
                let _ = stream.write_all(&bytes);
                assert!(closes(&mut stream, IN_TIME));
            }
        }
    });
}

#[test]
fn a_handshake_that_stops_in_the_middle_is_given_up_in_time() {
    let world = world();
    // A record header that promises 512 bytes of ClientHello, and a few of them.
    let begin = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &garbage(20)].concat();
    withstand(&world, "truncated TLS", || {
        let mut cut_off = stranger(&world).tcp(contoso_access()[0]).unwrap();
        cut_off.write_all(&begin).unwrap();
        cut_off.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(closes(&mut cut_off, IN_TIME));

        let mut silent = stranger(&world).tcp(contoso_access()[1]).unwrap();
        silent.write_all(&begin).unwrap();
        let begun = Instant::now();
        assert!(closes(&mut silent, IN_TIME));
        assert!(begun.elapsed() > HANDSHAKE_LIMIT / 2, "a slow handshake was cut too soon");
    });
}

#[test]
fn garbage_inside_tls_closes_the_connection() {
    let world = world();
    withstand(&world, "garbage in TLS", || {
        for bytes in [garbage(100_000), b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()] {
            let mut client = session(&world);
            let _ = client.write(&bytes);
            assert!(client.closed_within(IN_TIME));
        }
    });
}

#[test]
fn a_header_of_ten_megabytes_is_cut_off_early() {
    let world = world();
    withstand(&world, "10 MB header", || {
        let mut client = session(&world);
        client.write(b"OPTIONS sip:a@contoso.example SIP/2.0\r\nSubject: ").unwrap();
        let chunk = [b'x'; 16 * 1024];
        let written = (0..640).take_while(|_| client.write(&chunk).is_ok()).count();
        assert!(written < 640, "all 10 MB were taken");
        assert!(client.closed_within(IN_TIME));
    });
}

#[test]
fn a_body_longer_than_allowed_is_refused_before_it_is_read() {
    let world = world();
    withstand(&world, "huge body", || {
        let mut client = session(&world);
        let head = request("MESSAGE", "mallory@evil.example", &user(Site::Contoso), "evil");
        let (head, _) = head.split_once("Content-Length").unwrap();
        client.write(format!("{head}Content-Length: 4000000000\r\n\r\n").as_bytes()).unwrap();
        assert!(client.closed_within(IN_TIME));
    });
}

#[test]
fn a_sender_that_dawdles_is_given_up_in_time() {
    let world = world();
    withstand(&world, "slow sender", || {
        let mut client = session(&world);
        let message = request("MESSAGE", "mallory@evil.example", &user(Site::Contoso), "evil");
        let begun = Instant::now();
        let cut = message.bytes().any(|byte| {
            let closed = client.closed_within(Duration::from_millis(150));
            closed || client.write(&[byte]).is_err()
        });
        assert!(cut, "a message of {} bytes was taken one by one", message.len());
        assert!(begun.elapsed() < MESSAGE_LIMIT * 3, "{:?}", begun.elapsed());
    });
}

#[test]
fn one_source_cannot_take_all_connections() {
    let world = world();
    withstand(&world, "connections of one source", || {
        let (held, refused) = fill(&world, Site::Evil, contoso_access()[0].ip(), PER_SOURCE + 8);
        assert!(held.len() <= PER_SOURCE, "{} connections of one source", held.len());
        assert!(refused >= 8);
        let served = world.play(Play::Message, Site::Fabrikam, Site::Contoso, Carrier::Tcp);
        assert!(served.is_ok(), "a partner is shut out: {served:?}");
    });
}

#[test]
fn a_full_connection_table_keeps_who_proved_something_lets_others_in_and_recovers() {
    let world = world();
    withstand(&world, "full table", || {
        let ids = &world.lab.identities;
        let fabrikam = world.caller(Site::Fabrikam, Some(&ids.fabrikam));
        let message =
            request("OPTIONS", &user(Site::Fabrikam), &user(Site::Contoso), &Site::Fabrikam.host());
        let mut old = fabrikam.tls(contoso_access()[0], &Site::Contoso.host()).unwrap();
        assert!(old.ask(&message).is_ok());
        let mut held = Vec::new();
        for site in [Site::Evil, Site::Stranger, Site::Northwind, Site::Adatum] {
            for address in contoso_access() {
                held.extend(fill(&world, site, address.ip(), PER_SOURCE).0);
            }
        }
        let open = connections(&world);
        assert!(open <= CONNECTIONS, "{open} connections are held");
        assert!(old.ask(&message).is_ok(), "an old connection was dropped for newcomers");
        let mut other = fabrikam.tls(contoso_access()[0], &Site::Contoso.host()).unwrap();
        assert!(other.ask(&message).is_ok(), "no room for a partner beside who asks for nothing");
        drop(held);
        eventually("there is room again", || connections(&world) < CONNECTIONS / 2);
    });
}

/// How many connections the daemon holds.
fn connections(world: &World) -> usize {
    let status = world.contoso.status().unwrap();
    status["connections"].as_array().unwrap().len()
}

/// Opens up to `count` sessions from a site and keeps those that the daemon keeps.
fn fill(world: &World, site: Site, to: IpAddr, count: usize) -> (Vec<SipClient>, usize) {
    let caller = world.caller(site, Some(&world.lab.identities.evil));
    let to = (to, FEDERATION_PORT).into();
    let mut held = Vec::new();
    for _ in 0..count {
        let Ok(mut client) = caller.tls(to, &Site::Contoso.host()) else { continue };
        if !client.closed_within(Duration::from_millis(20)) {
            held.push(client);
        }
    }
    let refused = count - held.len();
    (held, refused)
}

#[test]
fn dns_answers_that_lie_lead_nowhere() {
    let mut world = world();
    let lie = |domain: &str, address: &str| {
        let host = format!("sip.{domain}");
        let address = Record::address(&host, address.parse().unwrap());
        [Record::federation(domain, &host, 5061), address]
    };
    let mut records = vec![Record::federation("elsewhere.example", &Site::Fabrikam.host(), 5061)];
    records.extend(lie("ours.example", &Site::Contoso.v4().to_string()));
    records.extend(lie("loopback.example", "127.0.0.1"));
    records.extend(lie("private.example", &Site::Contoso.server4().to_string()));
    world.lab.dns.replace(records).unwrap();

    let inside =
        Caller { namespace: world.lab.inside(Site::Contoso), ..world.caller(Site::Contoso, None) };
    withstand(&world, "lying DNS", || {
        // No record that may be used, or no address that may.
        let lies = [
            ("elsewhere.example", "foreign-target"),
            ("ours.example", "forbidden-address"),
            ("loopback.example", "forbidden-address"),
            ("private.example", "forbidden-address"),
        ];
        let refused = |reason| world.contoso.refusals(reason).unwrap();
        for (domain, reason) in lies {
            // A domain asked for before these records were there is not there for a while.
            eventually(&format!("{domain} is refused as {reason}"), || {
                let before = refused(reason);
                let mut client = inside.plain(world.contoso.config.inside_address()).unwrap();
                let message =
                    request("MESSAGE", &user(Site::Contoso), &format!("x@{domain}"), "server")
                        .replace("SIP/2.0/TLS", "SIP/2.0/TCP");
                let answer = client.ask(&message).unwrap();
                assert!(answer.status >= 400, "{domain}: {}", answer.text);
                let counted = refused(reason) > before;
                std::thread::sleep(Duration::from_millis(if counted { 0 } else { 300 }));
                counted
            });
        }
    });
}

#[test]
fn a_blocked_domain_cannot_choose_whom_we_drop() {
    let mut world = world();
    let host = "sip.thief.example";
    let mut records = vec![Record::federation("thief.example", host, 5061)];
    let victims = [
        IpAddr::V4(Site::Fabrikam.v4()),
        IpAddr::V6(Site::Fabrikam.v6()),
        IpAddr::V4(Site::Contoso.v4()),
        IpAddr::V4(Site::Contoso.server4()),
        IpAddr::V4(Site::Dns.v4()),
        "127.0.0.1".parse().unwrap(),
    ];
    records.extend(victims.map(|address| Record::address(host, address)));
    records.push(Record::address(host, "192.0.2.200".parse().unwrap()));
    world.lab.dns.replace(records).unwrap();
    withstand(&world, "block of a thief", || {
        let answer = world.contoso.json(&["domain", "block", "thief.example"]).unwrap();
        let blocks = world.contoso.json(&["block", "list"]).unwrap().to_string();
        for victim in victims {
            assert!(!blocks.contains(&format!("\"{victim}/")), "{victim}: {answer} {blocks}");
        }
        assert!(blocks.contains("192.0.2.200/32"), "{answer} {blocks}");
    });
    world.contoso.json(&["domain", "unblock", "thief.example"]).unwrap();
    let blocks = world.contoso.json(&["block", "list"]).unwrap().to_string();
    assert!(!blocks.contains("192.0.2.200/32"), "{blocks}");
}

#[test]
fn a_blocked_domain_with_a_thousand_addresses_takes_at_most_64_entries() {
    let mut world = world();
    let host = "sip.many.example";
    let mut records = vec![Record::federation("many.example", host, 5061)];
    records.extend((0..1000_u32).map(|number| {
        let [_, _, high, low] = number.to_be_bytes();
        Record::address(host, IpAddr::from([203, 0, 113 - high, low]))
    }));
    world.lab.dns.replace(records).unwrap();
    withstand(&world, "thousand addresses", || {
        let answer = world.contoso.json(&["domain", "block", "many.example"]).unwrap();
        let blocks = world.contoso.json(&["block", "list"]).unwrap();
        let entries = blocks.as_array().unwrap().len();
        assert!(entries <= 64, "{entries} entries: {answer}");
    });
    world.contoso.json(&["domain", "unblock", "many.example"]).unwrap();
}

#[test]
fn a_configuration_that_cannot_be_read_is_refused_with_its_name() {
    let world = world();
    let dir = world.lab.dir().join("bad-files");
    std::fs::create_dir_all(dir.join("folder")).unwrap();
    std::fs::write(dir.join("binary"), garbage(4096)).unwrap();
    std::fs::write(dir.join("syntax"), "[edge\n").unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    let good = std::fs::read_to_string(world.contoso.file()).unwrap();
    std::fs::write(dir.join("unknown"), good.replace("[dns]", "[dns]\nservres = 1")).unwrap();
    std::fs::write(dir.join("certificate"), good.replace("contoso.pem", "nothing.pem")).unwrap();
    for name in ["missing", "folder", "binary", "syntax", "empty", "unknown", "certificate"] {
        let file = dir.join(name);
        for command in ["check", "run"] {
            let mut process = std::process::Command::new(binary().unwrap());
            process.args([command, "-c"]).arg(&file);
            let (code, said) = to_the_end(&world, process);
            assert_eq!(code, Some(2), "{command} {name}: {said}");
            assert!(said.contains(&file.display().to_string()), "{command} {name}: {said}");
            assert!(!said.contains("panicked"), "{command} {name}: {said}");
        }
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let world = world();
    withstand(&world, "second daemon", || {
        // The same configuration: the same folders.
        let mut command = world.contoso.namespace().command(binary().unwrap());
        command.args(["run", "-c"]).arg(world.contoso.file());
        let (code, said) = to_the_end(&world, command);
        assert!(code.is_some_and(|code| code != 0), "{said}");
        assert!(said.contains("another edge daemon"), "{said}");

        // Its own folders and ports, but the same interface.
        let dir = world.lab.dir().join("second");
        for folder in ["state", "run"] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let pins = format!("/sys/fs/bpf/{}-second", world.lab.prefix());
        let text = world.contoso.config.to_toml(&dir, pins.as_ref()).unwrap();
        let file = dir.join("edge.toml");
        std::fs::write(&file, text.replace(":5061", ":6061").replace(":5060", ":6060")).unwrap();
        let mut command = world.contoso.namespace().command(binary().unwrap());
        command.args(["run", "-c"]).arg(&file);
        let (code, said) = to_the_end(&world, command);
        assert!(code.is_some_and(|code| code != 0), "{said}");
        assert!(said.contains("ext0") || said.contains("int0"), "the device is not named: {said}");
    });
}

#[test]
fn unsolicited_datagrams_to_a_resolvers_port_are_dropped() {
    let world = world();
    let before = world.counters().unwrap().dropped().unwrap();
    let target = Site::Contoso.v4();
    let socket =
        world.lab.site(Site::Stranger).run(|| std::net::UdpSocket::bind("0.0.0.0:53")).unwrap();
    let socket = socket.unwrap();
    for port in (32_768..33_768_u16).step_by(10) {
        socket.send_to(&[0; 12], (target, port)).unwrap();
    }
    eventually("100 are dropped", || world.counters().unwrap().dropped().unwrap() - before >= 100);
}

#[test]
fn an_edge_that_was_never_started_says_so() {
    let world = world();
    let dir = world.lab.dir().join("never");
    std::fs::create_dir_all(dir.join("run")).unwrap();
    let pins = format!("/sys/fs/bpf/{}-never", world.lab.prefix());
    let file = dir.join("edge.toml");
    std::fs::write(&file, world.contoso.config.to_toml(&dir, pins.as_ref()).unwrap()).unwrap();
    let output = std::process::Command::new(binary().unwrap())
        .args(["domain", "list", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
