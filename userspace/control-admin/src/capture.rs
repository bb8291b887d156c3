//! Packets for who looks into what the kernel's programs do with them: `GET /capture`, a line of JSON for each.
//!
//! They are what clients send, whole: it takes the role admin, and who asked for which is in the audit log. It ends when its reader
//! leaves, when that one may not any more, and when as many packets or bytes were shown, or as much time is over, as was asked for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use base_model::GoDuration;
use base_text::quoted;
use control_api::Role;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::access::{Caller, caller};
use crate::body::Error;
use crate::routes::Api;
use crate::tap::{self, Shown};
use crate::watch::Ending;

/// `GET /capture?vip=…&reason=…&source=…&flow=…&to=…&rate=…&snap=…`, of all machines or of `member`, `count` packets or `bytes` of them
/// at most, `for` so long: each packet with what became of it. Lines that are none have `missed` (how many were not shown, and where),
/// `warning`, or, at last, `ended`.
pub async fn open(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Error> {
    let (head, _) = request.into_parts();
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&head.uri)
        .map_err(|error| Error::invalid(error.body_text()))?;
    let asked: Vec<String> = query.iter().map(|(key, text)| format!("{key}={text}")).collect();
    let caller = caller();
    let opened = match caller.needs(Role::Admin, None).and_then(|()| Bounds::parse(&query)) {
        Ok((bounds, filter)) => tap::lines(&api, &filter, Shown::Packets).await.map(|lines| (bounds, lines)),
        Err(error) => Err(error),
    };
    let (bounds, lines) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            api.refused_before("capture", &asked, &error);
            return Err(error);
        }
    };
    api.write_down(&caller, "capture", &asked, Ok(api.control.state().view.version));
    let (sender, shown) = mpsc::channel(CHUNKS_WAITING);
    let ending = head.extensions.get::<Ending>().map(|ending| ending.0.clone());
    let reader = Reader { api, caller, head: Request::from_parts(head, Body::empty()), bounds, sender };
    tokio::spawn(async move {
        let ends = async {
            match ending {
                // The sender lives as long as the door.
                Some(mut ending) => drop(ending.wait_for(|ends| *ends).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = reader.relay(lines) => {}
            () = ends => {}
        }
    });
    Ok(tap::answer(shown))
}

/// How much of a capture there is at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    packets: u64,
    bytes: u64,
    time: Duration,
}

impl Bounds {
    /// Also what is left of the question.
    fn parse(query: &[(String, String)]) -> Result<(Bounds, Vec<(String, String)>), Error> {
        let mut bounds = Bounds { packets: u64::MAX, bytes: BYTES, time: TIME };
        let mut rest = Vec::new();
        for (key, text) in query {
            let wrong = |wanted: &str| Error::invalid(format!("{key} = {}: {wanted}", quoted(text)));
            match key.as_str() {
                _ if text.is_empty() => {}
                "count" => {
                    let count = text.parse().ok().filter(|count| *count > 0);
                    bounds.packets = count.ok_or_else(|| wrong("a number of packets, 1 or more"))?;
                }
                "bytes" => {
                    let bytes = text.parse().ok().filter(|bytes| (1..=BYTES_MOST).contains(bytes));
                    bounds.bytes = bytes.ok_or_else(|| wrong("a number of bytes, 1 to 10000000000"))?;
                }
                "for" => {
                    let time = text.parse::<GoDuration>().map(Duration::from).ok();
                    let time = time.filter(|time| !time.is_zero() && *time <= TIME_MOST);
                    bounds.time = time.ok_or_else(|| wrong("a duration up to 1h, such as 30s"))?;
                }
                _ => rest.push((key.clone(), text.clone())),
            }
        }
        Ok((bounds, rest))
    }
}

/// Somebody who is shown packets.
struct Reader {
    api: Arc<Api>,
    caller: Caller,
    /// Of the question: who asks is found out again while it goes on.
    head: Request,
    bounds: Bounds,
    sender: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn relay(self, mut lines: mpsc::Receiver<Bytes>) {
        let Reader { api, caller, head, bounds, sender } = self;
        let stands = move || caller.stands(&api, &head).map_err(|error| error.message);
        let why = bounds.hand_on(&mut lines, &sender, stands).await;
        // The captures end with these, before a reader is waited for who may never read on.
        drop(lines);
        if let Some(why) = why {
            let line = Bytes::from(format!("{}\n", json!({"ended": why})));
            let _ = tokio::time::timeout(GONE, sender.send(line)).await;
        }
    }
}

