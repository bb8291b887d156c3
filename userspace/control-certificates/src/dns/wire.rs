//! As much of DNS as it takes to look for a TXT record (RFC 1035) and to have one put into a zone (RFC 2136, signed by RFC 8945).

use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// A record of this type.
const TXT: u16 = 16;
const SOA: u16 = 6;
const TSIG: u16 = 250;
const IN: u16 = 1;
const NONE: u16 = 254;
const ANY: u16 = 255;

/// How long a server may take.
const ANSWERS: Duration = Duration::from_secs(5);
/// Seconds that clocks may differ.
const FUDGE: u16 = 300;

/// The key that updates are signed with.
#[derive(Clone)]
pub struct Signer {
    name: Vec<u8>,
    algorithm: Vec<u8>,
    key: hmac::Key,
}

/// Addresses of the servers of this machine, with ports.
pub fn resolvers() -> Vec<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim);
    servers.filter(|server| server.parse::<std::net::IpAddr>().is_ok()).map(place).take(3).collect()
}

/// Host and port, which is 53 where it is not said.
pub fn place(server: &str) -> String {
    match server.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(_)) => format!("[{server}]:53"),
        Ok(_) => format!("{server}:53"),
        Err(_) if server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => server.to_owned(),
        Err(_) => format!("{server}:53"),
    }
}

/// The texts of a name; none where there is no such record.
pub async fn txt(server: &str, name: &str, udp: bool) -> Result<Vec<String>, String> {
    let question = question(id()?, name)?;
    let mut answer = if udp { over_udp(server, &question).await? } else { over_tcp(server, &question).await? };
    // It was too long for a datagram.
    if udp && answer.get(2).is_some_and(|flags| flags & 2 != 0) {
        answer = over_tcp(server, &question).await?;
    }
    texts(&answer)
        .ok_or_else(|| format!("{server} answers what is no DNS"))?
        .map_err(|code| format!("{server} answers {}", code_name(code)))
}

/// Adds a record to a zone, or takes it out.
pub async fn update(
    server: &str,
    (zone, name, value): (&str, &str, &str),
    ttl: Option<u32>,
    signer: Option<&Signer>,
    now: u64,
) -> Result<(), String> {
    let mut message = change(id()?, zone, name, value, ttl)?;
    let mac = signer.map(|signer| signer.sign(&mut message, now));
    let answer = over_tcp(server, &message).await?;
    if answer.get(..2) != message.get(..2) || answer.len() < HEADER {
        return Err(format!("{server} answers something else"));
    }
    let code = answer[3] & 15;
    if code != 0 {
        return Err(format!("{server} refuses the update: {}", code_name(code)));
    }
    match (signer, mac) {
        (Some(signer), Some(mac)) if !signer.has_signed(&answer, &mac) => {
            Err(format!("{server} has not signed its answer with the key that it was asked with"))
        }
        _ => Ok(()),
    }
}

async fn over_udp(server: &str, question: &[u8]) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| format!("{server}: {error}");
    let asked = async {
        let address = tokio::net::lookup_host(server).await.map_err(told)?.next();
        let address = address.ok_or_else(|| format!("{server} has no address"))?;
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await.map_err(told)?;
        socket.connect(address).await.map_err(told)?;
        socket.send(question).await.map_err(told)?;
        let mut answer = vec![0; 4096];
        loop {
            let count = socket.recv(&mut answer).await.map_err(told)?;
            if answer.get(..2) == question.get(..2) {
                answer.truncate(count);
                return Ok(answer);
            }
        }
    };
    timeout(ANSWERS, asked).await.map_err(|_| format!("{server} does not answer"))?
}

async fn over_tcp(server: &str, question: &[u8]) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| format!("{server}: {error}");
    let asked = async {
        let mut stream = TcpStream::connect(server).await.map_err(told)?;
        let length = u16::try_from(question.len()).map_err(|_| "too long a question".to_owned())?;
        stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await.map_err(told)?;
        let length = stream.read_u16().await.map_err(told)?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.map_err(told)?;
        Ok(answer)
    };
    timeout(ANSWERS, asked).await.map_err(|_| format!("{server} does not answer"))?
}

const HEADER: usize = 12;

fn id() -> Result<u16, String> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| "the machine has no random numbers".to_owned())?;
    Ok(u16::from_be_bytes(id))
}

