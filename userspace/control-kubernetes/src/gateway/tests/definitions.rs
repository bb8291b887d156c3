//! What is read of the Gateway API's objects is what its definitions have, and what is not read is known: where the definitions of the
//! release have been brought (`cargo xtask test-kubernetes`), the types are held against them, field by field.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::object::{BackendTlsPolicy, Gateway, GatewayClass, ListenerSet, ReferenceGrant, Route};
use super::*;

/// What types ask definitions for.
#[derive(Default)]
struct Asked {
    /// By type: fields, and those of them that a definition has.
    fields: BTreeMap<&'static str, (BTreeSet<&'static str>, BTreeSet<&'static str>)>,
    /// Places that are read.
    read: BTreeSet<String>,
    /// Of which everything is.
    whole: BTreeSet<String>,
}

/// A place of a definition, which answers whatever a type asks it for.
#[derive(Clone)]
struct Part<'d> {
    schema: &'d Value,
    place: String,
    asked: &'d RefCell<Asked>,
}

impl<'d> Part<'d> {
    fn within(&self, schema: &'d Value, name: &str) -> Part<'d> {
        let place = format!("{}{name}", self.place);
        self.asked.borrow_mut().read.insert(place.clone());
        Part { schema, place, asked: self.asked }
    }

    fn is(&self, kind: &str) -> Result<(), Error> {
        match self.schema["type"] == kind {
            true => Ok(()),
            false => Err(Error::custom(format!("{} is read as {kind}, and is {}", self.place, self.schema["type"]))),
        }
    }
}

impl<'de> Deserializer<'de> for Part<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.asked.borrow_mut().whole.insert(self.place);
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("string")?;
        visitor.visit_str("")
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("integer")?;
        visitor.visit_i64(0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("boolean")?;
        visitor.visit_bool(false)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("object")?;
        self.asked.borrow_mut().whole.insert(self.place.clone());
        visitor.visit_map(Fields { part: self, names: [].iter(), next: "" })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("array")?;
        visitor.visit_seq(Items(Some(self.within(&self.schema["items"], "[]"))))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.is("object")?;
        let is_there = |field: &&&'static str| self.schema["properties"].get(**field).is_some();
        // What every object has is defined elsewhere.
        if name != "Meta" {
            let mut asked = self.asked.borrow_mut();
            let (all, there) = asked.fields.entry(name).or_default();
            all.extend(fields);
            there.extend(fields.iter().filter(is_there));
        }
        visitor.visit_map(Fields { part: self, names: fields.iter(), next: "" })
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct enum
        identifier ignored_any
    }
}

/// Those of a type's fields that are there.
struct Fields<'d> {
    part: Part<'d>,
    names: std::slice::Iter<'static, &'static str>,
    next: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let properties = &self.part.schema["properties"];
        let Some(name) = self.names.by_ref().find(|name| properties.get(**name).is_some()) else { return Ok(None) };
        self.next = name;
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let schema = &self.part.schema["properties"][self.next];
        seed.deserialize(self.part.within(schema, &format!(".{}", self.next)))
    }
}

/// One of a list.
struct Items<'d>(Option<Part<'d>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.0.take().map(|item| seed.deserialize(item)).transpose()
    }
}

/// Places of a definition that nobody reads; of what is below one of these nothing is told.
fn unread(schema: &Value, place: &str, asked: &Asked, unread_places: &mut BTreeSet<String>) {
    if asked.whole.contains(place) {
        return;
    }
    if !asked.read.contains(place) {
        unread_places.insert(place.to_owned());
        return;
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        unread(schema, &format!("{place}.{name}"), asked, unread_places);
    }
    if schema.get("items").is_some() {
        unread(&schema["items"], &format!("{place}[]"), asked, unread_places);
    }
}

