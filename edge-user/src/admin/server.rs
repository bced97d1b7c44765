//! The daemon's end of the control socket: who may ask, how much, and for how long.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tracing::{info, warn};

use super::protocol::{MAX_REQUEST_BYTES, Request, Response, SOCKET_NAME};

/// Requests at one time; more wait in the socket's backlog.
const CONCURRENT: usize = 16;
/// Time to send a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
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

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(
        &self,
        caller: Caller,
        request: Request,
    ) -> impl Future<Output = Result<serde_json::Value, String>> + Send;
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
    let response = match answer(&mut stream, group, handler).await {
        Ok(ok) => Response::Done { ok },
        Err(error) => Response::Failed { error },
    };
    let Ok(mut line) = serde_json::to_vec(&response) else { return };
    line.push(b'\n');
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, stream.write_all(&line)).await;
}

async fn answer<H: Handler>(
    stream: &mut UnixStream,
    group: Option<u32>,
    handler: &H,
) -> Result<serde_json::Value, String> {
    let credentials = stream.peer_cred().map_err(|error| format!("who asks? {error}"))?;
    let caller = Caller { uid: credentials.uid(), pid: credentials.pid() };
    if !allowed(credentials.uid(), credentials.gid(), group) {
        warn!(%caller, "a control request was refused");
        return Err("only root, the daemon's own user and group `edge` may ask".to_owned());
    }
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST_BYTES as u64 + 1));
    tokio::time::timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line))
        .await
        .map_err(|_| "the request took too long".to_owned())?
        .map_err(|error| format!("the request could not be read: {error}"))?;
    if line.len() > MAX_REQUEST_BYTES {
        return Err(format!("a request has at most {MAX_REQUEST_BYTES} bytes"));
    }
    let request: Request = serde_json::from_slice(&line)
        .map_err(|error| format!("the request cannot be read: {error}"))?;
    let changes = request.changes();
    let text = format!("{request:?}");
    let result = handler.handle(caller, request).await;
    if changes {
        match &result {
            Ok(_) => info!(%caller, change = text, "an administrator changed something"),
            Err(error) => warn!(%caller, change = text, %error, "a change was refused"),
        }
    }
    result
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
        async fn handle(&self, _caller: Caller, request: Request) -> Result<Value, String> {
            match request {
                Request::Reload => Err("no".to_owned()),
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
            async fn handle(&self, caller: Caller, _request: Request) -> Result<Value, String> {
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
