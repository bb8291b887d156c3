//! What a request goes through between router and client: an [`Exchange`] walks the nodes of a [`Pipeline`].
//!
//! Reading order: [`body`] (bytes on their way), `watched` (who looks at them), [`exchange`] (one request and what became of it), [`interim`] (what
//! precedes an answer), [`duplex`] (what follows HTTP), [`capsules`] (the same with datagrams beside it), [`consumers`] (who calls with which key), [`custom_data`] (what users keep in the cluster), [`filter`] (what a station is and how it is built), [`name`] (what pipelines are called), [`pipeline`] (the flow
//! with its jumps), `parallel` (branches of it at the same time), [`trailers`] (what may come after a body), [`grpc`] (what gRPC says in heads and trailers), [`overload`] (what is said of overload, deadlines and repeats), [`template`] (Go's templates, for the filters that build messages), [`rounds`] (requests that come back), [`wire`] (messages of HTTP/1.1 in buffers).
#![forbid(unsafe_code)]

pub mod body;
pub mod capsules;
pub mod consumers;
pub mod custom_data;
pub mod duplex;
pub mod exchange;
pub mod filter;
pub mod grpc;
pub mod interim;
pub mod name;
pub mod overload;
mod parallel;
pub mod pipeline;
pub mod rounds;
pub mod template;
pub mod trailers;
mod watched;
pub mod wire;

pub use body::{Body, BodyError, BodyStream, Piece, Sight};
pub use capsules::{Capsules, Datagrams};
pub use duplex::Duplex;
pub use exchange::{Client, Exchange, Hold, Note, Space, Tags, Try};
pub use filter::{BuildError, Enclosed, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
pub use interim::Interim;
pub use name::PipelineName;
pub use pipeline::{Around, Pipeline, Rest};
pub use template::Template;
pub use watched::{Polled, Watch, Watched};
