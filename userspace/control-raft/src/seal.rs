//! What members sign of the calls they make and the answers they give, and the headers that carry it.

use serde::{Deserialize, Serialize};

/// Answer to [`HELLO`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    pub epoch: String,
}

/// What of a call is signed.
pub struct Call<'a> {
    pub cluster: &'a str,
    pub cluster_id: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    /// Digest of the body.
    pub body: &'a str,
    pub epoch: &'a str,
    pub caller: &'a str,
    pub number: &'a str,
}

impl Call<'_> {
    pub fn parts(&self) -> [&[u8]; 11] {
        [
            b"weir call 1",
            self.cluster.as_bytes(),
            self.cluster_id.as_bytes(),
            self.from.as_bytes(),
            self.to.as_bytes(),
            self.method.as_bytes(),
            self.path.as_bytes(),
            self.body.as_bytes(),
            self.epoch.as_bytes(),
            self.caller.as_bytes(),
            self.number.as_bytes(),
        ]
    }
}

/// `nonce` was drawn by the caller, so that the answer is of now.
pub fn hello_parts<'a>(nonce: &'a str, epoch: &'a str) -> [&'a [u8]; 3] {
    [b"weir hello 1", nonce.as_bytes(), epoch.as_bytes()]
}

/// `call` is the signature of the call: an answer answers one call.
pub fn answer_parts<'a>(call: &'a str, status: &'a str, body: &'a str) -> [&'a [u8]; 4] {
    [b"weir answer 1", call.as_bytes(), status.as_bytes(), body.as_bytes()]
}

/// A line of an answer without end, counted from 0.
pub fn line_parts<'a>(call: &'a str, number: &'a str, line: &'a [u8]) -> [&'a [u8]; 4] {
    [b"weir line 1", call.as_bytes(), number.as_bytes(), line]
}

/// Where a caller asks for the receiver's epoch.
pub const HELLO: &str = "/raft/hello";

/// The cluster's name.
pub const CLUSTER: &str = "x-weir-cluster";
/// The cluster's id, once the caller knows it: two clusters of one name have two.
pub const CLUSTER_ID: &str = "x-weir-cluster-id";
/// Name of the member that calls.
pub const FROM: &str = "x-weir-from";
/// Name of the member that is meant, where the caller knows it.
pub const TO: &str = "x-weir-to";
pub const DIGEST: &str = "x-weir-digest";
pub const EPOCH: &str = "x-weir-epoch";
/// The caller, from its start to its end.
pub const INSTANCE: &str = "x-weir-instance";
pub const NUMBER: &str = "x-weir-number";
pub const SIGNATURE: &str = "x-weir-signature";
pub const NONCE: &str = "x-weir-nonce";
/// Stands for the digest of an answer without end.
pub const ENDLESS: &str = "endless";
