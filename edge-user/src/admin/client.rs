//! The command's end of the control socket.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{Fault, FaultKind, MAX_REQUEST_BYTES, Request, Response, SOCKET_NAME};

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no daemon answers at {socket}: {error}; start it with `edge run`, or name its configuration with -c"
    )]
    NotRunning {
        /// The socket's path.
        socket: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The caller may not ask.
    #[error(
        "{socket}: {error}; ask as root, or as a member of the group that the socket belongs to (`edge`)"
    )]
    NotAllowed {
        /// The socket's path.
        socket: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// More than the daemon takes.
    #[error(
        "this is longer than the {max} bytes that the daemon takes at once: put a long configuration in the place of the configured file and run `edge reload`"
    )]
    TooLong {
        /// The bound.
        max: usize,
    },
    /// The connection broke.
    #[error("the daemon's answer did not arrive: {0}")]
    Broken(std::io::Error),
    /// The daemon ended while it was listened to.
    #[error("the daemon has ended; start `edge run` again and follow again")]
    Ended,
    /// The answer is no JSON.
    #[error(
        "the daemon's answer cannot be read ({0}); are `edge` and the daemon the same version?"
    )]
    Unreadable(serde_json::Error),
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
    /// The configuration is wrong; nothing was changed.
    #[error("{0}")]
    Configuration(String),
}

/// Answers of the daemon are at most this long, in bytes.
const MAX_RESPONSE_BYTES: u64 = 256 * 1024 * 1024;

/// Asks the daemon whose socket lies in `run`.
pub fn ask(run: &Path, request: &Request) -> Result<Value, ClientError> {
    let mut answers = send(run, request)?;
    let answer = read_line(&mut answers).map_err(ClientError::Broken)?;
    decode(&answer)
}

/// Asks the daemon, and sends what `list` reads after the request.
pub fn ask_with(run: &Path, request: &Request, mut list: impl Read) -> Result<Value, ClientError> {
    let mut answers = send(run, request)?;
    let mut exchange = || -> std::io::Result<String> {
        let mut stream = answers.get_ref();
        // A long list takes its time.
        stream.set_read_timeout(Some(Duration::from_secs(600)))?;
        // The daemon may answer before the end, when it takes no more; what it says counts.
        match std::io::copy(&mut list, &mut stream) {
            Ok(_) => stream.shutdown(std::net::Shutdown::Write)?,
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
        read_line(&mut answers)
    };
    decode(&exchange().map_err(ClientError::Broken)?)
}

/// Asks for lines without end, and gives each to `each` until it answers `false`. Returns as well
/// when the daemon ends; a line that cannot be read is an error.
pub fn follow<T: DeserializeOwned>(
    run: &Path,
    request: &Request,
    mut each: impl FnMut(T) -> bool,
) -> Result<(), ClientError> {
    let mut answers = send(run, request)?;
    decode(&read_line(&mut answers).map_err(ClientError::Broken)?)?;
    // From here on the daemon speaks when there is something to say.
    answers.get_ref().set_read_timeout(None).map_err(ClientError::Broken)?;
    loop {
        let line = read_line(&mut answers).map_err(ClientError::Broken)?;
        if line.is_empty() {
            return Err(ClientError::Ended);
        }
        if !each(serde_json::from_str(&line).map_err(ClientError::Unreadable)?) {
            return Ok(());
        }
    }
}

fn send(run: &Path, request: &Request) -> Result<BufReader<UnixStream>, ClientError> {
    let socket = run.join(SOCKET_NAME);
    let mut line = serde_json::to_string(request).map_err(ClientError::Unreadable)?;
    line.push('\n');
    if line.len() > MAX_REQUEST_BYTES {
        return Err(ClientError::TooLong { max: MAX_REQUEST_BYTES });
    }
    let stream = UnixStream::connect(&socket).map_err(|error| {
        let socket = socket.display().to_string();
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::NotAllowed { socket, error },
            _ => ClientError::NotRunning { socket, error },
        }
    })?;
    let exchange = || -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        (&stream).write_all(line.as_bytes())
    };
    exchange().map_err(ClientError::Broken)?;
    Ok(BufReader::new(stream))
}

fn read_line(answers: &mut BufReader<UnixStream>) -> std::io::Result<String> {
    let mut line = String::new();
    answers.take(MAX_RESPONSE_BYTES).read_line(&mut line)?;
    Ok(line)
}

fn decode(answer: &str) -> Result<Value, ClientError> {
    match serde_json::from_str(answer).map_err(ClientError::Unreadable)? {
        Response::Done { ok } => Ok(ok),
        Response::Failed(Fault { error, kind: FaultKind::Failed }) => {
            Err(ClientError::Refused(error))
        }
        Response::Failed(Fault { error, kind: FaultKind::Configuration }) => {
            Err(ClientError::Configuration(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixListener};

    use super::*;
    use crate::{admin::protocol::SentFile, config::tests_support::Folder};

    #[test]
    fn what_is_too_long_for_the_daemon_is_said_before_it_is_sent() {
        let folder = Folder::new();
        let text = "#".repeat(MAX_REQUEST_BYTES);
        let file = Some(SentFile { name: "edge.toml".into(), text });
        let fault = ask(&folder.0, &Request::ApplyDryRun { file }).unwrap_err();
        assert!(matches!(fault, ClientError::TooLong { .. }), "{fault}");
        assert!(fault.to_string().contains("edge reload"), "{fault}");
    }

    #[test]
    fn who_may_not_ask_is_told_so_and_not_that_no_daemon_runs() {
        if rustix::process::geteuid().is_root() {
            // The system refuses root nothing: the error itself is what can be looked at.
            let error = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            let fault = ClientError::NotAllowed { socket: "s".into(), error };
            assert!(fault.to_string().contains("group"), "{fault}");
            return;
        }
        let folder = Folder::new();
        let _listener = UnixListener::bind(folder.0.join(SOCKET_NAME)).unwrap();
        let rights = std::fs::Permissions::from_mode(0o0);
        std::fs::set_permissions(folder.0.join(SOCKET_NAME), rights).unwrap();
        let fault = ask(&folder.0, &Request::Status).unwrap_err();
        assert!(matches!(fault, ClientError::NotAllowed { .. }), "{fault}");
    }
}
