//! The daemon's end of the control socket: who may ask, how much, and for how long.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tracing::{info, warn};

use super::protocol::{Fault, ListImport, MAX_REQUEST_BYTES, Request, Response, SOCKET_NAME};
use crate::firewall::lists::{LineFault, ListParser, Parsed};

/// Requests at one time; more wait in the socket's backlog.
const CONCURRENT: usize = 16;
/// Time to send a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two pieces of a list.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a whole list.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);
/// One list at a time: each may take some memory.
static LISTS: Semaphore = Semaphore::const_new(1);
/// Time for the other side to take the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Who asks: for the log and for what is kept of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Process id, when the kernel told.
    pub pid: Option<i32>,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uid {}", self.uid)?;
        self.pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"))
    }
}

/// Lines of an answer that goes on until the other side closes.
pub type Lines = tokio::sync::mpsc::Receiver<serde_json::Value>;

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Lines without end for a request that asks for them; `None`: it does not.
    fn follow(&self, _caller: Caller, _request: &Request) -> Option<Result<Lines, String>> {
        None
    }

    /// Answers one request.
    fn handle(
        &self,
        caller: Caller,
        request: Request,
    ) -> impl Future<Output = Result<serde_json::Value, Fault>> + Send;

    /// A list of blocks has at most so many entries.
    fn list_bound(&self) -> usize {
        0
    }

    /// Answers the request to take in a list that was sent along.
    fn take_list(
        &self,
        _caller: Caller,
        _import: ListImport,
        _list: Parsed,
    ) -> impl Future<Output = Result<serde_json::Value, String>> + Send {
        async { Err("lists are not taken here".to_owned()) }
    }
}

/// The listening control socket; its file goes when this does.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    group: Option<u32>,
}

impl ControlSocket {
    /// Listens in the run folder: mode 0660, group `edge` where that group exists.
    ///
    /// The caller holds the run folder's lock, so a socket file that is there already is left
    /// over from a dead daemon.
    pub fn bind(run: &Path) -> io::Result<Self> {
        let path = run.join(SOCKET_NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let group = group_id("edge");
        // Bound under a private name and only then moved, so that it never has other rights.
        let private = run.join(format!(".{SOCKET_NAME}.{}", std::process::id()));
        let _ = std::fs::remove_file(&private);
        let listener = UnixListener::bind(&private)?;
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o660))?;
        if let Some(gid) = group {
            std::os::unix::fs::chown(&private, None, Some(gid))?;
        }
        std::fs::rename(&private, &path)?;
        Ok(Self { listener, path, group })
    }

    /// Serves until the task is dropped.
    pub async fn serve<H: Handler>(self, handler: Arc<H>) {
        let permits = Arc::new(Semaphore::new(CONCURRENT));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = Arc::clone(&handler);
                    let group = self.group;
                    tokio::spawn(async move {
                        serve_one(stream, group, handler.as_ref()).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "the control socket could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_one<H: Handler>(mut stream: UnixStream, group: Option<u32>, handler: &H) {
    let mut lines = None;
    let response = match answer(&mut stream, group, handler, &mut lines).await {
        Ok(ok) => Response::Done { ok },
        Err(fault) => Response::Failed(fault),
    };
    if send(&mut stream, &response).await
        && let Some(lines) = lines
    {
        send_lines(stream, lines).await;
    }
}

/// Whether the other side took it in time.
async fn send(stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> bool {
    let Ok(mut line) = serde_json::to_vec(value) else { return false };
    line.push(b'\n');
    let sent = tokio::time::timeout(ANSWER_TIMEOUT, stream.write_all(&line)).await;
    matches!(sent, Ok(Ok(())))
}

/// Until there are no more lines, or the other side closes or says anything more.
async fn send_lines(stream: UnixStream, mut lines: Lines) {
    let (mut reader, mut writer) = stream.into_split();
    let mut byte = [0; 1];
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) if send(&mut writer, &line).await => {}
                _ => return,
            },
            _ = reader.read(&mut byte) => return,
        }
    }
}

