//! PyTorch's files: what is read of them, what is refused, and how the refusal says so.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use jtllm_models::checkpoint::torch::{self, Tensor};
use jtllm_models::{Checkpoint, LoadError};

#[path = "support/allocated.rs"]
mod allocated;
#[path = "support/torch_file.rs"]
mod torch_file;

use torch_file::{TorchFile, Zip, dict, int, pickle, text, tuple};

/// Most memory beside the file's own size.
const ROOM: u64 = 64 << 20;

fn parse(bytes: &[u8]) -> Result<Vec<Tensor>, LoadError> {
    torch::parse(bytes, Path::new("model.pth"))?.tensors()
}

/// Parses, expects failure with exit status 4, and returns the message.
#[track_caller]
fn fails(bytes: &[u8]) -> String {
    let (error, peak) = allocated::peak(|| parse(bytes).unwrap_err());
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(peak <= bytes.len() as u64 + ROOM, "{peak} bytes for a file of {}", bytes.len());
    error.to_string()
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

/// A zip file around a pickle of this value, with the storages of one small tensor.
fn around(value: &[u8]) -> Vec<u8> {
    let mut file = TorchFile::default();
    file.floats("w", &[2, 3], 1.0);
    file.zipped_around(&pickle(value))
}

/// The forms of one file, which must be read alike.
fn both(file: &TorchFile) -> [Vec<u8>; 2] {
    [file.zipped(), file.legacy()]
}

#[test]
fn views_of_shared_storages_are_rows() {
    let mut file = TorchFile::default();
    file.floats("whole", &[6, 4], 0.0);
    file.view("rows", 8, &[3, 4], &[4, 1]);
    file.view("columns", 2, &[6, 2], &[4, 1]);
    file.view("blocks", 1, &[3, 2, 2], &[8, 4, 1]);
    file.view("one", 5, &[], &[]);
    file.view("singles", 4, &[1, 2, 1, 4], &[99, 4, 77, 1]);
    file.view("none", 1000, &[0, 4], &[4, 1]);
    file.view("column", 3, &[6, 1], &[4, 9]);
    for bytes in both(&file) {
        let tensors = parse(&bytes).unwrap();
        let start = tensors[0].offset;
        assert_eq!(bytes[start as usize + 4..][..4], 1f32.to_le_bytes());
        let seen: Vec<_> = tensors
            .iter()
            .map(|t| (&*t.name, t.offset.wrapping_sub(start) / 4, t.rows, t.cols, t.stride / 4, t.len / 4))
            .collect();
        assert_eq!(
            seen,
            [
                ("whole", 0, 6, 4, 4, 24),
                ("rows", 8, 3, 4, 4, 12),
                ("columns", 2, 6, 2, 4, 22),
                ("blocks", 1, 6, 2, 4, 22),
                ("one", 5, 1, 1, 1, 1),
                ("singles", 4, 2, 4, 4, 8),
                ("none", 0, 0, 4, 4, 0),
                ("column", 3, 6, 1, 4, 21),
            ]
        );
    }
}

#[test]
fn tensors_that_are_not_rows_or_leave_their_storage_are_named() {
    type Case = (&'static str, i32, &'static [i32], &'static [i32], &'static str);
    let cases: [Case; 8] = [
        ("transposed", 0, &[4, 6], &[1, 4], "not made of whole rows"),
        ("uneven", 0, &[2, 2, 2], &[12, 4, 1], "not made of whole rows"),
        ("spread", 0, &[3], &[2], "not made of whole rows"),
        ("repeated", 0, &[6, 4], &[0, 1], "not made of whole rows"),
        ("long", 1, &[6, 4], &[4, 1], "leads out of its storage of 96 bytes"),
        ("huge", 0, &[i32::MAX, i32::MAX, i32::MAX, 9], &[0, 0, 0, 1], "overflows"),
        ("negative", 0, &[-1, 4], &[4, 1], "whole numbers"),
        ("uncounted", 0, &[6, 4], &[4], "2 dimensions with 1 strides"),
    ];
    for (name, offset, shape, strides, why) in cases {
        let mut file = TorchFile::default();
        file.floats("whole", &[6, 4], 0.0);
        file.view(name, offset, shape, strides);
        for bytes in both(&file) {
            says(&fails(&bytes), &[&format!("tensor {name:?}"), why]);
        }
    }
    let mut file = TorchFile::default();
    file.floats("whole", &[6, 4], 0.0);
    file.view("whole", 0, &[4], &[1]);
    says(&fails(&file.zipped()), &["tensor \"whole\"", "comes twice"]);
    file.tensors.pop();
    file.tensors[0].offset = -1;
    says(&fails(&file.zipped()), &["begins before its storage"]);
}

#[test]
fn every_element_type_is_read() {
    for (class, encoding, size) in [
        ("FloatStorage", "f32", 4),
        ("HalfStorage", "f16", 2),
        ("BFloat16Storage", "bf16", 2),
        ("DoubleStorage", "f64", 8),
        ("LongStorage", "i64", 8),
        ("IntStorage", "i32", 4),
        ("ShortStorage", "i16", 2),
        ("CharStorage", "i8", 1),
        ("ByteStorage", "u8", 1),
        ("BoolStorage", "bool", 1),
    ] {
        let mut file = TorchFile::default();
        file.bytes("w", class, size, &[3, 2], vec![1; 6 * size]);
        for bytes in both(&file) {
            let tensors = parse(&bytes).unwrap();
            assert_eq!((tensors[0].element.encoding, tensors[0].len), (encoding, 6 * size as u64));
        }
    }
}

#[test]
fn storages_without_a_type_take_that_of_the_tensor() {
    let id = tuple(&[
        text("storage"),
        b"ctorch.storage\nUntypedStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(24),
    ]);
    let arguments = |dtype: &str| {
        let hooks = b"ccollections\nOrderedDict\n]R".to_vec();
        let storage = [&id[..], b"Q"].concat();
        let dtype = format!("ctorch\n{dtype}\n").into_bytes();
        let tuples = [tuple(&[int(5), int(2)]), tuple(&[int(2), int(1)])];
        let [shape, strides] = tuples;
        tuple(&[storage, int(1), shape, strides, b"\x89".to_vec(), hooks, dtype])
    };
    let code = |dtype: &str| [b"ctorch._utils\n_rebuild_tensor_v3\n", &arguments(dtype)[..], b"R"].concat();
    let parameter = |dtype: &str| {
        [b"ctorch._utils\n_rebuild_parameter\n", &tuple(&[code(dtype), b"\x88".to_vec()])[..], b"R"].concat()
    };
    let tensors = parse(&around(&dict(&[("a", code("uint16")), ("b", parameter("float8_e4m3fn"))]))).unwrap();
    let seen: Vec<_> = tensors.iter().map(|tensor| (tensor.element.encoding, tensor.len)).collect();
    assert_eq!(seen, [("u16", 20), ("f8_e4m3", 10)]);
    says(&fails(&around(&dict(&[("a", code("uint64"))]))), &["tensor \"a\"", "24 bytes"]);
    says(&fails(&around(&dict(&[("a", code("Size"))]))), &["type is no torch.dtype"]);
}

/// Values that training leaves in a file do no harm, and take no place among the tensors.
#[test]
fn plain_values_beside_tensors_are_left_out() {
    let mut file = TorchFile::default();
    file.floats("w", &[2, 3], 1.0);
    let tensors = file.dict_code(false);
    let random = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85c_codecs\nencode\nX\x01\0\0\0bX\x06\0\0\0latin1\x86R\x87R(K\x01\x89tb";
    let values: [&[u8]; 8] = [
        random,
        b"cargparse\nNamespace\n)\x81}X\x01\0\0\0xG\x3f\xf0\0\0\0\0\0\0sb",
        b"](K\x01M\x02\x01J\xff\xff\xff\xff\x8a\x03\x01\x02\x83e",
        b"c__builtin__\nset\n](K\x01e\x85R",
        b"ctorch\nSize\nK\x02K\x03\x86\x85R",
        b"ctorch\ndevice\nX\x03\0\0\0cpu\x85R",
        b"ctorch\nbfloat16\n",
        b"ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadataNsb",
    ];
    for value in values {
        let code = [&tensors[..tensors.len() - 1], &text("extra"), value, b"u"].concat();
        let found = parse(&file.zipped_around(&pickle(&code))).unwrap();
        assert_eq!(found.iter().map(|tensor| &*tensor.name).collect::<Vec<_>>(), ["w"]);
    }
}

#[test]
fn f32_pickle_that_calls_a_program_is_refused_and_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let command = text(&format!("touch {}", marker.display()));
    for (module, name) in [("posix", "system"), ("os", "system"), ("builtins", "eval"), ("torch", "load")] {
        let call = |global: &[u8]| [global, &tuple(std::slice::from_ref(&command)), b"R"].concat();
        let plain = call(format!("c{module}\n{name}\n").as_bytes());
        let stacked = call(&[text(module), text(name), b"\x93".to_vec()].concat());
        for code in [plain, stacked] {
            let mut legacy = pickle(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19");
            legacy.extend(pickle(&int(1001)));
            legacy.extend(pickle(b"}"));
            legacy.extend(pickle(&code));
            for bytes in [around(&code), around(&dict(&[("w", code.clone())])), legacy, pickle(&code)] {
                says(&fails(&bytes), &["at byte ", &format!("global {module}.{name} is not allowed")]);
                let file = folder.path().join("pytorch_model.bin");
                std::fs::write(&file, bytes).unwrap();
                std::fs::write(folder.path().join("config.json"), "{}").unwrap();
                assert_eq!(Checkpoint::open(folder.path()).unwrap_err().exit_code(), 4);
            }
        }
    }
    assert!(!marker.exists());
    let bytes = around(b"cposix\nsystem\n");
    let at = bytes.windows(6).position(|window| window == b"cposix").unwrap();
    says(&fails(&bytes), &[&format!("at byte {at}:")]);
}

#[test]
fn f33_pickle_that_nests_or_repeats_without_end_is_refused() {
    let deep = |inner: &[u8]| around(&[b")".to_vec(), inner.repeat(5 << 20)].concat());
    says(&fails(&deep(b"\x85")), &["nested more than 64 deep"]);
    says(&fails(&deep(b"(")), &["more than 65536 marks"]);
    says(&fails(&deep(b"2")), &["more than 65536 values on the stack"]);
    says(&fails(&deep(b"]0")), &["more than 524288 values"]);
    says(&fails(&deep(b"}0")), &["more than 524288 values"]);
    says(&fails(&deep(b"}(NNu0")), &["more than 524288 values"]);
    says(&fails(&around(b"]q\0h\0a.")), &["no dict"]);
    // A list that holds itself, again and again: each time it is one deeper.
    says(&fails(&around(&[b"]q\0".to_vec(), b"h\0a".repeat(100)].concat())), &["nested more than 64 deep"]);
    // A dict that holds two of one that holds two of one, and so on: few values that take 2^60 visits.
    let mut code = b"}q\0".to_vec();
    for at in 0..60 {
        code.extend(b"0}(");
        code.extend([text("a"), vec![b'h', at], text("b"), vec![b'h', at, b'u', b'q', at + 1]].concat());
    }
    says(&fails(&around(&code)), &["more than 65536 values"]);
    says(&fails(&around(b"r\xff\xff\xff\x7f")), &["empty stack"]);
    says(&fails(&around(b"Nr\xff\xff\xff\x7f")), &["memo entry beyond"]);
    says(&fails(&around(b"h\x05")), &["memo entry 5 was never set"]);
    let long = "n".repeat(300);
    let mut file = TorchFile::default();
    file.floats(&long, &[1], 0.0);
    says(&fails(&file.zipped()), &["name has more than 256 bytes"]);
}

#[test]
fn f34_zip_that_leads_out_or_is_packed_is_refused() {
    let sound = |zip: &mut Zip| {
        let mut file = TorchFile::default();
        file.floats("w", &[2, 3], 1.0);
        zip.entry("archive/data.pkl", &pickle(&file.dict_code(false)));
        zip.entry("archive/data/0", &file.storages[0].bytes);
    };
    let with = |change: &dyn Fn(&mut Zip)| {
        let mut zip = Zip::default();
        sound(&mut zip);
        change(&mut zip);
        zip.finish()
    };
    assert_eq!(parse(&with(&|_| {})).unwrap().len(), 1);
    for name in ["../escape", "archive/../../etc/passwd", "/etc/passwd", r"archive\..\x", "C:x"] {
        says(&fails(&with(&|zip| zip.entry(name, b"x"))), &["leads out of the archive"]);
    }
    // A megabyte that would become a gigabyte.
    let bomb = with(&|zip| zip.entry_as("archive/data/1", &vec![0; 1 << 20], 8, 1 << 30));
    says(&fails(&bomb), &["\"archive/data/1\": compressed (1048576 bytes of 1073741824)"]);
    let stored = with(&|zip| zip.entry_as("archive/data/1", b"x", 0, 1 << 30));
    says(&fails(&stored), &["stored, but 1 bytes stand for 1073741824"]);
    says(&fails(&with(&|zip| zip.entry("archive/data/0", b"x"))), &["\"archive/data/0\" comes twice"]);
    says(&fails(&with(&|zip| zip.entry("other/data.pkl", b"x"))), &["expected one entry data.pkl"]);
    says(&fails(&with(&|zip| zip.entry("archive/byteorder", b"big"))), &["byte order \"big\""]);
    let mut none = Zip::default();
    none.entry("archive/data.pkl", &pickle(b"N"));
    says(&fails(&none.finish()), &["no dict"]);
    let mut file = TorchFile::default();
    file.floats("w", &[2, 3], 1.0);
    let mut absent = Zip::default();
    absent.entry("archive/data.pkl", &pickle(&file.dict_code(false)));
    says(&fails(&absent.finish()), &["tensor \"w\"", "storage \"0\" is not in the file"]);
    file.storages[0].bytes.truncate(20);
    let mut short = Zip::default();
    let code = file.dict_code(false);
    short.entry("archive/data.pkl", &pickle(&code));
    short.entry("archive/data/0", &[0; 8]);
    says(&fails(&short.finish()), &["tensor \"w\"", "storage of 5 elements has 8 bytes"]);
    let whole = with(&|_| {});
    for len in [4, 21, 22, whole.len() / 2, whole.len() - 1] {
        says(&fails(&whole[..len]), &["without its end record"]);
    }
}

#[test]
fn zip_of_more_than_4_gb_is_read_by_its_wide_records() {
    let mut file = TorchFile::default();
    file.floats("w", &[2, 3], 1.0);
    let wide = || {
        let mut zip = Zip::default();
        zip.entry("archive/data.pkl", &pickle(&file.dict_code(false)));
        zip.entry("archive/data/0", &file.storages[0].bytes);
        zip.finish_wide()
    };
    let (bytes, tensors) = (wide(), parse(&wide()).unwrap());
    assert_eq!(bytes[tensors[0].offset as usize..][..24], file.storages[0].bytes);
    // The record, the locator and the end take 98 bytes at the end of the file.
    let record = bytes.len() - 98;
    let change = |at: usize, value: u64| {
        let mut bytes = wide();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        fails(&bytes)
    };
    says(&change(record + 48, u64::MAX - 5), &["truncated: expected 18446744073709551615"]);
    says(&change(record + 40, 1 << 60), &["truncated: expected 11529215046068"]);
    says(&change(record + 32, 1 << 60), &["1152921504606846976 entries, expected at most 131072"]);
    says(&change(record + 64, u64::MAX), &["no 64-bit end record at byte 18446744073709551615"]);
}

/// Entries that take little room in the file, and more in memory.
#[test]
fn dense_files_stay_within_the_bound() {
    let shared = |count: u32, name: &dyn Fn(u32) -> String| {
        let mut file = TorchFile::default();
        file.floats("w", &[2, 3], 1.0);
        // Without the dict around it and the key before it.
        let tensor = file.dict_code(false)[2 + 6..].to_vec();
        let tensor = &tensor[..tensor.len() - 1];
        let names = (0..count).map(|at| [text(&name(at)), b"h\0".to_vec()].concat());
        let mut code = [b"}(", &text("first")[..], tensor, b"q\0"].concat();
        code.extend(names.flatten());
        code.extend(b"u");
        file.zipped_around(&pickle(&code))
    };
    for name in [&(|at| format!("{at}")) as &dyn Fn(u32) -> String, &|at| format!("{at:0200}")] {
        let bytes = shared(30_000, name);
        let (tensors, peak) = allocated::peak(|| parse(&bytes).unwrap());
        assert_eq!(tensors.len(), 30_001);
        assert!(peak <= bytes.len() as u64 + ROOM, "{peak} bytes for a file of {}", bytes.len());
    }
    let mut zip = Zip::default();
    for at in 0..60_000 {
        zip.entry(&format!("a/{at}"), b"");
    }
    fails(&zip.finish());
}

#[test]
fn f35_legacy_file_is_read_or_refused_with_its_reason() {
    let mut file = TorchFile::default();
    file.floats("a", &[2, 3], 1.0);
    file.bytes("b", "HalfStorage", 2, &[4], vec![7; 8]);
    let (legacy, zipped) = (file.legacy(), file.zipped());
    let (one, other) = (parse(&legacy).unwrap(), parse(&zipped).unwrap());
    for (one, other) in one.iter().zip(&other) {
        let bytes =
            |file: &[u8], tensor: &Tensor| file[tensor.offset as usize..][..tensor.len as usize].to_vec();
        assert_eq!((&one.name, &one.shape), (&other.name, &other.shape));
        assert_eq!(bytes(&legacy, one), bytes(&zipped, other));
    }
    assert_eq!(one.len(), 2);
    for cut in 1..=one[0].len as usize {
        says(&fails(&legacy[..legacy.len() - cut]), &["truncated: expected", "bytes"]);
    }
    for end in 1..one[0].offset as usize {
        fails(&legacy[..end]);
    }
    let mut huge = legacy.clone();
    let count = one[0].offset as usize - 8;
    huge[count..count + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    says(&fails(&huge), &["truncated"]);
    says(&fails(&pickle(&int(5))), &["magic number is missing"]);
    says(&fails(b"PK\x05\x06"), &["neither a zip file nor a pickle"]);
    says(&fails(&[]), &["neither a zip file nor a pickle"]);
    let big = [pickle(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"), pickle(&int(1001))].concat();
    let big = [big, pickle(&dict(&[("little_endian", b"\x89".to_vec())]))].concat();
    says(&fails(&big), &["byte order big"]);
    // Tar, the form before the legacy form, is none that a model of this kind was ever published in.
    says(&fails(b"storages\0\0\0\0"), &["neither a zip file nor a pickle"]);
}

/// A file that torch 0.4 wrote under Python 2: weights of the metric LPIPS, as its package has them.
#[test]
fn f35_legacy_file_of_2018_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/torch-legacy/alex.pth");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = torch::parse(&bytes, &path).unwrap().tensors().unwrap();
    let seen: Vec<_> = tensors.iter().map(|tensor| (&*tensor.name, &*tensor.shape, tensor.offset)).collect();
    let expected: [(&str, &[u64], u64); 5] = [
        ("lin0.model.1.weight", &[1, 64, 1, 1], 4721),
        ("lin1.model.1.weight", &[1, 192, 1, 1], 1369),
        ("lin2.model.1.weight", &[1, 384, 1, 1], 2145),
        ("lin3.model.1.weight", &[1, 256, 1, 1], 3689),
        ("lin4.model.1.weight", &[1, 256, 1, 1], 4985),
    ];
    assert_eq!(seen, expected);
    assert!(tensors.iter().all(|tensor| tensor.len == tensor.rows * 4 && tensor.element.encoding == "f32"));
}

/// A damaged file opens with tensors that lie inside it, or does not open.
fn check(bytes: &[u8]) {
    let (result, peak) = allocated::peak(|| parse(bytes));
    assert!(peak <= bytes.len() as u64 + ROOM, "{peak} bytes for a file of {}", bytes.len());
    match result {
        Ok(tensors) => {
            for tensor in tensors {
                assert!(tensor.offset + tensor.len <= bytes.len() as u64, "{tensor:?}");
                let elements: u64 = tensor.shape.iter().product();
                assert_eq!(elements, tensor.rows * tensor.cols);
                assert!(elements == 0 || elements * tensor.element.bytes <= tensor.len);
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

#[test]
fn fuzz_torch() {
    let mut file = TorchFile::default();
    file.floats("model.embed_tokens.weight", &[6, 4], 0.0);
    file.view("lm_head.weight", 4, &[2, 4], &[4, 1]);
    file.bytes("model.norm.weight", "BFloat16Storage", 2, &[4], vec![1; 8]);
    let code = file.dict_code(false);
    let samples = [file.zipped(), file.legacy(), code];
    jtllm_fuzz::for_seconds("torch files", |random| {
        check(&random.mutated(&samples[0]));
        check(&random.mutated(&samples[1]));
        // Damage to the pickle alone reaches further than damage to the zip file around it.
        check(&file.zipped_around(&pickle(&random.mutated(&samples[2]))));
        let opcodes: Vec<u8> = (0..random.below(200))
            .map(|_| *random.choice(b"(()tRQq\0h\0}]aesuNK\x01X\x01\0\0\0ab02.\x85\x86\x87\x88\x81\x93\x94"))
            .collect();
        check(&file.zipped_around(&pickle(&opcodes)));
    });
}
