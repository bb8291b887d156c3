//! As much of Kafka's protocol as a producer speaks: which versions there are, who leads which partition, and records handed over.
//!
//! No sockets and no clock: requests are written into bytes, answers are read from them. Versions are those that brokers from 0.11 to
//! 4 all have ([`Api`]); users are proved to those from 1.0 on. Reading order: [`requests`], [`batch`] (records as brokers keep them),
//! [`scram`] (a password proved that is not told), [`wire`].
#![forbid(unsafe_code)]

pub mod batch;
pub mod crc32c;
pub mod requests;
pub mod scram;
pub mod wire;

pub use batch::{Record, encode as encode_batch};
pub use requests::{
    Api, Authenticated, Broker, Metadata, Partition, Produced, Topic, Versions, authenticate_request,
    handshake_request, metadata_request, produce_request, read_authenticated, read_handshake, read_metadata,
    read_produced, read_versions, versions_request,
};
pub use scram::Scram;
pub use wire::Malformed;

/// An error code of a broker's in words.
pub fn describe(code: i16) -> &'static str {
    match code {
        0 => "no error",
        1 => "the offset is out of range",
        2 => "the message is corrupt",
        3 => "there is no such topic or partition",
        5 => "the partition has no leader",
        6 => "the broker does not lead the partition",
        7 => "the request timed out on the broker",
        9 => "a replica is not available",
        10 => "the message is larger than the broker takes",
        17 => "not the name of a topic",
        18 => "the batch is larger than the broker takes",
        19 => "too few replicas are in sync",
        20 => "too few replicas are in sync after it was written",
        29 => "not allowed to write to the topic",
        31 => "not allowed in the cluster",
        32 => "the broker takes no record of this time",
        33 => "the broker does not prove users this way",
        34 => "a request that has no place there: the broker wants a user first, or none",
        35 => "the version of the request is not known",
        44 => "the policy of the cluster forbids it",
        56 => "the broker's disk has failed",
        58 => "the user or its password is not right",
        87 => "the record is invalid",
        _ => "an error that this producer does not know",
    }
}

/// Whether what is to be written is at fault, and not who writes it, where or when: too large, of a time that is not taken, without the key
/// that a compacted topic wants.
pub fn is_of_record(code: i16) -> bool {
    matches!(code, 2 | 10 | 18 | 32 | 87)
}

/// Whether the same request may do better later, or with another broker.
pub fn is_passing(code: i16) -> bool {
    matches!(code, 3 | 5 | 6 | 7 | 8 | 9 | 13 | 14 | 15 | 16 | 19 | 20 | 56 | 72 | 75 | 78)
}
