//! Records for Kafka, from workers that never wait for it.
//!
//! One thread for each list of brokers, and each way to speak to them ([`access`]), sends what all filters hand it, in their order
//! ([`producer`]). While the brokers cannot be reached, records that nobody waits for go to a bounded place on disk (a spool of
//! [`frame`]s), which is their document's ([`waiting`]), and from there to the brokers once they are back, before anything that came later
//! of that document; also after a restart. Each arrives at least once: a batch whose answer was lost is sent again.
//!
//! The client is our own, over proto-kafka. `rdkafka` is librdkafka in C, with threads and queues of its own for each client, which keep in
//! memory alone what was taken note of and are past our bounds and our TLS; `rskafka` wants a Tokio runtime, which the workers' plane has
//! not, and leaves to its caller what is most of this crate: partitions by key, leaders that change, order, and what waits on disk.
#![forbid(unsafe_code)]

pub mod access;
pub mod cluster;
pub mod frame;
pub mod producer;
pub mod stats;
pub mod waiting;

pub use access::Access;
pub use producer::{Chain, Done, Producer, Record, SendError, Sender, shutdown};
pub use stats::{Counts, counts};
pub use waiting::set_directory;