/// Reads `spec` of a definition as a type does.
fn ask<'d, T: Deserialize<'d>>(definitions: &'d BTreeMap<Kind, Value>, kind: Kind, asked: &'d RefCell<Asked>) {
    let part = Part { schema: &definitions[&kind], place: kind.to_string(), asked };
    asked.borrow_mut().read.insert(part.place.clone());
    if let Err(why) = T::deserialize(part) {
        panic!("{kind}: {why}");
    }
}

#[test]
fn what_is_read_is_what_the_definitions_have_and_what_is_not_is_known() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/kubernetes/gateway-api-v1.6.1");
    if !folder.is_dir() {
        println!(
            "skipped: the definitions of the Gateway API are not here; `cargo xtask test-kubernetes --build-only` brings them"
        );
        return;
    }
    let kinds = [
        Kind::GatewayClass,
        Kind::Gateway,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TlsRoute,
        Kind::TcpRoute,
        Kind::UdpRoute,
        Kind::ReferenceGrant,
        Kind::ListenerSet,
        Kind::BackendTlsPolicy,
    ];
    let definition = |kind: Kind| {
        let file = folder.join(format!("gateway.networking.k8s.io_{}.yaml", kind.plural()));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let document = base_model::yaml::parse_document(&text).unwrap();
        let wanted = kind.versions()[0].rsplit('/').next().unwrap();
        let mut versions = document["spec"]["versions"].as_array().unwrap().iter();
        let version = versions.find(|version| version["name"] == wanted && version["served"] == true);
        version.unwrap_or_else(|| panic!("{kind} is not served as {wanted}"))["schema"]["openAPIV3Schema"].clone()
    };
    let definitions: BTreeMap<Kind, Value> = kinds.iter().map(|kind| (*kind, definition(*kind))).collect();
    let asked = RefCell::default();
    ask::<GatewayClass>(&definitions, Kind::GatewayClass, &asked);
    ask::<Gateway>(&definitions, Kind::Gateway, &asked);
    for kind in [Kind::HttpRoute, Kind::GrpcRoute, Kind::TlsRoute, Kind::TcpRoute, Kind::UdpRoute] {
        ask::<Route>(&definitions, kind, &asked);
    }
    ask::<ReferenceGrant>(&definitions, Kind::ReferenceGrant, &asked);
    ask::<ListenerSet>(&definitions, Kind::ListenerSet, &asked);
    ask::<BackendTlsPolicy>(&definitions, Kind::BackendTlsPolicy, &asked);
    let asked = asked.into_inner();
    for (name, (all, there)) in &asked.fields {
        let none: Vec<_> = all.difference(there).filter(|field| !EXPERIMENTAL.contains(&(name, field))).collect();
        assert!(none.is_empty(), "no definition has {none:?} of {name}");
    }
    let mut left = BTreeSet::new();
    for (kind, schema) in &definitions {
        for name in schema["properties"].as_object().unwrap().keys().filter(|name| *name == "spec" || *name == "status")
        {
            unread(&schema["properties"][name], &format!("{kind}.{name}"), &asked, &mut left);
        }
    }
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    assert_eq!(left, UNREAD, "a field that comes is served, or written down here");
}

/// Read for those who have installed the experimental channel.
const EXPERIMENTAL: [(&str, &str); 1] = [("RouteRule", "retry")];

/// Of the standard channel of the release that is tested against.
const UNREAD: [&str; 11] = [
    // Of implementations' own, and none is ours.
    "BackendTLSPolicy.spec.options",
    // Names of rules are for policies that point at them, and none of those is served.
    "GRPCRoute.spec.rules[].name",
    // GatewayInfrastructurePropagation, which is not claimed: nothing is made in the cluster that these could be written on.
    "Gateway.spec.infrastructure.annotations",
    "Gateway.spec.infrastructure.labels",
    "Gateway.spec.listeners[].tls.options",
    // For people.
    "GatewayClass.spec.description",
    "HTTPRoute.spec.rules[].name",
    "ListenerSet.spec.listeners[].tls.options",
    "TCPRoute.spec.rules[].name",
    "TLSRoute.spec.rules[].name",
    "UDPRoute.spec.rules[].name",
];
