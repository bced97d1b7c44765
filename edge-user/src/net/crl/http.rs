//! One GET of HTTP/1.1 (RFC 9112), as much of it as fetching a revocation list needs: no redirect,
//! no connection kept, every size and the whole time bounded.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{domain::Domain, proxy::ResolveError};

/// A response's head at most.
const MAX_HEAD: usize = 8 * 1024;
/// What chunks may add to a body.
const MAX_FRAMING: usize = 64 * 1024;
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 4;
/// One address has this long to accept.
const CONNECT: Duration = Duration::from_secs(3);

/// Why nothing usable came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error("not an http URL of a host")]
    BadUrl,
    #[error("{0}")]
    Dns(#[from] ResolveError),
    #[error("its address is not one that may be connected to")]
    ForbiddenAddress,
    #[error("no connection: {0}")]
    Connect(String),
    #[error("not finished in 10 seconds")]
    Timeout,
    #[error("the server sends us elsewhere (status {0}), which is not followed")]
    Redirect(u16),
    #[error("the server answers with status {0}")]
    Status(u16),
    #[error("larger than 4 MiB")]
    TooLarge,
    #[error("the server's answer is broken: {0}")]
    Broken(&'static str),
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UrlHost {
    Name(Domain),
    Address(IpAddr),
}

/// An `http` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host: UrlHost,
    pub(super) port: u16,
    /// As the `Host` header has it.
    authority: String,
    /// Path and query.
    target: String,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, FetchError> {
        let bad = FetchError::BadUrl;
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        let (scheme, rest) = text.split_at_checked(7).ok_or(FetchError::BadUrl)?;
        if !printable || !scheme.eq_ignore_ascii_case("http://") {
            return Err(bad);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = target.split('#').next().unwrap_or_default();
        let target = if target.starts_with('/') { target.into() } else { format!("/{target}") };
        let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((v6, port)) => {
                let v6 = v6.parse().map_err(|_| FetchError::BadUrl)?;
                (UrlHost::Address(IpAddr::V6(v6)), port.strip_prefix(':'))
            }
            None => {
                let (host, port) = match authority.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (authority, None),
                };
                let host = match host.parse::<IpAddr>() {
                    Ok(address) => UrlHost::Address(address),
                    Err(_) => UrlHost::Name(host.parse().map_err(|_| FetchError::BadUrl)?),
                };
                (host, port)
            }
        };
        let port = match port {
            None | Some("") => 80,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port != 0).ok_or(bad)?
            }
            Some(_) => return Err(bad),
        };
        Ok(Self { host, port, authority: authority.to_owned(), target })
    }
}

/// Gets what is there, from the first address that accepts.
pub(super) async fn get(
    addresses: &[IpAddr],
    url: &Url,
    most: usize,
    time: Duration,
) -> Result<Vec<u8>, FetchError> {
    let getting = async {
        let mut fault = FetchError::Connect("no address".to_owned());
        for address in addresses.iter().take(MAX_ADDRESSES) {
            let to = SocketAddr::new(*address, url.port);
            match tokio::time::timeout(CONNECT, TcpStream::connect(to)).await {
                Ok(Ok(stream)) => return exchange(stream, url, most).await,
                Ok(Err(error)) => fault = FetchError::Connect(error.to_string()),
                Err(_) => fault = FetchError::Connect("timed out".to_owned()),
            }
        }
        Err(fault)
    };
    tokio::time::timeout(time, getting).await.unwrap_or(Err(FetchError::Timeout))
}

async fn exchange(mut stream: TcpStream, url: &Url, most: usize) -> Result<Vec<u8>, FetchError> {
    let broken = |_| FetchError::Broken("the connection failed");
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\nUser-Agent: edge\r\n\
         Connection: close\r\n\r\n",
        url.target, url.authority
    );
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut bytes = Vec::new();
    let mut block = [0; 16 * 1024];
    let mut head = None;
    loop {
        let read = stream.read(&mut block).await.map_err(broken)?;
        bytes.extend_from_slice(block.get(..read).unwrap_or_default());
        if head.is_none() {
            head = Head::read(&bytes)?;
        }
        match &head {
            Some(head) => {
                let body = bytes.get(head.length..).unwrap_or_default();
                if let Some(body) = head.body(body, read == 0, most)? {
                    return Ok(body);
                }
            }
            None if bytes.len() > MAX_HEAD => return Err(FetchError::Broken("a long head")),
            None if read == 0 => return Err(FetchError::Broken("no whole head")),
            None => {}
        }
    }
}

