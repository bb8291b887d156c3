//! A topic of Kafka. Lines are the sink's once all replicas in sync have them.

use super::{Sent, Sink, TIMEOUT};
use crate::frame::Line;
use base_model::{KafkaSinkSpec, MtlsSpec};
use bytes::Bytes;
use edge_kafka::{Access, Chain, Producer, Record, SendError};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub struct KafkaSink {
    producer: Arc<Producer>,
    topic: Arc<str>,
    shown: String,
}

impl KafkaSink {
    /// The error says which certificate cannot be used.
    pub fn new(spec: &KafkaSinkSpec) -> Result<KafkaSink, String> {
        let access = Access::new(spec.mtls.as_ref(), spec.sasl.as_ref());
        let access = access.map_err(|error| format!("mtls.{}: {}", MtlsSpec::field_of(error.part), error.text))?;
        let shown = format!("{} of {}", spec.topic, spec.brokers.join(", "));
        let producer = Producer::of(&spec.brokers, &access);
        Ok(KafkaSink { producer, topic: spec.topic.as_str().into(), shown })
    }
}

impl Sink for KafkaSink {
    fn send(&mut self, lines: &[Line], until: &dyn Fn() -> Option<Instant>) -> Sent {
        let last = Instant::now() + 3 * TIMEOUT;
        let (mut rest, mut refused) = (lines, None);
        loop {
            match self.send_chain(rest, &|| until().map_or(last, |until| until.min(last))) {
                Ok(()) => break,
                // Everything before it was taken. Those after it are another chain, or they would wait for ever.
                Err((taken, SendError::Unfit(why))) => {
                    rest = rest.get(taken + 1..).unwrap_or_default();
                    refused = Some((refused.map_or(0, |(count, _)| count) + 1, why));
                }
                // So many are at fault that no try gets to the end.
                Err(_) if refused.is_some() && lines.len() > 1 && Instant::now() >= last => {
                    return Sent::Smaller("no answer in time".to_owned());
                }
                Err((_, error)) => return Sent::Later(None, why(&error)),
            }
        }
        match refused {
            Some((count, why)) => Sent::Except(count, why),
            None => Sent::Taken,
        }
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}

impl KafkaSink {
    /// In their order; the error says how many were taken before it.
    fn send_chain(&self, lines: &[Line], until: &dyn Fn() -> Instant) -> Result<(), (usize, SendError)> {
        let (told, hear) = channel();
        let chain = EndsWithIt(Chain::default());
        for line in lines {
            let timestamp_ms = i64::try_from(line.at / 1_000_000).unwrap_or(i64::MAX);
            let value = Bytes::copy_from_slice(&line.text);
            let record = Record { topic: self.topic.clone(), key: None, value, timestamp_ms };
            let told = told.clone();
            let done = Box::new(move |sent| drop(told.send(sent)));
            self.producer.send_in_order(record, &chain.0, done).map_err(|error| (0, error))?;
        }
        // All of them are sent again where one was not taken, and none after that one was: they stay in order, and none is left out.
        let mut taken = 0;
        while taken < lines.len() {
            let failed = |why: &str| Err((taken, SendError::Failed(why.to_owned())));
            match hear.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(())) => taken += 1,
                Ok(Err(error)) => return Err((taken, error)),
                Err(RecvTimeoutError::Disconnected) => return failed("its producer has ended"),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until() => return failed("no answer in time"),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(())
    }
}

/// What is still on its way when a try is over goes no further: it comes again.
struct EndsWithIt(Chain);

impl Drop for EndsWithIt {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn why(error: &SendError) -> String {
    match error {
        SendError::Full => "too much waits for Kafka already".to_owned(),
        SendError::Failed(why) | SendError::Unfit(why) => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;
    use base_testing::kafka::{Broker, TOO_LARGE};

    /// One that stopped the others for ever: they are a chain.
    #[test]
    fn a_line_that_is_too_large_for_the_broker_stops_no_others() {
        let broker = Broker::that(|_, values| {
            let large = values.iter().any(|value| value.starts_with(b"large"));
            if large { TOO_LARGE } else { 0 }
        });
        let spec = KafkaSinkSpec { brokers: vec![broker.address()], topic: "t".to_owned(), ..KafkaSinkSpec::default() };
        let mut sink = KafkaSink::new(&spec).unwrap();
        let mut send = |texts: &[&str]| {
            let line = |text: &&str| Line { kind: Kind::Access, at: 1, text: text.as_bytes().into() };
            sink.send(&texts.iter().map(line).collect::<Vec<_>>(), &|| None)
        };
        let sent = send(&["line-1", "line-2", "large", "line-3", "large", "line-4"]);
        assert!(matches!(&sent, Sent::Except(2, why) if why.contains("larger than the broker takes")), "{sent:?}");
        assert_eq!(broker.values(), ["line-1", "line-2", "line-3", "line-4"], "each of them once, in their order");
        let sent = send(&["large"]);
        assert!(matches!(&sent, Sent::Except(1, _)), "{sent:?}");
        assert!(matches!(send(&["line-5"]), Sent::Taken));
    }
}
