//! Writes torch's files, sound and broken: pickles of protocol 2, and both forms around them.
#![allow(dead_code)]

/// A tensor of a file in the making.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// The class of its storage: `FloatStorage`.
    pub(crate) class: &'static str,
    pub(crate) storage: usize,
    pub(crate) offset: i32,
    pub(crate) shape: Vec<i32>,
    pub(crate) strides: Vec<i32>,
}

/// The bytes of a storage, and of one of its elements.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) bytes: Vec<u8>,
    pub(crate) size: usize,
}

/// A file in the making.
#[derive(Clone, Default)]
pub(crate) struct TorchFile {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) storages: Vec<Storage>,
}

pub(crate) fn text(value: &str) -> Vec<u8> {
    [b"X", &(value.len() as u32).to_le_bytes()[..], value.as_bytes()].concat()
}

pub(crate) fn int(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

pub(crate) fn tuple(members: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &members.concat()[..], b"t"].concat()
}

pub(crate) fn dict(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<u8> =
        members.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", &members[..], b"u"].concat()
}

/// A whole pickle around the code of one value.
pub(crate) fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

impl TorchFile {
    /// Adds a contiguous tensor with a storage of its own, as f32 counting up from `first`.
    pub(crate) fn floats(&mut self, name: &str, shape: &[i32], first: f32) {
        let count = shape.iter().product::<i32>();
        let bytes = (0..count).flat_map(|index| (first + index as f32).to_le_bytes()).collect();
        self.bytes(name, "FloatStorage", 4, shape, bytes);
    }

    /// Adds a contiguous tensor with a storage of its own.
    pub(crate) fn bytes(
        &mut self,
        name: &str,
        class: &'static str,
        size: usize,
        shape: &[i32],
        bytes: Vec<u8>,
    ) {
        let mut strides = vec![1; shape.len()];
        for at in (1..shape.len()).rev() {
            strides[at - 1] = strides[at] * shape[at];
        }
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(Tensor { name, class, storage: self.storages.len(), offset: 0, shape, strides });
        self.storages.push(Storage { bytes, size });
    }

    /// Adds a view of the last storage.
    pub(crate) fn view(&mut self, name: &str, offset: i32, shape: &[i32], strides: &[i32]) {
        let class = self.tensors.last().map_or("FloatStorage", |tensor| tensor.class);
        self.tensors.push(Tensor {
            name: name.to_owned(),
            class,
            storage: self.storages.len() - 1,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        });
    }

    fn tensor_code(&self, tensor: &Tensor, legacy: bool) -> Vec<u8> {
        let storage = &self.storages[tensor.storage];
        let class = format!("ctorch\n{}\n", tensor.class).into_bytes();
        let count = int((storage.bytes.len() / storage.size) as i32);
        let mut id = vec![text("storage"), class, text(&tensor.storage.to_string()), text("cpu"), count];
        id.extend(legacy.then(|| b"N".to_vec()));
        let sizes = |sizes: &[i32]| tuple(&sizes.iter().map(|size| int(*size)).collect::<Vec<_>>());
        let arguments = [
            [tuple(&id), b"Q".to_vec()].concat(),
            int(tensor.offset),
            sizes(&tensor.shape),
            sizes(&tensor.strides),
            b"\x89".to_vec(),
            b"ccollections\nOrderedDict\n)R".to_vec(),
        ];
        [b"ctorch._utils\n_rebuild_tensor_v2\n", &tuple(&arguments)[..], b"R"].concat()
    }

    /// The code of a dict of all tensors.
    pub(crate) fn dict_code(&self, legacy: bool) -> Vec<u8> {
        let members: Vec<_> =
            self.tensors.iter().map(|tensor| (&*tensor.name, self.tensor_code(tensor, legacy))).collect();
        dict(&members)
    }

    /// The file in the zip form.
    pub(crate) fn zipped(&self) -> Vec<u8> {
        self.zipped_around(&pickle(&self.dict_code(false)))
    }

    /// The zip form of this file's storages and another pickle.
    pub(crate) fn zipped_around(&self, pickle: &[u8]) -> Vec<u8> {
        let mut zip = Zip::default();
        zip.entry("archive/data.pkl", pickle);
        zip.entry("archive/byteorder", b"little");
        for (key, storage) in self.storages.iter().enumerate() {
            zip.entry(&format!("archive/data/{key}"), &storage.bytes);
        }
        zip.entry("archive/version", b"3\n");
        zip.finish()
    }

