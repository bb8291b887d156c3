//! Asking a server over HTTP/2.

use crate::data::Data;
use crate::settings::ClientSettings;
use crate::transport::{H2Link, Io};
use base_tls::Transport;
use std::rc::Rc;

/// What requests are sent with; clones share the connection.
pub type SendRequest = h2::client::SendRequest<Data>;

/// The connection itself: a future that somebody polls for as long as there are requests. It ends with the connection.
pub type H2Connection = h2::client::Connection<Io, Data>;

/// Begins HTTP/2 on a connection whose server agreed to it (ALPN), or is known to speak it. Our preface and settings are queued when
/// this returns; the server's settings come while the connection is polled. Its frames are watched.
pub async fn begin(
    transport: Transport,
    settings: &ClientSettings,
) -> Result<(SendRequest, H2Connection, Rc<H2Link>), h2::Error> {
    let link = H2Link::asking(transport);
    let (requests, connection) = settings.builder().handshake(link.io()).await?;
    Ok((requests, connection, link))
}