/// A response's head.
struct Head {
    /// Its bytes.
    length: usize,
    body: BodyLength,
}

enum BodyLength {
    Bytes(usize),
    Chunked,
    ToTheEnd,
}

impl Head {
    /// `None`: not whole yet.
    fn read(bytes: &[u8]) -> Result<Option<Self>, FetchError> {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default())
            .map_err(|_| FetchError::Broken("a head that is no text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let mut words = status.split(' ');
        let http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
        match words.next().and_then(|status| status.parse::<u16>().ok()).filter(|_| http) {
            Some(200) => {}
            Some(status @ 300..=399) => return Err(FetchError::Redirect(status)),
            Some(status) => return Err(FetchError::Status(status)),
            None => return Err(FetchError::Broken("no status line")),
        }
        let mut body = BodyLength::ToTheEnd;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err(FetchError::Broken("an encoding that was not asked for"));
                }
                body = BodyLength::Chunked;
            } else if name.eq_ignore_ascii_case("content-encoding")
                && !value.eq_ignore_ascii_case("identity")
            {
                return Err(FetchError::Broken("an encoding that was not asked for"));
            } else if name.eq_ignore_ascii_case("content-length")
                && !matches!(body, BodyLength::Chunked)
            {
                let length =
                    value.parse().map_err(|_| FetchError::Broken("a length that is no number"))?;
                body = BodyLength::Bytes(length);
            }
        }
        Ok(Some(Self { length: end + 4, body }))
    }

    /// The body out of what came so far; `None`: not whole yet.
    fn body(&self, bytes: &[u8], ended: bool, most: usize) -> Result<Option<Vec<u8>>, FetchError> {
        match self.body {
            BodyLength::Bytes(length) if length > most => Err(FetchError::TooLarge),
            BodyLength::Bytes(length) => match bytes.get(..length) {
                Some(body) => Ok(Some(body.to_vec())),
                None if ended => Err(FetchError::Broken("shorter than it says")),
                None => Ok(None),
            },
            BodyLength::ToTheEnd if bytes.len() > most => Err(FetchError::TooLarge),
            BodyLength::ToTheEnd => Ok(ended.then(|| bytes.to_vec())),
            BodyLength::Chunked if bytes.len() > most + MAX_FRAMING => Err(FetchError::TooLarge),
            BodyLength::Chunked if ended || bytes.ends_with(b"0\r\n\r\n") => {
                match unchunk(bytes, most)? {
                    None if ended => Err(FetchError::Broken("no last chunk")),
                    body => Ok(body),
                }
            }
            BodyLength::Chunked => Ok(None),
        }
    }
}

/// The body of chunks; `None`: the last has not come.
fn unchunk(mut bytes: &[u8], most: usize) -> Result<Option<Vec<u8>>, FetchError> {
    let broken = FetchError::Broken("a bad chunk");
    let mut body = Vec::new();
    loop {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n") else { return Ok(None) };
        let (line, rest) = bytes.split_at(end);
        let size = std::str::from_utf8(line).ok().and_then(|line| line.split(';').next());
        let size = size.map(str::trim).filter(|size| !size.starts_with('+'));
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
            return Err(broken);
        };
        if size == 0 {
            return Ok(Some(body));
        }
        if size > most - body.len() {
            return Err(FetchError::TooLarge);
        }
        let Some(chunk) = rest.get(2..2 + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        match rest.get(2 + size..4 + size) {
            Some(b"\r\n") => bytes = rest.get(4 + size..).unwrap_or_default(),
            Some(_) => return Err(broken),
            None => return Ok(None),
        }
    }
}