async fn answer<H: Handler>(
    stream: &mut UnixStream,
    group: Option<u32>,
    handler: &H,
    lines: &mut Option<Lines>,
) -> Result<serde_json::Value, Fault> {
    let credentials = stream.peer_cred().map_err(|error| format!("who asks? {error}"))?;
    let caller = Caller { uid: credentials.uid(), pid: credentials.pid() };
    if !allowed(credentials.uid(), credentials.gid(), group) {
        warn!(%caller, "a control request was refused");
        return Err("only root, the daemon's own user and group `edge` may ask".to_owned().into());
    }
    let mut line = Vec::new();
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut first = (&mut reader).take(MAX_REQUEST_BYTES as u64 + 1);
    tokio::time::timeout(REQUEST_TIMEOUT, first.read_until(b'\n', &mut line))
        .await
        .map_err(|_| "the request took too long".to_owned())?
        .map_err(|error| format!("the request could not be read: {error}"))?;
    if line.len() > MAX_REQUEST_BYTES {
        return Err(format!("a request has at most {MAX_REQUEST_BYTES} bytes").into());
    }
    let request: Request = serde_json::from_slice(&line)
        .map_err(|error| format!("the request cannot be read: {error}"))?;
    if let Some(followed) = handler.follow(caller, &request) {
        *lines = Some(followed?);
        return Ok(serde_json::json!({ "follows": true }));
    }
    let changes = request.changes();
    let text = format!("{request:?}");
    let result = match request {
        Request::ListImport(import) => {
            let (bound, file) = (handler.list_bound(), &import.file);
            match list_in_time(&mut reader, bound, file, LIST_TIMEOUT).await {
                Ok(list) => handler.take_list(caller, import, list).await.map_err(Fault::from),
                Err(error) => Err(error.into()),
            }
        }
        request => handler.handle(caller, request).await,
    };
    if changes {
        match &result {
            Ok(_) => info!(%caller, change = text, "an administrator changed something"),
            Err(error) => warn!(%caller, change = text, %error, "a change was refused"),
        }
    }
    result
}

/// Whoever sends a list slowly does not keep others from sending theirs for ever.
async fn list_in_time(
    reader: &mut (impl tokio::io::AsyncBufRead + Unpin),
    bound: usize,
    file: &str,
    within: Duration,
) -> Result<Parsed, String> {
    tokio::time::timeout(within, read_list(reader, bound, file))
        .await
        .map_err(|_| format!("{file}: the list took too long to come"))?
}

/// Reads a list piece by piece: it is never held as text.
async fn read_list(
    reader: &mut (impl tokio::io::AsyncBufRead + Unpin),
    bound: usize,
    file: &str,
) -> Result<Parsed, String> {
    let Ok(_one) = LISTS.try_acquire() else {
        return Err("another list is being sent: try again when that is done".to_owned());
    };
    let fault = |fault: LineFault| format!("{file}:{fault}");
    let mut parser = ListParser::new(bound);
    loop {
        let piece = tokio::time::timeout(PIECE_TIMEOUT, reader.fill_buf())
            .await
            .map_err(|_| format!("{file}: the list took too long to come"))?
            .map_err(|error| format!("{file}: the list could not be read: {error}"))?;
        if piece.is_empty() {
            return parser.finish().map_err(fault);
        }
        parser.push(piece).map_err(fault)?;
        let length = piece.len();
        reader.consume(length);
    }
}

/// Root, the daemon's own user, and the socket's group.
fn allowed(uid: u32, gid: u32, group: Option<u32>) -> bool {
    uid == 0
        || uid == rustix::process::getuid().as_raw()
        || group.is_some_and(|group| gid == group || in_group(uid, group))
}

