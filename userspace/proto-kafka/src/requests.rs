//! Requests of a producer, and their answers.

use crate::wire::{Malformed, Reader, Write};

/// What is asked of a broker, with the versions spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Records handed over. 3 is the first with batches of format 2, 7 the last without errors of single records.
    Produce,
    Metadata,
    Versions,
    /// How a user is proved. 1 is the first after which that goes in requests of its own.
    SaslHandshake,
    SaslAuthenticate,
}

impl Api {
    fn key(self) -> i16 {
        match self {
            Api::Produce => 0,
            Api::Metadata => 3,
            Api::Versions => 18,
            Api::SaslHandshake => 17,
            Api::SaslAuthenticate => 36,
        }
    }

    fn spoken(self) -> (i16, i16) {
        match self {
            Api::Produce => (3, 7),
            Api::Metadata => (1, 5),
            Api::Versions => (0, 0),
            Api::SaslHandshake => (1, 1),
            Api::SaslAuthenticate => (0, 1),
        }
    }
}

/// The versions a broker has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions(Vec<(i16, i16, i16)>);

impl Versions {
    /// The latest that both sides speak.
    pub fn of(&self, api: Api) -> Option<i16> {
        let (key, (least, most)) = (api.key(), api.spoken());
        let (_, low, high) = self.0.iter().find(|(known, ..)| *known == key)?;
        let version = most.min(*high);
        (version >= least && version >= *low).then_some(version)
    }
}

const CLIENT: &str = "weir";

fn request(api: Api, version: i16, correlation: i32, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_i32(0);
    out.put_i16(api.key());
    out.put_i16(version);
    out.put_i32(correlation);
    out.put_text(Some(CLIENT));
    body(&mut out);
    let length = (out.len() - 4) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// Asks for the versions. Every broker answers the oldest one.
pub fn versions_request(correlation: i32) -> Vec<u8> {
    request(Api::Versions, 0, correlation, |_| {})
}

pub fn read_versions(answer: &[u8]) -> Result<Versions, Malformed> {
    let mut reader = Reader::new(answer);
    if reader.i16()? != 0 {
        return Err(Malformed("the broker does not tell its versions"));
    }
    reader.list(|r| Ok((r.i16()?, r.i16()?, r.i16()?))).map(Versions)
}

/// Says how a user will be proved.
pub fn handshake_request(version: i16, correlation: i32, mechanism: &str) -> Vec<u8> {
    request(Api::SaslHandshake, version, correlation, |out| out.put_text(Some(mechanism)))
}

/// An error code, and the ways that the broker takes.
pub fn read_handshake(answer: &[u8]) -> Result<(i16, Vec<String>), Malformed> {
    let mut reader = Reader::new(answer);
    let error = reader.i16()?;
    Ok((error, reader.list(|r| Ok(r.text()?.unwrap_or_default()))?))
}

/// What a broker says to a step of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    pub error: i16,
    pub why: Option<String>,
    pub token: Vec<u8>,
}

/// A step of a proof.
pub fn authenticate_request(version: i16, correlation: i32, token: &[u8]) -> Vec<u8> {
    request(Api::SaslAuthenticate, version, correlation, |out| {
        out.put_i32(token.len() as i32);
        out.extend(token);
    })
}

pub fn read_authenticated(answer: &[u8]) -> Result<Authenticated, Malformed> {
    let mut reader = Reader::new(answer);
    let (error, why) = (reader.i16()?, reader.text()?);
    let length = usize::try_from(reader.i32()?.max(0)).unwrap_or(0);
    // How long it holds, which later versions tell, is found out when it no longer does.
    Ok(Authenticated { error, why, token: reader.take(length)?.to_vec() })
}

/// Who is where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub brokers: Vec<Broker>,
    pub topics: Vec<Topic>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub error: i16,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub id: i32,
    pub error: i16,
    /// -1 while it has none.
    pub leader: i32,
}

/// Asks for brokers and the leaders of these topics; topics that do not exist are made where brokers are set to.
pub fn metadata_request(version: i16, correlation: i32, topics: &[&str]) -> Vec<u8> {
    request(Api::Metadata, version, correlation, |out| {
        out.put_i32(topics.len() as i32);
        topics.iter().for_each(|topic| out.put_text(Some(topic)));
        if version >= 4 {
            out.put_i8(1);
        }
    })
}