impl Bounds {
    /// Hands lines on until it ends, and says why it did; nothing when the reader has left. Who does not read on keeps no capture open:
    /// what bounds it is looked at while a line waits for room.
    async fn hand_on(
        &self,
        lines: &mut mpsc::Receiver<Bytes>,
        sender: &mpsc::Sender<Bytes>,
        stands: impl Fn() -> Result<(), String>,
    ) -> Option<String> {
        let until = Instant::now() + self.time;
        let (mut packets, mut bytes) = (0, 0);
        let mut waiting = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let chunk: Bytes = tokio::select! {
                chunk = lines.recv(), if waiting.is_none() => match chunk {
                    Some(chunk) => chunk,
                    None => return Some("no machine shows anything any more".to_owned()),
                },
                room = sender.reserve(), if waiting.is_some() => {
                    room.ok()?.send(waiting.take()?);
                    if packets >= self.packets {
                        return Some("as many packets were shown as were asked for".to_owned());
                    }
                    if bytes >= self.bytes {
                        return Some("as many bytes were shown as may be".to_owned());
                    }
                    continue;
                }
                () = tokio::time::sleep_until(until) => return Some("the time is over".to_owned()),
                () = sender.closed() => return None,
                _ = tick.tick() => match stands() {
                    Ok(()) => continue,
                    Err(why) => return Some(why),
                },
            };
            // Other machines' lines come many at a time.
            let mut shown = 0;
            for line in chunk.split_inclusive(|byte| *byte == b'\n') {
                shown += line.len();
                let Some(length) = packet_bytes(line) else { continue };
                (packets, bytes) = (packets + 1, bytes + length);
                if packets >= self.packets || bytes >= self.bytes {
                    break;
                }
            }
            waiting = Some(chunk.slice(..shown));
            if packets >= self.packets || bytes >= self.bytes {
                // Nobody needs to look for more.
                lines.close();
            }
        }
    }
}

/// Bytes of the packet, of a line that has one.
fn packet_bytes(line: &[u8]) -> Option<u64> {
    let value: Value = serde_json::from_slice(line).ok()?;
    Some(value.get("frame")?.as_str()?.len() as u64 / 4 * 3)
}

/// Bytes of packets that are shown at most, and unless another number is asked for.
const BYTES_MOST: u64 = 10_000_000_000;
const BYTES: u64 = 100_000_000;
/// The same of time.
const TIME_MOST: Duration = Duration::from_secs(3600);
const TIME: Duration = Duration::from_secs(600);
/// How often it is looked whether the reader may still read.
const TICK: Duration = Duration::from_secs(1);
const CHUNKS_WAITING: usize = 64;
/// Who has not read on for so long is not told why it ended.
const GONE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_taken_out_of_the_question() {
        let ask = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
            Bounds::parse(&pairs).map_err(|error| error.message)
        };
        let (bounds, rest) = ask(&[("vip", "shop"), ("count", "7"), ("for", "30s"), ("bytes", "1000")]).unwrap();
        assert_eq!(bounds, Bounds { packets: 7, bytes: 1000, time: Duration::from_secs(30) });
        assert_eq!(rest, [("vip".to_owned(), "shop".to_owned())]);
        assert_eq!(ask(&[]).unwrap().0, Bounds { packets: u64::MAX, bytes: BYTES, time: TIME });
        for (key, text) in
            [("count", "0"), ("count", "x"), ("bytes", "-1"), ("for", "2h"), ("for", "0s"), ("for", "soon")]
        {
            assert!(ask(&[(key, text)]).unwrap_err().starts_with(&format!("{key} = \"{text}\"")));
        }
    }

    #[test]
    fn only_lines_with_a_packet_count() {
        assert_eq!(packet_bytes(b"{\"frame\":\"AAAAAAAA\"}\n"), Some(6));
        assert_eq!(packet_bytes(b"{\"machine\":\"m\",\"missed\":3}\n"), None);
    }

    #[tokio::test]
    async fn who_does_not_read_on_keeps_no_capture_open() {
        let packet = Bytes::from("{\"frame\":\"AAAAAAAA\"}\n");
        let all = Bounds { packets: u64::MAX, bytes: u64::MAX, time: TIME };
        let short = Bounds { time: Duration::from_millis(50), ..all };
        for (bounds, stands, wanted) in [
            (short, Ok(()), Some("the time is over")),
            (all, Err("the token is gone".to_owned()), Some("the token is gone")),
            (Bounds { packets: 2, ..all }, Ok(()), None),
            (Bounds { bytes: 12, ..all }, Ok(()), None),
        ] {
            let (lines, mut shown) = mpsc::channel(4);
            // Room for one line, and nobody takes it out.
            let (sender, _unread) = mpsc::channel(1);
            for _ in 0..4 {
                lines.send(packet.clone()).await.unwrap();
            }
            let relayed = tokio::spawn(async move {
                let why = bounds.hand_on(&mut shown, &sender, || stands.clone()).await;
                drop(shown);
                why
            });
            let waits = Duration::from_secs(60);
            tokio::time::timeout(waits, lines.closed()).await.expect("nobody looks for more packets");
            if let Some(wanted) = wanted {
                assert_eq!(relayed.await.unwrap().as_deref(), Some(wanted));
            } else {
                relayed.abort();
            }
        }
    }
}
