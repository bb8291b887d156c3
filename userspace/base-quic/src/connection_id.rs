//! Connection ids of our own: they say which machine and which worker a connection lives on.
//!
//! The form is QUIC-LB's without encryption (draft-ietf-quic-load-balancers): a first byte with the number of the configuration in its
//! highest three bits, the server id (machine and worker), a nonce. The rest of the first byte tells the endpoints apart that have had one
//! port one after another. The last four bytes of the nonce prove that a machine with our keys
//! made it, so that nothing is done for ids that somebody made up.

use crate::keys::QuicKeys;
use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use std::time::Duration;

/// Bytes of an id.
pub const LENGTH: usize = 12;

/// The number of the configuration, which is the only one.
const CONFIGURATION: u8 = 0;

const PROOF: usize = 4;
const PROVED: usize = LENGTH - PROOF;

/// What an id says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub machine: u16,
    pub worker: u8,
    /// Of the endpoints that the port has had, below [`EPOCHS`].
    pub epoch: u8,
}

/// Epochs there are: five bits say which.
pub const EPOCHS: u8 = 32;

/// That of an id's first byte.
pub fn epoch_of(first: u8) -> u8 {
    first % EPOCHS
}

/// A machine's number among those of its cluster, made of its name.
pub fn machine_number(name: &str) -> u16 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let bytes = digest.as_ref();
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// Where the connection lives that has this id; `None` for one that is none of ours.
pub fn decode(id: &[u8], keys: &QuicKeys) -> Option<Place> {
    let id = <&[u8; LENGTH]>::try_from(id).ok()?;
    let (said, proof) = id.split_at(PROVED);
    if id[0] >> 5 != CONFIGURATION || proof != prove(said, keys) {
        return None;
    }
    Some(Place { machine: u16::from_be_bytes([id[1], id[2]]), worker: id[3], epoch: epoch_of(id[0]) })
}

/// Whether an id has the form of those of this machine. It is not proved.
pub fn may_be_of(id: &[u8], machine: u16) -> bool {
    id.len() == LENGTH && id[0] >> 5 == CONFIGURATION && id[1..3] == machine.to_be_bytes()
}

/// The machine that an id of our form names. It is not proved.
pub fn machine_of(id: &[u8]) -> Option<u16> {
    (id.len() == LENGTH && id[0] >> 5 == CONFIGURATION).then(|| u16::from_be_bytes([id[1], id[2]]))
}

/// The id a datagram is addressed to, where that may be one of ours. Clients make up the ids of their first packets, and take ours as
/// soon as they have heard of it: from then on Initials, too, are for a connection that exists. Those with a token (RFC 9000 section
/// 17.2.2) are not looked at, for the first after a Retry has an id of ours and no connection.
pub fn addressed(datagram: &[u8]) -> Option<&[u8]> {
    let (&first, rest) = datagram.split_first()?;
    if first & 0x80 == 0 {
        return rest.get(..LENGTH);
    }
    // A long header: four bytes of version, then the ids.
    let (id, rest) = rest.get(5..)?.split_at_checked(usize::from(rest[4]))?;
    let is_known = match first >> 4 & 3 {
        INITIAL => rest.first().and_then(|length| rest.get(1 + usize::from(*length))) == Some(&0),
        packet => packet == HANDSHAKE,
    };
    (is_known && id.len() == LENGTH).then_some(id)
}

/// Types of packets with long headers.
const INITIAL: u8 = 0;
const HANDSHAKE: u8 = 2;

fn prove(said: &[u8], keys: &QuicKeys) -> [u8; PROOF] {
    let tag = hmac::sign(&keys.ids, said);
    let mut proof = [0; PROOF];
    proof.copy_from_slice(&tag.as_ref()[..PROOF]);
    proof
}

/// Makes the ids of one worker.
pub struct Generator {
    pub place: Place,
    pub keys: QuicKeys,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LENGTH];
        // Without randomness nothing of TLS would go on either.
        aws_lc_rs::rand::fill(&mut id).expect("the operating system gives random bytes");
        id[0] = CONFIGURATION << 5 | epoch_of(self.place.epoch);
        id[1..3].copy_from_slice(&self.place.machine.to_be_bytes());
        id[3] = self.place.worker;
        let proof = prove(&id[..PROVED], &self.keys);
        id[PROVED..].copy_from_slice(&proof);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        // One of another machine is left to it: a reset from here would end what lives there.
        match decode(id, &self.keys) {
            Some(place) if place.machine == self.place.machine => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(worker: u8) -> Generator {
        Generator { place: Place { machine: 0xa55a, worker, epoch: worker % EPOCHS }, keys: QuicKeys::new(&[7; 32]) }
    }

    #[test]
    fn an_id_says_where_its_connection_lives() {
        for worker in [0, 3, 255] {
            let mut generator = generator(worker);
            let (first, second) = (generator.generate_cid(), generator.generate_cid());
            assert_ne!(first, second);
            for id in [first, second] {
                assert_eq!(decode(&id, &generator.keys), Some(generator.place));
                assert!(generator.validate(&id).is_ok());
                assert_eq!(decode(&id, &QuicKeys::new(&[8; 32])), None);
                for place in 0..LENGTH {
                    let mut changed = id.to_vec();
                    changed[place] ^= 1;
                    assert_eq!(decode(&changed, &generator.keys), None, "byte {place}");
                }
                assert_eq!(decode(&id[..LENGTH - 1], &generator.keys), None);
            }
        }
        let place = Place { machine: 1, worker: 0, epoch: 0 };
        let mut elsewhere = Generator { place, keys: QuicKeys::new(&[7; 32]) };
        assert!(generator(0).validate(&elsewhere.generate_cid()).is_err());
    }

    #[test]
    fn which_datagrams_are_addressed_to_ids_of_ours() {
        let id = generator(1).generate_cid();
        let short = [&[0x40][..], &id, b"payload"].concat();
        assert_eq!(addressed(&short), Some(&id[..]));
        let with = |first: u8, id: &[u8], rest: &[u8]| [&[first, 0, 0, 0, 1, id.len() as u8], id, rest].concat();
        let long = |first: u8| with(first, &id, b"\x02me\0payload");
        assert_eq!(addressed(&long(0xe0)), Some(&id[..]), "a handshake packet");
        assert_eq!(addressed(&long(0xc0)), Some(&id[..]), "an Initial of a client that has heard of it");
        assert_eq!(addressed(&with(0xc0, &id, b"\x02me\x05tokenpayload")), None, "the first after a Retry");
        assert_eq!(addressed(&with(0xc0, &id[1..], b"\x02me\0payload")), None, "an id that its client made up");
        assert_eq!(addressed(&long(0xd0)), None, "0-RTT");
        for cut in 0..LENGTH {
            assert_eq!(addressed(&short[..cut + 1]), None);
            assert_eq!(addressed(&long(0xe0)[..cut + 6]), None);
            assert_eq!(addressed(&long(0xc0)[..cut + 6]), None);
        }
    }

    #[test]
    fn machines_have_numbers_of_their_names() {
        assert_eq!(machine_number("edge-1"), machine_number("edge-1"));
        assert_ne!(machine_number("edge-1"), machine_number("edge-2"));
    }
}
