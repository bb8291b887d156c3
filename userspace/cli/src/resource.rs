use base_model::kinds;
use base_text::quoted;

/// What a word on the command line speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A kind of object, by its canonical name.
    Object(&'static str),
    Member,
    CustomKind,
    CustomData,
}

impl Resource {
    pub fn parse(word: &str) -> Result<Resource, String> {
        match word.to_lowercase().as_str() {
            "member" | "members" | "m" | "mem" => return Ok(Resource::Member),
            "customdatakind" | "customdatakinds" | "cdk" => return Ok(Resource::CustomKind),
            "customdata" | "cd" => return Ok(Resource::CustomData),
            _ => {}
        }
        kinds::find(word).map(|kind| Resource::Object(kind.name)).ok_or_else(|| {
            let known: Vec<&str> = kinds::KINDS.iter().filter(|kind| kind.served).map(|kind| kind.name).collect();
            format!(
                "{word} is no kind; there are {}, Member, CustomDataKind, CustomData and their aliases (weirctl api-resources)",
                known.join(", "), word = quoted(&word))
        })
    }
}
