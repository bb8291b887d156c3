//! A topic of Kafka. Lines are the sink's once all replicas in sync have them.

use super::{Sent, Sink, TIMEOUT};
use crate::frame::Line;
use base_model::KafkaSinkSpec;
use bytes::Bytes;
use edge_kafka::{Chain, Producer, Record, SendError};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub struct KafkaSink {
    producer: Arc<Producer>,
    topic: Arc<str>,
    shown: String,
}

impl KafkaSink {
    pub fn new(spec: &KafkaSinkSpec) -> KafkaSink {
        let shown = format!("{} of {}", spec.topic, spec.brokers.join(", "));
        KafkaSink { producer: Producer::of(&spec.brokers), topic: spec.topic.as_str().into(), shown }
    }
}

impl Sink for KafkaSink {
    fn send(&mut self, lines: &[Line], until: &dyn Fn() -> Option<Instant>) -> Sent {
        let (told, hear) = channel();
        let chain = EndsWithIt(Chain::default());
        let mut waits = 0;
        for line in lines {
            let timestamp_ms = i64::try_from(line.at / 1_000_000).unwrap_or(i64::MAX);
            let value = Bytes::copy_from_slice(&line.text);
            let record = Record { topic: self.topic.clone(), key: None, value, timestamp_ms };
            let told = told.clone();
            let done = Box::new(move |sent| drop(told.send(sent)));
            if let Err(error) = self.producer.send_in_order(record, &chain.0, done) {
                return Sent::Later(None, why(&error));
            }
            waits += 1;
        }
        // All of them are sent again where one was not taken, and none after that one was: they stay in order, and none is left out.
        let last = Instant::now() + 3 * TIMEOUT;
        while waits > 0 {
            match hear.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(())) => waits -= 1,
                Ok(Err(error)) => return Sent::Later(None, why(&error)),
                Err(RecvTimeoutError::Disconnected) => return Sent::Later(None, "its producer has ended".to_owned()),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until().map_or(last, |until| until.min(last)) => {
                    return Sent::Later(None, "no answer in time".to_owned());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Sent::Taken
    }

    fn shown(&self) -> &str {
        &self.shown
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
        SendError::Failed(why) => why.clone(),
    }
}
