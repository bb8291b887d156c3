//! A Jaeger agent: packets of UDP. Nobody says whether they arrive; what is known of that, [`Packets`] says.

use crate::exporter::Outcome;
use crate::packets::Packets;
use bytes::Bytes;
use std::time::Instant;

pub(crate) struct Agent {
    packets: Packets,
}

impl Agent {
    /// Bytes of a packet, at most, as Jaeger's own clients send them.
    pub(crate) const PACKET_MOST: usize = 65_000;

    pub(crate) fn new(place: &str) -> Agent {
        Agent { packets: Packets::new(place) }
    }

    pub(crate) fn place(&self) -> &str {
        self.packets.place()
    }

    /// Sends the packets with so many spans; all of them again later where one could not be sent, or nobody listens there.
    pub(crate) fn send(&mut self, packets: &[Bytes], spans: u64, until: &dyn Fn() -> Option<Instant>) -> Outcome {
        match self.packets.send(packets.iter().map(|packet| &packet[..]), spans, until) {
            Ok(()) => Outcome::Taken,
            Err(error) => Outcome::Later(None, error.to_string()),
        }
    }

    /// Spans that were sent and that nobody was there for, since this was asked last.
    pub(crate) fn unheard(&mut self) -> u64 {
        self.packets.unheard()
    }
}