    /// The file in the form before torch 1.6.
    pub(crate) fn legacy(&self) -> Vec<u8> {
        let keys: Vec<u8> = (0..self.storages.len()).flat_map(|key| text(&key.to_string())).collect();
        let mut bytes = pickle(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19");
        bytes.extend(pickle(&int(1001)));
        bytes.extend(pickle(&dict(&[("protocol_version", int(1001)), ("little_endian", b"\x88".to_vec())])));
        bytes.extend(pickle(&self.dict_code(true)));
        bytes.extend(pickle(&[b"](", &keys[..], b"e"].concat()));
        for storage in &self.storages {
            bytes.extend(((storage.bytes.len() / storage.size) as u64).to_le_bytes());
            bytes.extend(&storage.bytes);
        }
        bytes
    }
}

/// A zip file in the making.
#[derive(Default)]
pub(crate) struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Zip {
    /// Adds a stored entry, whose bytes begin at a multiple of 64 as torch has them.
    pub(crate) fn entry(&mut self, name: &str, bytes: &[u8]) {
        self.entry_as(name, bytes, 0, bytes.len() as u32);
    }

    /// Adds an entry that says of itself to be packed by a method from so many bytes.
    pub(crate) fn entry_as(&mut self, name: &str, bytes: &[u8], method: u16, len: u32) {
        let header = self.bytes.len() as u32;
        let start = self.bytes.len() + 30 + name.len() + 4;
        let padding = start.next_multiple_of(64) - start;
        let common = |extra: u16| {
            let mut fields = [20u16, 0x0808, method, 0, 0].map(u16::to_le_bytes).concat();
            fields.extend([0, bytes.len() as u32, len].map(u32::to_le_bytes).concat());
            fields.extend([name.len() as u16, extra].map(u16::to_le_bytes).concat());
            fields
        };
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(common(padding as u16 + 4));
        self.bytes.extend(name.as_bytes());
        self.bytes.extend([b"FB", &(padding as u16).to_le_bytes()[..], &vec![b'Z'; padding]].concat());
        self.bytes.extend(bytes);
        self.directory.extend(b"PK\x01\x02\x14\0");
        self.directory.extend(common(0));
        self.directory.extend([0; 10]);
        self.directory.extend(header.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count += 1;
    }

    /// The file as one beyond 4 GB has it: numbers stand in 64-bit records, and the 32-bit fields are full.
    pub(crate) fn finish_wide(self) -> Vec<u8> {
        let mut directory = Vec::new();
        let mut rest = &self.directory[..];
        while let Some((head, after)) = rest.split_at_checked(46) {
            let number = |at: usize| u64::from(u32::from_le_bytes(head[at..at + 4].try_into().unwrap()));
            let (name, after) = after.split_at(usize::from(u16::from_le_bytes([head[28], head[29]])));
            let mut head = head.to_vec();
            let fields = [number(24), number(20), number(42)].map(u64::to_le_bytes).concat();
            // Another field comes before the one that counts.
            let extra = [b"\x55\x54\x01\0x\x01\0\x18\0", &fields[..]].concat();
            head[20..28].fill(0xff);
            head[42..46].fill(0xff);
            head[30..32].copy_from_slice(&(extra.len() as u16).to_le_bytes());
            directory.extend([&head[..], name, &extra].concat());
            rest = after;
        }
        let start = self.bytes.len() as u64;
        let (len, end) = (directory.len() as u64, start + directory.len() as u64);
        let mut bytes = [self.bytes, directory].concat();
        bytes.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        bytes.extend(
            [u64::from(self.count), u64::from(self.count), len, start].map(u64::to_le_bytes).concat(),
        );
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(end.to_le_bytes());
        bytes.extend(b"\x01\0\0\0PK\x05\x06\0\0\0\0");
        bytes.extend([0xff; 12]);
        bytes.extend([0, 0]);
        bytes
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let (start, len) = (self.bytes.len() as u32, self.directory.len() as u32);
        let mut bytes = [self.bytes, self.directory].concat();
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([self.count; 2].map(u16::to_le_bytes).concat());
        bytes.extend([len, start].map(u32::to_le_bytes).concat());
        bytes.extend([0, 0]);
        bytes
    }
}
