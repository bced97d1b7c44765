use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    config::{Revocation, tests_support::Folder},
    net::testing::{Authority, Leaf, PATIENCE, loopback, write_files},
};

#[test]
fn urls_are_read_strictly() {
    let name = |text: &str| UrlHost::Name(text.parse().unwrap());
    let address = |text: &str| UrlHost::Address(text.parse().unwrap());
    for (text, expected) in [
        ("http://crl.example.com/a.crl", Some((name("crl.example.com"), 80))),
        ("HTTP://CRL.example.com:8080/a", Some((name("crl.example.com"), 8080))),
        ("http://crl.example.com", Some((name("crl.example.com"), 80))),
        ("http://crl.example.com?x=/y", Some((name("crl.example.com"), 80))),
        ("http://192.0.2.1:81/", Some((address("192.0.2.1"), 81))),
        ("http://[2001:db8::1]/", Some((address("2001:db8::1"), 80))),
        ("http://[2001:db8::1]:82/", Some((address("2001:db8::1"), 82))),
        ("http://crl.example.com:0/", None),
        ("http://crl.example.com:99999/", None),
        ("http://crl.example.com:+8/", None),
        ("http://user@crl.example.com/", None),
        ("http://localhost/", None),
        ("http://[::1/", None),
        ("http:///x", None),
        ("http://crl.example.com/a b", None),
        ("http://crl.example.com/\r\nX: y", None),
        ("https://crl.example.com/", None),
        ("ldap://crl.example.com/", None),
        ("http:/", None),
    ] {
        let got = Url::parse(text).ok().map(|url| (url.host, url.port));
        assert_eq!(got, expected, "{text}");
    }
}