/// Labels in lower case, each behind its length.
fn name(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for label in text.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        out.push(length.ok_or_else(|| format!("{text} is no name of DNS"))?);
        out.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    out.push(0);
    Ok(out)
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

fn question(id: u16, of: &str) -> Result<Vec<u8>, String> {
    // Recursion is desired.
    let mut message = header(id, 0x0100, [1, 0, 0, 0]);
    message.extend(name(of)?);
    message.extend([TXT, IN].into_iter().flat_map(u16::to_be_bytes));
    Ok(message)
}

/// RFC 2136 section 2: with a time to live the record is added, without one taken out.
fn change(id: u16, zone: &str, of: &str, value: &str, ttl: Option<u32>) -> Result<Vec<u8>, String> {
    let mut message = header(id, 5 << 11, [1, 0, 1, 0]);
    message.extend(name(zone)?);
    message.extend([SOA, IN].into_iter().flat_map(u16::to_be_bytes));
    message.extend(name(of)?);
    message.extend([TXT, if ttl.is_some() { IN } else { NONE }].into_iter().flat_map(u16::to_be_bytes));
    message.extend(ttl.unwrap_or(0).to_be_bytes());
    let length = u8::try_from(value.len()).map_err(|_| "too long a text".to_owned())?;
    message.extend((u16::from(length) + 1).to_be_bytes());
    message.push(length);
    message.extend(value.bytes());
    Ok(message)
}

/// The texts of an answer; inside, the code of one that says no. `None`: it is none.
fn texts(answer: &[u8]) -> Option<Result<Vec<String>, u8>> {
    let count = |at: usize| Some(usize::from(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?)));
    let (questions, answers) = (count(4)?, count(6)?);
    match answer.get(3)? & 15 {
        // There is no such name.
        0 | 3 => {}
        code => return Some(Err(code)),
    }
    let mut at = HEADER;
    for _ in 0..questions {
        at = skip_name(answer, at)? + 4;
    }
    let mut texts = Vec::new();
    for _ in 0..answers {
        at = skip_name(answer, at)?;
        let (kind, length) = (count(at)?, count(at + 8)?);
        at += 10;
        let mut data = answer.get(at..at + length)?;
        at += length;
        if kind != usize::from(TXT) {
            continue;
        }
        let mut text = Vec::new();
        while let Some((length, rest)) = data.split_first() {
            let (part, rest) = rest.split_at_checked(usize::from(*length))?;
            text.extend_from_slice(part);
            data = rest;
        }
        texts.push(String::from_utf8_lossy(&text).into_owned());
    }
    Some(Ok(texts))
}

/// Where a name ends, which may lead to another place.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xC0 == 0xC0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

fn code_name(code: u8) -> String {
    let name = match code {
        1 => "FORMERR, it does not understand it",
        2 => "SERVFAIL, it is not well",
        3 => "NXDOMAIN",
        4 => "NOTIMP, it takes no updates",
        5 => "REFUSED, this key may not change the zone, or nobody may",
        9 => "NOTAUTH, it is not the zone's primary server, or does not know the key",
        10 => "NOTZONE, the name is not in the zone",
        other => return format!("code {other}"),
    };
    name.to_owned()
}

