//! The body of an answer: it may come slowly, end early, or never end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use futures_core::Stream;
use tokio::time::Instant;

use super::Behaviour;

/// How long before a connection is cut.
const LEAVE: Duration = Duration::from_millis(20);

/// What follows the last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// The end, as it should be.
    End,
    /// The end of the connection.
    Cut,
    /// Silence.
    Stall,
}

/// Bytes as they come.
pub(crate) struct Flow {
    bytes: Bytes,
    then: Then,
    step: usize,
    clock: Option<tokio::time::Interval>,
    /// Time for what was sent to leave this machine before the connection ends.
    rest: Pin<Box<tokio::time::Sleep>>,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Flow {
    /// The first `limit` bytes, then what is to follow; slowly, if so many are to come in each such time.
    pub(super) fn new(
        mut bytes: Bytes,
        limit: usize,
        then: Then,
        slow: Option<(usize, Duration)>,
        behaviour: Arc<Mutex<Behaviour>>,
    ) -> Self {
        bytes.truncate(limit);
        let clock = slow.map(|(_, time)| tokio::time::interval(time));
        let rest = Box::pin(tokio::time::sleep(Duration::MAX));
        Flow { bytes, then, step: slow.map_or(64 << 10, |(step, _)| step), clock, rest, behaviour }
    }
}

impl Stream for Flow {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.bytes.is_empty() {
            return match self.then {
                Then::End => Poll::Ready(None),
                Then::Cut => {
                    if self.rest.deadline() > Instant::now() + LEAVE {
                        self.rest.as_mut().reset(Instant::now() + LEAVE);
                    }
                    let cut = |()| Some(Err(io::ErrorKind::ConnectionAborted.into()));
                    self.rest.as_mut().poll(context).map(cut)
                }
                // Nobody will wake this task.
                Then::Stall => Poll::Pending,
            };
        }
        if let Some(clock) = &mut self.clock
            && clock.poll_tick(context).is_pending()
        {
            return Poll::Pending;
        }
        let step = self.step.min(self.bytes.len());
        let piece = self.bytes.split_to(step);
        self.behaviour.lock().unwrap().sent += piece.len() as u64;
        Poll::Ready(Some(Ok(piece)))
    }
}