/// The group's id, from /etc/group.
fn group_id(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Whether the user is listed as a member of the group, in /etc/group and /etc/passwd.
fn in_group(uid: u32, gid: u32) -> bool {
    let Ok(passwd) = std::fs::read_to_string("/etc/passwd") else { return false };
    let Some(user) = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    }) else {
        return false;
    };
    let Ok(groups) = std::fs::read_to_string("/etc/group") else { return false };
    groups.lines().any(|line| {
        let fields: Vec<_> = line.split(':').collect();
        fields.len() == 4
            && fields[2].parse() == Ok(gid)
            && fields[3].split(',').any(|member| member == user)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::admin::client;

    struct Echo;

    impl Handler for Echo {
        async fn handle(&self, _caller: Caller, request: Request) -> Result<Value, Fault> {
            match request {
                Request::Reload => Err("no".to_owned().into()),
                Request::Confirm => Err(Fault::configuration("bad")),
                other => Ok(json!(format!("{other:?}"))),
            }
        }
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("edge-control-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_are_answered_and_errors_reach_the_caller() {
        let run = folder("answers");
        let socket = ControlSocket::bind(&run).unwrap();
        let mode = std::fs::metadata(run.join(SOCKET_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let server = tokio::spawn(socket.serve(Arc::new(Echo)));
        let path = run.clone();
        tokio::task::spawn_blocking(move || {
            assert_eq!(client::ask(&path, &Request::Status).unwrap(), json!("Status"));
            let refused = client::ask(&path, &Request::Reload).unwrap_err();
            assert!(matches!(refused, client::ClientError::Refused(text) if text == "no"));
            let bad = client::ask(&path, &Request::Confirm).unwrap_err();
            assert!(matches!(bad, client::ClientError::Configuration(text) if text == "bad"));
        })
        .await
        .unwrap();
        server.abort();
        let _ = server.await;
        assert!(!run.join(SOCKET_NAME).exists(), "the socket's file goes with it");
        std::fs::remove_dir_all(run).unwrap();
    }

    #[test]
    fn only_root_the_daemons_user_and_the_group_may_ask() {
        let us = rustix::process::getuid().as_raw();
        let group = 4_000_000_001;
        for (uid, gid, allowed_group, expected) in [
            (0, 0, None, true),
            (us, 65534, None, true),
            (65534, 65534, None, us == 65534),
            (65534, 65534, Some(group), us == 65534),
            (65534, group, Some(group), true),
            (65534, group, None, us == 65534),
        ] {
            let result = allowed(uid, gid, allowed_group);
            assert_eq!(result, expected, "{uid} {gid} {allowed_group:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_caller_is_known_by_what_the_kernel_says() {
        struct Who;
        impl Handler for Who {
            async fn handle(&self, caller: Caller, _request: Request) -> Result<Value, Fault> {
                Ok(json!(caller.to_string()))
            }
        }
        let run = folder("caller");
        let server = tokio::spawn(ControlSocket::bind(&run).unwrap().serve(Arc::new(Who)));
        let path = run.clone();
        let who = tokio::task::spawn_blocking(move || client::ask(&path, &Request::Status));
        let uid = rustix::process::getuid().as_raw();
        let expected = json!(format!("uid {uid} pid {}", std::process::id()));
        assert_eq!(who.await.unwrap().unwrap(), expected);
        server.abort();
        let _ = server.await;
        std::fs::remove_dir_all(run).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_answer_that_goes_on_comes_line_by_line_and_ends_with_either_side() {
        struct Counting(std::sync::Mutex<Option<tokio::sync::mpsc::Sender<Value>>>);
        impl Handler for Counting {
            fn follow(&self, _caller: Caller, request: &Request) -> Option<Result<Lines, String>> {
                let (sender, lines) = tokio::sync::mpsc::channel(4);
                *self.0.lock().unwrap() = Some(sender.clone());
                tokio::spawn(async move {
                    for number in 0.. {
                        if sender.send(json!(number)).await.is_err() {
                            return;
                        }
                    }
                });
                matches!(request, Request::Drops { follow: true, .. }).then_some(Ok(lines))
            }
            async fn handle(&self, _caller: Caller, _request: Request) -> Result<Value, Fault> {
                Ok(json!("one"))
            }
        }
        let run = folder("lines");
        let handler = Arc::new(Counting(std::sync::Mutex::default()));
        let socket = ControlSocket::bind(&run).unwrap();
        let server = tokio::spawn(socket.serve(Arc::clone(&handler)));
        let path = run.clone();
        tokio::task::spawn_blocking(move || {
            let request = Request::Drops { follow: true, filter: Default::default() };
            let mut seen = Vec::new();
            client::follow(&path, &request, |line: u64| {
                seen.push(line);
                seen.len() < 100
            })
            .unwrap();
            assert!(seen.into_iter().eq(0..100), "every line, in order");
            assert_eq!(client::ask(&path, &Request::Status).unwrap(), json!("one"));
        })
        .await
        .unwrap();
        let sender = handler.0.lock().unwrap().take().unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(5), sender.closed()).await;
        assert!(closed.is_ok(), "the daemon notices that the other side is gone");
        server.abort();
        let _ = server.await;
        std::fs::remove_dir_all(run).unwrap();
    }

    /// What is written into the log.
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn import() -> ListImport {
        ListImport {
            name: "a".to_owned(),
            file: "a.txt".to_owned(),
            comment: None,
            seconds: None,
            dry_run: false,
            skip_bad: false,
        }
    }

    #[tokio::test]
    async fn lists_that_are_refused_are_logged_and_a_slow_one_ends() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(subscriber);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut line = serde_json::to_vec(&Request::ListImport(import())).unwrap();
        line.extend_from_slice(b"\n192.0.2.1\n");
        ours.write_all(&line).await.unwrap();
        ours.shutdown().await.unwrap();
        // It takes no list at all.
        serve_one(theirs, None, &Echo).await;
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("a change was refused") && text.contains("a.txt"), "{text}");

        // A byte now and then does not keep the place for ever.
        let (mut slow, reader) = tokio::io::duplex(16);
        let drip = tokio::spawn(async move {
            for _ in 0..400 {
                let _ = slow.write_all(b" ").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let within = Duration::from_millis(300);
        let fault = list_in_time(&mut BufReader::new(reader), 10, "slow", within).await;
        let fault = fault.unwrap_err();
        assert!(fault.contains("took too long"), "{fault}");
        drip.abort();
        let mut next = BufReader::new(&b"192.0.2.1\n"[..]);
        assert_eq!(list_in_time(&mut next, 10, "next", LIST_TIMEOUT).await.unwrap().bad, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_without_end_is_refused_at_its_bound() {
        let run = folder("bound");
        let server = tokio::spawn(ControlSocket::bind(&run).unwrap().serve(Arc::new(Echo)));
        let mut stream = UnixStream::connect(run.join(SOCKET_NAME)).await.unwrap();
        let began = Instant::now();
        let _ = stream.write_all(&vec![b'x'; 2 * MAX_REQUEST_BYTES]).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.is_empty() || answer.contains("at most"), "{answer}");
        assert!(began.elapsed() < Duration::from_secs(4));
        server.abort();
        let _ = server.await;
        std::fs::remove_dir_all(run).unwrap();
    }
}
