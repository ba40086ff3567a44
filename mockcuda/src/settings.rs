//! What the environment says of the device.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use crate::code::Code;

/// The device that is played.
pub(crate) struct Settings {
    pub(crate) capability: u32,
    pub(crate) memory: u64,
    pub(crate) devices: u32,
    pub(crate) driver_version: u32,
    pub(crate) pools: bool,
    pub(crate) alloc_fails: Option<u64>,
    pub(crate) launch_fails: Option<u64>,
    /// With what.
    pub(crate) failure: Code,
    pub(crate) lost: Option<u64>,
    pub(crate) no_capture: Option<u64>,
    /// Whether products of warp groups leave nothing behind.
    pub(crate) wrong_products: bool,
    log: Option<File>,
}

/// A number of the environment. A test that misspells one must not pass.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, a whole number was expected")))
}

impl Settings {
    /// What the environment said at the first call.
    pub(crate) fn get() -> &'static Settings {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        SETTINGS.get_or_init(|| Settings {
            capability: number("MOCKCUDA_CAPABILITY").unwrap_or(90) as u32,
            memory: number("MOCKCUDA_MEMORY").unwrap_or(4 << 30),
            devices: number("MOCKCUDA_DEVICES").unwrap_or(1) as u32,
            driver_version: number("MOCKCUDA_DRIVER_VERSION").unwrap_or(12080) as u32,
            pools: number("MOCKCUDA_POOLS").unwrap_or(1) != 0,
            alloc_fails: number("MOCKCUDA_ALLOC_FAILS"),
            launch_fails: number("MOCKCUDA_LAUNCH_FAILS"),
            failure: number("MOCKCUDA_FAILURE").map_or(Code::LAUNCH_FAILED, |code| Code(code as i32)),
            lost: number("MOCKCUDA_LOST"),
            no_capture: number("MOCKCUDA_NO_CAPTURE"),
            wrong_products: number("MOCKCUDA_WRONG_PRODUCTS").unwrap_or(0) != 0,
            log: std::env::var_os("MOCKCUDA_LOG").map(|path| {
                let file = File::options().append(true).create(true).open(&path);
                file.unwrap_or_else(|error| panic!("MOCKCUDA_LOG {}: {error}", path.display()))
            }),
        })
    }

    /// Adds a line to the log, if there is one.
    pub(crate) fn log(&self, line: std::fmt::Arguments<'_>) {
        if let Some(mut file) = self.log.as_ref() {
            // One write, so that lines of several threads stay whole.
            file.write_all(format!("{line}\n").as_bytes()).expect("the log of a test can be written");
        }
    }

    /// Bytes of shared memory that a block may have if its launch asks for them.
    pub(crate) fn shared_max(&self) -> u32 {
        match self.capability {
            ..75 => 96 << 10,
            75..80 => 64 << 10,
            80 | 87 => 163 << 10,
            90..=110 => 227 << 10,
            _ => 99 << 10,
        }
    }

    /// The version of PTX that comes with the driver: major and minor.
    pub(crate) fn ptx_version(&self) -> (u32, u32) {
        match self.driver_version {
            ..11000 => (6, 5),
            11000..12000 => (7, (self.driver_version - 11000) / 10),
            12000..13000 => (8, (self.driver_version - 12000) / 10),
            _ => (9, 0),
        }
    }
}
