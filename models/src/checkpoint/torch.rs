//! PyTorch's files of saved objects, `.bin`, `.pt` and `.pth`: a pickle that describes tensors, and storages
//! with their bytes.
//!
//! There are two forms (`torch/serialization.py`): the zip form since 1.6, and the legacy form before it,
//! pickles one after another and then the storages, each behind its length. A pickle is a program; the reader
//! in `pickle` runs none of it: it knows the names that tensors and plain values need, and refuses a file
//! that mentions any other. Storages are found, not read.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::error::{LoadError, quoted};

mod globals;
mod legacy;
mod locate;
mod pickle;
mod value;
mod zip;

pub use globals::{ELEMENTS, Element};
use pickle::{DEPTH_MAX, Pickle, VALUES_MAX};
use value::{Object, Value};

/// The longest pickle that is read from a zip file. One that describes ten thousand tensors has 1 MB.
const PICKLE_MAX: u64 = 1 << 26;
/// Most tensors of a file, and members of the dicts that are searched for them.
const TENSORS_MAX: usize = 1 << 16;
/// The longest name of a tensor.
const NAME_MAX: usize = 256;
/// What a file holds.
#[derive(Debug)]
pub struct Contents<'a> {
    file: &'a Path,
    objects: Vec<Object<'a>>,
    root: Value<'a>,
    storages: Storages<'a>,
}

/// Where storages lie: the first byte and the length of each.
#[derive(Debug)]
enum Storages<'a> {
    Zip { zip: zip::Zip<'a>, folder: &'a str },
    Legacy(HashMap<&'a str, (u64, u64)>),
}

/// One tensor of a file: rows of elements, each row without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name: the keys of the dicts around it with full stops between.
    pub name: String,
    /// What its bytes mean.
    pub element: &'static Element,
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its first byte, counted from the beginning of the file.
    pub offset: u64,
    /// From its first byte to its last.
    pub len: u64,
    /// The product of all dimensions but the last.
    pub rows: u64,
    /// The last dimension.
    pub cols: u64,
    /// Bytes from one row to the next.
    pub stride: u64,
}

/// Reads what a whole file's bytes describe. Of those, the pickles are touched, and of a zip file its
/// directory and its entries' headers. `file` names them in errors.
pub fn parse<'a>(bytes: &'a [u8], file: &'a Path) -> Result<Contents<'a>, LoadError> {
    match bytes {
        _ if bytes.starts_with(zip::MAGIC) => zipped(bytes, file),
        [0x80, ..] => legacy::read(bytes, file),
        _ => Err(LoadError::header(
            file,
            0,
            "neither a zip file nor a pickle of protocol 2 or later, one of which torch's files are",
        )),
    }
}

fn zipped<'a>(bytes: &'a [u8], file: &'a Path) -> Result<Contents<'a>, LoadError> {
    const OBJECT: &str = "data.pkl";
    let zip = zip::read(bytes, file)?;
    let folder = zip.folder_of(OBJECT).ok_or_else(|| {
        LoadError::header(file, 0, format!("expected one entry {OBJECT} in the folder of the zip file"))
    })?;
    match zip.bytes(&format!("{folder}/byteorder"))? {
        None | Some(b"little") => {}
        Some(other) => {
            let order = quoted(&String::from_utf8_lossy(&other[..other.len().min(16)]));
            return Err(other_byte_order(file, &order));
        }
    }
    let name = format!("{folder}/{OBJECT}");
    let place = zip.find(&name)?;
    let (Some((start, len)), Some(text)) = (place, zip.bytes(&name)?) else {
        return Err(LoadError::header(file, 0, "no entry data.pkl in the zip file"));
    };
    if len > PICKLE_MAX {
        let why = format!("a pickle of {len} bytes, expected at most {PICKLE_MAX}");
        return Err(LoadError::header(file, start, why));
    }
    let Pickle { objects, root, .. } = pickle::read(text, file, start, VALUES_MAX)?;
    Ok(Contents { file, objects, root, storages: Storages::Zip { zip, folder } })
}

fn other_byte_order(file: &Path, order: &str) -> LoadError {
    LoadError::Unsupported {
        file: file.to_owned(),
        what: format!("byte order {order}"),
        supported: "numbers must be stored with the lowest byte first".to_owned(),
    }
}

