//! An inside server that keeps every request as it came, byte for byte, and answers 200.

use std::{
    collections::HashSet,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::net::Shutdown;

use super::netns::Namespace;

/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// The running server; dropping it ends it.
pub struct Recorder {
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Listens at `address` in `namespace`, over TCP.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace.listen(address).context("recorder")?;
        listener.set_nonblocking(true)?;
        Ok(Self::of(move |kept, ended| serve(&listener, kept, ended)))
    }

    /// The same over UDP.
    pub fn start_udp(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = namespace.udp(address).context("recorder")?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(Self::of(move |kept, ended| serve_udp(&socket, kept, ended)))
    }

    fn of(serve: impl FnOnce(&Mutex<Vec<Vec<u8>>>, &AtomicBool) + Send + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, ended) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = std::thread::spawn(move || serve(&kept, &ended));
        Self { requests, stop, thread: Some(thread) }
    }

    /// The next request, taken out of the record.
    pub fn next(&self, limit: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Ok(mut requests) = self.requests.lock()
                && !requests.is_empty()
            {
                return Ok(requests.remove(0));
            }
            std::thread::sleep(LOOK);
        }
        bail!("no request within {limit:?}")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, requests: &Mutex<Vec<Vec<u8>>>, stop: &AtomicBool) {
    let mut connections: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            connections.push((stream, Vec::new()));
        }
        connections.retain_mut(|(stream, unread)| read(stream, unread, requests).is_ok());
        std::thread::sleep(LOOK);
    }
    // At once, whoever has a copy of them: a child that is started has all sockets of this process
    // until it has become its program.
    let _ = rustix::net::shutdown(listener, Shutdown::Both);
    for (stream, _) in &connections {
        let _ = rustix::net::shutdown(stream, Shutdown::Both);
    }
}

fn serve_udp(socket: &UdpSocket, requests: &Mutex<Vec<Vec<u8>>>, stop: &AtomicBool) {
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut came: HashSet<Vec<u8>> = HashSet::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let request = buffer[..length].to_vec();
        let _ = socket.send_to(answer(&request).as_bytes(), from);
        // One that is sent again, because the answer was slow, is the same request.
        if came.insert(request.clone())
            && let Ok(mut requests) = requests.lock()
        {
            requests.push(request);
        }
    }
}

fn read(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    requests: &Mutex<Vec<Vec<u8>>>,
) -> io::Result<()> {
    let mut buffer = [0_u8; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => unread.extend_from_slice(&buffer[..length]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    while let Some(length) = whole(unread) {
        let request: Vec<u8> = unread.drain(..length).collect();
        stream.write_all(answer(&request).as_bytes())?;
        if let Ok(mut requests) = requests.lock() {
            requests.push(request);
        }
    }
    Ok(())
}

/// Length of the first whole message.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]);
    let body = header(&text, "content-length").and_then(|value| value.parse::<usize>().ok());
    let length = head + body.unwrap_or(0);
    (bytes.len() >= length).then_some(length)
}

fn answer(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let copied = ["via", "from", "to", "call-id", "cseq"];
    let mut answer = String::from("SIP/2.0 200 OK\r\n");
    for line in text.lines().take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
        if copied.contains(&name.as_str()) {
            let tag = if name == "to" && !line.contains(";tag=") { ";tag=recorder" } else { "" };
            answer.push_str(&format!("{line}{tag}\r\n"));
        }
    }
    answer + "Content-Length: 0\r\n\r\n"
}

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