pub fn read_metadata(version: i16, answer: &[u8]) -> Result<Metadata, Malformed> {
    let mut reader = Reader::new(answer);
    if version >= 3 {
        reader.i32()?;
    }
    let brokers = reader.list(|r| {
        let broker = Broker { id: r.i32()?, host: r.text()?.unwrap_or_default(), port: r.i32()? };
        r.text()?;
        Ok(broker)
    })?;
    if version >= 2 {
        reader.text()?;
    }
    reader.i32()?;
    let topics = reader.list(|r| {
        let error = r.i16()?;
        let name = r.text()?.unwrap_or_default();
        r.i8()?;
        let partitions = r.list(|r| {
            let partition = Partition { error: r.i16()?, id: r.i32()?, leader: r.i32()? };
            r.list(Reader::i32)?;
            r.list(Reader::i32)?;
            if version >= 5 {
                r.list(Reader::i32)?;
            }
            Ok(partition)
        })?;
        Ok(Topic { name, error, partitions })
    })?;
    Ok(Metadata { brokers, topics })
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produced {
    pub topic: String,
    pub partition: i32,
    pub error: i16,
    /// Where its first record is.
    pub offset: i64,
}

/// Hands batches over, each for a topic and a partition; all replicas in sync shall have them within `timeout_ms`.
pub fn produce_request(version: i16, correlation: i32, timeout_ms: i32, batches: &[(&str, i32, Vec<u8>)]) -> Vec<u8> {
    request(Api::Produce, version, correlation, |out| {
        out.put_text(None);
        out.put_i16(-1);
        out.put_i32(timeout_ms);
        out.put_i32(batches.len() as i32);
        for (topic, partition, batch) in batches {
            out.put_text(Some(topic));
            out.put_i32(1);
            out.put_i32(*partition);
            out.put_i32(batch.len() as i32);
            out.extend(batch);
        }
    })
}

pub fn read_produced(version: i16, answer: &[u8]) -> Result<Vec<Produced>, Malformed> {
    let mut reader = Reader::new(answer);
    let topics = reader.list(|r| {
        let topic = r.text()?.unwrap_or_default();
        r.list(|r| {
            let (partition, error, offset) = (r.i32()?, r.i16()?, r.i64()?);
            r.i64()?;
            if version >= 5 {
                r.i64()?;
            }
            Ok(Produced { topic: topic.clone(), partition, error, offset })
        })
    })?;
    Ok(topics.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_version_of_both_is_spoken() {
        let versions = |list: &[(i16, i16, i16)]| Versions(list.to_vec());
        assert_eq!(versions(&[(0, 0, 12), (3, 0, 13)]).of(Api::Produce), Some(7));
        assert_eq!(versions(&[(0, 3, 5)]).of(Api::Produce), Some(5));
        assert_eq!(versions(&[(0, 8, 12)]).of(Api::Produce), None);
        assert_eq!(versions(&[(0, 0, 2)]).of(Api::Produce), None);
        assert_eq!(versions(&[]).of(Api::Metadata), None);
    }

    #[test]
    fn answers_of_brokers() {
        let mut answer = Vec::new();
        answer.put_i32(0);
        answer.put_i32(1);
        answer.put_i32(7);
        answer.put_text(Some("b"));
        answer.put_i32(9092);
        answer.put_text(None);
        answer.put_text(Some("cluster"));
        answer.put_i32(7);
        answer.put_i32(1);
        answer.put_i16(0);
        answer.put_text(Some("t"));
        answer.put_i8(0);
        answer.put_i32(1);
        answer.put_i16(0);
        answer.put_i32(3);
        answer.put_i32(7);
        (0..3).for_each(|_| answer.put_i32(0));
        let metadata = read_metadata(5, &answer).unwrap();
        assert_eq!(metadata.brokers, [Broker { id: 7, host: "b".into(), port: 9092 }]);
        assert_eq!(metadata.topics[0].partitions, [Partition { id: 3, error: 0, leader: 7 }]);
        for cut in 0..answer.len() {
            assert!(read_metadata(5, &answer[..cut]).is_err(), "{cut}");
        }
        let mut answer = Vec::new();
        answer.put_i32(1);
        answer.put_text(Some("t"));
        answer.put_i32(1);
        answer.put_i32(3);
        answer.put_i16(6);
        (0..3).for_each(|_| answer.put_i64(42));
        let produced = read_produced(7, &answer).unwrap();
        assert_eq!(produced, [Produced { topic: "t".into(), partition: 3, error: 6, offset: 42 }]);
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read_or_refused(bytes: Vec<u8>, version in 1i16..6) {
            let _ = (read_versions(&bytes), read_metadata(version, &bytes), read_produced(version + 2, &bytes));
            let _ = (read_handshake(&bytes), read_authenticated(&bytes));
        }
    }
}