impl Signer {
    /// `algorithm` such as `hmac-sha256`.
    pub fn new(key_name: &str, algorithm: &str, key: &[u8]) -> Result<Signer, String> {
        let (algorithm, kind) = match algorithm.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "" | "hmac-sha256" => ("hmac-sha256", hmac::HMAC_SHA256),
            "hmac-sha384" => ("hmac-sha384", hmac::HMAC_SHA384),
            "hmac-sha512" => ("hmac-sha512", hmac::HMAC_SHA512),
            other => return Err(format!("{other} is not spoken")),
        };
        Ok(Signer { name: name(key_name)?, algorithm: name(algorithm)?, key: hmac::Key::new(kind, key) })
    }

    /// What is signed beside the message (RFC 8945 section 4.3.3).
    fn variables(&self, time: &[u8; 6], fudge: u16, error: u16, other: &[u8]) -> Vec<u8> {
        let mut out = self.name.clone();
        out.extend(ANY.to_be_bytes());
        out.extend(0u32.to_be_bytes());
        out.extend(&self.algorithm);
        out.extend(time);
        out.extend([fudge, error, other.len() as u16].into_iter().flat_map(u16::to_be_bytes));
        out.extend(other);
        out
    }

    /// Adds the signature to a message, and says what it is.
    fn sign(&self, message: &mut Vec<u8>, now: u64) -> Vec<u8> {
        let mut time = [0; 6];
        time.copy_from_slice(&now.to_be_bytes()[2..]);
        let signed = [&message[..], &self.variables(&time, FUDGE, 0, &[])].concat();
        let mac = hmac::sign(&self.key, &signed).as_ref().to_vec();
        let mut data = self.algorithm.clone();
        data.extend(time);
        data.extend([FUDGE, mac.len() as u16].into_iter().flat_map(u16::to_be_bytes));
        data.extend(&mac);
        data.extend(&message[..2]);
        data.extend([0; 4]);
        message.extend(&self.name);
        message.extend([TSIG, ANY].into_iter().flat_map(u16::to_be_bytes));
        message.extend(0u32.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
        // One more record behind the others.
        message[11] += 1;
        mac
    }

    /// An answer to what was signed so ends with a signature of its own.
    fn has_signed(&self, answer: &[u8], asked: &[u8]) -> bool {
        self.check(answer, asked).unwrap_or(false)
    }

    fn check(&self, answer: &[u8], asked: &[u8]) -> Option<bool> {
        let two = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
        let mut at = HEADER;
        for _ in 0..two(4)? {
            at = skip_name(answer, at)? + 4;
        }
        let records = two(6)? + two(8)? + two(10)?;
        for _ in 1..records {
            at = skip_name(answer, at)?;
            at += 10 + usize::from(two(at + 8)?);
        }
        let from = at;
        let end = skip_name(answer, at)?;
        if two(end)? != TSIG || !answer.get(from..end)?.eq_ignore_ascii_case(&self.name) {
            return Some(false);
        }
        let mut at = skip_name(answer, end + 10)?;
        let time: [u8; 6] = answer.get(at..at + 6)?.try_into().ok()?;
        let (fudge, length) = (two(at + 6)?, usize::from(two(at + 8)?));
        at += 10;
        let mac = answer.get(at..at + length)?;
        at += length;
        let (id, error, other) = (answer.get(at..at + 2)?, two(at + 2)?, usize::from(two(at + 4)?));
        let other = answer.get(at + 6..at + 6 + other)?;
        let mut message = [id, &answer[2..from]].concat();
        let left = two(10)?.checked_sub(1)?;
        message[10..12].copy_from_slice(&left.to_be_bytes());
        let signed =
            [&(asked.len() as u16).to_be_bytes()[..], asked, &message, &self.variables(&time, fudge, error, other)];
        Some(hmac::verify(&self.key, &signed.concat(), mac).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_a_port() {
        for (given, place_is) in [
            ("10.0.0.1", "10.0.0.1:53"),
            ("ns.test", "ns.test:53"),
            ("ns.test:5353", "ns.test:5353"),
            ("::1", "[::1]:53"),
        ] {
            assert_eq!(place(given), place_is);
        }
    }

    #[test]
    fn texts_are_found_among_other_records() {
        let mut answer = question(7, "a.test").unwrap();
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 2]);
        let record = |kind: u16, data: &[u8]| {
            let mut out = vec![0xC0, 12];
            out.extend([kind, IN].into_iter().flat_map(u16::to_be_bytes));
            out.extend(60u32.to_be_bytes());
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(data);
            out
        };
        answer.extend(record(5, &[0xC0, 12]));
        answer.extend(record(TXT, b"\x03one\x03two"));
        assert_eq!(texts(&answer), Some(Ok(vec!["onetwo".to_owned()])));
        for cut in 0..answer.len() {
            assert_ne!(texts(&answer[..cut]), Some(Ok(vec!["onetwo".to_owned()])), "{cut}");
        }
        answer[3] = 0x82;
        assert_eq!(texts(&answer), Some(Err(2)));
        answer[3] = 0x83;
        answer[7] = 0;
        assert_eq!(texts(&answer), Some(Ok(Vec::new())), "there is no such name");
    }

    #[test]
    fn an_answer_is_believed_with_the_right_signature_alone() {
        let signer = Signer::new("key.test", "hmac-sha256", b"secret").unwrap();
        let mut message = change(7, "b.test", "a.b.test", "v", Some(60)).unwrap();
        let mac = signer.sign(&mut message, 1_700_000_000);
        assert_eq!(message[11], 1);
        // As a server signs: behind the signature of the question.
        let mut answer = header(7, 0xA800, [0; 4]);
        let mut time = [0; 6];
        time.copy_from_slice(&1_700_000_001u64.to_be_bytes()[2..]);
        let signed = [&(mac.len() as u16).to_be_bytes()[..], &mac, &answer, &signer.variables(&time, FUDGE, 0, &[])];
        let own = hmac::sign(&signer.key, &signed.concat());
        answer.extend(&signer.name);
        answer.extend([TSIG, ANY].into_iter().flat_map(u16::to_be_bytes));
        answer.extend(0u32.to_be_bytes());
        let mut data = signer.algorithm.clone();
        data.extend(time);
        data.extend([FUDGE, 32].into_iter().flat_map(u16::to_be_bytes));
        data.extend(own.as_ref());
        data.extend([0, 7, 0, 0, 0, 0]);
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
        answer[11] = 1;
        assert!(signer.has_signed(&answer, &mac));
        assert!(!signer.has_signed(&answer, &mac[1..]) && !signer.has_signed(&header(7, 0xA800, [0; 4]), &mac));
        let last = answer.len() - 7;
        answer[last] ^= 1;
        assert!(!signer.has_signed(&answer, &mac));
        let other = Signer::new("key.test", "hmac-sha512", b"secret").unwrap();
        assert!(!other.has_signed(&answer, &mac));
    }
}
