//! The command's end of the control socket.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::de::DeserializeOwned;
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
    let stream = UnixStream::connect(&socket)
        .map_err(|error| ClientError::NotRunning { socket: socket.display().to_string(), error })?;
    let exchange = || -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let mut line = serde_json::to_string(request).map_err(std::io::Error::other)?;
        line.push('\n');
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
        Response::Failed { error } => Err(ClientError::Refused(error)),
    }
}
