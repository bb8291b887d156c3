//! Apache Kafka, one broker of it.

use crate::collectors::{Guarded, STARTS, start};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{free_port, within};
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

/// A broker of Kafka's own, alone, in a directory.
pub struct Kafka {
    java: PathBuf,
    jars: String,
    directory: tempfile::TempDir,
    /// For everybody; for whom it knows by a certificate; for whom it knows by a password.
    pub open: u16,
    pub named: u16,
    pub users: u16,
}

impl Kafka {
    /// Ready to be started; `None` where it cannot be had. Without certificates it is open to everybody alone.
    pub fn new(guarded: Option<&Guarded>) -> Option<Kafka> {
        let (java, jars) = parts::kafka()?;
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let at = directory.path().display().to_string();
        let [open, named, users, controller] = [(); 4].map(|()| free_port());
        let mut listeners = vec![("OPEN", "PLAINTEXT", open), ("CONTROLLER", "PLAINTEXT", controller)];
        let mut more = String::new();
        if let Some(guarded) = guarded {
            guarded.write(directory.path());
            let both = ["key", "cert"].map(|name| fs::read_to_string(format!("{at}/{name}.pem")).unwrap());
            fs::write(format!("{at}/own.pem"), both.concat()).unwrap();
            listeners.extend([("NAMED", "SSL", named), ("USERS", "SASL_SSL", users)]);
            more = format!(
                "ssl.keystore.type=PEM\nssl.keystore.location={at}/own.pem\nssl.truststore.type=PEM\n\
                 ssl.truststore.location={at}/ca.pem\nlistener.name.named.ssl.client.auth=required\n\
                 sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.users.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
                 user_edge=\"secret-1\";\n"
            );
            for scram in ["256", "512"] {
                more += &format!(
                    "listener.name.users.scram-sha-{scram}.sasl.jaas.config=\
                     org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
                );
            }
        }
        let each = |show: &dyn Fn(&str, &str, u16) -> String, all: &[(&str, &str, u16)]| {
            all.iter().map(|(name, kind, port)| show(name, kind, *port)).collect::<Vec<_>>().join(",")
        };
        let place = |name: &str, _: &str, port: u16| format!("{name}://127.0.0.1:{port}");
        let told: Vec<_> = listeners.iter().copied().filter(|(name, ..)| *name != "CONTROLLER").collect();
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\nlisteners={}\n\
             advertised.listeners={}\nlistener.security.protocol.map={}\ninter.broker.listener.name=OPEN\n\
             controller.listener.names=CONTROLLER\nlog.dirs={at}/data\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\nnum.partitions=1\nauto.create.topics.enable=true\nlog.index.size.max.bytes=65536\n{more}",
            each(&place, &listeners),
            each(&place, &told),
            each(&|name, kind, _| format!("{name}:{kind}"), &listeners),
        );
        fs::write(directory.path().join("conf"), text).unwrap();
        let kafka = Kafka { java, jars, directory, open, named, users };
        let mut command = kafka.runs("kafka.tools.StorageTool");
        command.args(["format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c"]).arg(kafka.directory.path().join("conf"));
        for scram in ["SCRAM-SHA-256=[name=edge,password=secret-2]", "SCRAM-SHA-512=[name=edge,password=secret-3]"] {
            command.args(["--add-scram", scram]);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
        Some(kafka)
    }

    fn runs(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &self.jars, class]);
        command.current_dir(self.directory.path());
        command
    }

    /// Until it is dropped, which kills it.
    pub fn start(&self) -> Leashed {
        start(self.runs("kafka.Kafka").arg(self.directory.path().join("conf")), &self.directory.path().join("out"))
    }

    /// Waits until it listens.
    pub fn is_there(&self) {
        let there = within(STARTS, || TcpStream::connect(("127.0.0.1", self.open)).ok());
        assert!(there.is_some(), "{}", self.said());
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("out")).unwrap_or_default()
    }

    /// What is in its files of a topic that has one partition, which are not packed.
    pub fn holds(&self, topic: &str) -> String {
        let folder = self.directory.path().join("data").join(format!("{topic}-0"));
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
        files.sort();
        let text: Vec<u8> = files.iter().filter_map(|path| fs::read(path).ok()).flatten().collect();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The first records of a topic as Kafka's own client reads them: key and value. That is a program in Java's own words, for which there
    /// has to be its compiler.
    pub fn consumed(&self, topic: &str, count: usize) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("Consume.java");
        fs::write(&program, include_str!("Consume.java")).unwrap();
        let mut command = Command::new(&self.java);
        command.args(["-Xmx128m", "-cp", &self.jars]).arg(&program);
        let done = command.args([&self.open.to_string(), topic, &count.to_string()]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).unwrap();
        text.lines().filter_map(|line| line.split_once('\t')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }
}
