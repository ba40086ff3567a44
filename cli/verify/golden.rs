//! The stored outputs of a reference implementation.

use std::fs;
use std::path::{Path, PathBuf};

use jtllm_models::LoadError;
use jtllm_models::checkpoint::safetensors;
use serde_json::Value;

/// The largest file that is believed.
const LARGEST: u64 = 1 << 30;

/// `golden.json`, and the tensors that it names.
pub(super) struct Golden {
    file: PathBuf,
    json: Value,
    bytes: Vec<u8>,
    tensors: Vec<safetensors::Tensor>,
}

impl Golden {
    /// Reads a folder's golden files.
    pub(super) fn open(folder: &Path) -> Result<Golden, LoadError> {
        let file = folder.join("golden.json");
        let text = read(&file)?.ok_or_else(|| LoadError::NotFound {
            name: file.display().to_string(),
            why: "verify wants a folder with golden.json".to_owned(),
            suggestions: Vec::new(),
        })?;
        let json = serde_json::from_slice(&text).map_err(|error| LoadError::Header {
            file: file.clone(),
            offset: 0,
            why: format!("expected JSON: {error}"),
        })?;
        let path = folder.join("golden.safetensors");
        let bytes = read(&path)?.unwrap_or_default();
        let tensors = match bytes.is_empty() {
            true => Vec::new(),
            false => safetensors::parse(&bytes, &path)?.tensors,
        };
        Ok(Golden { file, json, bytes, tensors })
    }

    /// Whether there are tensors to compare with.
    pub(super) fn has_tensors(&self) -> bool {
        !self.tensors.is_empty()
    }

    /// The whole of `golden.json`.
    pub(super) fn json(&self) -> &Value {
        &self.json
    }

    /// The elements of a list; of one that is not there, none.
    pub(super) fn list<'a>(&'a self, value: &'a Value) -> &'a [Value] {
        value.as_array().map_or(&[], Vec::as_slice)
    }

    /// The case of that name.
    pub(super) fn case(&self, name: &Value) -> Option<&Value> {
        self.list(&self.json["cases"]).iter().find(|case| name.is_string() && case["name"] == *name)
    }

    /// A file of the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    /// What a field should have been.
    pub(super) fn wrong(&self, field: &str, expected: &str, found: &Value) -> LoadError {
        let mut found = found.to_string();
        if let Some((end, _)) = found.char_indices().nth(80) {
            found.truncate(end);
        }
        let (field, expected) = (field.to_owned(), expected.to_owned());
        LoadError::Field { file: self.file.clone(), field, expected, found }
    }

    /// A list of tokens.
    pub(super) fn ids(&self, field: &str, value: &Value) -> Result<Vec<u32>, LoadError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = value.as_array().and_then(|all| all.iter().map(id).collect());
        ids.ok_or_else(|| self.wrong(field, "a list of token ids", value))
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, field: &str, value: &Value) -> Result<Vec<f32>, LoadError> {
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let numbers = value.as_array().and_then(|all| all.iter().map(number).collect());
        numbers.ok_or_else(|| self.wrong(field, "a list of numbers", value))
    }

    /// A string.
    pub(super) fn text<'a>(&self, field: &str, value: &'a Value) -> Result<&'a str, LoadError> {
        value.as_str().ok_or_else(|| self.wrong(field, "a string", value))
    }

    /// A stored tensor's numbers.
    pub(super) fn tensor(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let file = self.file.with_extension("safetensors");
        let fault = |why: &str| {
            let (file, name) = (file.clone(), name.to_owned());
            LoadError::Tensor { file, name, why: why.to_owned() }
        };
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.ok_or_else(|| fault("golden.json names it, but it is not there"))?;
        if tensor.element.encoding != "f32" {
            return Err(fault("expected f32"));
        }
        let bytes = &self.bytes[tensor.offset as usize..][..tensor.len as usize];
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    /// The difference that is allowed: 20 times the reference's own error in float32, never above 1e-3.
    pub(super) fn bound(&self, what: &str) -> Result<f32, LoadError> {
        let error = &self.json["f32_vs_f64"][what];
        let number = error.as_f64().filter(|error| *error >= 0.0);
        let number = number.ok_or_else(|| self.wrong(&format!("f32_vs_f64.{what}"), "a number", error))?;
        Ok((20.0 * number as f32).min(1e-3))
    }

    /// The difference that is allowed between hidden vectors. Where the reference's own error was not measured
    /// (their largest value is given as 0), it is that of logits.
    pub(super) fn hidden_bound(&self) -> Result<f32, LoadError> {
        let measured = self.json["f32_vs_f64"]["hidden_max_abs_value"].as_f64() != Some(0.0);
        self.bound(if measured { "hidden_max_abs" } else { "logits_max_abs" })
    }
}

fn read(file: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    let failed = |source| LoadError::Io { file: file.to_owned(), action: "read", source };
    let length = match fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(LoadError::NotRegular { file: file.to_owned(), kind: "a folder or a device" }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if length > LARGEST {
        let why = format!("{length} bytes, expected at most {LARGEST}");
        return Err(LoadError::Header { file: file.to_owned(), offset: LARGEST, why });
    }
    fs::read(file).map(Some).map_err(failed)
}