/// Answers every request with these pieces, one every 50 ms, and closes; tells what it was asked.
async fn server(pieces: Vec<Vec<u8>>) -> (Url, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (pieces, tell) = (pieces.clone(), tell.clone());
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let _ = tell.send(String::from_utf8_lossy(&request[..read]).into_owned());
                for piece in pieces {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    (Url::parse(&format!("http://crl.example.com:{port}/a/b.crl?c")).unwrap(), told)
}

async fn get(pieces: &[&[u8]], most: usize, time: Duration) -> Result<Vec<u8>, FetchError> {
    let (url, mut told) = server(pieces.iter().map(|piece| piece.to_vec()).collect()).await;
    let got = http::get(&[[127, 0, 0, 1].into()], &url, most, time).await;
    let asked = told.recv().await.unwrap();
    assert!(asked.starts_with("GET /a/b.crl?c HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("\r\nHost: crl.example.com:{}\r\n", url.port)), "{asked}");
    got
}

#[tokio::test]
async fn every_way_of_saying_how_long_a_body_is() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";
    let join = |parts: &[&[u8]]| parts.concat();
    let chunked = b"Transfer-Encoding: chunked\r\n\r\n";
    type Row = (Vec<Vec<u8>>, Result<&'static [u8], FetchError>);
    let rows: Vec<Row> = vec![
        (vec![join(&[OK, b"Content-Length: 3\r\n\r\nabc"])], Ok(b"abc")),
        (vec![join(&[OK, b"content-length: 3\r\n\r\nab"]), b"c".to_vec()], Ok(b"abc")),
        (vec![join(&[OK, b"Content-Length: 3\r\n\r\nabcdef"])], Ok(b"abc")),
        (vec![join(&[OK, b"\r\nabc"]), b"def".to_vec()], Ok(b"abcdef")),
        (vec![b"HTTP/1.0 200 OK\r\n\r\nabc".to_vec()], Ok(b"abc")),
        (vec![join(&[OK, chunked, b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"])], Ok(b"abc")),
        (vec![join(&[OK, chunked, b"2\r\na"]), b"b\r\n0\r\n\r\n".to_vec()], Ok(b"ab")),
        (
            vec![join(&[OK, b"Content-Length: 4\r\n\r\nabc"])],
            Err(FetchError::Broken("shorter than it says")),
        ),
        (vec![join(&[OK, chunked, b"2\r\nab\r\n"])], Err(FetchError::Broken("no last chunk"))),
        (
            vec![join(&[OK, chunked, b"2\r\nabcd\r\n0\r\n\r\n"])],
            Err(FetchError::Broken("a bad chunk")),
        ),
        (vec![join(&[OK, chunked, b"ffffffffffffffff\r\n0\r\n\r\n"])], Err(FetchError::TooLarge)),
        (vec![join(&[OK, b"Content-Length: 101\r\n\r\n"])], Err(FetchError::TooLarge)),
        (vec![join(&[OK, b"\r\n", &[b'x'; 101]])], Err(FetchError::TooLarge)),
        (
            vec![join(&[OK, b"Content-Encoding: gzip\r\n\r\nabc"])],
            Err(FetchError::Broken("an encoding that was not asked for")),
        ),
        (
            vec![b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n".to_vec()],
            Err(FetchError::Redirect(302)),
        ),
        (vec![b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec()], Err(FetchError::Status(404))),
        (vec![b"SSH-2.0-x\r\n\r\n".to_vec()], Err(FetchError::Broken("no status line"))),
        (vec![b"HTTP/1.1 200 OK\r\nX".to_vec()], Err(FetchError::Broken("no whole head"))),
        (vec![vec![b'x'; 20_000]], Err(FetchError::Broken("a long head"))),
    ];
    for (pieces, expected) in rows {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let got = get(&pieces, 100, PATIENCE).await;
        assert_eq!(got, expected.map(<[u8]>::to_vec), "{:?}", String::from_utf8_lossy(pieces[0]));
    }
}

#[tokio::test]
async fn a_slow_server_is_given_up() {
    let pieces: Vec<&[u8]> =
        std::iter::once(&b"HTTP/1.1 200 OK\r\n\r\n"[..]).chain([&b"x"[..]; 400]).collect();
    let began = Instant::now();
    let got = get(&pieces, 1000, Duration::from_millis(300)).await;
    assert_eq!(got, Err(FetchError::Timeout));
    // Its whole answer would take 20 s.
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let list = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".to_vec();
    let (url, _told) = server(vec![list]).await;
    let addresses = [[127, 0, 0, 2].into(), [127, 0, 0, 1].into()];
    assert_eq!(http::get(&addresses, &url, 10, PATIENCE).await, Ok(b"x".to_vec()));
    let none = http::get(&[], &url, 10, PATIENCE).await;
    assert!(matches!(none, Err(FetchError::Connect(_))));
}

struct Lab {
    tls: Arc<TlsStore>,
    resolver: Arc<Resolver>,
    partners: Authority,
    _folder: Folder,
}

fn lab() -> Lab {
    let folder = Folder::new();
    let partners = Authority::new("partners' root");
    let own = Authority::new("our root").dns(&["edge.contoso.example"]);
    let mut config = loopback(write_files(&folder, "edge", &own, &partners.pem));
    config.federation.allow_addresses = vec!["10.0.0.0/8".parse().unwrap()];
    config.revocation = Revocation { points: true, ..Revocation::default() };
    let tls = Arc::new(TlsStore::load(&config).unwrap());
    Lab { tls, resolver: Resolver::new(&config).unwrap(), partners, _folder: folder }
}

#[tokio::test]
async fn a_place_at_an_address_of_ours_or_inside_is_never_asked() {
    let lab = lab();
    let (url, mut told) = server(vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()]).await;
    let (tell, mut hosts) = mpsc::channel(1);
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "192.168.1.1", "169.254.1.1"] {
        let point = format!("http://{host}:{}/x", url.port);
        let chain: Chain = lab.partners.dns(&["a.example"]).chain().into();
        let got = fetched(Arc::clone(&lab.tls), &lab.resolver, &point, chain, &tell).await;
        assert_eq!(got.unwrap_err(), CrlError::Fetch(FetchError::ForbiddenAddress), "{host}");
    }
    assert!(told.try_recv().is_err(), "nobody connected");
    assert!(hosts.try_recv().is_err(), "and nobody is kept out of the blocks for it");
    assert!(lab.resolver.may_be_used("10.1.2.3".parse().unwrap()), "the configuration names it");
}

/// Over a socket, but for the look-up of the address (a server on this machine is never asked).
#[tokio::test]
async fn a_served_list_comes_in_force_and_a_refused_one_does_not() {
    let lab = lab();
    let own = lab.partners.issue(&Leaf { dns: &["a.example"], ..Leaf::default() });
    let chain = own.chain();
    let forger = Authority::new("partners' root");
    let mut points = CrlPoints::default();
    for (list, taken) in [
        (forger.crl(&[&own], (2024, 2044)), false),
        (lab.partners.crl(&[&own], (2024, 2044)), true),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", list.len());
        let (url, _told) = server(vec![answer.into_bytes(), list]).await;
        let point = "http://crl.example.com/a/b.crl";
        points.want(Instant::now(), point);
        points.take_due(Instant::now());
        let bytes = http::get(&[[127, 0, 0, 1].into()], &url, MAX_LIST, TIME).await.unwrap();
        let list = RevocationList::read(&bytes, Some(point.into())).unwrap();
        let result = lab.tls.check_list(&chain, &list).map(|()| list).map_err(CrlError::from);
        settle(&lab.tls, &mut points, point, result);
        assert_eq!(lab.tls.is_revoked(&own.names()), taken);
        points = CrlPoints::default();
    }
}

#[tokio::test]
async fn the_hosts_of_lists_are_told_and_taken_back_with_their_places() {
    let lab = lab();
    let chain: Chain = lab.partners.dns(&["a.example"]).chain().into();
    let heard = std::sync::Mutex::new(Vec::new());
    let listen = || std::mem::take(&mut *heard.lock().unwrap());
    let (tell, mut told) = mpsc::channel(16);
    for (point, address) in [
        ("http://10.1.2.3/a.crl", "10.1.2.3"),
        ("http://[64:ff9b::a01:204]/b.crl", "64:ff9b::a01:204"),
    ] {
        let address: IpAddr = address.parse().unwrap();
        let mut places = Places {
            tls: Arc::clone(&lab.tls),
            points: CrlPoints::default(),
            chains: HashMap::new(),
            hosts: |point: Box<str>, addresses: Vec<IpAddr>| {
                heard.lock().unwrap().push((point.into_string(), addresses));
            },
        };
        places.want(point.into(), Arc::clone(&chain));
        let (due, chain) = places.take_due().unwrap();
        // Before anybody connects.
        let (tls, resolver) = (Arc::clone(&lab.tls), Arc::clone(&lab.resolver));
        let fetching = tokio::spawn(fetch(tls, resolver, due, chain, tell.clone()));
        places.told(told.recv().await.unwrap());
        fetching.abort();
        assert_eq!(listen(), [(point.to_owned(), vec![address])]);
        // Its place goes, here because another takes the room.
        places.points.forget(point);
        places.want("http://10.1.2.9/c.crl".into(), Arc::clone(&places.chains[point]));
        assert_eq!(listen(), [(point.to_owned(), vec![])]);
        // What a fetch tells after that counts for nothing.
        places.told(Told::Host(point.into(), vec![address]));
        assert_eq!(listen(), []);
    }
}