/// The named values of a dict or a namespace.
fn members<'p, 'a>(objects: &'p [Object<'a>], value: Value<'a>) -> Option<&'p [(Value<'a>, Value<'a>)]> {
    let Value::Object(at) = value else { return None };
    match &objects[at as usize] {
        Object::Dict(members) | Object::Namespace(members) => Some(members),
        _ => None,
    }
}

/// The value of a dict's key; the last, if it was set more than once.
fn member<'a>(objects: &[Object<'a>], value: Value<'a>, name: &str) -> Option<Value<'a>> {
    let is_named = |key: &Value<'_>| matches!(key, Value::Text(text) if *text == name);
    members(objects, value)?.iter().rev().find(|(key, _)| is_named(key)).map(|(_, value)| *value)
}

impl<'a> Contents<'a> {
    /// The tensors of the saved dict, in its order; what else it holds is left out.
    pub fn tensors(&self) -> Result<Vec<Tensor>, LoadError> {
        self.tensors_within(&[])
    }

    /// The tensors of the dict at the end of a path of keys and of the dicts inside it. Names begin with the
    /// last key of the path.
    pub fn tensors_within(&self, path: &[&str]) -> Result<Vec<Tensor>, LoadError> {
        let mut place = self.root;
        for key in path {
            place = member(&self.objects, place, key).ok_or_else(|| {
                LoadError::header(self.file, 0, format!("the saved object has no {}", path.join(".")))
            })?;
        }
        let mut search = Search { found: Vec::new(), names: HashSet::new(), left: TENSORS_MAX };
        self.collect(place, path.last().copied().unwrap_or_default(), 0, &mut search)?;
        Ok(search.found)
    }

    fn collect(
        &self,
        dict: Value<'a>,
        prefix: &str,
        depth: u8,
        search: &mut Search,
    ) -> Result<(), LoadError> {
        let fault = |why: String| LoadError::header(self.file, 0, why);
        let members =
            members(&self.objects, dict).ok_or_else(|| fault("the saved object is no dict".to_owned()))?;
        if depth > DEPTH_MAX {
            return Err(fault(format!("dicts nested more than {DEPTH_MAX} deep")));
        }
        search.left = search
            .left
            .checked_sub(members.len())
            .ok_or_else(|| fault(format!("more than {TENSORS_MAX} values beside each other")))?;
        for (key, value) in members {
            let (Value::Text(key), Value::Object(at)) = (key, value) else { continue };
            let object = &self.objects[*at as usize];
            if !matches!(object, Object::Tensor(_) | Object::Dict(_)) {
                continue;
            }
            if prefix.len() + key.len() > NAME_MAX {
                return Err(fault(format!(
                    "a tensor's name has more than {NAME_MAX} bytes: {}",
                    quoted(key)
                )));
            }
            let name = if prefix.is_empty() { (*key).to_owned() } else { format!("{prefix}.{key}") };
            match object {
                Object::Tensor(tensor) if search.names.insert(name.clone()) => {
                    search.found.push(self.locate(name, tensor)?);
                }
                Object::Tensor(_) => return Err(LoadError::tensor(self.file, &name, "comes twice")),
                _ => self.collect(*value, &name, depth + 1, search)?,
            }
        }
        Ok(())
    }

    /// The numbers, texts and flags of a namespace or dict that the saved dict has under this name.
    pub fn settings(&self, name: &str) -> Option<Map<String, Json>> {
        let found = members(&self.objects, member(&self.objects, self.root, name)?)?;
        let mut settings = Map::new();
        for (key, value) in found {
            let value = match *value {
                Value::Bool(flag) => Json::from(flag),
                Value::Int(number) => Json::from(number),
                Value::Float(number) => Json::from(number),
                Value::Text(text) if text.len() <= NAME_MAX => Json::from(text),
                _ => continue,
            };
            if let Value::Text(key) = key
                && key.len() <= NAME_MAX
            {
                settings.insert((*key).to_owned(), value);
            }
        }
        Some(settings)
    }
}

/// What a search for tensors found.
struct Search {
    found: Vec<Tensor>,
    names: HashSet<String>,
    left: usize,
}
