//! Threads of low priority, for what strangers make us do: TLS handshakes, half a millisecond of
//! CPU each, until the peer has proved who it is.
//!
//! Signalling of good calls runs on threads of its own. When one of these wakes on a core where a
//! handshake is in progress, the kernel lets it run at once; otherwise it waited until the handshake
//! comes to its next pause. A core that signalling has need of all the time still gives handshakes a
//! share by their weight, so that partners can always connect.
//!
//! What is run here is bounded by who runs it (see `limits.handshakes`) and has no timers. A socket
//! comes here for as long as its handshake takes, so that what comes on it wakes these threads and
//! no other; the proven connection goes back to where it came from.

use std::{
    future::Future,
    io,
    os::fd::AsFd as _,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};
use tokio_rustls::server::TlsStream;

/// Weight of these threads (sched(7)): about a third of an ordinary thread's, so that handshakes
/// have their time on a machine that is busy.
const NICE: i32 = 5;
/// How long one of them runs at a time, in nanoseconds: longer than the kernel gives to others.
/// Who has a shorter slice takes the core from it on waking (Linux 6.12; by the weight alone that
/// wakes up to a millisecond late).
const SLICE: u64 = 4_000_000;

/// Where work of low priority is run. Clones are the same.
#[derive(Clone, Debug)]
pub struct LowPriority(Handle);

impl LowPriority {
    /// Starts the threads, one for each core. They end with the runtime that is given.
    ///
    /// # Errors
    /// The system's, when there can be no more threads.
    pub fn start() -> io::Result<(Self, Runtime)> {
        let runtime = Builder::new_multi_thread()
            .enable_io()
            .thread_name("edge-handshake")
            .on_thread_start(|| {
                if let Err(error) = lower_priority() {
                    tracing::warn!(%error, "handshakes have the priority of calls");
                }
            })
            .build()?;
        Ok((Self(runtime.handle().clone()), runtime))
    }

    /// The threads of the runtime in which this is called: no priority of its own.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[cfg(test)]
    pub fn none() -> Self {
        Self(Handle::current())
    }

    /// Makes a handshake there, with a socket of the calling runtime, to which the stream comes
    /// back; with what else is told of it.
    ///
    /// # Errors
    /// The handshake's, and the system's when the socket cannot be moved.
    pub async fn shake<T, E, F>(
        &self,
        socket: TcpStream,
        accept: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> Result<(TlsStream<TcpStream>, T), E>
    where
        T: Send + 'static,
        E: From<io::Error> + Send + 'static,
        F: Future<Output = Result<(TlsStream<TcpStream>, T), E>> + Send,
    {
        let socket = socket.into_std()?;
        let shaking = async move { accept(TcpStream::from_std(socket)?).await };
        let shaken = self.run(shaking).await;
        let ended = || rustls::Error::General("a fault of ours, or the end".to_owned());
        let (mut stream, told) = shaken.unwrap_or_else(|| Err(io::Error::other(ended()).into()))?;
        move_here(stream.get_mut().0)?;
        Ok((stream, told))
    }

    /// Does work there; given up with the future that is returned. `None` when it panicked, or the
    /// threads have ended.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send {
        let work = Arc::new(Mutex::new(Some(Box::pin(work))));
        let shared = Arc::clone(&work);
        let task = self.0.spawn(std::future::poll_fn(move |cx| {
            let mut work = shared.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *work {
                Some(work) => work.as_mut().poll(cx).map(Some),
                None => Poll::Ready(None),
            }
        }));
        GivenUp { task, work }
    }
}

/// Moves a socket to the runtime in which this is called.
fn move_here(socket: &mut TcpStream) -> io::Result<()> {
    // There is no taking out what is in a stream: another descriptor of the same takes its place.
    let same = socket.as_fd().try_clone_to_owned()?;
    *socket = TcpStream::from_std(same.into())?;
    Ok(())
}

/// One thread of them, which does nothing until this is dropped.
#[cfg(test)]
pub(super) struct Busy {
    _until: std::sync::mpsc::Sender<()>,
    runtime: Option<Runtime>,
}

#[cfg(test)]
impl Busy {
    pub(super) fn start() -> (LowPriority, Self) {
        let runtime = Builder::new_multi_thread().enable_io().worker_threads(1).build().unwrap();
        let (until, dropped) = std::sync::mpsc::channel::<()>();
        runtime.spawn(async move {
            let _ = dropped.recv();
        });
        (LowPriority(runtime.handle().clone()), Self { _until: until, runtime: Some(runtime) })
    }

    /// They do nothing any more.
    pub(super) fn end(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// They go on, for good.
    pub(super) fn go_on(mut self) {
        std::mem::forget(self.runtime.take());
    }
}

#[cfg(test)]
impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Work that is given up with whoever waits for it: at once, also when its thread never has a turn,
/// or when the turn it has is over.
struct GivenUp<W, T> {
    task: JoinHandle<Option<T>>,
    work: Arc<Mutex<Option<W>>>,
}

impl<W, T> Future for GivenUp<W, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Ready(ready!(Pin::new(&mut self.task).poll(cx)).ok().flatten())
    }
}

impl<W, T> Drop for GivenUp<W, T> {
    fn drop(&mut self) {
        self.task.abort();
        // Whoever is at it may have lost the core to us: not waited for.
        if let Ok(mut work) = self.work.try_lock() {
            *work = None;
        }
    }
}

/// Lowers the priority of the calling thread for good: whoever else wakes on its core runs at once.
///
/// # Errors
/// The system's; the priority is as it was.
pub fn lower_priority() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        // It takes the core from nobody when it wakes.
        sched_policy: libc::SCHED_BATCH as u32,
        sched_flags: 0,
        sched_nice: NICE,
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says, and keeps none; 0 is this thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Policy and nice value of this thread (proc_pid_stat(5), fields 41 and 19).
    fn scheduling() -> (i32, i32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[41 - 3].parse().unwrap(), fields[19 - 3].parse().unwrap())
    }

    #[tokio::test]
    async fn its_threads_have_a_low_priority_and_ours_keep_theirs() {
        let (low, runtime) = LowPriority::start().unwrap();
        let before = scheduling();
        assert_eq!(low.run(async { scheduling() }).await, Some((libc::SCHED_BATCH, NICE)));
        assert_eq!(scheduling(), before);
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn what_is_given_up_is_dropped_and_a_panic_is_no_answer() {
        let (low, runtime) = LowPriority::start().unwrap();
        let (dropped, when_dropped) = mpsc::channel::<()>();
        let waiting = low.run(async move {
            std::future::pending::<()>().await;
            drop(dropped);
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
        let ended = when_dropped.recv_timeout(PATIENCE);
        assert_eq!(ended, Err(mpsc::RecvTimeoutError::Disconnected));
        let (busy, _until) = Busy::start();
        let (dropped, when_dropped) = mpsc::channel::<()>();
        drop(busy.run(async move { drop(dropped) }));
        assert_eq!(when_dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected), "at once");
        assert_eq!(low.run(async { panic!("a fault of ours") }).await, None::<()>);
        assert_eq!(low.run(async { 7 }).await, Some(7), "the others go on");
        runtime.shutdown_background();
        assert_eq!(low.run(async { 7 }).await, None, "there are none any more");
    }
}
