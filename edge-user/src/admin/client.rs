//! The command's end of the control socket.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

use super::protocol::{Request, Response, SOCKET_NAME};

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
    /// The connection broke.
    #[error("the daemon's answer did not arrive: {0}")]
    Broken(std::io::Error),
    /// The answer is no JSON.
    #[error(
        "the daemon's answer cannot be read ({0}); are `edge` and the daemon the same version?"
    )]
    Unreadable(serde_json::Error),
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

/// Answers of the daemon are at most this long, in bytes.
const MAX_RESPONSE_BYTES: u64 = 256 * 1024 * 1024;

/// Asks the daemon whose socket lies in `run`.
pub fn ask(run: &Path, request: &Request) -> Result<Value, ClientError> {
    let socket = run.join(SOCKET_NAME);
    let mut stream = UnixStream::connect(&socket)
        .map_err(|error| ClientError::NotRunning { socket: socket.display().to_string(), error })?;
    let exchange = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let mut line = serde_json::to_string(request).map_err(std::io::Error::other)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new((&stream).take(MAX_RESPONSE_BYTES)).read_line(&mut answer)?;
        Ok(answer)
    };
    let mut exchange = exchange;
    let answer = exchange().map_err(ClientError::Broken)?;
    match serde_json::from_str(&answer).map_err(ClientError::Unreadable)? {
        Response::Done { ok } => Ok(ok),
        Response::Failed { error } => Err(ClientError::Refused(error)),
    }
}
