//! Where what WebAssembly programs share, and the word to read programs again, are kept: among the users' own data, as kinds whose names
//! no user can give.

/// Kinds that begin so are ours.
pub const WASM_KINDS: &str = "wasm/";

/// Changes when programs are to be read again.
pub const WASM_CODE: &str = "wasm/code";

/// Key of an item that is its id.
pub const WASM_ID: &str = "key";

/// Items that the programs of one filter share at most: they are in the memory of every machine.
pub const WASM_ITEMS_MAX: usize = 65_536;

/// Bytes of one key, and of one value as it is written, at most.
pub const WASM_KEY_MAX: usize = 1024;
pub const WASM_VALUE_MAX: usize = 512 << 10;

const DATA: &str = "wasm/data/";

/// The kind of what the programs of a filter share.
pub fn wasm_data(pipeline: &str, filter: &str) -> String {
    format!("{DATA}{pipeline}/{filter}")
}

/// The pipeline and the filter whose data are of this kind.
pub fn wasm_place(kind: &str) -> Option<(&str, &str)> {
    kind.strip_prefix(DATA)?.rsplit_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_tells_its_filter() {
        for pipeline in ["sale", "blue/sale", "g:beforePipeline", "gatewaycontroller/g/sale"] {
            assert_eq!(wasm_place(&wasm_data(pipeline, "wasm")), Some((pipeline, "wasm")));
        }
        assert_eq!((wasm_place(WASM_CODE), wasm_place("wasm")), (None, None));
    }
}
