//! When a core's time has come: the loop of both shells.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What is due within this time is done together: timers of SIP are hundreds of milliseconds, those
/// of XMPP seconds, and each call of its own costs a wake.
const SLOT: Duration = Duration::from_millis(10);

/// Calls `due` when the time has come that `next` says, which is asked anew after each notice. Ends
/// when `stopped` does.
pub(super) async fn run(
    notice: &Notify,
    stopped: impl Future,
    mut next: impl FnMut() -> Option<Instant>,
    mut due: impl FnMut(),
) {
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let at = next();
        let comes = async {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = comes => {}
            () = notice.notified() => continue,
            _ = &mut stopped => return,
        };
        due();
        // A core that is always late must not take the processor for itself, either.
        tokio::time::sleep(SLOT).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::net::testing::PATIENCE;

    #[tokio::test]
    async fn what_a_notice_brings_forward_is_done_sooner() {
        let (notice, done) = (Notify::new(), Notify::new());
        let (at, times) = (Cell::new(None), Cell::new(0));
        let driven = async {
            at.set(Some(Instant::now() + 10 * PATIENCE));
            notice.notify_one();
            tokio::task::yield_now().await;
            assert_eq!(times.get(), 0);
            at.set(Some(Instant::now()));
            notice.notify_one();
            tokio::time::timeout(PATIENCE, done.notified()).await.unwrap();
        };
        let due = || {
            times.set(times.get() + 1);
            at.set(None);
            done.notify_one();
        };
        run(&notice, driven, || at.get(), due).await;
        assert_eq!(times.get(), 1);
    }
}
